"""A Gemini Live session's two directions, over the WebSocket that google-genai opened for it.

The socket is google-genai's `session._ws`, a connection of websockets' asyncio client. The SDK does not promise that
attribute: `constraints.txt` pins the versions and a contract test holds its use.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from importlib.metadata import version
from typing import Any, Protocol

from websockets.protocol import State

from offhook.gateway.errors import ModelRefused
from offhook.gateway.models.gemini import messages as wire
from offhook.gateway.observe.tcp import round_trip_s

__all__ = ["Connector", "SessionSocket"]

UNACKNOWLEDGED_MAX_MS = 10_000  # half-open: caller audio never stops, so its acknowledgements must not either
_USED = ("send", "recv", "close", "protocol", "transport", "paused")
INVALID_ARGUMENT = 1007  # is not tried again


class SessionSocket:
    """A session's messages. Raises `ModelRefused` when the SDK's session has no such socket."""

    __slots__ = ("_recv", "_send", "_ws")

    def __init__(self, session: Any) -> None:
        ws: Any = getattr(session, "_ws", None)
        if missing := [name for name in _USED if not hasattr(ws, name)]:
            raise ModelRefused(
                INVALID_ARGUMENT,
                f"google-genai {version('google-genai')} with websockets {version('websockets')} has no session._ws "
                f"with {', '.join(missing)}: install the versions in constraints.txt",
            )
        self._ws, self._send, self._recv = ws, ws.send, ws.recv
        sock = ws.transport.get_extra_info("socket")
        if sock is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MAX_MS)

    async def send(self, message: wire.Outgoing) -> None:
        """Raises websockets' `ConnectionClosed`."""
        await self._send(wire.encode(message), text=True)

    def send_now(self, message: wire.Outgoing) -> bool:
        """Hand a message to the transport, as `send` does but without its lock, timers and awaiting.

        False, and nothing is sent, when `send` would have to wait: the connection is not open or its buffer is full.
        """
        ws = self._ws
        if ws.paused or ws.protocol.state is not State.OPEN:
            return False
        ws.protocol.send_text(wire.encode(message))
        for data in ws.protocol.data_to_send():
            ws.transport.write(data)
        return True

    async def receive(self) -> list[wire.Incoming]:
        """The next frame's values. Raises `Malformed`, or websockets' `ConnectionClosed`."""
        return wire.parse(await self._recv(decode=False))

    async def close(self) -> None:
        with contextlib.suppress(Exception):
            await self._ws.close()

    def abort(self) -> None:
        """Close the TCP connection without a handshake."""
        self._ws.transport.abort()

    def round_trip_s(self) -> float | None:
        return round_trip_s(self._ws.transport.get_extra_info("socket"))


class Connector(Protocol):
    """What a link needs of the process's client."""

    def session(
        self, model: str, config: Mapping[str, Any], timeout: asyncio.Timeout
    ) -> AbstractAsyncContextManager[SessionSocket]:
        """A session that is set up, closed when the block is left.

        Entering raises `ModelRefused`; its code is 0 when no answer came in time.
        """

    def translated(self, error: BaseException) -> ModelRefused:
        """Any exception of the SDK, the socket or the network, as a code and a reason without secrets."""
