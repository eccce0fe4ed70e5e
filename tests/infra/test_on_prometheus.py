"""Every expression of rules and dashboards on a real Prometheus, and its percentiles against exact ones."""

import json
import math
import random
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from offhook.gateway.labels import LABELS
from offhook.metrics.canary import LINE_SEGMENTS, CanaryMetrics
from offhook.metrics.catalogue import INCOMPLETE_REASONS, INPUT_ERRORS, INPUT_PEERS, Metrics, Tally
from offhook.metrics.quantiles import exact
from offhook.metrics.segments import (
    ANSWER_TO_GREETING,
    BARGEIN_SILENCE,
    MODEL_FIRST_AUDIO,
    OUTPUT_ONSET_PLAYED,
    OUTPUT_ONSET_SENT,
    SEGMENTS,
    TURN_GAP,
    UPLINK_FORWARD,
    UPLINK_RELATIVE_DELAY,
    Segment,
)
from tests.infra.infra_files import alerts, grouped_by, panel_queries, recorded, selectors
from tests.infra.live_prometheus import LivePrometheus, Page, prometheus, serving
from tests.needs import require

SAMPLES = 2000
TARGET_LABELS = {"job", "instance", "namespace", "pod", "le"}


def truth(segment: Segment) -> list[float]:
    """What this segment's samples are here: each headline segment another shape, the heavy tails among them."""
    rng = random.Random(segment.name)
    shapes = {
        TURN_GAP: lambda: rng.lognormvariate(-0.2, 0.35),
        MODEL_FIRST_AUDIO: lambda: min(0.3 * rng.paretovariate(2.0), 9.9),  # heavy tail
        OUTPUT_ONSET_PLAYED: lambda: rng.gauss(0.7, 0.03) if rng.random() < 0.9 else rng.gauss(2.5, 0.1),
        OUTPUT_ONSET_SENT: lambda: 0.004 + rng.expovariate(1 / 0.01),
        BARGEIN_SILENCE: lambda: 0.02 * math.ceil(rng.lognormvariate(1.9, 0.4)),  # steps of a frame
        UPLINK_RELATIVE_DELAY: lambda: 0.0 if rng.random() < 0.3 else rng.lognormvariate(-4.5, 1.0),
        ANSWER_TO_GREETING: lambda: 1.234,  # constant, the worst case of interpolation
        UPLINK_FORWARD: lambda: 0.001 + rng.expovariate(1 / 0.002),
    }
    shape = shapes.get(segment, lambda: segment.lower_s * rng.lognormvariate(2.0, 0.5))
    return [shape() for _ in range(SAMPLES)]


@dataclass(frozen=True)
class Live:
    prometheus: LivePrometheus
    metrics: Metrics
    samples: dict[Segment, list[float]]


def something_of_everything(metrics: Metrics, samples: dict[Segment, list[float]]) -> None:
    for segment, values in samples.items():
        label = segment.values[0] if segment.values else "book_table" if segment.label else ""
        for value in values:
            metrics.observe(segment, value, label)
    for value in samples[TURN_GAP][:400]:
        metrics.observe(TURN_GAP, value * 0.8, "sent")
    for reason, side in LABELS.call_endings.items():
        metrics.calls_total.inc(reason, side, by=10)
    for peer in INPUT_PEERS:
        metrics.input_errors_total.inc(peer, INPUT_ERRORS[0])
    for segment in samples:
        for reason in INCOMPLETE_REASONS:
            metrics.incomplete(segment, reason)
    for tally in vars(metrics).values():
        if isinstance(tally, Tally):
            for values in list(tally._children):
                tally.inc(*values)
    metrics.stuck_calls_total.inc()
    metrics.task_failures_total.inc("tool")
    metrics.loop_blocked_total.inc("tool")
    metrics.tool_threads_abandoned.set(5)
    metrics.unanswered_turns_total.inc()
    metrics.loud_without_speech_total.inc()
    metrics.samples_after_clear_total.inc(0)
    metrics.calls_active.set(12)
    metrics.call_capacity.set(100)


