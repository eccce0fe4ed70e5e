"""A slice of the interleavings: `python -m tests.bench.bench_interleavings` runs thousands."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.live.interleavings import Interleavings, SqliteInterleavings
from tests.live.planted_stores import PLANTED, Planted, over, run

MOVED_AND_BACK = [  # while the answer to a question of the first ownership is under way
    ("rings", "b", "CA1"),
    ("takes_over", "a", "CA1"),
    ("store_behaves", ["slow"]),
    ("steers", "b", "CA1"),
    ("ends", "b", "CA1", ""),
    ("takes_over", "b", "CA1"),
    ("a_request_goes_on", 0),
]
REPEATED = [  # a webhook that is asked again while the first one waits for the store, which then does not answer
    ("rings", "a", "CA2"),
    ("rings", "a", "CA3"),
    ("store_behaves", ["", "slow"]),
    *2 * [("rings", "b", "CA1")],
    ("time_passes", 0.3),
    ("a_request_goes_on", 0),
]


def test_interleavings_over_memory() -> None:
    run_state_machine_as_test(Interleavings, settings=settings(max_examples=20, stateful_step_count=40, deadline=None))


def test_interleavings_over_sqlite() -> None:
    slice_ = settings(max_examples=6, stateful_step_count=30, deadline=None)
    run_state_machine_as_test(SqliteInterleavings, settings=slice_)


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.store.__name__)
def test_a_planted_fault_is_found(planted: Planted) -> None:
    run(Interleavings(), planted.schedule)
    with pytest.raises(AssertionError, match=planted.found):
        run(over(planted.store)(), planted.schedule)


@pytest.mark.parametrize("schedule", [MOVED_AND_BACK, REPEATED], ids=["moved and back", "repeated"])
def test_a_schedule_that_broke_an_invariant_holds(schedule: list[tuple[Any, ...]]) -> None:
    run(Interleavings(), schedule)
