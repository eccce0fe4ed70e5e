"""How the agent file wants a tool to be run, whatever kind it is."""

from __future__ import annotations

from dataclasses import replace

from offhook.gateway.agent.spec import ToolSettings
from offhook.gateway.conversation.events import ToolPolicy
from offhook.gateway.tools import Tool

__all__ = ["conducted"]


def conducted(tool: Tool, settings: ToolSettings) -> Tool:
    """The tool, run as the agent file wants it; what the tool itself asks for is not taken away from it."""
    finish = settings.on_barge_in == "finish"
    return replace(
        tool,
        blocking=settings.blocking,
        on_barge_in=ToolPolicy.FINISH if finish else tool.on_barge_in,
        silent=tool.silent or settings.announce == "silent",
        timeout_s=max(tool.timeout_s, settings.timeout_s),
        filler=settings.filler,
        filler_after_ms=settings.filler_after_ms,
        outside_effects=tool.outside_effects or settings.outside_effects,
    )
