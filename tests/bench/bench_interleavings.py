"""Thousands of interleavings of what nodes do to calls: `python -m tests.bench.bench_interleavings [--examples 5000]`.

Prints what was run, or the shortest schedule that breaks an invariant. `tests/live/interleavings.py` has the rules.
"""

from __future__ import annotations

import argparse
import logging
import time

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.live.interleavings import Interleavings, SqliteInterleavings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=5_000, help="schedules per store")
    parser.add_argument("--steps", type=int, default=60, help="steps of a schedule, at most")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    for machine, examples in ((Interleavings, given.examples), (SqliteInterleavings, given.examples // 5)):
        began_s, steps = time.perf_counter(), 0

        class Counted(machine):  # type: ignore[misc, valid-type]
            def check_invariants(self, *args: object, **more: object) -> None:
                nonlocal steps
                steps += 1
                super().check_invariants(*args, **more)

        run_state_machine_as_test(
            Counted,
            settings=settings(
                max_examples=examples,
                stateful_step_count=given.steps,
                deadline=None,
                database=None,
                phases=(Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
            ),
        )
        took_s = time.perf_counter() - began_s
        print(
            f"{machine.__name__}: {examples} schedules, {steps} steps, all invariants held, {took_s:.0f} s", flush=True
        )


if __name__ == "__main__":
    main()
