import pytest
from marshmallow import ValidationError

from app.http.errors import field_text


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ({"email": ["Missing data for required field."]}, "field 'email' is required"),
        ({"email": ["Field may not be null."]}, "field 'email' is required"),
        ({"delay": ["Not a valid integer."]}, "field 'delay' must be an integer"),
        (
            {"jobs": {0: {"payload": ["Not a valid string."]}}},
            "field 'jobs.0.payload' must be a string",
        ),
        ({"_schema": ["Invalid input type."]}, "request body must be a JSON object"),
        ({"name": ["role name is required"]}, "role name is required"),
        (["nothing to update"], "nothing to update"),
    ],
)
def test_the_first_violation_names_its_field(messages, text):
    assert field_text(messages) == text
    assert field_text(ValidationError(messages).messages) == text
