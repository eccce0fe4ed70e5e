"""Every metric of the gateway, in one place.

`Metrics(registry, labels)` makes them; nothing else does. Segments (see `offhook.metrics.segments`) go through
`observe`, which feeds the exported histogram and the console's sliding windows alike, so that both show the same.
All label values come from closed lists, those here and those of `Labels`; any other value is counted as "other", so
a peer cannot grow the number of series. Nothing that names a caller or a call is ever a label.

Written and read on the event loop's thread only.
"""

import platform
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import inf

from prometheus_client import Counter, Gauge, Info
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import CollectorRegistry

from offhook.metrics.exposition import Exposition
from offhook.metrics.histogram import SegmentHistogram, Series
from offhook.metrics.quantiles import Counts, Summary, summarise
from offhook.metrics.segments import BY_NAME, SEGMENTS, Segment

__all__ = [
    "AUTH_KINDS",
    "DROP_REASONS",
    "FAULT_PARTS",
    "INCOMPLETE_REASONS",
    "INPUT_ERRORS",
    "MAX_TOOLS",
    "MODEL_ERRORS",
    "OTHER",
    "PICTURE_RESULTS",
    "TOOL_FAILURES",
    "Labels",
    "Metrics",
    "Tally",
    "WorstPerSecond",
]

OTHER = "other"
MAX_TOOLS = 32  # each tool is a histogram of about a hundred series; further ones are counted as "other"

DIRECTIONS = ("inbound", "outbound")  # seen from the gateway: from the caller, to the caller
DROP_REASONS = ("uplink_full", "model_down", "call_over", "stale_generation", "slow_listener")
INPUT_PEERS = ("carrier", "model", "http")
INPUT_ERRORS = (
    "not_utf8",
    "not_json",
    "too_deep",
    "not_an_object",
    "missing_field",
    "bad_field",
    "bad_base64",
    "empty_payload",
    "bad_audio",
    "bad_format",
    "bad_order",
    "wrong_call",
    "unknown_event",
    "unknown_mark",
    "repeated",
    "gap",
    "bad_time",
    "bad_frame",
    "binary",
    "too_large",
    "too_many",
    "timeout",
    "sender_gone",
)
SESSION_RESULTS = ("ready", "refused", "timeout", "unreachable")
MODEL_ERRORS = (
    "session_expired",
    "key",
    "quota",
    "refused",  # the model, the address, the setup, or responses that failed again and again
    "rate_limit",
    "server_error",
    "network",
    "timeout",
    "content_filter",
    "max_output_tokens",
    "transcription",
    "event_refused",  # one message of ours; the session lives
)
RECONNECT_RESULTS = ("resumed", "fresh", "failed")
TOOL_FAILURES = (
    "arguments",  # did not fit the schema
    "unknown_tool",
    "timeout",
    "exception",
    "tool_error",  # the tool raised ToolError
    "address_refused",  # it would have led into the gateway's own network
    "left_alone",  # the circuit breaker was open
    "too_many",  # the model waits for as many as a call may have
    "not_ours",  # another process has the call, or may have: not begun
    "no_thread",  # earlier runs of the function hang in all of its threads
    "unreachable",
    "status",  # the service answered with an error
    "bad_answer",  # too long, unreadable, or without the expected field
)
RECORD_FAILURES = (
    "database",  # it is away, locked or full: what waits is written later
    "spool",  # the disk does not take it: tried again
    "refused",  # by the database, for good: kept aside
    "lost",
    "recording",
)
WEBHOOK_RESULTS = ("delivered", "failed", "dead")
INCOMPLETE_REASONS = (
    "interrupted",
    "no_audio",
    "no_mark",
    "call_ended",
    "superseded",
    "invalid",
)
# What raised an exception that it should not have: a task of a call, a callback, or the process's periodic work.
FAULT_PARTS = (
    "conversation",  # a step of the machine or the execution of one of its commands
    "line_reader",
    "line_sender",
    "link",  # connecting and recovering
    "link_reader",
    "link_writer",
    "tool",
    "recording",
    "listening",
    "timer",
    "closing",
    "ticker",
    "switchboard",
    "store",
    "webhooks",
    "live",  # the live store's writer and beat
    "other",  # a task or callback without an owner
)
LOOP_BLOCKERS = ("tool", "no_cpu")  # else "other"
CALL_MOVES = ("taken", "handed_over", "lost")  # from another node; to another, in order; to another, found out later
CHECKPOINT_RESULTS = ("kept", "fenced", "behind")
TOKEN_DIRECTIONS = ("input", "output")
# Queued for the model, or refused; and what became of a queued one that was not sent.
PICTURE_RESULTS = ("queued", "not_allowed", "not_jpeg", "too_large", "too_many", "replaced", "call_over")
AUTH_KINDS = ("webhook_signature", "stream_signature", "stream_token", "console", "metrics", "api", "insecure")


