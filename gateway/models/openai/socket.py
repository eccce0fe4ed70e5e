"""A session's WebSocket: messages are written to the transport at once where it has room.

The library's `send` takes its lock, a timer and a task switch for each message; caller audio is 50 messages a second.
"""

from __future__ import annotations

import contextlib
import socket

from websockets.asyncio.client import ClientConnection
from websockets.protocol import State

from offhook.gateway.models.openai import messages as wire
from offhook.gateway.models.websocket import free, text_frame
from offhook.gateway.observe.tcp import round_trip_s

__all__ = ["SessionSocket"]

UNACKNOWLEDGED_MAX_MS = 10_000  # half-open: caller audio does not stop, so its acknowledgements must not either


class SessionSocket:
    """One connection. Every message is JSON in a text frame."""

    __slots__ = ("_recv", "_transport", "_ws")

    def __init__(self, ws: ClientConnection) -> None:
        self._ws, self._recv, self._transport = ws, ws.recv, ws.transport
        sock = self._transport.get_extra_info("socket")
        if sock is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MAX_MS)

    async def send(self, data: bytes) -> None:
        """Raises websockets' `ConnectionClosed`."""
        await self._ws.send(data, text=True)

    def send_now(self, data: bytes) -> bool:
        """False, and nothing is sent, when `send` would have to wait: the socket is not open or its buffer is full.

        A whole frame, while the library has nothing of its own half sent: it flushes what it makes (pongs, its close)
        before it returns to the event loop, and no message here is sent in fragments or with an extension.
        """
        ws, transport = self._ws, self._transport
        if ws.paused or ws.protocol.state is not State.OPEN or transport.is_closing():
            return False
        transport.write(text_frame(data))
        return True

    async def receive(self) -> wire.ServerEvent:
        """The next message. Raises `Malformed`, or websockets' `ConnectionClosed`."""
        return wire.parse(await self._recv(decode=False))

    async def close(self) -> None:
        with contextlib.suppress(Exception):
            await self._ws.close()
        free(self._ws)

    def abort(self) -> None:
        """Close the TCP connection without a handshake."""
        self._transport.abort()

    def round_trip_s(self) -> float | None:
        return round_trip_s(self._transport.get_extra_info("socket"))
