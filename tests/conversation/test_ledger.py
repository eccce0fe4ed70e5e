"""The playout ledger: what the caller heard, by marks and clock, against a carrier that knows the truth."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offhook.gateway.conversation import ledger as lg
from offhook.gateway.conversation.ledger import ROUND_TRIP_MAX_S, Ledger, Reply
from offhook.gateway.conversation.units import FRAME, RATE_HZ


def sent(samples: int, at_s: float = 1.0, generation: int = 1) -> Ledger:
    ledger, _ = lg.place(lg.receive(Ledger(), generation, samples), at_s)
    return ledger


def only(ledger: Ledger) -> Reply:
    (reply,) = ledger.replies
    return reply


# --- the line and its clock


def test_audio_is_heard_by_clock_from_its_sending():
    ledger = sent(8_000)
    assert [lg.heard(ledger, only(ledger), t) for t in (0.5, 1.0, 1.25, 2.0, 9.0)] == [0, 0, 2_000, 8_000, 8_000]
    assert lg.ends_at_s(ledger) == 2.0
    assert lg.is_audible(ledger, 1.9)
    assert not lg.is_audible(ledger, 2.0)


def test_what_was_played_before_a_late_mark_is_known():
    ledger = lg.mark_returned(sent(16_000), 1, 4_000, 0, 1.5)
    ledger = lg.mark_returned(ledger, 1, 8_000, 0, 2.3)  # 300 ms late: the far end fell behind
    assert ledger.anchor == 8_000
    assert lg.line_played(ledger, ledger.anchor_s - 0.2) == 8_000 - 1_600
    assert lg.line_heard(ledger, ledger.anchor_s - 0.2) == 8_000


def test_heard_time_starts_with_the_first_sample():
    """Half a second of nothing lies between two chunks: it is not counted as heard."""
    ledger = sent(800)
    ledger, spans = lg.place(lg.receive(ledger, 1, 800), 1.6)
    assert [(r.generation, start, r.placed) for r, start in spans] == [(1, 800, 1_600)]
    assert lg.heard(ledger, only(ledger), 1.65) == 800 + 400


def test_what_follows_in_time_is_queued_behind():
    ledger = sent(1_600)
    ledger, _ = lg.place(lg.receive(ledger, 1, 1_600), 1.1)
    assert lg.ends_at_s(ledger) == 1.4
    assert lg.heard(ledger, only(ledger), 1.3) == 2_400


def test_nothing_at_hand_places_nothing():
    ledger = sent(1_600)
    assert lg.place(ledger, 1.1) == (ledger, [])


def test_a_second_reply_stands_behind_the_first():
    ledger = lg.receive(sent(1_600), 2, 1_600)
    ledger, spans = lg.place(ledger, 1.05)
    assert [(r.generation, r.base) for r, _ in spans] == [(2, 1_600)]
    first, second = ledger.replies
    assert (lg.heard(ledger, first, 1.3), lg.heard(ledger, second, 1.3)) == (1_600, 800)


def test_reply_after_another_keeps_its_heard_part():
    """A turn, a filler while its tool runs, more of the turn."""
    ledger = sent(1_600)
    ledger, _ = lg.place(lg.receive(ledger, 2, 800), 1.5)
    ledger, _ = lg.place(lg.receive(ledger, 1, 800), 1.55)
    first, second = ledger.replies
    assert first.heard == 1_600
    assert (lg.heard(ledger, first, 1.6), lg.heard(ledger, second, 1.6)) == (1_600, 800)
    assert lg.heard(ledger, first, 1.65) == 2_000


def test_the_first_voice_is_noted_once_known():
    ledger = lg.receive(Ledger(), 1, 160)
    ledger = lg.receive(ledger, 1, 160, 320)
    ledger = lg.receive(ledger, 1, 160)
    assert only(ledger).audible == 320


def test_protection_stays():
    ledger = lg.receive(lg.receive(Ledger(), 1, 160), 1, 160, None, True)
    assert only(lg.receive(ledger, 1, 160)).protected


# --- marks


def test_a_mark_proves_what_lies_before_it():
    ledger = lg.mark_returned(sent(8_000), 1, 2_400, 0, 1.35)
    assert only(ledger).heard == 2_400


def test_the_first_echo_tells_the_ways_length():
    """It came 50 ms behind the clock: that is the way, and the clock was right."""
    ledger = lg.mark_returned(sent(8_000), 1, 2_400, 0, 1.35)
    assert ledger.round_trip_s == pytest.approx(0.05)
    assert lg.heard(ledger, only(ledger), 1.5) == 4_000


def test_late_echo_means_the_carrier_fell_behind():
    ledger = lg.mark_returned(sent(8_000), 1, 2_400, 0, 1.35)
    ledger = lg.mark_returned(ledger, 1, 4_800, 0, 1.85)  # 200 ms late
    assert ledger.round_trip_s == pytest.approx(0.05)
    assert lg.heard(ledger, only(ledger), 1.9) == 4_800 + 800
    assert lg.ends_at_s(ledger) == pytest.approx(2.2)


def test_an_echo_before_its_time_moves_the_clock_ahead():
    ledger = lg.mark_returned(sent(8_000), 1, 2_400, 0, 1.2)
    assert ledger.round_trip_s == 0
    assert lg.heard(ledger, only(ledger), 1.2) == 2_400


def test_a_stall_is_not_taken_for_the_way():
    ledger = lg.mark_returned(sent(8_000), 1, 2_400, 0, 3.0)
    assert ledger.round_trip_s == ROUND_TRIP_MAX_S
    assert lg.heard(ledger, only(ledger), 3.0) == 2_400 + int(ROUND_TRIP_MAX_S * RATE_HZ)


@pytest.mark.parametrize(
    ("generation", "sample", "epoch"),
    [(9, 800, 0), (1, 8_160, 0), (1, 800, 1), (1, 800, -1)],
    ids=["of no open reply", "beyond what was sent", "of a later clear", "of an earlier one"],
)
def test_an_echo_that_proves_nothing(generation, sample, epoch):
    ledger = sent(8_000)
    assert lg.mark_returned(ledger, generation, sample, epoch, 1.5) is ledger


def test_a_repeated_echo_changes_nothing():
    ledger = lg.mark_returned(sent(8_000), 1, 4_800, 0, 1.65)
    assert lg.mark_returned(ledger, 1, 4_800, 0, 1.9).replies == ledger.replies
    again = lg.mark_returned(lg.mark_returned(ledger, 1, 7_200, 0, 1.95), 1, 2_400, 0, 1.96)
    assert only(again).heard == 7_200


def test_a_late_echo_from_before_a_gap_still_proves():
    ledger = sent(800)
    ledger, _ = lg.place(lg.receive(ledger, 2, 800), 1.5)
    ledger, _ = lg.place(lg.receive(ledger, 2, 800), 2.5)
    ledger = lg.mark_returned(ledger, 1, 800, 0, 2.51)
    assert ledger.replies[0].heard == 800
    assert ledger.anchor_s == 2.5  # the clock is not moved by it


def test_echo_before_a_gap_measures_no_round_trip():
    """It came 20 ms after the next chunk was sent, and 125 ms after its own was played."""
    ledger = sent(480)
    ledger, _ = lg.place(lg.receive(ledger, 1, 800), 1.165)
    ledger = lg.mark_returned(ledger, 1, 480, 0, 1.185)
    assert only(ledger).heard == 480
    assert ledger.round_trip_s == ROUND_TRIP_MAX_S


def test_an_echo_proves_the_replies_before_it():
    ledger, _ = lg.place(lg.receive(sent(800), 2, 800), 1.0)
    ledger = lg.mark_returned(ledger, 2, 800, 0, 1.25)
    assert [r.heard for r in ledger.replies] == [800, 800]


# --- clear


def test_a_clear_takes_back_what_was_not_heard():
    ledger = lg.clear(sent(8_000), 1.5)
    assert only(ledger)[:5] == (1, 8_000, 8_000, 4_000, 4_000)
    assert (ledger.epoch, ledger.queued_to) == (1, 4_000)
    assert not lg.is_audible(ledger, 1.5)
    assert lg.heard(ledger, only(ledger), 9.0) == 4_000


def test_a_frame_that_was_begun_is_heard_to_its_end():
    for at_s, frames in ((1.5, 25), (1.501, 26), (1.519, 26), (1.0, 0), (1.9999, 50)):
        assert only(lg.clear(sent(8_000), at_s)).heard == frames * FRAME


def test_playing_on_places_each_unheard_sample_once():
    ledger = lg.receive(lg.clear(sent(8_000), 1.5), 1, 800)
    ledger, spans = lg.place(ledger, 2.0)
    ((reply, start),) = spans
    assert (start, reply.placed, reply.base) == (4_000, 8_800, 0)
    assert lg.heard(ledger, only(ledger), 2.1) == 4_800
    assert lg.ends_at_s(ledger) == 2.6


def test_marks_before_the_clear_prove_nothing_later():
    ledger = lg.clear(sent(8_000), 1.5)
    ledger, _ = lg.place(lg.receive(lg.without_replies(ledger), 2, 800), 2.0)
    assert lg.mark_returned(ledger, 1, 8_000, 0, 2.05) is ledger
    assert lg.mark_returned(ledger, 2, 800, 0, 2.05) is ledger


def test_the_answer_to_a_clear_measures_the_way():
    ledger = lg.clear(sent(8_000), 1.5)
    assert lg.acknowledge_clear(ledger, 1, 1.58).round_trip_s == pytest.approx(0.08)
    assert lg.acknowledge_clear(ledger, 1, 3.0).round_trip_s == ROUND_TRIP_MAX_S
    assert lg.acknowledge_clear(ledger, 0, 1.58) is ledger


# --- the end of a reply


def test_a_reply_is_over_when_it_is_complete_and_heard():
    ledger = sent(800)
    assert lg.settle(lg.mark_returned(ledger, 1, 800, 0, 1.15))[1] == ()
    ledger = lg.complete(ledger, 1)
    assert lg.settle(ledger)[1] == ()
    settled, (over,) = lg.settle(lg.mark_returned(ledger, 1, 800, 0, 1.15))
    assert settled.replies == ()
    assert over.heard == 800


def test_by_the_clock_when_it_is_given():
    ledger = lg.complete(sent(800), 1)
    assert lg.settle(ledger, 1.05)[1] == ()
    assert lg.settle(ledger, 1.05)[0].replies[0].heard == 400
    assert len(lg.settle(ledger, 1.1)[1]) == 1


def test_completion_reaches_back_unless_it_is_of_one():
    ledger = lg.receive(lg.receive(lg.receive(Ledger(), 1, 8), 2, 8), 3, 8)
    assert [r.complete for r in lg.complete(ledger, 2).replies] == [True, True, False]
    assert [r.complete for r in lg.complete(ledger, 2, only=True).replies] == [False, True, False]


# --- against the truth


@dataclass
class Carrier:
    """Plays frames from when they arrive, echoes marks when they are reached, and knows what was heard.

    The way takes `way_s` in each direction. `heard` lists the (generation, frame) that were played, in order.
    """

    way_s: float
    queue: list[tuple[int, int] | str] = field(default_factory=list)  # frames and marks
    heard: list[tuple[int, int]] = field(default_factory=list)
    echoes: list[tuple[float, str]] = field(default_factory=list)
    arrived_s: float = 0.0  # when the first of what is queued came
    free_s: float = 0.0  # when the frame being played is over

    def until(self, now_s: float) -> None:
        while self.queue:
            first = self.queue[0]
            if isinstance(first, str):
                self.echoes.append((max(self.free_s, self.arrived_s) + self.way_s, first))
            elif self.free_s > now_s:
                return
            else:
                self.heard.append(first)
                self.free_s = max(self.free_s, self.arrived_s) + FRAME / RATE_HZ
            self.queue.pop(0)

    def send(self, at_s: float, what: list[tuple[int, int] | str]) -> None:
        self.until(at_s + self.way_s)
        if not self.queue:
            self.arrived_s = at_s + self.way_s
        self.queue += what

    def clear(self, at_s: float) -> None:
        self.until(at_s + self.way_s)
        self.queue.clear()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.floats(0.0, 0.12),
    st.lists(
        st.tuples(st.sampled_from(["chunk", "wait", "hold"]), st.integers(1, 40)),
        min_size=1,
        max_size=25,
    ),
)
def test_against_a_carrier_that_knows_what_was_heard(way_s, script):
    """What the ledger says was heard is what was heard, to a frame; holds and resumes repeat or lose no more."""
    carrier, ledger, at_s = Carrier(way_s), Ledger(), 1.0

    def send() -> None:
        nonlocal ledger
        ledger, spans = lg.place(ledger, at_s)
        for reply, start in spans:
            frames: list[tuple[int, int] | str] = [(1, f) for f in range(start // FRAME, reply.placed // FRAME)]
            carrier.send(at_s, [*frames, f"{reply.placed} {ledger.epoch}"])

    def let_pass(seconds: float) -> None:
        nonlocal ledger, at_s
        at_s += seconds
        carrier.until(at_s)
        for echo in sorted(carrier.echoes):
            if echo[0] <= at_s:
                carrier.echoes.remove(echo)
                sample, epoch = map(int, echo[1].split())
                ledger = lg.mark_returned(ledger, 1, sample, epoch, echo[0])

    clears = 0
    for what, amount in script:
        if what == "chunk":
            ledger = lg.receive(ledger, 1, amount * FRAME)
            send()
        elif what == "wait":
            let_pass(amount * 0.033)
        elif ledger.replies:
            carrier.clear(at_s)
            ledger = lg.clear(ledger, at_s)
            clears += 1
            assert abs(only(ledger).heard - FRAME * len({f for _, f in carrier.heard})) <= FRAME * clears
            let_pass(amount * 0.033)
            send()
    let_pass(60)
    frames = [f for _, f in carrier.heard]
    if ledger.replies:
        whole = only(ledger).received // FRAME
        assert lg.heard(ledger, only(ledger), at_s) == whole * FRAME
        # At each seam a frame may be repeated or lost, where the clocks differ by less than one.
        assert abs(len(frames) - whole) <= clears
        assert len(set(range(whole)) - set(frames)) <= clears


# --- a lost stream


def test_lost_queue_is_heard_to_the_frame_played():
    ledger = lg.lose_queue(sent(8_000), 1.51)
    reply = only(ledger)
    assert (reply.heard, reply.placed, reply.marked, reply.sent, reply.received) == (4_000, 4_000, 4_000, 8_000, 8_000)
    assert not lg.is_audible(ledger, 1.52)
    assert lg.heard(ledger, reply, 9.0) == 4_000, "no clock counts what is not played"


def test_what_marks_have_proved_is_not_lost():
    ledger = lg.mark_returned(sent(8_000), 1, 4_080, 0, 1.6)
    assert only(lg.lose_queue(ledger, 1.51)).heard == 4_080
    assert only(lg.lose_queue(sent(850), 2.0)).heard == 850, "heard to its end, though the end is no frame's"


def test_a_lost_queue_answers_neither_marks_nor_clears():
    ledger = lg.lose_queue(lg.clear(sent(8_000), 1.5), 1.6)
    assert not ledger.clear_pending
    assert lg.mark_returned(ledger, 1, 8_000, 0, 1.7) == ledger
    assert lg.acknowledge_clear(ledger, 1, 1.7) == ledger


def test_what_was_lost_is_placed_again_once():
    ledger, spans = lg.place(lg.lose_queue(sent(8_000), 1.5), 5.0)
    assert [(r.generation, start, r.placed) for r, start in spans] == [(1, 4_000, 8_000)]
    assert lg.heard(ledger, only(ledger), 5.25) == 6_000
    assert lg.place(ledger, 5.1) == (ledger, [])


def test_positions_count_at_the_rate_of_the_line():
    wide = Ledger(rate_hz=16_000)
    ledger, _ = lg.place(lg.receive(wide, 1, 16_000), 1.0)
    assert lg.ends_at_s(ledger) == 2.0
    assert lg.heard(ledger, only(ledger), 1.5) == 8_000
    assert only(lg.clear(ledger, 1.501)).heard == 8_320, "a frame is 20 ms at every rate"