@dataclass(frozen=True, slots=True)
class Labels:
    """The closed lists of label values that are the gateway's own enumerations."""

    call_endings: Mapping[str, str]  # reason -> side
    reject_reasons: tuple[str, ...]
    barge_in_verdicts: tuple[str, ...]
    tool_outcomes: tuple[str, ...]
    tool_afterwards: tuple[str, ...]


class Tally:
    """A counter with a closed list of values per label. `inc` with an unlisted value counts as "other".

    `made`: the combinations that exist from the start (all unless given), so that their first event is
    an increase from zero and not a new series.
    """

    __slots__ = ("_children", "_counter", "_known")

    def __init__(
        self,
        registry: CollectorRegistry,
        name: str,
        documentation: str,
        labels: Mapping[str, Collection[str]],
        made: Iterable[tuple[str, ...]] | None = None,
    ) -> None:
        self._counter = Counter(f"offhook_{name}", documentation, tuple(labels), registry=registry)
        self._known = [frozenset(values) for values in labels.values()]
        first = [*(product(*labels.values()) if made is None else made), (OTHER,) * len(labels)]
        self._children = {values: self._counter.labels(*values) for values in first}

    def inc(self, *values: str, by: float = 1) -> None:
        """Count `by` events with these label values, in the order of the label names."""
        child = self._children.get(values)
        if child is None:
            closed = tuple(v if v in known else OTHER for v, known in zip(values, self._known, strict=True))
            child = self._children.get(closed)
            if child is None:
                child = self._children[closed] = self._counter.labels(*closed)
        child.inc(by)

    def bound(self, *values: str) -> Counter:
        """The counter of one listed combination, for the per-frame path."""
        return self._children[values]