def canary_page(calls: int = 0) -> bytes:
    """Of the other process that the rules watch, after so many calls."""
    metrics = CanaryMetrics(CollectorRegistry(), with_record=True, clock=time.monotonic)
    for number in range(calls):
        metrics.called(ok=number > 0, samples_ms=[(segment.name, 500.0 + number) for segment in LINE_SEGMENTS])
    return metrics.render()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    require("prometheus")
    metrics = Metrics(CollectorRegistry(), LABELS, tools=["book_table"], version="1.0")
    samples = {segment: truth(segment) for segment in SEGMENTS if not segment.rig_only}
    page = Page()
    page.body = metrics.render() + canary_page()  # zeros first: increases need a value to increase from
    with serving(page) as port, prometheus(port, tmp_path_factory.mktemp("prometheus")) as server:
        server.wait_for("offhook_turn_gap_seconds_count == 0")
        something_of_everything(metrics, samples)
        page.body = metrics.render() + canary_page(calls=30)
        server.wait_for(f'offhook_turn_gap_seconds_count{{basis="played"}} == {SAMPLES}')
        for name in recorded():  # each group is evaluated in its own time
            server.wait_for(name, lambda found: any(one["value"][1] != "NaN" for one in found))
        yield Live(server, metrics, samples)


def test_prometheus_is_let_in_by_the_token_only(live: Live) -> None:
    assert live.prometheus.value("up") == 1
    (target,) = live.prometheus.query("offhook_calls_active")
    assert {"job", "instance", "namespace", "pod"} <= set(target["metric"])
    assert target["metric"]["pod"] == "127.0.0.1"


def answered(live: Live, expr: str) -> list[float]:
    return [float(one["value"][1]) for one in live.prometheus.query(expr)]


@pytest.mark.parametrize("name", recorded())
def test_recording_rule_has_a_sample(live: Live, name: str) -> None:
    assert any(not math.isnan(value) for value in answered(live, recorded()[name])), "as an expression"
    assert any(not math.isnan(value) for value in answered(live, name)), "as recorded"


@pytest.mark.parametrize("where", panel_queries())
def test_dashboard_query_has_a_sample(live: Live, where: str) -> None:
    assert any(not math.isnan(value) for value in answered(live, panel_queries()[where]))


@pytest.mark.parametrize("name", alerts())
def test_alert_is_understood_and_watches_something(live: Live, name: str) -> None:
    """Under no fault it may be empty (its firing is shown by the rules' own tests), but nothing it names may be."""
    expr = alerts()[name]["expr"]
    answered(live, expr)
    for metric, matchers in selectors(expr):
        one = f"{metric}{{{','.join(label + op + chr(34) + value + chr(34) for label, op, value in matchers)}}}"
        assert answered(live, one), one


