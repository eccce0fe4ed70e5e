"""MCP servers: their tools become the agent's, for the life of the process.

One task owns a server's connection from beginning to end, as the `mcp` package requires; calls come from other tasks.
A server that ended or is not up yet is connected to again, with growing pauses; meanwhile its tools answer that they
cannot be used. Needs the extra `mcp`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
import shutil
import traceback
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Any

import anyio
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolResult
from mcp.types import Tool as ListedTool

from offhook.gateway.agent.spec import ToolSettings
from offhook.gateway.errors import OperatorError
from offhook.gateway.tools import Repeat, Tool, ToolCall, ToolError, ToolHost
from offhook.gateway.tools.conduct import conducted
from offhook.gateway.tools.environment import Environment
from offhook.gateway.tools.mcp import transport as mcp_link
from offhook.gateway.tools.schema import inlined

__all__ = ["McpTools", "declared_names"]

log = logging.getLogger(__name__)

PAUSE_MIN_S, PAUSE_MAX_S = 0.5, 30.0  # between two attempts to reach a server
STEADY_S = 30.0  # a server that lived this long is connected to again after the shortest pause
BACK_SOON_S = 2.0  # a call waits this long for a server that is just being restarted
CLOSE_S = 10.0
PAGES_MAX = 20
DESCRIPTION_MAX = 1_000  # characters
TEXT_MAX = 500
TRACE_LIMIT = 20  # frames
NAME_MAX = 64  # characters


class McpTools:
    """One server's tools: a `ToolSource`. Raises `OperatorError` for what cannot work."""

    def __init__(
        self,
        settings: ToolSettings,
        environ: Mapping[str, str],
        *,
        directory: str = ".",
        entry: int | None = None,
    ) -> None:
        assert settings.mcp is not None
        spec = settings.mcp
        self._settings = settings
        self.name = settings.name or (Path(spec.command).name if spec.command else spec.url.partition("?")[0])
        self._environment = Environment(environ, f"MCP server {self.name}")
        fill = self._environment.fill
        self._command = [fill(spec.command, "mcp.command"), *(fill(arg, "mcp.args") for arg in spec.args)]
        self._environ = {key: fill(value, f"mcp.env.{key}") for key, value in spec.env.items()}
        self._url = fill(spec.url, "mcp.url")
        self._headers = {key: fill(value, f"mcp.headers.{key}") for key, value in spec.headers.items()}
        self._directory, self._entry = directory, entry
        if (
            spec.command
            and shutil.which(self._command[0]) is None
            and not os.path.isfile(Path(directory, self._command[0]))
        ):
            raise OperatorError(f"MCP server {self.name}: mcp.command: no such program: {spec.command}")
        self.tools: dict[str, Tool] = {}
        self._client: Client | None = None
        self._up, self._gone, self._tried = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._scope: anyio.CancelScope | None = None
        self._owner: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Until its tools are listed, or the first attempt failed."""
        self._owner = asyncio.create_task(self._own(), name=f"mcp {self.name}")
        await self._tried.wait()

    async def close(self) -> None:
        owner, self._owner = self._owner, None
        if owner is None:
            return
        if self._scope is not None:
            self._scope.cancel()
        _, left = await asyncio.wait([owner], timeout=CLOSE_S)
        for task in left:
            log.error("MCP server %s does not end", self.name)
            task.cancel()

    # --- the connection

    async def _own(self) -> None:
        assert self._settings.mcp is not None
        start_s = self._settings.mcp.start_s
        pause_s = PAUSE_MIN_S
        with anyio.CancelScope() as self._scope:
            while True:
                began_s = anyio.current_time()
                why = "its connection is gone"
                try:
                    with anyio.CancelScope(deadline=anyio.current_time() + start_s) as life:
                        async with mcp_link.client(self._transport()) as client:
                            await self._list(client)
                            life.deadline = math.inf
                            self._client = client
                            self._gone.clear()
                            self._up.set()
                            self._tried.set()
                            log.info("MCP server %s: %d tools", self.name, len(self.tools))
                            await self._gone.wait()
                    if life.cancelled_caught:
                        why = f"no list of tools within {start_s:g} s"
                except Exception as error:
                    why = _first(error)
                finally:
                    self._client = None
                    self._up.clear()
                    self._tried.set()
                if anyio.current_time() - began_s > STEADY_S:
                    pause_s = PAUSE_MIN_S
                log.warning("MCP server %s: %s; next try in %g s", self.name, self._environment.mask(why), pause_s)
                await anyio.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_MAX_S)

    def _transport(self) -> AbstractAsyncContextManager[Any]:
        if self._url:
            return mcp_link.over_http(self._url, self._headers, on_end=self._ended)
        return mcp_link.over_stdio(
            self._command,
            self._environ,
            self._directory,
            on_stderr=lambda line: log.info("MCP server %s says: %s", self.name, self._environment.mask(line)),
            on_end=self._ended,
        )

    def _ended(self) -> None:
        """At once: the next call must wait for the next connection."""
        if self._client is not None:
            self._client = None
            self._up.clear()
            self._gone.set()

    async def _list(self, client: Client) -> None:
        assert self._settings.mcp is not None
        only = self._settings.mcp.only
        offered: dict[str, ListedTool] = {}
        cursor: str | None = None
        for _ in range(PAGES_MAX):
            page = await client.list_tools(cursor=cursor)
            for tool in page.tools:
                if tool.name in offered:
                    log.error("MCP server %s lists two tools named %s: the first is used", self.name, tool.name)
                offered.setdefault(tool.name, tool)
            cursor = page.next_cursor
            if cursor is None:
                break
        else:
            log.error("MCP server %s lists its tools on more than %d pages: the rest is left out", self.name, PAGES_MAX)
        for name in only:
            if name not in offered:
                log.error("MCP server %s has no tool %s; it has %s", self.name, name, ", ".join(offered) or "none")
        found: dict[str, Tool] = {}
        for name, declared in declared_names(self._settings.name, offered).items():
            if not only or name in only:
                tool = offered[name]
                made = self._tool(name, declared, tool.description or name, tool.input_schema)
                if made is not None:
                    found[declared] = made
        self.tools = found

    def _tool(self, name: str, declared: str, description: str, schema: Mapping[str, Any]) -> Tool | None:
        async def run(call: ToolCall, host: ToolHost) -> Any:
            return await self._call(name, call)

        try:
            parameters = {"properties": {}, **inlined(schema), "type": "object"}
            text = description[:DESCRIPTION_MAX]
            never = Repeat.NEVER  # a server's hints do not bind it
            made = Tool(declared, text, parameters, run, timeout_s=0.0, entry=self._entry, repeat=never)
        except (ValueError, OperatorError) as error:
            log.error("MCP server %s: tool %s is left out: %s", self.name, name, error)
            return None
        return conducted(made, self._settings)

    # --- calls

    async def _call(self, name: str, call: ToolCall) -> Any:
        """Cancelling this sends the server a cancellation."""
        if self._client is None and self._owner is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(BACK_SOON_S):
                    await self._up.wait()
        client = self._client
        if client is None:
            message = "This cannot be used just now. Offer to try again in a while."
            raise ToolError(message, f"{self.name} is not connected", "unreachable")
        try:
            # Servers that know the key can act once for a call that is made twice.
            meta: Any = {"idempotencyKey": call.idempotency_key}
            result = await client.call_tool(name, call.arguments, meta=meta)
        except Exception as error:
            record = f"{self.name}: {name}: {_first(error)}"
            if not isinstance(error, MCPError):  # not the server's answer and not the connection's end
                trace = "".join(traceback.format_exception(error, limit=TRACE_LIMIT))
                sid = call.facts.get("call_sid", "-")
                log.error("call %s: tool %s failed\n%s", sid, call.name, self._environment.mask(trace))
            if mcp_link.unreadable(error):
                reason, message = "bad_answer", "The answer was too long or could not be read. Ask for less."
            else:
                reason = "unreachable"
                message = "This broke off. It is not known whether it took effect: check before you try again."
                if client is self._client and mcp_link.is_closed(error):
                    self._ended()
            raise ToolError(message, self._environment.mask(record), reason) from None
        found = _result(result)
        if result.is_error:
            text = found if isinstance(found, str) else str(found)
            text = self._environment.mask(text)[:TEXT_MAX]
            raise ToolError(f"This did not work: {text}", f"{self.name}: {name}: {text}")
        return found


def declared_names(prefix: str, names: Iterable[str]) -> dict[str, str]:
    """Each tool's name in its server -> the name it is declared by, after `prefix` and _ if there is one.

    Models take ASCII letters, digits and _, a letter or _ first, NAME_MAX characters. Names that would become the
    same are told apart by a number; one that needs no change keeps its name.
    """
    wished = {name: f"{prefix}_{name}" if prefix else name for name in names}
    plain = {name: re.sub(r"^(?=\d)", "_", re.sub(r"\W", "_", wish, flags=re.ASCII))[:NAME_MAX] or "_"
             for name, wish in wished.items()}  # fmt: skip
    declared: dict[str, str] = {}
    taken: set[str] = set()
    for name in sorted(plain, key=lambda name: plain[name] != wished[name]):
        candidate, number = plain[name], 2
        while candidate in taken:
            candidate = f"{plain[name][: NAME_MAX - len(str(number)) - 1]}_{number}"
            number += 1
        taken.add(candidate)
        declared[name] = candidate
    return {name: declared[name] for name in wished}


def _result(result: CallToolResult) -> Any:
    """What the model is sent: the structured answer if there is one, else the texts."""
    structured = result.structured_content
    if structured is not None and not result.is_error:
        return structured["result"] if isinstance(structured, dict) and list(structured) == ["result"] else structured
    return "\n".join(_text(block) for block in result.content)


def _text(block: Any) -> str:
    """One block of content as text; of what is not text, what it is."""
    if block.type == "text":
        return str(block.text)
    if block.type == "resource":  # embedded: its own text, or bytes
        resource = block.resource
        if (text := getattr(resource, "text", None)) is not None:
            return str(text)
        return f"({resource.uri}: {resource.mime_type or 'data'}, which is not text)"
    if block.type == "resource_link":
        about = f": {block.description}" if block.description else ""
        return f"({block.title or block.name}, {block.uri}{about})"
    return f"({getattr(block, 'mime_type', None) or block.type}, which is not text)"


def _first(error: BaseException) -> str:
    """The first real error in a tree of groups, in a line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}".replace("\n", " ")[:TEXT_MAX]
