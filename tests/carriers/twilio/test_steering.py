"""One owner of what Twilio does next: each way through, and a thousand races that must each resolve once."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from itertools import count

import pytest

from offhook.gateway.carriers.twilio.steering import (
    LINGER_S,
    NUDGE_S,
    OLD_AGE_S,
    STEERED_S,
    STEERS_MAX,
    STRIKES_MAX,
    UNASKED_S,
    Answer,
    Control,
    Gone,
    Kind,
    Next,
    Steer,
)
from offhook.gateway.telephony.leg import rank

HANG_UP, DIAL = Next(Kind.HANG_UP), Next(Kind.DIAL, "+15550123")


def talking(now_s: float = 0.0) -> Control:
    control = Control()
    control.told("in-progress")
    control.stream_up("MZ1", now_s)
    return control


# --- what follows


def test_the_first_decision_stands_and_every_question_gets_it():
    control = talking()
    assert control.decide(DIAL, 10.0)
    assert not control.decide(HANG_UP, 10.1)
    assert [control.asked(10.2), control.asked(10.3)] == [DIAL, DIAL]


def test_a_call_that_twilio_asked_about_is_not_steered():
    control = talking()
    control.decide(DIAL, 10.0)
    control.asked(10.2)
    assert [control.due(t) for t in (10.3, 14.0, 60.0)] == [None] * 3


def test_a_hang_up_nobody_asks_for_is_made_by_rest_once():
    control = talking()
    control.decide(HANG_UP, 10.0)
    assert control.due(10.0 + UNASKED_S - 0.1) is None
    assert control.due(10.0 + UNASKED_S) is Steer.HANG_UP
    assert control.due(14.0) is None  # the request is out
    control.steered(True)
    assert control.due(60.0) is None


def test_told_to_hang_up_and_still_there():
    control = talking()
    control.decide(HANG_UP, 10.0)
    control.asked(10.1)
    assert control.due(10.1 + LINGER_S - 0.1) is None
    assert control.due(10.1 + LINGER_S) is Steer.HANG_UP


@pytest.mark.parametrize("status", ["completed", "busy", "no-answer", "failed", "canceled"])
def test_nothing_is_asked_of_a_call_that_is_over(status: str):
    control = talking()
    control.told(status)
    control.decide(DIAL, 10.0)
    assert control.due(20.0) is None
    assert control.asked(20.0) == HANG_UP
    assert control.stream_gone("MZ1", 21.0) is Gone.LOST


def test_a_caller_who_hung_up_is_not_steered():
    control = talking()
    control.hung_up()
    control.decide(HANG_UP, 10.0)
    assert control.due(60.0) is None


def test_rest_that_fails_is_tried_again_a_few_times():
    control = talking()
    control.decide(HANG_UP, 0.0)
    steers = 0
    for tenth in range(1200):
        if control.due(tenth / 10) is Steer.HANG_UP:
            steers += 1
            control.steered(None)
    assert steers == STEERS_MAX


# --- streams that come back


def test_a_stream_that_is_gone_may_come_back():
    control = talking()
    assert control.stream_gone("MZ1", 40.0) is Gone.RETURNS
    assert control.stream_gone("MZ1", 40.1) is Gone.STALE
    assert control.asked(40.2) is Answer.AGAIN
    control.stream_up("MZ2", 41.0)
    assert control.stream_gone("MZ1", 41.5) is Gone.STALE  # a late callback about the first
    assert control.due(60.0) is None


def test_twilio_may_be_the_first_to_say_that_the_stream_is_gone():
    control = talking()
    assert control.asked(40.0) is Answer.AGAIN
    assert control.stream_gone("MZ1", 40.1) is Gone.STALE


def test_streams_that_die_young_are_given_up():
    control = Control()
    for n in range(STRIKES_MAX + 1):
        control.stream_up(f"MZ{n}", n * 10.0)
        gone = control.stream_gone(f"MZ{n}", n * 10.0 + 5.0)
        assert gone is (Gone.RETURNS if n < STRIKES_MAX else Gone.LOST)
    assert control.asked(60.0) is Answer.LOST


def test_a_proxy_that_cuts_every_five_minutes_is_no_reason_to_give_up():
    control = Control()
    for n in range(12):
        control.stream_up(f"MZ{n}", n * 300.0)
        assert control.stream_gone(f"MZ{n}", n * 300.0 + OLD_AGE_S + 1.0) is Gone.RETURNS
        assert control.asked(n * 300.0 + 40.0) is Answer.AGAIN


def test_handshakes_that_keep_failing_are_given_up():
    control = Control()
    answers = [control.asked(float(n)) for n in range(STRIKES_MAX + 2)]
    assert answers == [Answer.AGAIN] * STRIKES_MAX + [Answer.LOST] * 2


def test_a_call_whose_stream_is_gone_is_sent_to_ask():
    control = talking()
    control.stream_gone("MZ1", 40.0)
    assert control.due(40.0 + NUDGE_S - 0.1) is None
    assert control.due(40.0 + NUDGE_S) is Steer.ASK
    assert control.asked(42.5) is Answer.WAIT  # its own question, while ours is on the way
    assert control.asked(42.6, steered=True) is Answer.AGAIN
    control.steered(True)


def test_an_unsteered_question_is_believed_again_when_the_steered_one_never_comes():
    control = talking()
    control.stream_gone("MZ1", 40.0)
    control.due(42.0)
    control.steered(True)
    assert control.asked(42.0 + STEERED_S - 0.1) is Answer.WAIT
    assert control.asked(42.0 + STEERED_S) is Answer.AGAIN


# --- away on purpose


def test_away_and_back():
    control = talking()
    assert control.go_away(50.0)
    assert not control.go_away(50.1)
    assert control.stream_gone("MZ1", 50.2) is Gone.RETURNS
    assert control.due(100.0) is None
    assert control.come_back(100.0)
    assert control.asked(100.3, steered=True) is Answer.AGAIN
    control.steered(True)
    control.stream_up("MZ2", 101.0)
    assert not control.come_back(101.1)


def test_not_away_when_twilio_would_not_take_it():
    control = talking()
    control.go_away(50.0)
    control.stay()
    assert not control.moved
    assert control.go_away(51.0)


def test_status_callbacks_in_any_order():
    control = Control()
    assert [
        control.told(s) for s in ("ringing", "initiated", "in-progress", "ringing", "completed", "in-progress")
    ] == [
        True,
        False,
        True,
        False,
        True,
        False,
    ]
    assert control.over
    assert rank("sleeping") == -1


# --- races


class Race:
    """Twilio and a gateway with random delays between them, one call's end. Everything in virtual time.

    Twilio's rules as its docs give them: a document runs until it ends or a REST update replaces it; what was
    asked for a replaced document is thrown away.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now_s, self._order, self._agenda = 0.0, count(), []
        self.control = talking()
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
        steer = self.control.due(self.now_s)
        if steer is not None:
            lost = self.random.random() < 0.1 and self.requests_lost < STEERS_MAX - 1
            self.requests_lost += lost
            self.at(5.0 if lost else self.delay(2.0), lambda: self.steered(steer, lost))
        self.at(0.25, self.tick)

    def steered(self, steer: Steer, lost: bool) -> None:
        """A REST request has reached Twilio; or it is lost, and the gateway gives it up now."""
        if lost:
            self.control.steered(None)
            return
        up = not self.over
        if up and steer is Steer.HANG_UP:
            self.hang_up()
        elif up:
            self.replace()
            self.ask(steered=True)
        self.at(self.delay(1.0), lambda: self.control.steered(up))

    # Twilio

    def replace(self) -> None:
        self.document += 1
        if self.streams:
            self.streams -= 1
            sid = self.control.stream_sid
            self.at(self.delay(0.5), lambda: self.control.stream_gone(sid, self.now_s))

    def ask(self, *, steered: bool = False) -> None:
        document = self.document
        self.at(self.delay(2.0), lambda: self.asked(document, steered))

    def asked(self, document: int, steered: bool) -> None:
        answer = self.control.asked(self.now_s, steered=steered)
        token = None
        if answer is Answer.AGAIN:
            token = self.token = self.token or next(self.tokens)
        self.at(self.delay(1.0), lambda: self.follow(document, answer, token))

    def follow(self, document: int, answer: Next | Answer, token: int | None) -> None:
        if self.over or document != self.document:
            return
        if answer is Answer.WAIT:
            self.at(1.0, lambda: self.ask() if document == self.document and not self.over else None)
        elif answer is Answer.AGAIN:
            self.at(self.delay(1.0), lambda: self.stream(document, token))
        elif isinstance(answer, Next):
            self.done.append(answer.kind)
            if answer.kind is Kind.HANG_UP:
                self.hang_up()

    def stream_over(self) -> None:
        """Twilio notices that the first stream is over, unless REST has replaced it."""
        if self.document == 0 and not self.over:
            self.streams -= 1
            self.ask()

    def stream(self, document: int, token: int | None) -> None:
        if self.over or document != self.document:
            return
        if token != self.token:
            self.ask()  # refused: Twilio goes on with the action
            return
        self.token = None
        self.streams += 1
        self.connected += 1
        self.control.stream_up(f"MZ{token}", self.now_s)

    def hang_up(self) -> None:
        if not self.over:
            self.over, self.streams = True, 0
            self.at(self.delay(3.0), lambda: self.control.told("completed"))


@pytest.mark.parametrize("kind", [Kind.DIAL, Kind.HANG_UP])
def test_a_thousand_ends_resolve_once(kind: Kind):
    noticed = 0
    for seed in range(1000):
        race = Race(seed)
        race.at(race.delay(1.0), lambda race=race: race.control.decide(Next(kind, "+15550123"), race.now_s))
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
        race.control.stream_up("MZ0", -100.0)

        race.at(1.0, lambda race=race: race.control.stream_gone("MZ0", race.now_s))
        if race.random.random() < 0.7:
            race.at(1.0 + race.delay(6.0), race.stream_over)
        race.run(60.0)
        assert (race.streams, race.connected) == (1, 1), f"seed {seed}: {race.connected} streams"
        assert race.control.asked(60.0) is Answer.AGAIN  # and the gateway would take the next loss, too