def test_no_rule_failed(live: Live) -> None:
    with urllib.request.urlopen(f"{live.prometheus.url}/api/v1/rules", timeout=10) as answer:
        groups = json.load(answer)["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == len(recorded()) + len(alerts())
    assert not [rule["name"] for rule in rules if rule["health"] == "err"]


class TestTruth:
    """Percentiles by way of a real Prometheus and of the sliding windows, against those of the samples themselves."""

    @pytest.mark.parametrize("segment", [s for s in SEGMENTS if s.headline], ids=lambda s: s.name)
    def test_headline_segments_by_prometheus(self, live: Live, segment: Segment) -> None:
        of = '{basis="played"}' if segment is TURN_GAP else ""
        true = exact(live.samples[segment])
        for name in ("p50", "p95", "p99"):
            want = getattr(true, name)
            for window in ("5m", "1h"):
                got = live.prometheus.value(f"job:{segment.metric}:{name}_{window}{of}")
                assert abs(got - want) <= 0.05 * want + 0.002, (name, window, got, want)

    @pytest.mark.parametrize(
        "segment", [s for s in SEGMENTS if not s.headline and not s.rig_only], ids=lambda s: s.name
    )
    def test_other_segments_by_prometheus(self, live: Live, segment: Segment) -> None:
        true = exact(live.samples[segment])
        for name, q in (("p50", 0.5), ("p95", 0.95)):
            got = live.prometheus.value(f"histogram_quantile({q}, sum by (le) ({segment.metric}_bucket))")
            want = getattr(true, name)
            assert abs(got - want) <= 0.10 * want + 0.002, (name, got, want)

    @pytest.mark.parametrize("segment", [s for s in SEGMENTS if not s.rig_only], ids=lambda s: s.name)
    def test_every_segment_by_the_sliding_windows(self, live: Live, segment: Segment) -> None:
        label = "played" if segment is TURN_GAP else None
        true = exact(live.samples[segment])
        for span_s in (300, 3600):
            got = live.metrics.window(segment, span_s, label)
            assert got.count == true.count
            assert got.max == true.max
            for name in ("p50", "p95", "p99"):
                assert getattr(got, name) == pytest.approx(getattr(true, name), rel=0.01, abs=1e-6), (name, span_s)

    @pytest.mark.parametrize("segment", [TURN_GAP, BARGEIN_SILENCE, OUTPUT_ONSET_SENT], ids=lambda s: s.name)
    def test_share_within_the_target_is_exact(self, live: Live, segment: Segment) -> None:
        within = live.prometheus.value(
            f'sum({segment.metric}_bucket{{le="{segment.target_s}"}}) - '
            f'(sum({segment.metric}_bucket{{le="{segment.target_s}",basis="sent"}}) or vector(0))'
        )
        assert within == sum(value <= segment.target_s for value in live.samples[segment])


class TestDrift:
    """Names, labels and label values in the rules and dashboards are ones the gateway exports."""

    def exported(self) -> dict[str, dict[str, set[str]]]:
        metrics = Metrics(CollectorRegistry(), LABELS, tools=["book_table"])
        for segment in SEGMENTS:
            for reason in INCOMPLETE_REASONS:
                metrics.incomplete(segment, reason)
        found: dict[str, dict[str, set[str]]] = {"up": {}}
        for family in text_string_to_metric_families((metrics.render() + canary_page()).decode()):
            for sample in family.samples:
                labels = found.setdefault(sample.name, {})
                for label, value in sample.labels.items():
                    labels.setdefault(label, set()).add(value)
        return found

    def expressions(self) -> dict[str, str]:
        return {**recorded(), **panel_queries(), **{name: rule["expr"] for name, rule in alerts().items()}}

    def test_every_name_label_and_value_exists(self) -> None:
        exported, known_records = self.exported(), recorded()
        seen = 0
        for where, expr in self.expressions().items():
            for name, matchers in selectors(expr):
                seen += 1
                if name.startswith("job:"):
                    assert name in known_records, where
                    assert {label for label, _, _ in matchers} <= {"job", "basis"}, where
                    continue
                assert name in exported, f"{where}: {name}"
                for label, operator, value in matchers:
                    if label in TARGET_LABELS - {"le"}:
                        continue
                    values = exported[name].get(label)
                    assert values, f"{where}: {name} has no label {label}"
                    for one in value.split("|") if "~" in operator else [value]:
                        assert one in values, f"{where}: {name}{{{label}}} is never {one}"
        assert seen > 300

    def test_every_label_grouped_by_exists(self) -> None:
        exported, known = self.exported(), recorded()
        for where, expr in self.expressions().items():
            available = set(TARGET_LABELS)
            for name, _ in selectors(expr):
                available |= set(exported[name]) if name in exported else grouped_by(known[name])
            assert grouped_by(expr) <= available, where

    @pytest.mark.parametrize("bad", ["offhook_turn_gap_second_count", "offhook_calls", "job:offhook_turns:increase7d"])
    def test_a_wrong_name_would_be_noticed(self, bad: str) -> None:
        (found,) = selectors(f"sum({bad})")
        assert found[0] == bad
        assert bad not in self.exported()
        assert bad not in recorded()
