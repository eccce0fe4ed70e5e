"""A segment's histogram: observing is one binary search, and its text is only made again when it changed.

prometheus_client's own histogram walks its buckets one by one under a lock and is rendered line by line: with
the buckets a truthful P95 needs, that would cost a few audio frames at every scrape. This one is an ordinary
collector to prometheus_client and hands finished text to `offhook.metrics.exposition`.

Not locked: observed and rendered on the event loop's thread only.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from time import time

from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from offhook.metrics.quantiles import SlidingWindow
from offhook.metrics.segments import Segment

__all__ = ["HistogramFamily", "SegmentHistogram", "Series", "escape_label"]


def escape_label(value: str) -> str:
    """A label value as the text format wants it between its quotes."""
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


class Series:
    """One label value of one segment: bucket counts, sum, and the last hour of samples."""

    __slots__ = ("_bounds", "_counts", "_exemplars", "_labels", "_sum_s", "_template", "_text", "_unchanged", "window")

    def __init__(self, metric: str, bounds_s: Sequence[float], label: str | None, value: str) -> None:
        self.window = SlidingWindow()
        self._bounds = list(bounds_s)
        self._counts = [0] * (len(bounds_s) + 1)
        self._sum_s = 0.0
        self._exemplars: dict[int, str] = {}  # bucket -> its newest one, as it is written
        self._labels = {label: value} if label else {}
        before = f'{label}="{escape_label(value)}",' if label else ""
        alone = f"{{{before[:-1]}}}" if before else ""
        lines = [f'{metric}_bucket{{{before}le="{le}"}} ' for le in self._les()]
        lines += [f"{metric}_count{alone} ", f"{metric}_sum{alone} "]
        places = ["%d"] * (len(lines) - 1) + ["%r"]
        pairs = zip(lines, places, strict=True)
        self._template = "".join(f"{line.replace('%', '%%')}{place}\n" for line, place in pairs)
        self._text = ""
        self._unchanged = False

    def observe(self, now_s: float, seconds: float, trace_id: str = "") -> None:
        """Count one sample (>= 0, finite), in the buckets and in the sliding window."""
        bucket = bisect_left(self._bounds, seconds)
        self._counts[bucket] += 1
        if trace_id:
            self._exemplars[bucket] = f' # {{trace_id="{trace_id}"}} {seconds!r} {time():.3f}'
        self._sum_s += seconds
        self._unchanged = False
        self.window.observe(now_s, seconds)

    def text(self) -> str:
        """The lines of this series in the text format, all from one instant."""
        if not self._unchanged:
            cumulative = tuple(accumulate(self._counts))
            self._text = self._template % (*cumulative, cumulative[-1], self._sum_s)
            self._unchanged = True
        return self._text

    def openmetrics(self) -> str:
        """As `text`, with an exemplar behind each bucket that has one."""
        if not self._exemplars:
            return self.text()
        lines = self.text().splitlines()
        for bucket, exemplar in self._exemplars.items():
            lines[bucket] += exemplar
        return "\n".join(lines) + "\n"

    def samples(self, metric: str) -> Iterable[Sample]:
        """The same as prometheus_client's values."""
        cumulative = list(accumulate(self._counts))
        for le, n in zip(self._les(), cumulative, strict=True):
            yield Sample(f"{metric}_bucket", {**self._labels, "le": le}, float(n))
        yield Sample(f"{metric}_count", dict(self._labels), float(cumulative[-1]))
        yield Sample(f"{metric}_sum", dict(self._labels), self._sum_s)

    def _les(self) -> list[str]:
        return [*(repr(bound) for bound in self._bounds), "+Inf"]


class HistogramFamily(Metric):
    """A metric family whose samples are made only when asked for; `text` is the quick way."""

    def __init__(self, segment: Segment, series: Sequence[Series]) -> None:
        self._series = series
        super().__init__(segment.metric, segment.help, "histogram")

    @property
    def samples(self) -> list[Sample]:
        return [sample for series in self._series for sample in series.samples(self.name)]

    @samples.setter
    def samples(self, value: list[Sample]) -> None:
        """Metric's constructor sets an empty list; there is nothing to keep."""

    def text(self, openmetrics: bool = False) -> str:
        """All series in the text format."""
        return "".join([series.openmetrics() if openmetrics else series.text() for series in self._series])


class SegmentHistogram:
    """One segment's series by label value ("" without a label), as a prometheus_client collector."""

    def __init__(self, segment: Segment, values: Sequence[str]) -> None:
        bounds = segment.buckets_s()
        self.segment = segment
        self.series = {v: Series(segment.metric, bounds, segment.label, v) for v in values}
        self._family = HistogramFamily(segment, tuple(self.series.values()))

    def describe(self) -> Iterable[Metric]:
        """Name and type, for the registry's check for duplicates."""
        return [Metric(self.segment.metric, self.segment.help, "histogram")]

    def collect(self) -> Iterable[Metric]:
        """The family, with its samples made on demand."""
        return [self._family]
