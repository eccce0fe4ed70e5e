"""What the agent file sets for a tool of any kind: its schema, and how it is run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from offhook.gateway.agent.spec import ToolSettings
from offhook.gateway.conversation.events import ToolPolicy
from offhook.gateway.errors import OperatorError
from offhook.gateway.tools import Repeat, Tool
from offhook.gateway.tools.schema import inlined

__all__ = ["conducted", "given_parameters"]


def given_parameters(settings: ToolSettings) -> dict[str, Any] | None:
    """The agent file's schema of the arguments, if it has one. Raises `OperatorError`."""
    try:
        return inlined(settings.parameters) if settings.parameters else None
    except ValueError as error:
        raise OperatorError(f"tool {settings.name}: parameters: {error}") from None


def conducted(tool: Tool, settings: ToolSettings) -> Tool:
    """The tool, run as the agent file sets it; what the tool itself requires is kept."""
    finish = settings.on_barge_in == "finish"
    safe = tool.repeat is Repeat.SAFE and not settings.outside_effects
    return replace(
        tool,
        blocking=settings.blocking,
        on_barge_in=ToolPolicy.FINISH if finish else tool.on_barge_in,
        silent=tool.silent or settings.announce == "silent",
        timeout_s=max(tool.timeout_s, settings.timeout_s),
        filler=settings.filler,
        filler_after_ms=settings.filler_after_ms,
        outside_effects=tool.outside_effects or settings.outside_effects,
        repeat=Repeat.NEVER if tool.repeat is Repeat.SAFE and not safe else tool.repeat,
    )
