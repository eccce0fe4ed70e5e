"""A slice of the interleavings: `python -m tests.bench.bench_interleavings` runs thousands."""

from __future__ import annotations

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.live.interleavings import Interleavings, SqliteInterleavings


def test_interleavings_over_memory() -> None:
    run_state_machine_as_test(Interleavings, settings=settings(max_examples=20, stateful_step_count=40, deadline=None))


def test_interleavings_over_sqlite() -> None:
    slice_ = settings(max_examples=6, stateful_step_count=30, deadline=None)
    run_state_machine_as_test(SqliteInterleavings, settings=slice_)
