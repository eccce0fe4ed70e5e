"""A token bucket."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Allowance"]


@dataclass(slots=True)
class Allowance:
    """A token bucket: `per_s` on average, `burst` at once. Full at the start."""

    per_s: float
    burst: float
    _left: float = field(init=False)
    _at_s: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self._left = self.burst

    def take(self, now_s: float) -> bool:
        """Take one token; False when none is left."""
        self._left = min(self.burst, self._left + max(0.0, now_s - self._at_s) * self.per_s)
        self._at_s = now_s
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
