"""The two roads to an MCP server, by the `mcp` package, with bounds it does not have.

Everything here runs on the loop that carries calls: a 10 MB answer read the package's own way holds it for a third of
a second. So a line (stdio) or a body (HTTP) over `ANSWER_MAX` bytes is dropped while it comes in.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
from mcp import Client
from mcp.client import Transport
from mcp.client.stdio import get_default_environment
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage
from mcp_types import CONNECTION_CLOSED, PARSE_ERROR, ErrorData, JSONRPCError, jsonrpc_message_adapter

__all__ = ["ANSWER_MAX", "Lines", "client", "is_closed", "over_http", "over_stdio", "unreadable"]

ANSWER_MAX = 500_000  # bytes; parsed in about 5 ms
EXIT_S = 2.0  # after its input was closed, and again after SIGTERM
CONNECT_S = 10.0
_PIECE = 65_536
_ID = re.compile(rb'"id"\s*:\s*(?:(\d+)|"([^"\\]*)")')

# At their usual levels these write down what was sent and received, and addresses with what stands in them.
for _name in ("mcp", "httpx2", "httpcore2"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


class Lines:
    """Bytes to lines of at most `limit` bytes. Of a longer one the beginning is given, marked as cut."""

    def __init__(self, limit: int = ANSWER_MAX) -> None:
        self._limit = limit
        self._line = bytearray()
        self._dropping = False

    def push(self, data: bytes) -> list[tuple[bytes, bool]]:
        """The lines that end in `data`: each with whether it was cut."""
        found = []
        *ends, rest = data.split(b"\n")
        for end in ends:
            self._add(end)
            found.append((bytes(self._line), self._dropping))
            self._line.clear()
            self._dropping = False
        self._add(rest)
        return found

    def _add(self, data: bytes) -> None:
        room = self._limit - len(self._line)
        self._dropping = self._dropping or len(data) > room
        self._line += data[:room]


def _message(line: bytes, cut: bool) -> SessionMessage | None:
    """One line of the server; None for what is none of its messages. A cut answer becomes an error to its request."""
    if cut:
        found = _ID.search(line, 0, 300) or _ID.search(line, max(0, len(line) - 300))
        if found is None:
            return None
        asked = int(found[1]) if found[1] else found[2].decode("utf-8", "replace")
        error = ErrorData(code=PARSE_ERROR, message="the answer is too long")
        return SessionMessage(JSONRPCError(jsonrpc="2.0", id=asked, error=error))
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError:
        return None


@asynccontextmanager
async def over_stdio(
    command: Sequence[str],
    environ: Mapping[str, str],
    directory: str,
    *,
    on_stderr: Callable[[str], None],
    on_end: Callable[[], None],
) -> AsyncIterator[Any]:
    """A server as a child process. It gets `environ` and the few harmless variables, not the gateway's secrets.

    `on_end` is called when it closes its output. Leaving the block ends it and its children. Raises `OSError`.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**get_default_environment(), **environ},
        cwd=directory,
        start_new_session=True,  # so that its children can be ended with it
    )
    assert process.stdin
    assert process.stdout
    assert process.stderr
    incoming, read_stream = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    write_stream, outgoing = anyio.create_memory_object_stream[SessionMessage](0)

    async def read(output: asyncio.StreamReader) -> None:
        lines = Lines()
        async with incoming:
            while data := await output.read(_PIECE):
                for line, cut in lines.push(data):
                    if (message := _message(line, cut)) is not None:
                        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                            await incoming.send(message)
            on_end()

    async def write(to: asyncio.StreamWriter) -> None:
        async with outgoing:
            async for message in outgoing:
                to.write(message.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
                with suppress(ConnectionError):
                    await to.drain()

    async def complain(errors: asyncio.StreamReader) -> None:
        lines = Lines(2_000)
        while data := await errors.read(_PIECE):
            for line, _ in lines.push(data):
                on_stderr(line.decode("utf-8", "replace").rstrip())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read, process.stdout)
        tasks.start_soon(write, process.stdin)
        tasks.start_soon(complain, process.stderr)
        try:
            yield read_stream, write_stream
        finally:
            with anyio.CancelScope(shield=True):
                await _end(process)
            tasks.cancel_scope.cancel()


async def _end(process: asyncio.subprocess.Process) -> None:
    """As the protocol requires: close its input, wait, send SIGTERM, then SIGKILL. Its children get a SIGTERM, too."""
    assert process.stdin
    process.stdin.close()
    for sent in (signal.SIGTERM, signal.SIGKILL, None):
        with anyio.move_on_after(EXIT_S):
            # wait() would also wait for processes that inherited its output
            while process.returncode is None:  # noqa: ASYNC110
                await anyio.sleep(0.02)
            break
        if sent is not None:
            _signal_group(process, sent)
    _signal_group(process, signal.SIGTERM)
    # Children that ignore it hold the pipes open. The transport's callbacks need one more turn of the loop.
    process._transport.close()  # type: ignore[attr-defined]
    await anyio.lowlevel.checkpoint()


def _signal_group(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


class _Bounded(httpx2.AsyncByteStream):
    """A response's body that ends after `ANSWER_MAX` bytes, unless it is a stream of events (bounded one by one)."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = ANSWER_MAX
        async for piece in self._stream:
            yield piece[:left]
            left -= len(piece)
            if left < 0:
                return

    async def aclose(self) -> None:
        await self._stream.aclose()


@asynccontextmanager
async def over_http(url: str, headers: Mapping[str, str], *, on_end: Callable[[], None]) -> AsyncIterator[Any]:
    """A server at an address. Redirects to another origin are not followed.

    `on_end` is called when the server has forgotten the session.
    """

    async def judge(response: httpx2.Response) -> None:
        if response.status_code == 404:
            on_end()
        kind = response.headers.get("content-type", "")
        if not kind.startswith("text/event-stream") and isinstance(response.stream, httpx2.AsyncByteStream):
            response.stream = _Bounded(response.stream)

    async with (
        httpx2.AsyncClient(
            headers={**headers, "Accept-Encoding": "identity"},
            timeout=httpx2.Timeout(CONNECT_S, read=None),  # a call's own timeout bounds the answer
            event_hooks={"response": [judge]},
            trust_env=False,
        ) as client,
        streamable_http_client(url, http_client=client, max_sse_event_size=ANSWER_MAX) as streams,
    ):
        yield streams


def client(transport: AbstractAsyncContextManager[Any]) -> Client:
    """A client that speaks over this transport; entered and left by one and the same task."""
    server: Transport = transport
    return Client(server, cache=None)


def unreadable(error: Exception) -> bool:
    """Whether a call failed because its answer was too long or no JSON, the connection being sound."""
    return isinstance(error, MCPError) and (error.code == PARSE_ERROR or error.message.startswith("SSE stream failed"))


def is_closed(error: Exception) -> bool:
    """Whether a call failed because there is no connection any more."""
    return isinstance(error, MCPError) and error.code == CONNECTION_CLOSED
