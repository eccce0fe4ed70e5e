"""A circuit breaker: a service or function that keeps failing is left alone for a while, and then tried once."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Breaker"]

FAILURES_MAX = 5  # in a row
OPEN_S = 20.0  # the caller hears at once that it does not work, instead of a timeout each time


@dataclass(slots=True)
class Breaker:
    """Of one service or function. Ask `admits` before each attempt; each admitted one ends with exactly one `ended`."""

    failures_max: int = FAILURES_MAX
    open_s: float = OPEN_S
    failures: int = 0
    opened_s: float = 0.0
    trying: bool = False  # open for long enough: one attempt is under way, and decides

    @property
    def is_open(self) -> bool:
        return self.failures >= self.failures_max

    def admits(self, now_s: float) -> bool:
        """Whether an attempt may begin at this time (monotonic seconds)."""
        if not self.is_open:
            return True
        if self.trying or now_s - self.opened_s < self.open_s:
            return False
        self.trying = True
        return True

    def ended(self, now_s: float, well: bool | None) -> None:
        """An admitted attempt is over. None: it says nothing about the service (it was cancelled)."""
        self.trying = False
        if well:
            self.failures = 0
        elif well is not None:
            self.failures = min(self.failures + 1, self.failures_max)
            self.opened_s = now_s
