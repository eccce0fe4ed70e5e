"""The metrics of a canary, which calls a gateway on a schedule: a process, and a registry, of its own.

Its histograms are named `offhook_canary_<segment>_seconds`, so that no sum over a gateway's own has its calls in it.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from prometheus_client import Counter
from prometheus_client.registry import CollectorRegistry

from offhook.metrics.exposition import Exposition
from offhook.metrics.histogram import SegmentHistogram, Series
from offhook.metrics.segments import EVENT_LOOP_LAG, LINK_RTT, SEGMENTS, Segment

__all__ = ["LINE_ANSWER", "LINE_BARGEIN_CLEAR", "LINE_BARGEIN_SILENCE", "LINE_SEGMENTS", "SOURCE", "CanaryMetrics"]

SOURCE = "canary"

# What the simulated carrier and caller see of any gateway.
_OVER_AGENT = "caller's first audible sample over the agent"
LINE_ANSWER = Segment(
    "line_answer",
    "caller's last audible sample",
    "agent audible to the caller",
    lower_s=0.02,
    upper_s=20.0,
    headline=True,
)
LINE_BARGEIN_CLEAR = Segment(
    "line_bargein_clear", _OVER_AGENT, "clear received by the carrier", lower_s=0.01, upper_s=10.0, headline=True
)
LINE_BARGEIN_SILENCE = Segment(
    "line_bargein_silence", _OVER_AGENT, "silence for the caller", lower_s=0.01, upper_s=10.0, headline=True
)
LINE_SEGMENTS = (LINE_ANSWER, LINE_BARGEIN_CLEAR, LINE_BARGEIN_SILENCE)

# Those of a call's record; the process's own, and those of each frame, are on the gateway's page alone.
_OF_A_RECORD = tuple(s for s in SEGMENTS if not (s.per_frame or s.rig_only or s in (EVENT_LOOP_LAG, LINK_RTT)))


class CanaryMetrics:
    """All metrics of a canary. `with_record`: the gateway's record of each call is there, with its segments.

    `clock`: monotonic seconds.
    """

    def __init__(self, registry: CollectorRegistry, *, with_record: bool, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._exposition = Exposition(registry)
        self._series: dict[str, Series] = {}
        for segment in (*LINE_SEGMENTS, *(_OF_A_RECORD if with_record else ())):
            exported = replace(segment, name=f"canary_{segment.name}", label="source", values=(SOURCE,))
            histogram = SegmentHistogram(exported, exported.values)
            registry.register(histogram)
            self._series[segment.name] = histogram.series[SOURCE]
        calls = Counter(
            "offhook_canary_calls",
            "Total number of calls that the canary placed, by result: all expectations met, or not.",
            ("source", "result"),
            registry=registry,
        )
        self._passed, self._failed = (calls.labels(SOURCE, result) for result in ("passed", "failed"))

    def called(self, *, ok: bool, samples_ms: Iterable[tuple[str, float]] = ()) -> None:
        """Count a call and what was measured in it, by segment; a segment that is not exported is passed over."""
        (self._passed if ok else self._failed).inc()
        now_s = self._clock()
        for name, ms in samples_ms:
            series = self._series.get(name)
            if series is not None and ms >= 0.0:
                series.observe(now_s, ms / 1000)

    def render(self) -> bytes:
        """The body of `GET /metrics`."""
        return self._exposition.render()
