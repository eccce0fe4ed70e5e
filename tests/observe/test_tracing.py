"""Traces: made of a call's record when it is over, received by a real OTLP receiver, named by exemplars."""

from __future__ import annotations

import asyncio
import http.server
import os
import threading
from collections.abc import Iterator
from unittest import mock

import aiohttp
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from offhook.gateway.agent.load import parse_agent
from offhook.gateway.app import Gateway
from offhook.gateway.config import settings_from
from offhook.gateway.labels import LABELS
from offhook.gateway.observe.tracing import CallTraces, new_trace_id, spans_of, traces_for
from offhook.gateway.rehearsal.model.script import CallTool, Reply, Script
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.phone.steps import HangUp, Say, SayOver, WaitForAgent
from offhook.gateway.store.record import BargeInRecord, CallRecord, ToolRecord, TurnRecord
from offhook.metrics.catalogue import Metrics
from offhook.metrics.segments import TURN_GAP
from tests.rig.calls import Outcome, Plan, place_calls
from tests.rig.sounds import sound

RECORD = CallRecord(
    call_sid="CA1",
    trace_id=new_trace_id(),
    agent="a",
    caller="+15551234567",
    duration_ms=9_000.0,
    end_reason="caller_hung_up",
    end_side="caller",
    segments={"webhook_response": 10.0, "stream_setup": 200.0, "model_setup": 150.0, "answer_to_greeting": 900.0},
    turns=[
        TurnRecord(number=1, generation=1, reply_started_ms=500.0, reply_ended_ms=1_500.0),
        TurnRecord(
            number=2,
            generation=2,
            caller_ended_ms=3_000.0,
            caller_text="my word is Grasmere",
            reply_started_ms=3_600.0,
            reply_ended_ms=5_000.0,
            interrupted=True,
            segments={"model_first_audio": 600.0, "output_onset_sent": 20.0, "turn_gap": 700.0, "tool_to_audio": 90.0},
        ),
    ],
    barge_ins=[BargeInRecord(generation=2, onset_ms=4_800.0, decided_ms=4_900.0, stopped_ms=4_950.0)],
    tool_calls=[ToolRecord(call_id="1", name="find", requested_ms=3_200.0, finished_ms=3_400.0, outcome="done")],
)


class TestSpans:
    def test_a_turn_and_its_segments_lie_where_they_were(self) -> None:
        call = spans_of(RECORD)
        assert (call.start_ms, call.end_ms) == (-210.0, 9_000.0)
        _, turn = (one for one in call.inner if one.name == "turn")
        assert (turn.start_ms, turn.end_ms) == (3_000.0, 5_000.0)
        assert {one.name: (one.start_ms, one.end_ms) for one in turn.inner} == {
            "model_first_audio": (3_000.0, 3_600.0),
            "output_onset_sent": (3_600.0, 3_620.0),
            "turn_gap": (3_000.0, 3_700.0),
            "tool_to_audio": (3_510.0, 3_600.0),
        }

    def test_tools_barge_ins_and_webhooks_have_spans(self) -> None:
        found = {one.name: (one.start_ms, one.end_ms) for one in spans_of(RECORD).inner}
        assert found["tool find"] == (3_200.0, 3_400.0)
        assert found["barge_in"] == (4_800.0, 4_950.0)
        assert found["webhook_response"] == (-210.0, -200.0)
        assert found["stream_setup"] == (-200.0, 0.0)

    def test_an_empty_call_is_one_span(self) -> None:
        assert spans_of(CallRecord(call_sid="CA2")).inner == []


def test_spans_have_the_calls_trace_id_and_its_times() -> None:
    exporter = InMemorySpanExporter()
    traces = CallTraces(exporter)
    traces.export(RECORD, ended_s=1_000.0)
    traces.close()
    spans = exporter.get_finished_spans()
    assert {f"{span.context.trace_id:032x}" for span in spans} == {RECORD.trace_id}
    (root,) = (span for span in spans if span.parent is None)
    assert (root.name, root.end_time) == ("call", 1_000_000_000_000)
    gap = next(span for span in spans if span.name == "turn_gap")
    assert gap.end_time - gap.start_time == 700_000_000
    turns = {span.context.span_id for span in spans if span.name == "turn"}
    assert gap.parent.span_id in turns
    assert root.resource.attributes["service.name"] == "offhook"


def test_nobodys_number_or_words_are_in_a_trace() -> None:
    exporter = InMemorySpanExporter()
    traces = CallTraces(exporter)
    traces.export(RECORD)
    traces.close()
    told = " ".join(span.to_json() for span in exporter.get_finished_spans())
    assert "5551234567" not in told
    assert "Grasmere" not in told


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_SDK_DISABLED": "true"},
    ],
)
def test_without_an_endpoint_there_is_nothing(environ: dict[str, str]) -> None:
    assert traces_for(environ) is None


def test_without_the_extra_calls_go_on_and_a_log_warns(caplog: pytest.LogCaptureFixture) -> None:
    with mock.patch.dict("sys.modules", {"opentelemetry.exporter.otlp.proto.http.trace_exporter": None}):
        assert traces_for({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}) is None
    assert "pip install 'offhook[otel]'" in caplog.text


