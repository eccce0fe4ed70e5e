"""A Gemini Live session's two directions, over the WebSocket that google-genai opened for it.

The socket is google-genai's `session._ws`, a connection of websockets' asyncio client. The SDK does not promise that
attribute: `constraints.txt` pins the versions and a contract test holds its use. Each step away from those versions
costs CPU, and no call: a socket without the parts that `send_now` uses is written to by its own `send`, a session
without such a socket by the SDK's public calls (`public`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from functools import cache
from importlib.metadata import version
from typing import Any, Protocol

from websockets.protocol import State

from offhook.gateway.errors import ModelRefused
from offhook.gateway.models.gemini import messages as wire
from offhook.gateway.models.gemini.public import PublicSession
from offhook.gateway.models.websocket import free, text_frame
from offhook.gateway.observe.tcp import round_trip_s

__all__ = ["AnySession", "Connector", "SessionSocket", "socket_of"]

log = logging.getLogger(__name__)

UNACKNOWLEDGED_MAX_MS = 10_000  # half-open: caller audio never stops, so its acknowledgements must not either
_OPEN = State.OPEN  # an enumeration's member is dear to look up
_USED = ("send", "recv", "close")
_USED_NOW = ("protocol", "transport", "paused")


class SessionSocket:
    """A session's messages, over its WebSocket."""

    __slots__ = ("_protocol", "_recv", "_send", "_transport", "_ws")

    def __init__(self, ws: Any) -> None:
        self._ws, self._send, self._recv = ws, ws.send, ws.recv
        self._transport: Any = getattr(ws, "transport", None)
        self._protocol = ws.protocol if _takes_frames(ws) else None
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        if sock is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MAX_MS)

    async def send(self, message: wire.Outgoing) -> None:
        """Raises websockets' `ConnectionClosed`."""
        await self._send(wire.encode(message), text=True)

    def send_now(self, *messages: wire.Outgoing) -> bool:
        """Hand messages to the transport in one piece, as `send` does but without its lock, timers and awaiting.

        False, and nothing is sent, when `send` would have to wait: the connection is not open or its buffer is full.
        Whole frames only, and only while the library has nothing of its own half sent: it flushes what it makes
        (pongs, its close) before it returns to the event loop, and no message here is sent in fragments.
        """
        protocol, transport = self._protocol, self._transport
        if protocol is None or self._ws.paused or protocol.state is not _OPEN or transport.is_closing():
            return False
        if len(messages) == 1:  # 50 a second
            transport.write(text_frame(wire.encode(messages[0])))
        else:
            transport.write(b"".join([text_frame(wire.encode(message)) for message in messages]))
        return True

    async def receive(self) -> list[wire.Incoming]:
        """The next frame's values. Raises `Malformed`, or websockets' `ConnectionClosed`."""
        return wire.parse(await self._recv(decode=False))

    async def close(self) -> None:
        with contextlib.suppress(Exception):
            await self._ws.close()
        free(self._ws)

    def abort(self) -> None:
        """Close the TCP connection without a handshake."""
        if self._transport is not None:
            self._transport.abort()

    def round_trip_s(self) -> float | None:
        return round_trip_s(self._transport.get_extra_info("socket")) if self._transport is not None else None


AnySession = SessionSocket | PublicSession


def socket_of(session: Any) -> AnySession:
    """The cheapest way to this session's messages. What stands in for another is logged, once a process."""
    ws = getattr(session, "_ws", None)
    if missing := [name for name in _USED if not hasattr(ws, name)]:
        _warn(f"no session._ws with {', '.join(missing)}", "the SDK's public calls are used, at 3 times the CPU")
        return PublicSession(session)
    return SessionSocket(ws)


def _takes_frames(ws: Any) -> bool:
    """Whether finished frames may be written to this connection's transport."""
    if missing := [name for name in _USED_NOW if not hasattr(ws, name)]:
        _warn(f"no session._ws with {', '.join(missing)}", "audio is sent by its `send`, at more CPU")
        return False
    # An extension (permessage-deflate; we offer none) would have to encode each frame.
    return not getattr(ws.protocol, "extensions", None)


@cache
def _warn(what: str, instead: str) -> None:
    log.warning(
        "google-genai %s with websockets %s has %s: %s; install the versions in constraints.txt",
        version("google-genai"),
        version("websockets"),
        what,
        instead,
    )


class Connector(Protocol):
    """What a link needs of the process's client."""

    def session(
        self, model: str, config: Mapping[str, Any], timeout: asyncio.Timeout
    ) -> AbstractAsyncContextManager[AnySession]:
        """A session that is set up, closed when the block is left.

        Entering raises `ModelRefused`; its code is 0 when no answer came in time.
        """

    def translated(self, error: BaseException) -> ModelRefused:
        """Any exception of the SDK, the socket or the network, as a code and a reason without secrets."""
