"""The seam to a carrier: what the switchboard can have done to a call, and the words both sides use.

A carrier calls the `Switchboard` when something happened; the switchboard calls its `Carrier` when something is to be
done. A carrier translates: it decides nothing about a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from aiohttp import web

from offhook.gateway.agent.spec import Agent, Fallback
from offhook.gateway.call.line import LineFormats
from offhook.gateway.errors import PeerError
from offhook.gateway.telephony.outbound import OutboundCall
from offhook.gateway.telephony.status import CallStatus

__all__ = ["Carrier", "CarrierBusy", "Feature", "Hold", "Keys", "Kind", "NextStep", "Ringing"]


class Feature(Enum):
    """What a carrier can do, with the settings it was given."""

    PLACE = "place"  # outbound calls
    HOLD = "hold"
    KEYS = "keys"  # send DTMF
    CONFERENCE = "conference"  # warm transfers
    AMD = "amd"  # answering machine detection
    BRING = "bring"  # a call of a dead process: have it ask this one what follows


class Kind(Enum):
    """What may follow a conversation."""

    HANG_UP = "hang_up"
    DIAL = "dial"  # the transfer's target
    JOIN = "join"  # a conference, in which caller and human meet
    FALLBACK = "fallback"  # the agent's fallback: a line, a human, a queue


@dataclass(frozen=True, slots=True)
class Ringing:
    """A call that a carrier wants answered.

    `own_number`: our end, whose agent answers. `outbound_id`: of the `OutboundCall` that this is. `formats`: of the
    stream that will come. `reconnects`: a lost stream can be replaced by another. `agent`: its name, where the caller
    chose it and not a number.
    """

    call_id: str
    caller: str
    dialled: str
    own_number: str
    formats: LineFormats
    is_outbound: bool = False
    outbound_id: str = ""
    status: CallStatus | None = None
    reconnects: bool = True
    agent: str = ""


@dataclass(frozen=True, slots=True)
class NextStep:
    """What follows the conversation.

    `target` is a number, a SIP address or a conference. `whisper` is said to the person who answers, before the two
    are joined. `starts`: joining, this leg begins the conference; one that does not waits with music.
    """

    kind: Kind
    target: str = ""
    whisper: str = ""
    starts: bool = False


@dataclass(frozen=True, slots=True)
class Hold:
    """Music instead of the agent, until `Carrier.resume`. `music_url`: a sound file, "" for the carrier's own.
    `line` is said first.
    """

    music_url: str = ""
    line: str = ""


@dataclass(frozen=True, slots=True)
class Keys:
    """DTMF to send: `0-9 A-D * #`, and `w` for half a second's pause."""

    digits: str


class CarrierBusy(PeerError):
    """The carrier takes no more calls at the moment (HTTP 429, for example): the call may be placed later."""


class Carrier(Protocol):
    """One carrier of the process. Coroutines raise `PeerError` when the carrier refused or did not answer.

    One that can only be called inherits it: the bodies here are those of a carrier that `can` nothing.
    """

    name: str

    @property
    def can(self) -> frozenset[Feature]:
        """What the switchboard may ask of it; settled once `open` has returned."""
        return frozenset()

    def routes(self) -> list[web.RouteDef]:
        """Its webhooks and media sockets."""

    async def open(self) -> None:
        """Before the first request."""
        return

    async def place(self, call: OutboundCall, agent: Agent) -> str:
        """Place the call with the agent's `outbound` settings: its id at the carrier. Raises `CarrierBusy`, too."""
        raise PeerError(f"{self.name} places no calls")

    async def placed(self, call: OutboundCall, since_s: float) -> Sequence[str]:
        """The ids of calls that were placed to the same address, from the same one, at or after `since_s` (seconds
        since 1970), as the carrier has them.
        """
        raise PeerError(f"{self.name} lists no calls")

    async def hang_up(self, call_id: str) -> bool:
        """End the call; False when it was over already."""
        return False

    def follow(self, call_id: str, step: NextStep, now_s: float) -> None:
        """The conversation is over and `step` follows, once: push it, or hand it over when the carrier requests it.
        Does not wait.
        """
        return

    async def interrupt(self, call_id: str, what: Hold | Keys) -> bool:
        """Take the call off its stream for a while; False when that cannot be done now. `Keys` come back by
        themselves, `Hold` by `resume`.
        """
        return False

    async def resume(self, call_id: str) -> bool:
        """End a hold: the call's stream comes back. False for a call that is not on hold."""
        return False

    async def fall_back(self, call_id: str, fallback: Fallback) -> bool:
        """Take the call out of whatever it does, to this fallback and its end; False when it was over already."""
        return False

    async def bring(self, call_id: str) -> bool:
        """Have the carrier request what follows this call from this process; False when it was over already."""
        return False

    def tick(self, now_s: float) -> None:
        """Several times a second: what is due by time. Does not wait."""
        return

    def forget(self, call_id: str) -> None:
        """The switchboard forgets this call: the carrier need not remember it either."""
        return

    async def close(self) -> None:
        """After the last call, within bounds."""
        return