# --- real calls, a real receiver


class Receiver:
    """An OTLP/HTTP receiver: what was posted to it, decoded."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], ExportTraceServiceRequest]] = []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = ExportTraceServiceRequest()
                request.ParseFromString(body)
                receiver.requests.append((self.path, dict(self.headers), request))
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


GREETING = Reply("text", (Speak("Thank you for calling.", sound("agent_thank_you")),))
SATURDAY = Speak("Saturday for two is no problem.", sound("saturday"))
HELLO, SORRY = str(sound("hello_i_would")), str(sound("oh_sorry"))


@pytest.fixture(scope="module")
def lived() -> Iterator[tuple[Outcome, Receiver, str]]:
    receiver = Receiver()
    gateways: list[Gateway] = []
    plan = Plan(
        (WaitForAgent("end"), Say(HELLO), SayOver(SORRY, 800), WaitForAgent("end"), HangUp()),
        Script(
            (GREETING, Reply("caller", (CallTool("quick"),)), Reply("tool:quick", (SATURDAY,))),
            default=Reply("caller", (SATURDAY,)),
        ),
        agent="greeting: {text: Greet.}\ntools: [{function: 'tests.calls.slow_tools:quick', name: quick}]",
        during=lambda gateway, call: gateways.append(gateway),
    )
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_EXPORTER_OTLP_HEADERS": "x-team=phones"}
    try:
        with mock.patch.dict(os.environ, environ):  # the exporter reads the process's own environment
            outcome = place_calls({"traced": plan}, environ=environ)["traced"]
        page = asyncio.run(gateways[0].metrics.render_in_slices(openmetrics=True)).decode()
        yield outcome, receiver, page
    finally:
        receiver.close()


def test_a_calls_trace_comes_to_the_receiver(lived: tuple[Outcome, Receiver, str]) -> None:
    outcome, receiver, _ = lived
    assert {path for path, _, _ in receiver.requests} == {"/v1/traces"}
    assert all({k.lower(): v for k, v in headers.items()}["x-team"] == "phones" for _, headers, _ in receiver.requests)
    spans = [
        span
        for _, _, request in receiver.requests
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert {span.trace_id.hex() for span in spans} == {outcome.record.trace_id}
    names = [span.name for span in spans]
    assert names.count("call") == 1
    assert names.count("turn") == len(outcome.record.turns) >= 3
    assert names.count("tool quick") == 1
    assert names.count("barge_in") == len(outcome.record.barge_ins) >= 1
    gaps = sorted(turn.segments["turn_gap"] for turn in outcome.record.turns if "turn_gap" in turn.segments)
    sent = sorted((s.end_time_unix_nano - s.start_time_unix_nano) / 1e6 for s in spans if s.name == "turn_gap")
    assert sent == pytest.approx(gaps, abs=0.01)


def test_exemplars_name_the_trace(lived: tuple[Outcome, Receiver, str]) -> None:
    outcome, _, page = lived
    found = {
        sample.name: sample.exemplar
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.exemplar
    }
    assert found["offhook_turn_gap_seconds_bucket"].labels == {"trace_id": outcome.record.trace_id}
    assert found["offhook_tool_call_seconds_bucket"].labels == {"trace_id": outcome.record.trace_id}
    gaps = [turn.segments["turn_gap"] for turn in outcome.record.turns if "turn_gap" in turn.segments]
    assert any(found["offhook_turn_gap_seconds_bucket"].value == pytest.approx(gap / 1000, abs=1e-5) for gap in gaps)


def test_openmetrics_holds_what_the_text_format_holds() -> None:
    metrics = Metrics(CollectorRegistry(), LABELS, tools=["find"])
    metrics.observe(TURN_GAP, 0.7, "played", "0" * 31 + "1")
    metrics.observe(TURN_GAP, 99.0, "played", "0" * 31 + "2")  # the last bucket
    page = asyncio.run(metrics.render_in_slices(openmetrics=True)).decode()
    assert page.endswith("# EOF\n")
    families = list(text_string_to_metric_families(page))
    assert {f.name for f in families} >= {"offhook_turn_gap_seconds", "offhook_calls", "offhook_build"}
    exemplars = [s.exemplar.value for f in families for s in f.samples if s.exemplar]
    assert exemplars == [0.7, 99.0]
    assert "trace_id" not in metrics.render().decode()


@pytest.mark.parametrize("traced", [True, False])
async def test_openmetrics_only_when_traced_and_requested(traced: bool) -> None:
    environ = {"OFFHOOK_INSECURE": "1", "OFFHOOK_PORT": "0", "GEMINI_API_KEY": "x"}
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"} if traced else {}
    with mock.patch.dict(os.environ, endpoint):
        gateway = Gateway(settings_from(environ), [parse_agent("name: a\ninstructions: x\n")], {**environ, **endpoint})
        accept = {"Accept": "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5"}
        async with gateway.listening() as url, aiohttp.ClientSession() as session:
            async with session.get(f"{url}/metrics", headers=accept) as response:
                assert (response.content_type == "application/openmetrics-text") is traced
            async with session.get(f"{url}/metrics") as response:
                assert response.content_type == "text/plain"
