"""Language models and tools over HTTP.

Source: REST contract part 40, sections 2.1 and 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import jsonify
from flask.typing import ResponseReturnValue

from app.agents import direct_tools, llm
from app.agents.models import LLMModel
from app.agents.schemas import LLMModelIn, LLMModelOut, LLMModelReplacement, ToolCallIn, ToolOut
from app.agents.tools.base import Tool, tool_key
from app.core.actor import Actor
from app.http import gates
from app.http.api import PREFIX, Blueprint
from app.http.views import View

blp = Blueprint("models", __name__, description="Language models and tools")

MANAGE = "admin:agents.manage"


@blp.route(f"{PREFIX}/llm-models")
class Models(View):
    """Registered models."""

    @gates.signed_in
    @blp.response(200, LLMModelOut(many=True))
    @blp.doc(summary="List language models")
    def get(self) -> list[LLMModel]:
        """Return the models, oldest first."""
        return llm.list_models(self.uow.session)

    @gates.permission(MANAGE)
    @blp.arguments(LLMModelIn)
    @blp.response(201, LLMModelOut)
    @blp.doc(summary="Register a language model")
    def post(self, body: dict[str, Any]) -> LLMModel:  # Any: JSON values
        """Register a model."""
        return llm.create(self.uow, model_id=body.pop("id"), **body)


@blp.route(f"{PREFIX}/llm-models/<model_id>")
class ModelView(View):
    """One model."""

    @gates.permission(MANAGE)
    @blp.arguments(LLMModelReplacement)
    @blp.response(204)
    @blp.doc(summary="Replace a language model")
    def put(self, body: dict[str, Any], model_id: str) -> None:  # Any: JSON values
        """Replace it wholly."""
        llm.replace(self.uow, model_id=model_id, **body)

    @gates.permission(MANAGE)
    @blp.response(204)
    @blp.doc(summary="Delete a language model")
    def delete(self, model_id: str) -> None:
        """Forget it."""
        llm.delete(self.uow, model_id=model_id)


@blp.route(f"{PREFIX}/llm-models/<model_id>/default")
class DefaultModel(View):
    """The default model."""

    @gates.permission(MANAGE)
    @blp.response(204)
    @blp.doc(summary="Make a language model the default")
    def put(self, model_id: str) -> None:
        """Set it; there is one at most."""
        llm.make_default(self.uow, model_id=model_id)


@blp.route(f"{PREFIX}/tools")
class Tools(View):
    """Tools."""

    @gates.signed_in
    @blp.response(200, ToolOut(many=True))
    @blp.doc(summary="List tools")
    def get(self) -> list[Tool]:
        """Return the tools by name."""
        return direct_tools.list_tools(self.platform, self.uow.session)


def _may_use_tool(actor: Actor, path: Mapping[str, Any]) -> None:  # Any: path converters
    actor.require(tool_key(path["name"]))


may_use_tool = gates.Gate("tool:{name}", check=_may_use_tool)


@blp.route(f"{PREFIX}/tools/<name>/execute")
class ToolExecution(View):
    """Using a tool directly."""

    transactional = False

    @may_use_tool
    @blp.arguments(ToolCallIn)
    @blp.doc(summary="Run a tool with one's own permissions")
    def post(self, body: dict[str, Any], name: str) -> ResponseReturnValue:  # Any: JSON values
        """Return the tool's result."""
        return jsonify(direct_tools.execute(self.platform, self.actor, name=name, **body))
