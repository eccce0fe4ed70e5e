"""Percentiles without a metrics server: sparse logarithmic counts in a ring of time slots.

A value falls into the bin of its logarithm; bins are 2 % wide and reported by their geometric middle, so a
percentile is within 1 % of the sample it stands for. Finished seconds are kept for five minutes, finished minutes
for an hour; a window is a sum of slots. Counts of several replicas are added; percentiles never are.

A percentile is the nearest-rank one: the smallest value with at least that share of the samples at or below
it. P95 is withheld below 20 samples and P99 below 300: below that it would name one unlucky call.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from math import ceil, exp, log, log1p

__all__ = [
    "MIN_SAMPLES_P95",
    "MIN_SAMPLES_P99",
    "Counts",
    "SlidingWindow",
    "Summary",
    "bin_limit_s",
    "bin_of",
    "exact",
    "summarise",
]

MIN_SAMPLES_P95 = 20
MIN_SAMPLES_P99 = 300

FLOOR_S = 1e-6  # below a microsecond there is nothing to tell apart
_BINS_PER_E = 1 / log1p(0.02)
_OFFSET = 1 - int(log(FLOOR_S) * _BINS_PER_E)  # makes every index positive, so int() rounds down

_SHORT_S = 300
_LONG_S = 3600


@dataclass(frozen=True, slots=True)
class Summary:
    """Percentiles in seconds with the sample count they stand on; None where there are too few samples."""

    count: int
    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None


@dataclass(slots=True)
class Counts:
    """How many samples fell into each bin. Replicas exchange these and add them."""

    bins: dict[int, int] = field(default_factory=dict)
    max_s: float = 0.0

    def add(self, other: "Counts") -> None:
        """Add another's samples to these."""
        bins = self.bins
        for index, n in other.bins.items():
            bins[index] = bins.get(index, 0) + n
        self.max_s = max(self.max_s, other.max_s)

    def share_within(self, limit_s: float) -> float:
        """Share of the samples up to `limit_s`, counted to the bin; 1 without samples."""
        total = sum(self.bins.values())
        return sum(n for index, n in self.bins.items() if _middle_s(index) <= limit_s) / total if total else 1.0


def bin_of(seconds: float) -> int:
    """The bin that this sample falls into. Stored counts depend on it: a change needs a migration of the store."""
    return int(log(seconds) * _BINS_PER_E + _OFFSET) if seconds > FLOOR_S else 0


def bin_limit_s(index: int) -> float:
    """The upper limit of a bin."""
    return exp((index - _OFFSET + 1) / _BINS_PER_E)


def summarise(counts: Counts) -> Summary:
    """Percentiles of binned samples, each within 1 % of the exact nearest-rank percentile."""
    ordered = sorted(counts.bins.items())
    total = sum(counts.bins.values())

    def at(share: float) -> float:
        rank, seen = ceil(share * total), 0
        for index, n in ordered:
            seen += n
            if seen >= rank:
                return min(_middle_s(index), counts.max_s)
        return counts.max_s

    return _withheld(total, at, counts.max_s)


def exact(samples_s: Iterable[float]) -> Summary:
    """Exact nearest-rank percentiles of a list of samples, for reports."""
    ordered = sorted(samples_s)
    total = len(ordered)
    return _withheld(total, lambda share: ordered[ceil(share * total) - 1], ordered[-1] if ordered else 0.0)


def _withheld(total: int, at: Callable[[float], float], largest_s: float) -> Summary:
    return Summary(
        count=total,
        p50=at(0.50) if total else None,
        p95=at(0.95) if total >= MIN_SAMPLES_P95 else None,
        p99=at(0.99) if total >= MIN_SAMPLES_P99 else None,
        max=largest_s if total else None,
    )


def _middle_s(index: int) -> float:
    return exp((index - _OFFSET + 0.5) / _BINS_PER_E)


class SlidingWindow:
    """The last hour of one segment. Times are seconds of one monotonic clock, passed in, never going back.

    Only slots that hold samples exist, so an idle segment costs nothing.
    """

    __slots__ = ("_bins", "_max_s", "_minutes", "_second", "_seconds")

    def __init__(self) -> None:
        self._second = -1
        self._bins: dict[int, int] = {}
        self._max_s = 0.0
        self._seconds: deque[tuple[int, Counts]] = deque()  # (second, its samples), oldest first
        self._minutes: deque[tuple[int, Counts]] = deque()  # (minute, samples of its finished seconds)

    def observe(self, now_s: float, seconds: float) -> None:
        """Count one sample of `seconds` (>= 0, finite) at `now_s`."""
        second = int(now_s)
        if second != self._second:
            self._finish_second(second)
        index = int(log(seconds) * _BINS_PER_E + _OFFSET) if seconds > FLOOR_S else 0
        bins = self._bins
        bins[index] = bins.get(index, 0) + 1
        if seconds > self._max_s:
            self._max_s = seconds

    def counts(self, now_s: float, span_s: float) -> Counts:
        """The samples of the last `span_s` seconds, to the nearest second up to five minutes, beyond that to the
        nearest minute; at most an hour."""
        found = Counts()
        since = now_s - span_s
        # A slot is in when its middle is, so that the span is right on average.
        for middle_s, counts in self._slots(span_s):
            if middle_s > since:
                found.add(counts)
        return found

    def history(self, now_s: float, span_s: float, points: int) -> list[Counts]:
        """The last `span_s` seconds as `points` stretches of the same length, oldest first.

        They begin at multiples of their length, so that the same sample stays in the same stretch; the last one
        is still going on. A stretch must be whole seconds, whole minutes beyond five minutes.
        """
        width_s = span_s / points
        newest = int(now_s / width_s)
        found = [Counts() for _ in range(points)]
        for middle_s, counts in self._slots(span_s):
            place = int(middle_s / width_s) - newest + points - 1
            if 0 <= place < points:
                found[place].add(counts)
        return found

    def window(self, now_s: float, span_s: float) -> Summary:
        """Percentiles of the last `span_s` seconds (see `counts`)."""
        return summarise(self.counts(now_s, span_s))

    def _slots(self, span_s: float) -> Iterator[tuple[float, Counts]]:
        """(middle of the slot, its samples), oldest first, as finely as is kept for such a span."""
        slots, width_s = (self._seconds, 1) if span_s <= _SHORT_S else (self._minutes, 60)
        for index, counts in slots:
            yield (index + 0.5) * width_s, counts
        if self._bins:
            yield self._second + 0.5, Counts(self._bins, self._max_s)

    def _finish_second(self, second: int) -> None:
        if self._bins:
            finished = Counts(self._bins, self._max_s)
            self._seconds.append((self._second, finished))
            minute = self._second // 60
            if not self._minutes or self._minutes[-1][0] != minute:
                self._minutes.append((minute, Counts()))
            self._minutes[-1][1].add(finished)
            self._bins, self._max_s = {}, 0.0
        self._second = second
        while self._seconds and self._seconds[0][0] < second - _SHORT_S:
            self._seconds.popleft()
        while self._minutes and self._minutes[0][0] < (second - _LONG_S) // 60:
            self._minutes.popleft()
