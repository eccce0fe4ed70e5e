"""A Gemini Live session's two directions: over its own socket, or by the SDK's public calls.

The socket is google-genai's `session._ws`, a connection of websockets' asyncio client. It is not promised, so
its use is held by a contract test, and `SdkWire` stands in where it is missing.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any, Protocol

from google.genai import types
from websockets.protocol import State

from offhook.gateway.models.gemini import messages as wire
from offhook.gateway.observe.tcp import round_trip_s

__all__ = ["SdkWire", "SocketWire", "Wire"]

UNACKNOWLEDGED_MAX_MS = 10_000  # half-open: caller audio never stops, so its acknowledgements must not either


class Wire(Protocol):
    """A session's two directions, by its socket or by the SDK."""

    async def send(self, message: wire.Outgoing) -> None: ...
    async def receive(self) -> list[wire.Incoming]: ...
    async def close(self) -> None: ...
    def abort(self) -> None: ...
    def round_trip_s(self) -> float | None: ...


class SocketWire:
    """Straight over the session's WebSocket (websockets' asyncio connection)."""

    __slots__ = ("_recv", "_send", "_ws", "has_direct")

    def __init__(self, ws: Any) -> None:
        self._ws, self._send, self._recv = ws, ws.send, ws.recv
        # websockets' sans-I/O half and its transport; without them every frame goes through `send`.
        self.has_direct = all(hasattr(ws, name) for name in ("protocol", "transport", "paused"))
        transport = getattr(ws, "transport", None)
        sock = transport.get_extra_info("socket") if transport is not None else None
        if sock is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MAX_MS)

    async def send(self, message: wire.Outgoing) -> None:
        await self._send(wire.encode(message), text=True)

    def send_now(self, message: wire.Outgoing) -> bool:
        """Hand a message to the transport, as `send` would but without its lock, timers and awaiting.

        False, and nothing done, where that has to be waited for: the connection is not open or its buffer is full.
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
        transport = getattr(self._ws, "transport", None)
        if transport is not None:
            transport.abort()

    def round_trip_s(self) -> float | None:
        transport = getattr(self._ws, "transport", None)
        return round_trip_s(transport.get_extra_info("socket")) if transport is not None else None


class SdkWire:
    """By the SDK's public calls alone: slower, and blind to messages the SDK does not know."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._messages: AsyncIterator[Any] | None = None

    async def send(self, message: wire.Outgoing) -> None:
        session = self._session
        match message:
            case bytes():
                await session.send_realtime_input(
                    audio=types.Blob(data=message, mime_type=f"audio/pcm;rate={wire.INPUT_RATE_HZ}")
                )
            case wire.Text(text):
                await session.send_realtime_input(text=text)
            case wire.ActivityStart():
                await session.send_realtime_input(activity_start=types.ActivityStart())
            case wire.ActivityEnd():
                await session.send_realtime_input(activity_end=types.ActivityEnd())
            case wire.Context(text):
                turn = types.Content(role="user", parts=[types.Part(text=text)])
                await session.send_client_content(turns=turn, turn_complete=False)
            case wire.ToolAnswer(call_id, name, response, scheduling):
                await session.send_tool_response(
                    function_responses=types.FunctionResponse(
                        id=None if call_id.startswith(wire.UNNAMED) else call_id,
                        name=name,
                        response=response,
                        scheduling=types.FunctionResponseScheduling(scheduling) if scheduling else None,
                    )
                )

    async def receive(self) -> list[wire.Incoming]:
        """The next message's values. Raises the SDK's `APIError` when the session has ended."""
        while True:
            if self._messages is None:
                self._messages = self._session.receive()
            try:
                message = await anext(self._messages)
            except StopAsyncIteration:  # after every turn
                self._messages = None
            except (TypeError, ValueError):  # a message the SDK does not know, or cannot read
                self._messages = None
                return [wire.NotRead("unknown", unknown=True)]
            else:
                return wire.values_of(message.model_dump(by_alias=True, exclude_none=True))

    async def close(self) -> None:
        with contextlib.suppress(Exception):
            await self._session.close()

    def abort(self) -> None:
        """Not possible with public means; `close` waits `CLOSE_TIMEOUT_S` at most."""

    def round_trip_s(self) -> float | None:
        """Not to be had by public means."""
        return None
