from app.core.sse import event


def test_an_event_is_one_data_line_and_an_empty_line():
    text = event({"message": "a\nb", "n": 1}, name="log", event_id="7-0")
    assert text == 'id: 7-0\nevent: log\ndata: {"message":"a\\nb","n":1}\n\n'
    assert "\r" not in text
