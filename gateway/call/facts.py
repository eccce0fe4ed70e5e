"""What is known of a call before it begins, and where its caller goes afterwards. Plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from offhook.gateway.call.line import LineFormats
from offhook.gateway.store.record import CallRecord
from offhook.media.formats import MULAW_8K

__all__ = ["TELEPHONE", "CallFacts", "Transfer"]

TELEPHONE = LineFormats(gives=MULAW_8K, takes=MULAW_8K)


@dataclass(frozen=True, slots=True)
class Transfer:
    """Where the caller goes when the call ends as `TRANSFERRED`: a number or a SIP address.

    `whisper` is said to the person who answers, before the two are joined; `warm`: the agent briefs them first.
    """

    target: str
    whisper: str = ""
    warm: bool = False


@dataclass(frozen=True, slots=True)
class CallFacts:
    """What the carrier's webhook, or its stream's start, reported of the call."""

    call_sid: str
    caller: str = ""
    dialled: str = ""
    direction: str = "inbound"
    simulated: bool = False
    started_at: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    effects: frozenset[str] = frozenset()  # tools with outside effects that run though simulated; "*": all
    formats: LineFormats = TELEPHONE

    def new_record(self, agent: str) -> CallRecord:
        """The call's record, before anything has happened."""
        return CallRecord(
            call_sid=self.call_sid,
            agent=agent,
            direction=self.direction,
            caller=self.caller,
            dialled=self.dialled,
            simulated=self.simulated,
            started_at=self.started_at,
        )
