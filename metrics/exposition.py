"""The registry in Prometheus' text format (version 0.0.4), without stalling the calls; OpenMetrics with exemplars.

All constant text is cached; a histogram that has not changed since the last scrape costs nothing, a changed
one a single formatting of its counts. The content is that of `prometheus_client.generate_latest` without the
`_created` gauges.
"""

import asyncio
from collections.abc import Callable, Iterator
from math import isfinite, isnan
from time import perf_counter

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import CollectorRegistry

from offhook.metrics.histogram import HistogramFamily, escape_label

__all__ = ["CONTENT_TYPE", "OPENMETRICS_TYPE", "Exposition"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

# A slice of the event loop short enough not to show beside a 20 ms frame.
SLICE_S = 0.0005


def format_value(value: float) -> str:
    """A number as the text format wants it: 3, 0.25, NaN, +Inf, -Inf."""
    if isfinite(value):
        return str(int(value)) if value == int(value) else repr(float(value))
    return "NaN" if isnan(value) else ("+Inf" if value > 0 else "-Inf")


class Exposition:
    """Renders one registry. To be called on the event loop's thread, where the metrics are written."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._headers: dict[tuple[str, bool], str] = {}
        self._prefixes: dict[tuple[str, ...], str] = {}

    def render(self) -> bytes:
        """Everything at once: about a millisecond for the whole catalogue. The body of `GET /metrics`."""
        return "".join(self._families()).encode()

    async def render_in_slices(self, openmetrics: bool = False, clock: Callable[[], float] = perf_counter) -> bytes:
        """As `render`, giving the loop back whenever half a millisecond has been used.

        Each family is of one instant; different families may be some loop turns apart.
        """
        parts = []
        since_s = clock()
        for part in self._families(openmetrics):
            parts.append(part)
            if clock() - since_s > SLICE_S:
                await asyncio.sleep(0)
                since_s = clock()
        if openmetrics:
            parts.append("# EOF\n")
        return "".join(parts).encode()

    def _families(self, openmetrics: bool = False) -> Iterator[str]:
        for metric in self._registry.collect():
            yield self._header(metric, openmetrics)
            yield metric.text(openmetrics) if isinstance(metric, HistogramFamily) else self._lines(metric)

    def _header(self, metric: Metric, openmetrics: bool) -> str:
        header = self._headers.get((metric.name, openmetrics))
        if header is None and openmetrics:
            text = metric.documentation.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
            header = f"# HELP {metric.name} {text}\n# TYPE {metric.name} {metric.type}\n"
            self._headers[metric.name, openmetrics] = header
        elif header is None:
            suffix = {"counter": "_total", "info": "_info"}.get(metric.type, "")
            kind = {"info": "gauge", "unknown": "untyped"}.get(metric.type, metric.type)
            name = metric.name + suffix
            text = metric.documentation.replace("\\", r"\\").replace("\n", r"\n")
            header = f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
            self._headers[metric.name, openmetrics] = header
        return header

    def _lines(self, metric: Metric) -> str:
        lines = []
        for sample in metric.samples:
            if sample.name == f"{metric.name}_created":
                continue
            key = (sample.name, *sample.labels.values())
            prefix = self._prefixes.get(key)
            if prefix is None:
                labels = ",".join(f'{k}="{escape_label(v)}"' for k, v in sorted(sample.labels.items()))
                prefix = f"{sample.name}{{{labels}}} " if labels else f"{sample.name} "
                self._prefixes[key] = prefix
            lines.append(f"{prefix}{format_value(sample.value)}\n")
        return "".join(lines)
