"""OpenTelemetry traces, if `offhook[otel]` is installed and an OTLP endpoint is named in the environment.

A call's trace is made when the call is over, from its record: one span for the call, under it one for each turn with
its segments, each barge-in and each tool call. Nothing is on the call path but the trace ID, which is chosen
when the call begins, so that histograms can name it as an exemplar. A trace holds no phone number and no transcript.

The standard variables apply: OTEL_EXPORTER_OTLP_ENDPOINT (or ..._TRACES_ENDPOINT), ..._HEADERS, ..._TIMEOUT,
OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER, OTEL_SDK_DISABLED. The protocol is HTTP/protobuf.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from offhook.gateway import __version__
from offhook.gateway.store.record import CallRecord, TurnRecord

__all__ = ["CallTraces", "SpanData", "new_trace_id", "spans_of", "traces_for"]

log = logging.getLogger(__name__)

Attribute = str | int | float | bool

FLUSH_S = 5.0  # at the end of the process, for unsent spans
# Segments of a turn that begin with the end of the caller's speech.
FROM_SPEECH_END = ("turn_gap", "model_first_event", "model_first_audio", "output_onset_played")


@dataclass(slots=True)
class SpanData:
    """A span before it is exported: on the call's own axis, in ms."""

    name: str
    start_ms: float
    end_ms: float
    attributes: dict[str, Attribute] = field(default_factory=dict)
    inner: list[SpanData] = field(default_factory=list)


def new_trace_id() -> str:
    """128 random bits in hex, not all zero."""
    return f"{secrets.randbits(128) or 1:032x}"


def spans_of(record: CallRecord) -> SpanData:
    """A call as nested spans on its own axis; pure."""
    segments = record.segments
    # Ring, answer to the webhook and start of the stream follow each other; the axis begins with the last.
    answered_ms = -segments.get("stream_setup", 0.0)
    rang_ms = answered_ms - segments.get("webhook_response", 0.0)
    call = SpanData(
        "call",
        rang_ms,
        max(record.duration_ms, 0.0),
        {
            "offhook.call_sid": record.call_sid,
            "offhook.agent": record.agent,
            "offhook.direction": record.direction,
            "offhook.end_reason": record.end_reason,
            "offhook.end_side": record.end_side,
            "offhook.simulated": record.simulated,
            "offhook.turns": len(record.turns),
            "offhook.barge_ins": len(record.barge_ins),
        },
    )
    for name, start_ms in (
        ("webhook_response", rang_ms),
        ("stream_setup", answered_ms),
        ("model_setup", rang_ms),
        ("answer_to_greeting", rang_ms),
    ):
        if name in segments:
            call.inner.append(SpanData(name, start_ms, start_ms + segments[name]))
    if "model_reconnect_gap" in segments:  # the longest one; its time is not recorded
        call.attributes["offhook.worst_model_reconnect_gap_ms"] = segments["model_reconnect_gap"]
    call.inner += [_turn(turn) for turn in record.turns]
    for barge_in in record.barge_ins:
        end_ms = barge_in.stopped_ms or barge_in.clear_sent_ms or barge_in.decided_ms
        verdict: dict[str, Attribute] = {"offhook.verdict": barge_in.verdict, "offhook.heard_ms": barge_in.heard_ms}
        call.inner.append(SpanData("barge_in", barge_in.onset_ms, end_ms, verdict))
    for tool in record.tool_calls:
        end_ms = tool.finished_ms if tool.finished_ms is not None else record.duration_ms
        call.inner.append(
            SpanData(f"tool {tool.name}", tool.requested_ms, end_ms, {"offhook.outcome": tool.outcome or "unknown"})
        )
    return call


def _turn(turn: TurnRecord) -> SpanData:
    segments = turn.segments
    spoke_ms = turn.caller_ended_ms
    first_ms = turn.reply_started_ms if turn.reply_started_ms is not None else spoke_ms or 0.0
    if spoke_ms is not None and "model_first_audio" in segments:
        first_ms = spoke_ms + segments["model_first_audio"]
    start_ms = spoke_ms if spoke_ms is not None else first_ms
    end_ms = turn.reply_ended_ms if turn.reply_ended_ms is not None else first_ms
    inner = []
    for name, length_ms in segments.items():
        if name in FROM_SPEECH_END and spoke_ms is not None:
            inner.append(SpanData(name, spoke_ms, spoke_ms + length_ms))
        elif name == "output_onset_sent":
            inner.append(SpanData(name, first_ms, first_ms + length_ms))
        elif name == "tool_to_audio":
            inner.append(SpanData(name, first_ms - length_ms, first_ms))
    about: dict[str, Attribute] = {
        "offhook.turn": turn.number,
        "offhook.kind": turn.kind,
        "offhook.interrupted": turn.interrupted,
        "offhook.heard_ms": turn.heard_ms,
    }
    return SpanData("turn", start_ms, max(end_ms, *(one.end_ms for one in inner), start_ms), about, inner)


class CallTraces:
    """Exports ended calls. `export` blocks: call it in a thread other than the event loop's."""

    def __init__(self, exporter: Any, resource: Mapping[str, str] | None = None) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

        class Ids(RandomIdGenerator):
            """Gives every trace the ID that its call was given when it began."""

            trace_id = 0

            def generate_trace_id(self) -> int:
                return self.trace_id

        self._ids = Ids()
        self._lock = threading.Lock()
        # Resource attributes of the environment take precedence over these.
        said = Resource.create()
        ours = Resource({"service.name": "offhook", "service.version": __version__, **(resource or {})})
        unnamed = str(said.attributes.get("service.name", "")).startswith("unknown_service")
        self._provider = TracerProvider(
            id_generator=self._ids, resource=said.merge(ours) if unnamed else ours.merge(said), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("offhook", __version__)

    def export(self, record: CallRecord, ended_s: float | None = None) -> None:
        """Make the spans of a call that ended at `ended_s` (wall clock, Unix seconds; default now). Raises nothing."""
        try:
            call = spans_of(record)
            zero_ns = int(((time.time() if ended_s is None else ended_s) * 1000 - record.duration_ms) * 1e6)
            with self._lock:
                self._ids.trace_id = int(record.trace_id or new_trace_id(), 16)
                for data, span in self._started(call, None, zero_ns):
                    span.end(end_time=zero_ns + int(max(data.end_ms, data.start_ms) * 1e6))
        except Exception:
            log.exception("trace of call %s failed", record.call_sid)

    def _started(self, data: SpanData, parent: Any, zero_ns: int) -> Iterator[tuple[SpanData, Any]]:
        """Start a span and all within it; gives inner spans first, for the caller to end."""
        from opentelemetry.context import Context
        from opentelemetry.trace import set_span_in_context

        context = Context() if parent is None else set_span_in_context(parent, Context())
        span = self._tracer.start_span(
            data.name,
            context=context,
            start_time=zero_ns + int(data.start_ms * 1e6),
            attributes={key: value for key, value in data.attributes.items() if value != ""},
        )
        for inner in data.inner:
            yield from self._started(inner, span, zero_ns)
        yield data, span

    def close(self) -> None:
        """Send unsent spans, for `FLUSH_S` at most."""
        self._provider.force_flush(int(FLUSH_S * 1000))
        self._provider.shutdown()


def traces_for(environ: Mapping[str, str]) -> CallTraces | None:
    """The exporter that the environment configures; None without an endpoint or without the extra (logged)."""
    named = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not named or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ModuleNotFoundError:
        log.warning("an OTLP endpoint is set, but OpenTelemetry is not installed: pip install 'offhook[otel]'")
        return None
    return CallTraces(OTLPSpanExporter())
