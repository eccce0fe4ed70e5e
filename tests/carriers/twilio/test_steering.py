"""What follows a call at Twilio, delivered once: each way, and a thousand races that must each resolve once."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from itertools import count

import pytest

from offhook.gateway.carriers.twilio.steering import (
    LINGER_S,
    NUDGE_S,
    PUSHES_MAX,
    REDIRECT_S,
    UNFETCHED_S,
    Push,
    Steering,
    Undecided,
)
from offhook.gateway.telephony.carrier import Kind, NextStep
from offhook.gateway.telephony.leg import STRIKES_MAX, Leg, StreamLoss
from offhook.gateway.telephony.status import CallStatus
from tests.telephony.paper_carrier import leg_at

HANG_UP, DIAL = NextStep(Kind.HANG_UP), NextStep(Kind.DIAL, "+15550123")


def talking(now_s: float = 0.0) -> tuple[Leg, Steering]:
    leg = leg_at()
    leg.on_status(CallStatus.IN_PROGRESS)
    leg.stream_up("MZ1", now_s)
    return leg, Steering(leg)


def decided(step: NextStep, now_s: float) -> tuple[Leg, Steering]:
    leg, steering = talking()
    leg.decide(step, now_s)
    steering.follow()
    return leg, steering


# --- what follows


def test_every_request_gets_the_decision():
    _, steering = decided(DIAL, 10.0)
    assert [steering.next_document(10.2), steering.next_document(10.3)] == [DIAL, DIAL]


def test_a_fetched_step_is_not_pushed():
    _, steering = decided(DIAL, 10.0)
    steering.next_document(10.2)
    assert [steering.due(t) for t in (10.3, 14.0, 60.0)] == [None] * 3


def test_an_unfetched_hang_up_is_pushed_once():
    _, steering = decided(HANG_UP, 10.0)
    assert steering.due(10.0 + UNFETCHED_S - 0.1) is None
    assert steering.due(10.0 + UNFETCHED_S) is Push.HANG_UP
    assert steering.due(14.0) is None  # the request is under way
    steering.pushed(True)
    assert steering.due(60.0) is None


def test_a_call_that_outlives_its_hang_up_is_pushed():
    _, steering = decided(HANG_UP, 10.0)
    steering.next_document(10.1)
    assert steering.due(10.1 + LINGER_S - 0.1) is None
    assert steering.due(10.1 + LINGER_S) is Push.HANG_UP


@pytest.mark.parametrize("status", ["completed", "busy", "no-answer", "failed", "canceled"])
def test_a_call_that_is_over_needs_nothing(status: str):
    leg, steering = talking()
    leg.on_status(CallStatus(status))
    leg.decide(DIAL, 10.0)
    steering.follow()
    assert steering.due(20.0) is None
    assert steering.next_document(20.0) == HANG_UP


def test_a_caller_who_hung_up_needs_nothing():
    leg, steering = talking()
    leg.on_hang_up()
    leg.decide(HANG_UP, 10.0)
    steering.follow()
    assert steering.due(60.0) is None


def test_failing_pushes_are_repeated_and_end():
    _, steering = decided(HANG_UP, 0.0)
    pushes = 0
    for tenth in range(1200):
        if steering.due(tenth / 10) is Push.HANG_UP:
            pushes += 1
            steering.pushed(None)
    assert pushes == PUSHES_MAX


def test_a_call_nobody_fetches_is_settled_in_time():
    _, steering = decided(HANG_UP, 10.0)
    assert not steering.settled(69.0, after_s=60.0)
    assert steering.settled(70.0, after_s=60.0)


# --- streams that come back


def test_a_lost_stream_is_reconnected():
    leg, steering = talking()
    leg.stream_lost("MZ1", 40.0)
    assert steering.next_document(40.2) is Undecided.RECONNECT
    leg.stream_up("MZ2", 41.0)
    steering.stream_up()
    assert steering.due(60.0) is None


def test_the_request_may_be_the_first_sign_of_a_loss():
    leg, steering = talking()
    assert steering.next_document(40.0) is Undecided.RECONNECT
    assert leg.stream_lost("MZ1", 40.1) is StreamLoss.STALE


def test_failing_handshakes_are_given_up():
    steering = Steering(leg_at())
    answers = [steering.next_document(float(n)) for n in range(STRIKES_MAX + 2)]
    assert answers == [Undecided.RECONNECT] * STRIKES_MAX + [Undecided.LOST] * 2


def test_a_call_without_its_stream_is_redirected():
    leg, steering = talking()
    leg.stream_lost("MZ1", 40.0)
    assert steering.due(40.0 + NUDGE_S - 0.1) is None
    assert steering.due(40.0 + NUDGE_S) is Push.REDIRECT
    assert steering.next_document(42.5) is Undecided.WAIT  # its own request, while the redirect is under way
    assert steering.next_document(42.6, steered=True) is Undecided.RECONNECT
    steering.pushed(True)


def test_a_redirect_that_never_comes_is_not_waited_for():
    leg, steering = talking()
    leg.stream_lost("MZ1", 40.0)
    steering.due(42.0)
    steering.pushed(True)
    assert steering.next_document(42.0 + REDIRECT_S - 0.1) is Undecided.WAIT
    assert steering.next_document(42.0 + REDIRECT_S) is Undecided.RECONNECT


# --- away on purpose


def test_away_and_back():
    leg, steering = talking()
    assert steering.leave_stream(50.0)
    assert not steering.leave_stream(50.1)
    assert leg.stream_lost("MZ1", 50.2) is StreamLoss.RETURNS
    assert steering.due(100.0) is None
    assert steering.resume(100.0)
    assert steering.next_document(100.3, steered=True) is Undecided.RECONNECT
    steering.pushed(True)
    leg.stream_up("MZ2", 101.0)
    assert not steering.resume(101.1)


def test_a_refused_interruption_leaves_the_stream():
    _, steering = talking()
    steering.leave_stream(50.0)
    steering.stay()
    assert not steering.moved
    assert steering.leave_stream(51.0)


# --- races


class Race:
    """Twilio and a gateway with random delays between them, one call's end. Everything in virtual time.

    Twilio's rules as its docs give them: a document runs until it ends or a REST update replaces it; what was
    asked for a replaced document is thrown away.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now_s, self._order, self._agenda = 0.0, count(), []
        self.leg, self.steering = talking()
        self.document = 0  # replaced by REST: what belonged to an earlier one is void
        self.streams = 1
        self.token: int | None = None  # of the next stream; used once
        self.tokens = count(1)
        self.over = False
        self.requests_lost = 0
        self.connected = 0
        self.done: list[Kind] = []
        self.at(0.25, self.tick)

    def at(self, after_s: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self.now_s + after_s, next(self._order), do))

    def delay(self, most_s: float) -> float:
        return self.random.uniform(0.01, most_s)

    def run(self, for_s: float) -> None:
        while self._agenda and self._agenda[0][0] <= for_s:
            self.now_s, _, do = heapq.heappop(self._agenda)
            do()

    # the gateway

    def tick(self) -> None:
        push = self.steering.due(self.now_s)
        if push is not None:
            lost = self.random.random() < 0.1 and self.requests_lost < PUSHES_MAX - 1
            self.requests_lost += lost
            self.at(5.0 if lost else self.delay(2.0), lambda: self.pushed(push, lost))
        self.at(0.25, self.tick)

    def decide(self, step: NextStep) -> None:
        if self.leg.decide(step, self.now_s):
            self.steering.follow()

    def pushed(self, push: Push, lost: bool) -> None:
        """A REST request has reached Twilio; or it is lost, and the gateway gives it up now."""
        if lost:
            self.steering.pushed(None)
            return
        up = not self.over
        if up and push is Push.HANG_UP:
            self.hang_up()
        elif up:
            self.replace()
            self.request(steered=True)
        self.at(self.delay(1.0), lambda: self.steering.pushed(up))

    # Twilio

    def replace(self) -> None:
        self.document += 1
        if self.streams:
            self.streams -= 1
            sid = self.leg.stream_id
            self.at(self.delay(0.5), lambda: self.leg.stream_lost(sid, self.now_s))

    def request(self, *, steered: bool = False) -> None:
        document = self.document
        self.at(self.delay(2.0), lambda: self.requested(document, steered))

    def requested(self, document: int, steered: bool) -> None:
        answer = self.steering.next_document(self.now_s, steered=steered)
        token = None
        if answer is Undecided.RECONNECT:
            token = self.token = self.token or next(self.tokens)
        self.at(self.delay(1.0), lambda: self.follow(document, answer, token))

    def follow(self, document: int, answer: NextStep | Undecided, token: int | None) -> None:
        if self.over or document != self.document:
            return
        if answer is Undecided.WAIT:
            self.at(1.0, lambda: self.request() if document == self.document and not self.over else None)
        elif answer is Undecided.RECONNECT:
            self.at(self.delay(1.0), lambda: self.stream(document, token))
        elif isinstance(answer, NextStep):
            self.done.append(answer.kind)
            if answer.kind is Kind.HANG_UP:
                self.hang_up()

    def stream_over(self) -> None:
        """Twilio notices that the first stream is over, unless REST has replaced it."""
        if self.document == 0 and not self.over:
            self.streams -= 1
            self.request()

    def stream(self, document: int, token: int | None) -> None:
        if self.over or document != self.document:
            return
        if token != self.token:
            self.request()  # refused: Twilio goes on with the action
            return
        self.token = None
        self.streams += 1
        self.connected += 1
        self.leg.stream_up(f"MZ{token}", self.now_s)
        self.steering.stream_up()

    def hang_up(self) -> None:
        if not self.over:
            self.over, self.streams = True, 0
            self.at(self.delay(3.0), lambda: self.leg.on_status(CallStatus.COMPLETED))


