"""One response at a time, and what of a reply is cut."""

from __future__ import annotations

import pytest

from offhook.gateway.models.openai.responses import LOST_S, Cut, Replies, Reply, ResponseState, Sequence


def test_a_response_waits_for_the_active_one() -> None:
    sequence = Sequence()
    sequence.wanted = True
    first = sequence.next(0.0)
    assert first
    sequence.wanted = True
    assert sequence.next(0.1) == ""  # requested
    sequence.created("resp_1")
    assert sequence.next(0.2) == ""  # active
    sequence.done("resp_1")
    assert sequence.next(0.3) not in ("", first)
    assert sequence.next(0.4) == "", "one request for all that was wanted"


def test_unconfirmed_request_is_repeated_when_wanted() -> None:
    sequence = Sequence()
    sequence.wanted = True
    sequence.next(0.0)
    sequence.wanted = True
    assert sequence.next(LOST_S - 0.1) == ""
    assert sequence.next(LOST_S)


def test_refused_request_waits_for_what_was_active() -> None:
    sequence = Sequence()
    sequence.wanted = True
    event_id = sequence.next(0.0)
    sequence.refused("another", again=True)
    assert sequence.phase is ResponseState.REQUESTED
    sequence.refused(event_id, again=True)
    assert sequence.next(0.1) == ""
    sequence.done("resp_of_someone_else")
    sequence.end_unknown()
    assert sequence.next(0.2)


def test_done_of_another_response_changes_nothing() -> None:
    sequence = Sequence()
    sequence.created("resp_2")
    sequence.done("resp_1")
    sequence.end_unknown()
    assert sequence.phase is ResponseState.ACTIVE


# 8 kHz: 8 samples a millisecond. Two items of a second and of half a second.
@pytest.mark.parametrize(
    ("heard", "cuts"),
    [
        (0, [Cut("a", 0), Cut("b", 0)]),
        (7, [Cut("a", 0), Cut("b", 0)]),
        (8, [Cut("a", 1), Cut("b", 0)]),
        (4_000, [Cut("a", 500), Cut("b", 0)]),
        (7_999, [Cut("a", 999), Cut("b", 0)]),
        (8_000, [Cut("b", 0)]),
        (10_000, [Cut("b", 250)]),
        (12_000, []),
        (99_000, []),
    ],
)
def test_items_are_cut_at_what_was_heard(heard: int, cuts: list[Cut]) -> None:
    assert Reply(1, "resp_1", {"a": 8_000, "b": 4_000}).cuts(heard, 8_000) == cuts


def test_only_the_last_replies_are_kept() -> None:
    replies = Replies()
    for turn in range(1, 101):
        replies.begin(turn, f"resp_{turn}")
    assert replies.of_turn(100) is replies.of_response("resp_100") is replies.last
    assert replies.of_turn(50) is None
    replies.forget()
    assert replies.last is replies.of_turn(100) is None
