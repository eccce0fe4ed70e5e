"""Tools out of an agent file."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.agent import Agent, ToolSettings
from gateway.conversation.events import ToolPolicy
from gateway.errors import OperatorError
from gateway.tools import Tool, ToolCall, ToolHost, ToolSource

__all__ = ["Toolbox", "build_tools"]


async def _end_call(call: ToolCall, host: ToolHost) -> Any:
    host.end_call("", call.call_id)
    return "Say goodbye now if you have not."


class Toolbox:
    """One agent's tools for the process's life: `start` before the first call, `close` after the last."""

    def __init__(self, own: Mapping[str, Tool], sources: Sequence[ToolSource] = ()) -> None:
        self._own, self._sources = own, sources

    @property
    def tools(self) -> Mapping[str, Tool]:
        """What there is just now, by name; an own tool goes before one of the same name from a source."""
        found: dict[str, Tool] = {}
        for source in self._sources:
            found.update(source.tools)
        return {**found, **self._own}

    async def start(self) -> None:
        await asyncio.gather(*(source.start() for source in self._sources))

    async def close(self) -> None:
        await asyncio.gather(*(source.close() for source in self._sources), return_exceptions=True)


def build_tools(agent: Agent, environ: Mapping[str, str]) -> Toolbox:
    """The agent's tools. Raises `OperatorError` that says what to change."""
    own: dict[str, Tool] = {}
    sources: list[ToolSource] = []
    for settings in agent.tools:
        if settings.http is not None or settings.mcp is not None:
            # Here: sources.append(HttpTools(...)) of gateway.tools.http, McpServer(...) of gateway.tools.mcp.
            raise OperatorError("tools: http and mcp are not there yet")
        tool = _builtin(settings) if settings.builtin else _function(settings)
        own[tool.name] = tool
    return Toolbox(own, sources)


def _builtin(settings: ToolSettings) -> Tool:
    return Tool("end_call", "End the call.", {"type": "object", "properties": {}}, _end_call)


def _function(settings: ToolSettings) -> Tool:
    module, _, name = settings.function.partition(":")
    function = getattr(importlib.import_module(module), name)

    async def run(call: ToolCall, host: ToolHost) -> Any:
        if inspect.iscoroutinefunction(function):
            return await function(**call.arguments)
        return await asyncio.to_thread(function, **call.arguments)

    parameters = {
        "type": "object",
        "properties": {p: {"type": "string"} for p in inspect.signature(function).parameters},
    }
    return Tool(
        settings.name or name,
        inspect.getdoc(function) or name,
        parameters,
        run,
        on_barge_in=ToolPolicy(settings.on_barge_in),
        timeout_s=settings.timeout_s,
    )
