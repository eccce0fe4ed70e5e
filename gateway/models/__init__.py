"""The seam to a speech model: what a link tells the call, and what the call asks of a link."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any, Protocol

from offhook.gateway.conversation.commands import Scheduling
from offhook.gateway.conversation.events import Event

__all__ = ["ModelLink", "ModelSink"]


class ModelSink(Protocol):
    """A call, as its model link sees it. All methods return at once."""

    def model_event(self, event: Event) -> None:
        """Something for the conversation machine (`ModelReady`, `ReplyComplete`, `ToolWithdrawn`, ...)."""

    def model_audio(self, generation: int, pcm: bytes) -> None:
        """PCM16 LE 24 kHz mono of this turn, any length."""

    def model_text(self, generation: int, text: str) -> None:
        """A piece of what the agent says in this turn (output transcription)."""

    def caller_text(self, text: str, finished: bool) -> None:
        """A piece of what the caller said (input transcription)."""

    def model_tool_call(self, call_id: str, name: str, arguments: dict[str, Any]) -> None:
        """The model asks for a tool."""

    def model_usage(self, usage: dict[str, int]) -> None:
        """Token counts of one turn, by the API's own names."""

    def model_segment(self, name: str, seconds: float) -> None:
        """A stretch of the link's own: `model_setup`, `model_reconnect_gap`, `uplink_forward`."""

    def next_generation(self) -> int:
        """A number for a new turn of the model: call-unique, growing."""


class ModelLink(Protocol):
    """One call's link to the model, across as many connections as it takes. Nothing here blocks.

    `counts`, by name: `audio_dropped` and `audio_dropped_down` (frames; the outbox was full, with a connection and
    without), `malformed:REASON`, `unknown_keys` and `unreadable_values` (messages), `session:RESULT` (dials that
    failed). `faults`: what went wrong, in words without secrets, for the call's record.
    """

    counts: Counter[str]
    faults: deque[str]

    def round_trip_s(self) -> float | None:
        """To the model's next TCP hop, by the kernel; None without a connection, or where it is not known."""

    async def run(self) -> None:
        """Connect and read until `close`; every end is told to the sink as an event, none is raised."""

    def send_audio(self, pcm: bytes, received_s: float) -> None:
        """PCM16 LE 16 kHz of the caller; bounded, oldest dropped and counted."""

    def activity_start(self) -> None: ...

    def activity_end(self) -> None: ...

    def ask(self, text: str) -> None:
        """Text the model answers aloud."""

    def tell(self, text: str) -> None:
        """Context the model takes in without answering; left out where the model's rules forbid it."""

    def answer_tool(self, call_id: str, name: str, response: dict[str, Any], scheduling: Scheduling) -> None: ...

    def cancel_tool(self, call_id: str) -> None:
        """The call was stopped here and has no result. The model is told so, to be silent about, if it still waits."""

    def rotate(self) -> None:
        """Change connections with the resumption handle."""

    def reconnect(self) -> None:
        """Drop a stuck connection and recover."""

    async def close(self) -> None: ...
