"""Next step of a call at Twilio: decided once (`Leg.next`), delivered by webhook answer or by REST. Pure.

A call's document can be changed from two sides: by the answer to `/twilio/after`, which Twilio requests when a stream
or a dialled leg is over, and by a REST request, which replaces whatever the call is doing. Both may be under way at
the same moment, either may be missing, and each may be the first sign of the other. So:

  - What follows the conversation is delivered in the answer to `/twilio/after`. Only when Twilio does not request it is
    it pushed by REST: the call is hung up, or redirected to `/twilio/after?steered=1`. While that redirect is under
    way, a request without `steered` is answered with `WAIT` (request it again in a moment): the redirected one gets the
    answer, so that no target is dialled twice.
  - As long as nothing is decided, a stream that is lost may come back: `/twilio/after` is answered with `RECONNECT`,
    until the leg gives its streams up.

`now_s` is one clock that only grows.
"""

from __future__ import annotations

from enum import Enum

from offhook.gateway.telephony.carrier import Kind, NextStep
from offhook.gateway.telephony.leg import Leg
from offhook.gateway.telephony.status import CallStatus

__all__ = ["Push", "Steering", "Undecided"]

UNFETCHED_S = 3.0  # from a stream's end Twilio requests what follows within a webhook's time; a caller is waiting
NUDGE_S = 2.0  # the same, after the loss of a stream whose call goes on
LINGER_S = 10.0  # an answer to hang up, and no report that the call ended
REDIRECT_S = 8.0  # a redirected call requests its document at once after the REST answer, or never
PUSHES_MAX = 3  # of each kind of trouble: the REST layer has repeated each already


class Undecided(Enum):
    """The answer to `/twilio/after` while no next step is decided."""

    RECONNECT = "reconnect"  # connect another stream
    WAIT = "wait"  # request it again in a moment
    LOST = "lost"  # no more streams: what follows has to be decided now


class Push(Enum):
    """A REST request that is due."""

    HANG_UP = "hang_up"
    REDIRECT = "redirect"  # to /twilio/after?steered=1


class Steering:
    """One leg at Twilio. `due` says when REST must help."""

    def __init__(self, leg: Leg) -> None:
        self._leg = leg
        self._fetched_s: float | None = None  # when Twilio fetched what follows
        self._pushing: Push | None = None  # a REST request is under way
        self._redirected_s: float | None = None  # a redirected call's request is expected since then
        self._pushes = 0
        self._not_before_s = 0.0

    @property
    def moved(self) -> bool:
        """The gateway took, or is taking, the call off its stream: the stream's end is not the caller's hang-up."""
        return self._leg.away or self._redirected_s is not None

    @property
    def unfetched(self) -> bool:
        """What follows is decided, and Twilio has not fetched it."""
        leg = self._leg
        return leg.next is not None and self._fetched_s is None and not leg.over and not leg.hung_up

    def settled(self, now_s: float, after_s: float) -> bool:
        """Nothing can be due any more: the call is over, or what follows was decided and fetched `after_s` ago."""
        leg = self._leg
        if leg.over or leg.hung_up:
            return True
        return leg.next is not None and now_s - max(leg.decided_s, self._fetched_s or 0.0) >= after_s

    def stream_up(self) -> None:
        """A stream has come: earlier trouble is over."""
        self._pushes = 0

    def follow(self) -> None:
        """What follows has just been decided."""
        self._pushes, self._not_before_s = 0, 0.0

    def next_document(self, now_s: float, *, steered: bool = False) -> NextStep | Undecided:
        """The answer to `/twilio/after`. The same request gets the same answer."""
        leg = self._leg
        if steered:
            self._redirected_s = None
            leg.come_back()
        elif self._redirected_s is not None and now_s - self._redirected_s < REDIRECT_S:
            return Undecided.WAIT
        if leg.over:
            return NextStep(Kind.HANG_UP)
        if leg.next is not None:
            if self._fetched_s is None:
                self._fetched_s = now_s
            return leg.next
        return Undecided.RECONNECT if leg.reconnect(now_s) else Undecided.LOST

    # --- away on purpose

    def leave_stream(self, now_s: float) -> bool:
        """Take the call off its stream by REST, to come back by a redirect; False: not now."""
        if self._redirected_s is not None or not self._leg.leave_stream():
            return False
        self._redirected_s = now_s
        return True

    def stay(self) -> None:
        """The REST request after `leave_stream` failed: the stream goes on."""
        self._redirected_s = None
        self._leg.come_back()

    def resume(self, now_s: float) -> bool:
        """End a hold: the call is to be redirected now; False: it is not on hold."""
        if not self._leg.away or self._leg.over:
            return False
        self._pushing, self._redirected_s = Push.REDIRECT, now_s
        return True

    # --- REST

    def due(self, now_s: float) -> Push | None:
        """The REST request that must be made now, if any; call it a few times a second."""
        leg = self._leg
        if leg.over or leg.hung_up or self._pushing is not None or now_s < self._not_before_s:
            return None
        if self._redirected_s is not None and now_s - self._redirected_s < REDIRECT_S:
            return None
        if self._pushes >= PUSHES_MAX:
            return None
        push = None
        if leg.next is not None:
            hang_up = leg.next.kind is Kind.HANG_UP
            if self._fetched_s is None:
                if now_s - leg.decided_s >= UNFETCHED_S:
                    push = Push.HANG_UP if hang_up else Push.REDIRECT
            elif hang_up and now_s - self._fetched_s >= LINGER_S:
                push = Push.HANG_UP
        elif leg.lost_s is not None and not (leg.away or leg.reconnecting) and now_s - leg.lost_s >= NUDGE_S:
            push = Push.REDIRECT  # it has not requested what follows yet
        if push is not None:
            self._pushing, self._pushes = push, self._pushes + 1
            self._not_before_s = now_s + LINGER_S
            if push is Push.REDIRECT:
                self._redirected_s = now_s
        return push

    def pushed(self, still_up: bool | None) -> None:
        """The REST request was answered: the call took it, was over already (False), or that is not known (None)."""
        if still_up is False and not self._leg.over:
            self._leg.on_status(CallStatus.COMPLETED)
        if still_up is None:
            self._redirected_s = None  # a request without `steered` may be the only one there will be
        elif self._pushing is Push.HANG_UP:
            self._leg.on_hang_up()
        self._pushing = None
