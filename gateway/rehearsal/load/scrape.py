"""A gateway's `/metrics`: counters at one moment, and their increase between two."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

import aiohttp

from offhook.gateway.rehearsal.quick_clock import Clock

__all__ = ["Late", "Scrape", "late_between", "parse_metrics", "scrape"]

TIMEOUT_S = 5.0
_LINE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.M)
_LE = re.compile(r'le="([^"]+)"')
MIN_SAMPLES_P99 = 300


@dataclass(frozen=True, slots=True)
class Scrape:
    """Values by name and labels as written, `name` or `name{a="b"}`. `at_s`: by the clock of `scrape`."""

    at_s: float
    values: Mapping[str, float]

    def get(self, name: str) -> float:
        """One value; 0 when there is none."""
        return self.values.get(name, 0.0)

    def total(self, name: str) -> float:
        """All series of a counter together."""
        return sum(value for key, value in self.values.items() if key.partition("{")[0] == name)

    def buckets(self, name: str) -> dict[float, float]:
        """A histogram's cumulative counts by bound, its label sets together."""
        found: dict[float, float] = {}
        for key, value in self.values.items():
            series, _, labels = key.partition("{")
            if series == f"{name}_bucket" and (bound := _LE.search(labels)):
                le = float(bound[1])
                found[le] = found.get(le, 0.0) + value
        return found


class Late(NamedTuple):
    """Lateness of `n` samples: percentiles in ms (P99 from 300 samples on), and how many exceeded a limit."""

    n: int
    p50_ms: float | None
    p99_ms: float | None
    beyond: int


async def scrape(session: aiohttp.ClientSession, url: str, clock: Clock, token: str = "") -> Scrape:
    """Fetch a gateway's `/metrics`. Raises `aiohttp.ClientError` or `TimeoutError`."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with session.get(f"{url}/metrics", headers=headers, timeout=timeout, raise_for_status=True) as response:
        return Scrape(clock(), parse_metrics(await response.text()))


def parse_metrics(text: str) -> dict[str, float]:
    """Prometheus' text format, values by series."""
    return {f"{name}{{{labels}}}" if labels else name: float(value) for name, labels, value in _LINE.findall(text)}


def late_between(before: Scrape, after: Scrape, name: str, limit_s: float) -> Late:
    """The samples that a histogram of seconds counted between two scrapes. `limit_s` should be one of its bounds."""
    first, last = before.buckets(name), after.buckets(name)
    counted = sorted((bound, count - first.get(bound, 0.0)) for bound, count in last.items())
    total = counted[-1][1] if counted else 0.0
    if not total:
        return Late(0, None, None, 0)
    within = max((count for bound, count in counted if bound <= limit_s), default=0.0)
    p99_ms = 1000.0 * _quantile(counted, 0.99) if total >= MIN_SAMPLES_P99 else None
    return Late(round(total), 1000.0 * _quantile(counted, 0.5), p99_ms, round(total - within))


def _quantile(counted: list[tuple[float, float]], share: float) -> float:
    """A quantile, interpolated within its bucket as Prometheus does."""
    rank, low, below = share * counted[-1][1], 0.0, 0.0
    for bound, count in counted:
        if count >= rank:
            return low if bound == inf else low + (bound - low) * (rank - below) / max(count - below, 1e-9)
        low, below = bound, count
    return low
