"""Tools out of an agent file."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from gateway.agent import Agent
from gateway.conversation.events import ToolPolicy
from gateway.tools import Tool, ToolCall, ToolHost

__all__ = ["build_tools"]


async def _end_call(call: ToolCall, host: ToolHost) -> Any:
    host.end_call("", call.call_id)
    return "Say goodbye now if you have not."


def build_tools(agent: Agent, environ: Mapping[str, str]) -> dict[str, Tool]:
    """The agent's tools by name."""
    tools = {}
    for settings in agent.tools:
        if settings.builtin == "end_call":
            tool = Tool("end_call", "End the call.", {"type": "object", "properties": {}}, _end_call)
        else:
            module, _, name = settings.function.partition(":")
            function = getattr(importlib.import_module(module), name)

            async def run(call: ToolCall, host: ToolHost, function: Any = function) -> Any:
                if inspect.iscoroutinefunction(function):
                    return await function(**call.arguments)
                return await asyncio.to_thread(function, **call.arguments)

            parameters = {
                "type": "object",
                "properties": {p: {"type": "string"} for p in inspect.signature(function).parameters},
            }
            tool = Tool(
                settings.name or name,
                inspect.getdoc(function) or name,
                parameters,
                run,
                on_barge_in=ToolPolicy(settings.on_barge_in),
                timeout_s=settings.timeout_s,
            )
        tools[tool.name] = tool
    return tools
