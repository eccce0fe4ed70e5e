"""Thousands of interleavings of what nodes do to calls: `python -m tests.bench.bench_interleavings [--examples 5000]`.

Prints what was run, or the shortest schedule that breaks an invariant. `tests/live/interleavings.py` has the rules.
`--planted`: how many schedules it takes until each fault of `tests/live/planted_stores.py` is found.
"""

from __future__ import annotations

import argparse
import logging
import time

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.live.interleavings import Interleavings, SqliteInterleavings
from tests.live.planted_stores import PLANTED, over

SEEDS = 3


def count_planted(examples: int, steps: int) -> None:
    for planted in PLANTED:
        taken = []
        for seed_ in range(SEEDS):
            schedules = 0

            class Counted(over(planted.store)):  # type: ignore[misc]
                def __init__(self) -> None:
                    nonlocal schedules
                    schedules += 1
                    super().__init__()

            machine = seed(seed_)(Counted)
            try:
                run_state_machine_as_test(machine, settings=settings_of(examples, steps, shrinks=False))
            except AssertionError:
                taken.append(schedules - 1)  # the last one repeats what was found
        numbers = ", ".join(map(str, sorted(taken))) or "-"
        print(f"{planted.store.__name__}: found {len(taken)} of {SEEDS} times, after {numbers} schedules", flush=True)


def settings_of(examples: int, steps: int, *, shrinks: bool) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink) if shrinks else (Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=5_000, help="schedules per store")
    parser.add_argument("--steps", type=int, default=60, help="steps of a schedule, at most")
    parser.add_argument("--planted", action="store_true")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    if given.planted:
        count_planted(given.examples, given.steps)
        return
    for machine, examples in ((Interleavings, given.examples), (SqliteInterleavings, given.examples // 5)):
        began_s, steps = time.perf_counter(), 0

        class Counted(machine):  # type: ignore[misc, valid-type]
            def check_invariants(self, *args: object, **more: object) -> None:
                nonlocal steps
                steps += 1
                super().check_invariants(*args, **more)

        run_state_machine_as_test(
            Counted,
            settings=settings_of(examples, given.steps, shrinks=True),
        )
        took_s = time.perf_counter() - began_s
        print(
            f"{machine.__name__}: {examples} schedules, {steps} steps, all invariants held, {took_s:.0f} s", flush=True
        )


if __name__ == "__main__":
    main()
