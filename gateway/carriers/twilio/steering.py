"""Who says what Twilio does next with a call: one owner, decided once, carried out once. Pure.

A call's document can be changed from two sides: by the answer to `/twilio/after`, which Twilio asks when a stream
or a dialled leg is over, and by a REST request, which replaces whatever the call is doing. Both may be under way
at the same moment, either may be missing, and each is also a peer's word for the other. So:

  - What follows the conversation (`Next`) is decided once; who decides later is not heard.
  - It is handed over in the answer to `/twilio/after`. Only when Twilio does not ask is it steered by REST: hung
    up, or sent to `/twilio/after?steered=1`. While that request is out, an unsteered question is told to `WAIT`
    (ask again in a moment): the steered one gets the answer, so nobody is dialled twice.
  - As long as nothing is decided, a stream that is gone may come back: `/twilio/after` is answered with `AGAIN`.
    Streams that keep dying young are given up.

`now_s` is one clock that only grows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from offhook.gateway.telephony.leg import FINAL, rank

__all__ = [
    "RETURN_S",
    "Answer",
    "Control",
    "Gone",
    "Kind",
    "Next",
    "Steer",
]

RETURN_S = 5.0  # a stream comes back within two seconds or so: one webhook, one handshake
UNASKED_S = 3.0  # Twilio asks within a webhook's time of the stream's end; a caller is waiting
NUDGE_S = 2.0  # the same, of a stream that is gone while the call goes on
LINGER_S = 10.0  # told to hang up, and no word that it did
STEERED_S = 8.0  # a steered question comes at once after the REST answer, or never
STEERS_MAX = 3  # of each kind of trouble: the REST layer has repeated each already
OLD_AGE_S = 30.0  # a stream that lived so long is no sign of a broken line
STRIKES_MAX = 3  # young deaths in a row after which the line is given up


class Kind(Enum):
    """What may follow the conversation."""

    HANG_UP = "hang_up"
    DIAL = "dial"  # the transfer's target
    JOIN = "join"  # a conference, to be met by a human there
    FALLBACK = "fallback"  # the agent's fallback: a line, a human, a queue


@dataclass(frozen=True, slots=True)
class Next:
    """What follows: `target` is a number, a SIP address or a conference; `whisper` is said to who answers."""

    kind: Kind
    target: str = ""
    whisper: str = ""


class Answer(Enum):
    """What `/twilio/after` is told while nothing is decided yet."""

    AGAIN = "again"  # connect another stream
    WAIT = "wait"  # ask again in a moment
    LOST = "lost"  # no more streams: decide now what follows


class Gone(Enum):
    """What the end of a stream means."""

    RETURNS = "returns"  # another stream may come
    LOST = "lost"
    STALE = "stale"  # an earlier stream's end: nothing


class Steer(Enum):
    """A REST request to be made."""

    HANG_UP = "hang_up"
    ASK = "ask"  # send the call to /twilio/after?steered=1


class Control:
    """One call as Twilio has it. All methods are synchronous; `due` says when REST must help."""

    def __init__(self) -> None:
        self.status = ""  # Twilio's last word
        self.next: Next | None = None
        self.stream_sid = ""
        self.away = False  # without a stream because we said so: on hold, or keys being pressed
        self._up_s: float | None = None
        self._gone_s: float | None = None
        self._strikes = 0
        self._again = False  # asked to connect again, and no stream has come since
        self._left = False  # the far end hung up: nothing to steer
        self._decided_s = 0.0
        self._handed_s: float | None = None
        self._steering: Steer | None = None  # a REST request is out
        self._steered_s: float | None = None  # and a steered question is awaited since then
        self._steers = 0
        self._not_before_s = 0.0

    @property
    def over(self) -> bool:
        """Twilio has said that the call has ended."""
        return self.status in FINAL

    @property
    def moved(self) -> bool:
        """We took, or are taking, the call off its stream: the stream's end is not the caller's."""
        return self.away or self._steered_s is not None

    @property
    def unfetched(self) -> bool:
        """It is decided what follows, and Twilio has not asked for it."""
        return self.next is not None and self._handed_s is None and not self.over and not self._left

    def settled(self, now_s: float, after_s: float) -> bool:
        """Nothing can be due any more: over, or handed on so long ago."""
        if self.over or self._left:
            return True
        return self._handed_s is not None and now_s - self._handed_s >= after_s

    # --- streams

    def stream_up(self, stream_sid: str, now_s: float) -> None:
        """A stream has proved to be the call's."""
        self.stream_sid, self._up_s, self._gone_s = stream_sid, now_s, None
        self.away, self._again, self._steers = False, False, 0

    def stream_gone(self, stream_sid: str, now_s: float) -> Gone:
        """A stream has ended, by whatever sign; harmless when told again by another."""
        if stream_sid != self.stream_sid or self._gone_s is not None:
            return Gone.STALE
        self._gone_s = now_s
        if self.next is not None or self.over or self._left:
            return Gone.LOST
        if self.away:
            return Gone.RETURNS
        young = self._up_s is None or now_s - self._up_s < OLD_AGE_S
        self._strikes = self._strikes + 1 if young else 0
        return Gone.LOST if self._strikes > STRIKES_MAX else Gone.RETURNS

    def hung_up(self) -> None:
        """The far end has hung up (Twilio "stop" that we did not cause)."""
        self._left = True

    def go_away(self, now_s: float) -> bool:
        """Take the call off its stream by REST, to come back by a steered question; False: not now."""
        if self.next is not None or self.over or self._gone_s is not None or self.away or self._steered_s is not None:
            return False
        if self._up_s is None:
            return False
        self.away, self._steered_s = True, now_s
        return True

    def stay(self) -> None:
        """The REST request of `go_away` failed: the stream goes on."""
        self.away, self._steered_s = False, None

    def come_back(self, now_s: float) -> bool:
        """End a hold: the call is to be sent to `/twilio/after?steered=1` now; False: it is not away."""
        if not self.away or self.over:
            return False
        self._steering, self._steered_s = Steer.ASK, now_s
        return True

    # --- what follows

    def decide(self, what: Next, now_s: float) -> bool:
        """The conversation is over and this follows. The first decision stands; False for a later one."""
        if self.next is not None:
            return False
        self.next, self._decided_s = what, now_s
        self._steers, self._not_before_s = 0, 0.0
        return True

    def asked(self, now_s: float, *, steered: bool = False) -> Next | Answer:
        """`/twilio/after`: what Twilio is to do. The same question gets the same answer."""
        if steered:
            self._steered_s = None
            self.away = False
        elif self._steered_s is not None and now_s - self._steered_s < STEERED_S:
            return Answer.WAIT
        if self.over:
            return Next(Kind.HANG_UP)
        if self.next is not None:
            if self._handed_s is None:
                self._handed_s = now_s
            return self.next
        if self._again:
            self._strikes += 1  # the handshake failed
        else:
            self.stream_gone(self.stream_sid, now_s)  # this may be the first word of it
        self._again = True
        return Answer.LOST if self._strikes > STRIKES_MAX or self._left else Answer.AGAIN

    # --- REST

    def due(self, now_s: float) -> Steer | None:
        """The REST request that must be made now, if any; ask a few times a second."""
        if self.over or self._left or self._steering is not None or now_s < self._not_before_s:
            return None
        if self._steered_s is not None and now_s - self._steered_s < STEERED_S:
            return None
        if self._steers >= STEERS_MAX:
            return None
        steer = None
        if self.next is not None:
            hang_up = self.next.kind is Kind.HANG_UP
            if self._handed_s is None:
                if now_s - self._decided_s >= UNASKED_S:
                    steer = Steer.HANG_UP if hang_up else Steer.ASK
            elif hang_up and now_s - self._handed_s >= LINGER_S:
                steer = Steer.HANG_UP
        elif self._gone_s is not None and not (self.away or self._again) and now_s - self._gone_s >= NUDGE_S:
            steer = Steer.ASK  # it has not asked yet
        if steer is not None:
            self._steering, self._steers = steer, self._steers + 1
            self._not_before_s = now_s + LINGER_S
            if steer is Steer.ASK:
                self._steered_s = now_s
        return steer

    def steered(self, still_up: bool | None) -> None:
        """The REST request was answered: the call took it, was over already (False), or nobody knows (None)."""
        if still_up is False:
            self.status = self.status if self.over else "completed"
        if still_up is None:
            self._steered_s = None  # an unsteered question may be the only one there will be
        elif self._steering is Steer.HANG_UP:
            self._left = True
        self._steering = None

    def told(self, status: str) -> bool:
        """A status callback, in whatever order they come; True when it is news."""
        if rank(status) <= rank(self.status):
            return False
        self.status = status
        return True
