"""One call at its carrier: its status, its streams, and what follows it, decided once. Pure.

A leg outlives its `Call`: the carrier fetches what follows when the conversation is over. Streams come and go; one
that is lost is replaced, unless they keep dying young.

`now_s` is one clock that only grows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from offhook.gateway.agent.spec import Fallback
from offhook.gateway.telephony.carrier import Carrier, NextStep
from offhook.gateway.telephony.outbound import OutboundCall
from offhook.gateway.telephony.status import FINAL, AnsweredBy, CallStatus, order_of

__all__ = ["RETURN_S", "Leg", "StreamLoss"]

RETURN_S = 5.0  # a lost stream comes back within two seconds or so: one webhook, one handshake
HOLD_MAX_S = 1_800.0  # on hold
OLD_AGE_S = 30.0  # a stream that lived this long is no sign of a broken line
STRIKES_MAX = 3  # young deaths in a row after which the line is given up


class StreamLoss(Enum):
    """What the end of a stream means."""

    RETURNS = "returns"  # another stream may come
    FINAL = "final"  # none will
    STALE = "stale"  # an earlier stream's end, or one reported before: nothing


@dataclass(slots=True, eq=False)
class Leg:
    """One call path at a carrier, from the first webhook until it is forgotten.

    `caller_id`: the number that a dialled target sees, "" for the caller's own. `reconnects`: a lost stream can be
    replaced by another.
    """

    call_id: str
    carrier: Carrier
    own_number: str
    fallback: Fallback
    outbound: OutboundCall | None = None
    caller_id: str = ""
    reconnects: bool = True

    status: CallStatus | None = None
    next: NextStep | None = None
    decided_s: float = 0.0
    hung_up: bool = False  # by either side: nothing more can be done to the call
    stream_id: str = ""
    away: bool = False  # without a stream on purpose: on hold, or keys are being sent
    away_max_s: float = HOLD_MAX_S
    reconnecting: bool = False  # another stream was requested and has not come
    lost_s: float | None = None  # when the last stream was lost; None while there is one
    reported_end_s: float | None = None  # when the carrier reported the end of a stream whose socket is still open
    amd_result: AnsweredBy | None = None  # until it is applied
    wait_ended: bool = False  # taken out of the conference in which it waited for a human
    _up_s: float | None = field(default=None, init=False)
    _strikes: int = field(default=0, init=False)

    @property
    def over(self) -> bool:
        """The carrier has reported the call's end."""
        return self.status in FINAL

    @property
    def conference(self) -> str:
        """The conference that a briefing call is about; "" for every other call."""
        return self.outbound.conference if self.outbound is not None else ""

    def on_status(self, status: CallStatus) -> bool:
        """A status report, in whatever order they arrive; True when the status changed."""
        if order_of(status) <= order_of(self.status):
            return False
        self.status = status
        return True

    def on_hang_up(self) -> None:
        """The call was hung up, and not by a step that we decided."""
        self.hung_up = True

    # --- streams

    def stream_up(self, stream_id: str, now_s: float) -> None:
        """A stream has proved to be the call's."""
        self.stream_id, self._up_s, self.lost_s = stream_id, now_s, None
        self.away, self.reconnecting, self.reported_end_s = False, False, None

    def stream_lost(self, stream_id: str, now_s: float) -> StreamLoss:
        """A stream has ended, by whatever sign. Harmless when reported twice."""
        if stream_id != self.stream_id or self.lost_s is not None:
            return StreamLoss.STALE
        self.lost_s = now_s
        if self.next is not None or self.over or self.hung_up or not self.reconnects:
            return StreamLoss.FINAL
        if self.away:
            return StreamLoss.RETURNS
        young = self._up_s is None or now_s - self._up_s < OLD_AGE_S
        self._strikes = self._strikes + 1 if young else 0
        return StreamLoss.FINAL if self._strikes > STRIKES_MAX else StreamLoss.RETURNS

    def reconnect(self, now_s: float) -> bool:
        """The carrier requests the next step while none is decided: whether another stream should be connected."""
        if self.reconnecting:
            self._strikes += 1  # the handshake failed
        else:
            self.stream_lost(self.stream_id, now_s)  # this may be the first sign of it
        self.reconnecting = True
        return self.reconnects and not self.hung_up and self._strikes <= STRIKES_MAX

    def taken_over(self, now_s: float) -> None:
        """The call had a stream in another process; its next one is being connected here."""
        self.lost_s, self.reconnecting = now_s, True

    # --- away on purpose

    def leave_stream(self) -> bool:
        """The call is to be taken off its stream and to come back; False when that cannot be done now."""
        if self.next is not None or self.over or self.away or self._up_s is None or self.lost_s is not None:
            return False
        self.away = True
        return True

    def come_back(self) -> None:
        """The call is not away any more: it stayed on its stream, or is about to connect another."""
        self.away = False

    # --- what follows

    def decide(self, step: NextStep, now_s: float) -> bool:
        """The conversation is over and `step` follows. The first decision stands; False for a later one."""
        if self.next is not None:
            return False
        self.next, self.decided_s = step, now_s
        return True