@pytest.mark.parametrize("kind", [Kind.DIAL, Kind.HANG_UP])
def test_a_thousand_ends_resolve_once(kind: Kind):
    noticed = 0
    for seed in range(1000):
        race = Race(seed)
        race.at(race.delay(1.0), lambda race=race: race.decide(NextStep(kind, "+15550123")))
        if race.random.random() < 0.7:  # Twilio notices that the stream is over, sooner or later, or never
            noticed += 1
            race.at(race.delay(7.0), race.stream_over)
        if race.random.random() < 0.1:
            race.at(race.delay(10.0), race.hang_up)
        race.run(60.0)
        assert race.done.count(Kind.DIAL) <= 1, f"seed {seed}: dialled twice"
        if kind is Kind.DIAL:
            assert race.done == [Kind.DIAL] or race.over, f"seed {seed}: nobody was dialled"
        else:
            assert race.over, f"seed {seed}: the call is still up"
    assert 600 < noticed < 800


def test_a_thousand_lost_streams_are_each_replaced():
    for seed in range(1000):
        race = Race(seed)
        race.leg.stream_up("MZ0", -100.0)

        race.at(1.0, lambda race=race: race.leg.stream_lost("MZ0", race.now_s))
        if race.random.random() < 0.7:
            race.at(1.0 + race.delay(6.0), race.stream_over)
        race.run(60.0)
        assert (race.streams, race.connected) == (1, 1), f"seed {seed}: {race.connected} streams"
        assert race.steering.next_document(60.0) is Undecided.RECONNECT  # and the gateway would take the next loss, too
