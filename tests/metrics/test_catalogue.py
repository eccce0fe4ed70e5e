import re

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from offhook.gateway.labels import LABELS
from offhook.metrics.catalogue import MAX_TOOLS, Metrics, WorstPerSecond
from offhook.metrics.quantiles import summarise
from offhook.metrics.segments import BARGEIN_STOP, MIC_TO_UPLINK, SEGMENTS, TOOL_CALL, TURN_GAP, UPLINK_FORWARD


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics(clock: Clock) -> Metrics:
    return Metrics(CollectorRegistry(), LABELS, tools=("book_table", "weather"), version="1.2.3", clock=clock)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


class TestObserve:
    def test_feeds_histogram_and_window_alike(self, metrics: Metrics) -> None:
        for _ in range(30):
            metrics.observe(BARGEIN_STOP, 0.25)
        assert value(metrics, "offhook_bargein_stop_seconds_count") == 30
        assert value(metrics, "offhook_bargein_stop_seconds_sum") == pytest.approx(7.5)
        assert metrics.window(BARGEIN_STOP, 60).count == 30
        assert metrics.window(BARGEIN_STOP, 60).p95 == pytest.approx(0.25, rel=0.01)

    def test_boundaries_are_inclusive(self, metrics: Metrics) -> None:
        metrics.observe(BARGEIN_STOP, 0.3)
        metrics.observe(BARGEIN_STOP, 0.3000001)
        assert value(metrics, "offhook_bargein_stop_seconds_bucket", le="0.3") == 1
        metrics.observe(BARGEIN_STOP, 60.0)
        assert value(metrics, "offhook_bargein_stop_seconds_bucket", le="5.0") == 2
        assert value(metrics, "offhook_bargein_stop_seconds_bucket", le="+Inf") == 3

    def test_by_name_is_the_same_segment(self, metrics: Metrics) -> None:
        metrics.observe("bargein_stop", 0.1)
        metrics.observe(BARGEIN_STOP, 0.1)
        assert metrics.window("bargein_stop", 60).count == 2

    def test_an_unknown_name_raises(self, metrics: Metrics) -> None:
        with pytest.raises(KeyError, match="bargin_stop"):
            metrics.observe("bargin_stop", 0.1)

    @pytest.mark.parametrize("seconds", [-0.001, float("nan"), float("inf"), -float("inf")])
    def test_broken_measurement_is_incomplete_not_observed(self, metrics: Metrics, seconds: float) -> None:
        metrics.observe(TURN_GAP, seconds, "played")
        name = "offhook_segment_incomplete_total"
        assert value(metrics, name, segment="turn_gap", reason="invalid") == 1
        assert metrics.window(TURN_GAP, 60).count == 0

    def test_labels_apart_and_together(self, metrics: Metrics) -> None:
        metrics.observe(TURN_GAP, 0.5, "played")
        metrics.observe(TURN_GAP, 0.4, "sent")
        assert metrics.window(TURN_GAP, 60, "played").max == 0.5
        assert metrics.window(TURN_GAP, 60, "sent").max == 0.4
        assert metrics.window(TURN_GAP, 60).count == 2
        assert summarise(metrics.counts(TURN_GAP, 60)).count == 2

    def test_samples_leave_with_the_clock(self, metrics: Metrics, clock: Clock) -> None:
        metrics.observe(BARGEIN_STOP, 0.1)
        clock.now_s += 120
        assert metrics.window(BARGEIN_STOP, 60).count == 0
        assert metrics.window(BARGEIN_STOP, 300).count == 1

    def test_rehearsal_only_segment_is_not_exported(self, metrics: Metrics) -> None:
        with pytest.raises(KeyError):
            metrics.observe(MIC_TO_UPLINK, 0.1)
        assert MIC_TO_UPLINK.metric.encode() not in metrics.render()


