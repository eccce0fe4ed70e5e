"""The tools of an agent file."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from offhook.gateway.agent.spec import Agent, ToolSettings
from offhook.gateway.errors import OperatorError
from offhook.gateway.tools import Tool, ToolSource
from offhook.gateway.tools.answer import Exact
from offhook.gateway.tools.builtins import builtin_tool
from offhook.gateway.tools.conduct import conducted, given_parameters
from offhook.gateway.tools.function import THREADS, called, function_tool, functions_named, settled
from offhook.gateway.tools.http.client import HttpClient

__all__ = ["Toolbox", "board_of", "build_tools"]


BOARD_LIMIT = 1_000_000  # bytes of a board before the console cuts it: all that it shows fits

log = logging.getLogger(__name__)


class Toolbox:
    """One agent's tools for the process's life: `start` before the first call, `close` after the last."""

    def __init__(self, own: Mapping[str, Tool], sources: Sequence[ToolSource] = ()) -> None:
        self.own, self._sources = own, sources
        self._hidden: set[tuple[str, str]] = set()  # source and name of tools that another one hides

    @property
    def tools(self) -> Mapping[str, Tool]:
        """The tools that exist at the moment, by name.

        Of several with one name, an own one is used, else that of the first source; the others are logged, once.
        """
        found: dict[str, Tool] = dict(self.own)
        for source in self._sources:
            for name, tool in source.tools.items():
                if found.setdefault(name, tool) is not tool and (source.name, name) not in self._hidden:
                    self._hidden.add((source.name, name))
                    log.error(
                        "tool %s of %s is not used: another tool has this name; set `name:` beside its `mcp:`, "
                        "which goes before the names of its tools",
                        name,
                        source.name,
                    )
        return found

    async def start(self) -> None:
        await asyncio.gather(*(source.start() for source in self._sources))
        _ = self.tools  # two of one name are logged now, and not in a call

    async def close(self) -> None:
        await asyncio.gather(*(source.close() for source in self._sources), return_exceptions=True)


def build_tools(agent: Agent, environ: Mapping[str, str], http: HttpClient) -> Toolbox:
    """The agent's tools. Raises `OperatorError` that says what to change. The caller starts and closes `http`."""
    sources: list[ToolSource] = []
    own: dict[str, Tool] = {}
    for entry, settings in enumerate(agent.tools):
        if settings.mcp is not None:
            sources.append(_mcp(settings, environ, agent.directory, entry))
        made = [http.tool(settings, environ, agent.variables)] if settings.http else _own(settings, agent.directory)
        for tool in made:
            if tool.name in own:
                raise OperatorError(f"agent {agent.name}: two tools are named {tool.name}: give one another name")
            own[tool.name] = replace(tool, entry=entry)
    return Toolbox(own, sources)


def board_of(agent: Agent) -> Callable[[], Awaitable[Any]] | None:
    """The agent's `board` function, to be run in a thread; None without one. Raises `OperatorError`."""
    if not agent.board:
        return None
    module, _, name = agent.board.partition(":")
    if not name:
        raise OperatorError(f"agent {agent.name}: board: name the function, as in {module}:snapshot")
    (function,) = functions_named(agent.board, agent.directory)

    async def snapshot() -> Any:
        value = await settled(await THREADS.run(lambda: called(function, {}, BOARD_LIMIT), agent.board), BOARD_LIMIT)
        return value.value if isinstance(value, Exact) else value

    return snapshot


def _mcp(settings: ToolSettings, environ: Mapping[str, str], directory: str, entry: int) -> ToolSource:
    try:
        from offhook.gateway.tools.mcp.tools import McpTools
    except ModuleNotFoundError:
        raise OperatorError("an agent with mcp tools needs the extra: pip install 'offhook[mcp]'") from None
    return McpTools(settings, environ, directory=directory, entry=entry)


def _own(settings: ToolSettings, directory: str) -> list[Tool]:
    if settings.builtin:
        return [_configured(builtin_tool(settings.builtin, settings.options), settings)]
    if not settings.function:
        return []
    tools = [function_tool(function) for function in functions_named(settings.function, directory)]
    if len(tools) > 1 and (settings.name or settings.description or settings.parameters):
        raise OperatorError(f"function {settings.function}: name, description and parameters are for one function only")
    return [_configured(replace(tool, timeout_s=0.0), settings) for tool in tools]


def _configured(tool: Tool, settings: ToolSettings) -> Tool:
    """The tool as the agent file wants it."""
    named = replace(
        tool,
        name=settings.name or tool.name,
        description=settings.description or tool.description,
        parameters=given_parameters(settings) or tool.parameters,
    )
    return conducted(named, settings)
