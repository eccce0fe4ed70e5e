"""What a call has cost, against its limit."""

from __future__ import annotations

from offhook.gateway.models import Prices, Usage
from offhook.gateway.models.pricing import costs

__all__ = ["Spending"]

WARNING = 0.8  # of the limit


class Spending:
    """One call's tokens and cost. The limit is not the end: the caller hears a warning first, even where one turn
    passes both thresholds.
    """

    def __init__(self, prices: Prices | None, limit_usd: float | None) -> None:
        self._prices, self._limit_usd = prices, limit_usd
        self._spent_usd = 0.0
        self._warned = False

    def restore(self, spent_usd: float) -> None:
        """Of another process, where the call began."""
        self._spent_usd = spent_usd
        self.warns()  # what was due there was said there

    def add(self, usage: Usage, record: dict[str, float]) -> None:
        """Add one turn's tokens to `record` by the provider's names, and its cost, in all and by part, where prices are
        known.
        """
        for name, count in usage.by_name.items():
            record[name] = record.get(name, 0) + count
        if self._prices is not None:
            parts = costs(usage, self._prices)
            for name, usd in parts.items():
                record[f"cost_usd.{name}"] = record.get(f"cost_usd.{name}", 0.0) + usd
            self._spent_usd += sum(parts.values())
            record["cost_usd"] = self._spent_usd

    def warns(self) -> bool:
        """Whether the warning is due; True once."""
        due = not self._warned and self._limit_usd is not None and self._spent_usd >= WARNING * self._limit_usd
        self._warned = self._warned or due
        return due

    @property
    def is_over(self) -> bool:
        return self._limit_usd is not None and self._spent_usd >= self._limit_usd
