"""A session's messages by google-genai's public calls: what stands in where its session has no known socket.

At three times the CPU, without `send_now`, and a server message that the SDK cannot read ends the connection.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from google.genai import types

from offhook.gateway.models.gemini import messages as wire

__all__ = ["PublicSession"]

AUDIO_TYPE = f"audio/pcm;rate={wire.INPUT_RATE_HZ}"


class PublicSession:
    """In the place of a `wire.SessionSocket`."""

    __slots__ = ("_messages", "_session")

    def __init__(self, session: Any) -> None:
        self._session = session
        self._messages: AsyncIterator[types.LiveServerMessage] = session.receive()

    async def send(self, message: wire.Outgoing) -> None:
        """Raises what the SDK raises."""
        realtime = self._session.send_realtime_input
        match message:
            case bytes():
                await realtime(audio=types.Blob(data=message, mime_type=AUDIO_TYPE))
            case wire.Text(text):
                await realtime(text=text)
            case wire.Picture(jpeg):
                await realtime(video=types.Blob(data=jpeg, mime_type="image/jpeg"))
            case wire.ActivityStart():
                await realtime(activity_start=types.ActivityStart())
            case wire.ActivityEnd():
                await realtime(activity_end=types.ActivityEnd())
            case wire.Context(text):
                turn = types.Content(role="user", parts=[types.Part(text=text)])
                await self._session.send_client_content(turns=turn, turn_complete=False)
            case wire.FunctionResponse(call_id, name, response, scheduling):
                answer = types.FunctionResponse(
                    id=None if call_id.startswith(wire.UNNAMED) else call_id,
                    name=name,
                    response=response,
                    scheduling=types.FunctionResponseScheduling(scheduling) if scheduling else None,
                )
                await self._session.send_tool_response(function_responses=answer)

    def send_now(self, *messages: wire.Outgoing) -> bool:
        """False: the SDK's calls have to be awaited."""
        return False

    async def receive(self) -> list[wire.Incoming]:
        """The next message's values. Raises `Malformed`, or what the SDK raises."""
        while True:
            try:
                message = await anext(self._messages)
            except StopAsyncIteration:  # the SDK's iterator ends with each turn
                self._messages = self._session.receive()
            else:
                return wire.parse(message.model_dump_json(by_alias=True, exclude_none=True))

    async def close(self) -> None:
        with contextlib.suppress(Exception):
            await self._session.close()

    def abort(self) -> None:
        """No public call does it; `close`, which follows, waits for the peer within the connection's own timeout."""

    def round_trip_s(self) -> float | None:
        return None
