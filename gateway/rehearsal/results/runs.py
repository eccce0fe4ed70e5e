"""How many runs of each scenario passed, and how many had to."""

from __future__ import annotations

import math

import msgspec

__all__ = ["ScenarioRuns", "runs_needed"]


class ScenarioRuns(msgspec.Struct, kw_only=True):
    """All runs of one scenario. Runs that failed although enough have passed are `tolerated`."""

    scenario: str
    runs: int
    must_pass: int
    passed: int = 0

    @property
    def ok(self) -> bool:
        return self.passed >= self.must_pass

    @property
    def tolerated(self) -> int:
        return self.runs - self.passed if self.ok else 0

    @property
    def words(self) -> str:
        needed = "all must" if self.must_pass == self.runs else f"{self.must_pass} must"
        return f"{self.passed} of {self.runs} runs passed ({self.passed / self.runs:.0%}), {needed}"


def runs_needed(runs: int, must_pass: int, repeat: int) -> tuple[int, int]:
    """How often a scenario with these settings is played, and how many runs must pass. `repeat` above 1 replaces its
    `runs`; the share that must pass stays, rounded up.
    """
    if repeat == 1:
        return runs, must_pass
    return repeat, math.ceil(repeat * must_pass / runs)
