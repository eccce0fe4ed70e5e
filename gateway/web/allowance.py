"""A token bucket."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Allowance"]


@dataclass(slots=True)
class Allowance:
    """A token bucket: `per_s` on average, `burst` at once."""

    per_s: float
    burst: float
    _left: float = field(init=False)
    _at_s: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self._left = self.burst

    def take(self, now_s: float) -> bool:
        """Whether one more is allowed now; if so, it is taken from the bucket."""
        left, passed_s = self._left, now_s - self._at_s
        if passed_s > 0.0:
            left += passed_s * self.per_s
            if left > self.burst:
                left = self.burst
        self._at_s = now_s
        allowed = left >= 1.0
        self._left = left - 1.0 if allowed else left
        return allowed