class TestClosedLabels:
    def test_unknown_values_are_other(self, metrics: Metrics) -> None:
        metrics.calls_total.inc("alien_abduction", "caller")
        metrics.barge_ins_total.inc("perhaps")
        metrics.incomplete(TURN_GAP, "weather")
        assert value(metrics, "offhook_calls_total", reason="other", side="caller") == 1
        assert value(metrics, "offhook_barge_ins_total", verdict="other") == 1
        assert value(metrics, "offhook_segment_incomplete_total", segment="turn_gap", reason="other") == 1

    def test_unknown_tool_is_other(self, metrics: Metrics) -> None:
        metrics.observe(TOOL_CALL, 0.1, "book_table")
        metrics.observe(TOOL_CALL, 0.1, "made_up_by_the_model")
        assert value(metrics, "offhook_tool_call_seconds_count", tool="book_table") == 1
        assert value(metrics, "offhook_tool_call_seconds_count", tool="other") == 1

    def test_a_flood_of_labels_does_not_grow_exposition(self, metrics: Metrics) -> None:
        for word in ("", 'quote"', "line\nfeed", "CA" + "0" * 32, "+4930123456"):
            metrics.input_errors_total.inc(word, word)
            metrics.calls_total.inc(word, word)
            metrics.segment_incomplete_total.inc(word, word)
            metrics.observe(TOOL_CALL, 0.1, word)
        lines = metrics.render().count(b"\n")
        for i in range(1000):
            word = f"word-{i}"
            metrics.input_errors_total.inc(word, word)
            metrics.calls_total.inc(word, word)
            metrics.segment_incomplete_total.inc(word, word)
            metrics.observe(TOOL_CALL, 0.1, word)
        assert metrics.render().count(b"\n") == lines
        assert b"4930123456" not in metrics.render()

    def test_wrong_number_of_labels_is_a_bug(self, metrics: Metrics) -> None:
        with pytest.raises(ValueError):
            metrics.calls_total.inc("caller_hung_up")

    def test_tools_are_capped(self) -> None:
        metrics = Metrics(CollectorRegistry(), LABELS, tools=[f"tool_{i}" for i in range(100)])
        names = set(re.findall(rb'tool="(\w+)"', metrics.render()))
        assert len(names) == MAX_TOOLS + 1

    def test_listed_combinations_exist_from_the_start(self, metrics: Metrics) -> None:
        assert value(metrics, "offhook_calls_total", reason="model_lost", side="model") == 0
        assert value(metrics, "offhook_segment_incomplete_total", segment="turn_gap", reason="no_mark") == 0


def test_every_segment_has_its_histogram(metrics: Metrics) -> None:
    families = {f.name: f for f in text_string_to_metric_families(metrics.render().decode())}
    for segment in SEGMENTS:
        if not segment.rig_only:
            assert families[segment.metric].type == "histogram"
            assert families[segment.metric].documentation == segment.help


def test_no_name_breaks_the_conventions(metrics: Metrics) -> None:
    for family in text_string_to_metric_families(metrics.render().decode()):
        assert family.documentation
        assert not re.search(r"_(ms|milliseconds|ratio_percent)$", family.name)
        if family.name.startswith("offhook_") and family.type == "counter":
            assert all(s.name.endswith("_total") for s in family.samples)


def test_build_info(metrics: Metrics) -> None:
    assert b'offhook_build_info{python="' in metrics.render()
    assert b'version="1.2.3"} 1\n' in metrics.render()


def test_two_registries_do_not_share_anything() -> None:
    one, two = Metrics(CollectorRegistry(), LABELS), Metrics(CollectorRegistry(), LABELS)
    one.observe(BARGEIN_STOP, 0.1)
    one.calls_active.set(3)
    assert two.window(BARGEIN_STOP, 60).count == 0
    assert value(two, "offhook_calls_active") == 0


class TestWorstPerSecond:
    def test_one_observation_a_second_the_worst(self, metrics: Metrics) -> None:
        worst = WorstPerSecond(metrics, UPLINK_FORWARD)
        for i in range(150):  # three seconds of frames
            worst.add(10.0 + i * 0.02, 0.001 if i != 70 else 0.040)
        worst.flush()
        summary = metrics.window(UPLINK_FORWARD, 60)
        assert summary.count == 3
        assert summary.max == 0.040
        assert value(metrics, "offhook_uplink_forward_seconds_sum") == pytest.approx(0.042)

    def test_flush_of_nothing_observes_nothing(self, metrics: Metrics) -> None:
        worst = WorstPerSecond(metrics, UPLINK_FORWARD)
        worst.flush()
        worst.add(1.0, 0.002)
        worst.flush()
        worst.flush()
        assert metrics.window(UPLINK_FORWARD, 60).count == 1
