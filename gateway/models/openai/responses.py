"""Which response is the model's, and when the next may be requested; pure.

A session has one response at a time, and a `response.create` beside it is refused and lost. So a response is wanted
here, and requested once there is room: `IDLE -> REQUESTED -> ACTIVE -> IDLE`. A request that the service does not
confirm counts as lost after `LOST_S`.

Each response is a reply with the call's number for it, and a reply is made of items: each item's audio is counted, as
the service truncates by item and refuses to truncate past the item's end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

__all__ = ["LOST_S", "Cut", "Replies", "Reply", "ResponseState", "Sequence"]

LOST_S = 1.0  # a response is confirmed sooner; where it is not, the service refuses the second request
KEPT = 8  # replies: one that is reported as heard is among the last


class ResponseState(Enum):
    IDLE = "idle"
    REQUESTED = "requested"
    ACTIVE = "active"


class Sequence:
    """One session's responses, one after the other."""

    def __init__(self) -> None:
        self.phase = ResponseState.IDLE
        self.response_id = ""
        self.wanted = False
        self._since_s = 0.0
        self.event_id = ""  # of the last request
        self._requests = 0

    def next(self, now_s: float) -> str:
        """The event id of a `response.create` that is to be sent now; "" for none."""
        lost = self.phase is ResponseState.REQUESTED and now_s - self._since_s >= LOST_S
        if not self.wanted or not (self.phase is ResponseState.IDLE or lost):
            return ""
        self.wanted = False
        self.phase, self._since_s = ResponseState.REQUESTED, now_s
        self._requests += 1
        self.event_id = f"create-{self._requests}"
        return self.event_id

    def created(self, response_id: str) -> None:
        self.phase, self.response_id = ResponseState.ACTIVE, response_id

    def done(self, response_id: str) -> None:
        if self.phase is ResponseState.ACTIVE and response_id == self.response_id:
            self.phase, self.response_id = ResponseState.IDLE, ""

    def refused(self, event_id: str, *, again: bool) -> None:
        """The service refused a request; `again`: another response was active, and this one is still wanted."""
        if event_id and event_id == self.event_id and self.phase is ResponseState.REQUESTED:
            self.phase = ResponseState.IDLE if not again else ResponseState.ACTIVE
            self.wanted = self.wanted or again

    def end_unknown(self) -> None:
        """Whatever the service took for active is over."""
        if self.phase is ResponseState.ACTIVE and not self.response_id:
            self.phase = ResponseState.IDLE


@dataclass(frozen=True, slots=True)
class Cut:
    """What is to be done to an item: shortened to `audio_end_ms`, or deleted where that is 0."""

    item_id: str
    audio_end_ms: int


@dataclass(slots=True)
class Reply:
    """One response. `items`: samples of audio received, in the line's format, by item in order."""

    turn: int
    response_id: str
    items: dict[str, int] = field(default_factory=dict)
    characters: int = 0
    dead: bool = False  # it was cancelled, or will not be played

    @property
    def samples(self) -> int:
        return sum(self.items.values())

    def cuts(self, heard: int, rate_hz: int) -> list[Cut]:
        """For a reply of which the caller heard its first `heard` samples. An item never gets longer than it is."""
        made: list[Cut] = []
        begins = 0
        for item_id, samples in self.items.items():
            of_item = min(max(heard - begins, 0), samples)
            begins += samples
            if of_item < samples:
                made.append(Cut(item_id, of_item * 1000 // rate_hz))
        return made


class Replies:
    """The last replies of a call, by response and by turn."""

    def __init__(self) -> None:
        self._kept: dict[str, Reply] = {}
        self.last: Reply | None = None

    def begin(self, turn: int, response_id: str) -> Reply:
        while len(self._kept) >= KEPT:
            del self._kept[next(iter(self._kept))]
        self.last = self._kept[response_id] = Reply(turn, response_id)
        return self.last

    def of_response(self, response_id: str | None) -> Reply | None:
        return self._kept.get(response_id or "")

    def of_turn(self, turn: int) -> Reply | None:
        return next((reply for reply in self._kept.values() if reply.turn == turn), None)

    def forget(self) -> None:
        """The session is gone, and its items with it."""
        self._kept.clear()
        self.last = None