class Metrics:
    """All metrics, registered with `registry` (one `Metrics` per registry).

    `tools`: names of configured tools, the only values of the `tool` label (the first MAX_TOOLS of them).
    `clock`: monotonic seconds, read once per observation.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        labels: Labels,
        *,
        tools: Sequence[str] = (),
        providers: Sequence[str] = (),
        version: str = "unknown",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.registry = registry
        self._clock = clock
        self._exposition = Exposition(registry)
        self._histograms: dict[Segment, SegmentHistogram] = {}
        self._series: dict[Segment | str, dict[str, Series]] = {}
        for segment in SEGMENTS:
            if not segment.rig_only:
                self._add_segment(segment, tools)
        self._add_counters(labels, providers)
        self._add_gauges(version)
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)

    # --- segments

    def observe(self, segment: Segment | str, seconds: float, label: str = "", trace_id: str = "") -> None:
        """Count one sample of a segment (or its name). `label`: the segment's label value, if it has one;
        `trace_id`: of the call's trace, to be shown as the exemplar of the sample's bucket.

        A negative or infinite duration or NaN is a broken measurement: it is counted as incomplete.
        """
        by_label = self._series[segment]
        if 0.0 <= seconds < inf:
            (by_label.get(label) or by_label[OTHER]).observe(self._clock(), seconds, trace_id)
        else:
            self.incomplete(segment, "invalid")

    def incomplete(self, segment: Segment | str, reason: str) -> None:
        """Count a segment that started and will never end (reasons: INCOMPLETE_REASONS)."""
        name = segment if isinstance(segment, str) else segment.name
        self.segment_incomplete_total.inc(name, reason)

    def counts(self, segment: Segment | str, span_s: float, label: str | None = None) -> Counts:
        """This replica's samples of the last `span_s` seconds (at most an hour), to be added to others'.

        `label`: one label value, or None for all of them together.
        """
        now_s = self._clock()
        found = Counts()
        for value, series in self._series[segment].items():
            if label is None or value == label:
                found.add(series.window.counts(now_s, span_s))
        return found

    def window(self, segment: Segment | str, span_s: float, label: str | None = None) -> Summary:
        """Percentiles of the last `span_s` seconds, for the console (1 % bins; see `offhook.metrics.quantiles`)."""
        return summarise(self.counts(segment, span_s, label))

    def history(self, segment: Segment | str, span_s: float, points: int) -> list[Counts]:
        """The last `span_s` seconds cut into intervals, oldest first (see `SlidingWindow.history`)."""
        now_s = self._clock()
        found = [Counts() for _ in range(points)]
        for series in self._series[segment].values():
            for whole, part in zip(found, series.window.history(now_s, span_s, points), strict=True):
                whole.add(part)
        return found

    # --- exposition

    def render(self) -> bytes:
        """The body of `GET /metrics` (content type `offhook.metrics.exposition.CONTENT_TYPE`)."""
        return self._exposition.render()

    async def render_in_slices(self, openmetrics: bool = False) -> bytes:
        """As `render`, never holding the event loop for more than about half a millisecond at a time.

        `openmetrics`: with exemplars (content type `offhook.metrics.exposition.OPENMETRICS_TYPE`).
        """
        return await self._exposition.render_in_slices(openmetrics)

    # --- the catalogue

    def _add_segment(self, segment: Segment, tools: Sequence[str]) -> None:
        if segment.label is None:
            values: tuple[str, ...] = ("",)
        elif segment.label == "tool":
            values = (*dict.fromkeys(tools[:MAX_TOOLS]), OTHER)
        else:
            values = (*segment.values, OTHER)
        histogram = SegmentHistogram(segment, tuple(dict.fromkeys(values)))
        self.registry.register(histogram)
        # Reachable by the constant and by its name.
        self._series[segment] = self._series[segment.name] = histogram.series

    def _add_counters(self, labels: Labels, providers: Sequence[str]) -> None:
        def plain(name: str, documentation: str) -> Counter:
            return Counter(f"offhook_{name}", documentation, registry=self.registry)

        def tally(name: str, documentation: str, **values: Collection[str]) -> Tally:
            return Tally(self.registry, name, documentation, values)

        self.calls_total = Tally(
            self.registry,
            "calls_total",
            "Total number of ended calls, by reason and by the side that caused it.",
            {"reason": labels.call_endings, "side": frozenset(labels.call_endings.values())},
            made=labels.call_endings.items(),
        )
        self.calls_rejected_total = tally(
            "calls_rejected_total",
            "Total number of calls rejected and answered with the fallback, by reason.",
            reason=labels.reject_reasons,
        )
        self.stuck_calls_total = plain(
            "stuck_calls_total",
            "Total number of times a tool, the model link or the socket of a call did not end within its time limit.",
        )
        self.task_failures_total = tally(
            "task_failures_total",
            "Total number of unexpected exceptions in tasks and callbacks of calls, by part. Expected to be 0.",
            part=FAULT_PARTS,
        )
        self.loop_blocked_total = tally(
            "loop_blocked_total",
            "Total number of times the event loop was blocked for 250 ms or more, by what blocked it.",
            by=LOOP_BLOCKERS,
        )
        self.calls_moved_total = tally(
            "calls_moved_total",
            "Total number of calls taken over from another process, handed over to one, or lost to one.",
            direction=CALL_MOVES,
        )
        self.checkpoints_total = tally(
            "checkpoints_total",
            "Total number of checkpoints of live calls written to the live store, by result. Fenced: another process "
            "had the call.",
            result=CHECKPOINT_RESULTS,
        )
        self.live_store_errors_total = plain(
            "live_store_errors_total", "Total number of requests that the live store did not answer in time."
        )
        self.frames_total = tally(
            "frames_total",
            "Total number of 20 ms frames received from the carrier (inbound) and sent to it (outbound).",
            direction=DIRECTIONS,
        )
        self.frames_in = self.frames_total.bound("inbound")
        self.frames_out = self.frames_total.bound("outbound")
        self.frames_dropped_total = tally(
            "frames_dropped_total", "Total number of 20 ms frames dropped, by reason.", reason=DROP_REASONS
        )
        self.samples_after_clear_total = plain(
            "samples_after_clear_total",
            "Total number of 8 kHz samples of a dropped reply that were sent after its clear. Expected to be 0.",
        )
        self.input_errors_total = tally(
            "input_errors_total",
            "Total number of malformed messages, by the peer that sent them and by reason.",
            peer=INPUT_PEERS,
            reason=INPUT_ERRORS,
        )
        self.model_sessions_total = tally(
            "model_sessions_total", "Total number of model sessions opened, by result.", result=SESSION_RESULTS
        )
        self.model_calls_total = tally(
            "model_calls_total", "Total number of calls begun, by the provider of their model.", provider=providers
        )
        self.model_errors_total = tally(
            "model_errors_total",
            "Total number of errors that the provider of the model reported, of sessions and responses, by reason.",
            reason=MODEL_ERRORS,
        )
        self.model_reconnects_total = tally(
            "model_reconnects_total",
            "Total number of model sessions replaced during a call: resumed with the handle, started fresh, or failed.",
            result=RECONNECT_RESULTS,
        )
        self.unanswered_turns_total = plain(
            "unanswered_turns_total",
            "Total number of caller's turns without a reply when the caller spoke again, or in the agent's time limit.",
        )
        self.loud_without_speech_total = plain(
            "loud_without_speech_total",
            "Total number of times a caller's audio was loud for 4 s and the speech detector found no speech in it.",
        )
        self.barge_ins_total = tally(
            "barge_ins_total", "Total number of barge-ins, suspected and by verdict.", verdict=labels.barge_in_verdicts
        )
        self.tool_calls_total = tally(
            "tool_calls_total", "Total number of tool calls, by outcome.", outcome=labels.tool_outcomes
        )
        self.tool_afterwards_total = tally(
            "tool_afterwards_total",
            "Total number of abandoned tool runs that could not be stopped (running), and of their later outcomes.",
            state=labels.tool_afterwards,
        )
        self.tool_failures_total = tally(
            "tool_failures_total", "Total number of failed tool calls, by reason.", reason=TOOL_FAILURES
        )
        self.tokens_total = tally(
            "tokens_total", "Total number of tokens reported by the model, by direction.", direction=TOKEN_DIRECTIONS
        )
        self.listen_ins_total = plain(
            "listen_ins_total", "Total number of times that an operator listened in on a call from the console."
        )
        self.pictures_total = tally(
            "pictures_total",
            "Total number of pictures that callers showed: queued for the model, or refused, by reason; and of those "
            "queued the ones that a newer one replaced, or the end of the call.",
            result=PICTURE_RESULTS,
        )
        self.auth_failures_total = tally(
            "auth_failures_total",
            "Total number of requests without a valid signature or token, by kind.",
            kind=AUTH_KINDS,
        )
        self.records_failed_total = tally(
            "records_failed_total",
            "Total number of failures to keep a record, by reason; only lost ones are gone.",
            reason=RECORD_FAILURES,
        )
        self.webhooks_total = tally(
            "webhooks_total",
            "Total number of attempts to deliver a webhook, by result; a dead one is not tried again.",
            result=WEBHOOK_RESULTS,
        )
        self.segment_incomplete_total = Tally(
            self.registry,
            "segment_incomplete_total",
            "Total number of segments that started and never ended; they are not in the segment's histogram.",
            {"segment": BY_NAME, "reason": INCOMPLETE_REASONS},
            # Of the headline segments only: the whole product would be hundreds of lines of zeros.
            made=product((s.name for s in SEGMENTS if s.headline), INCOMPLETE_REASONS),
        )

    def _add_gauges(self, version: str) -> None:
        def gauge(name: str, documentation: str) -> Gauge:
            return Gauge(f"offhook_{name}", documentation, registry=self.registry)

        self.calls_active = gauge("calls_active", "Number of calls in progress.")
        self.call_capacity = gauge("call_capacity", "Maximum number of concurrent calls of this replica.")
        self.draining = gauge(
            "draining", "Whether this replica is draining: 1 while it rejects new calls and finishes its own, else 0."
        )
        self.fleet_nodes = gauge("fleet_nodes", "Number of processes that share the live store, as this one sees them.")
        self.worker_starts = gauge(
            "worker_starts",
            "Number of processes started so far in this worker's place, this one included; 0 without workers.",
        )
        self.tool_threads_abandoned = gauge(
            "tool_threads_abandoned",
            "Number of threads of Python tools whose function goes on though its result is no longer awaited.",
        )
        self.marks_outstanding = gauge("marks_outstanding", "Number of marks sent to the carrier and not yet echoed.")
        self.records_waiting = gauge("records_waiting", "Number of records and events not in the database yet.")
        self.webhooks_waiting = gauge("webhooks_waiting", "Number of webhooks that are not delivered yet.")
        build = Info("offhook_build", "Version of the gateway and of Python.", registry=self.registry)
        build.info({"version": version, "python": platform.python_version()})


class WorstPerSecond:
    """For a per-frame segment of one call: keeps the worst frame of each second and observes only that.

    Two observations for each of 50 frames a second would be a measurable share of the gateway's work, and a
    percentile over mostly idle frames would hide the second that hurt.
    """

    __slots__ = ("_ends_s", "_metrics", "_segment", "_worst_s")

    def __init__(self, metrics: Metrics, segment: Segment) -> None:
        self._metrics = metrics
        self._segment = segment
        self._ends_s = -inf  # of the second that `_worst_s` is of
        self._worst_s = -inf  # nothing yet

    def add(self, now_s: float, seconds: float) -> None:
        """One frame's figure, at the monotonic time `now_s`."""
        if now_s >= self._ends_s:
            self.flush()
            self._ends_s = int(now_s) + 1.0
        if seconds > self._worst_s:
            self._worst_s = seconds

    def flush(self) -> None:
        """Observe what is kept, if anything: at the end of the call."""
        if self._worst_s > -inf:
            self._metrics.observe(self._segment, self._worst_s)
            self._worst_s = -inf
