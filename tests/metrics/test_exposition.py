import asyncio
import subprocess

import pytest
from prometheus_client import CollectorRegistry, Gauge, Summary, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from offhook.gateway.labels import LABELS
from offhook.metrics import exposition
from offhook.metrics.catalogue import Metrics
from offhook.metrics.exposition import Exposition
from offhook.metrics.segments import SEGMENTS, TOOL_CALL, TURN_GAP
from tests.needs import require

# Change between two readings whatever we do.
RESTLESS = ("process_", "python_gc_")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry(), LABELS, tools=("ask", 'odd"100%\\name'), version="1")


def fill(metrics: Metrics, scale: float) -> None:
    for n, segment in enumerate(SEGMENTS):
        if not segment.rig_only:
            for i in range(n % 7):
                metrics.observe(segment, scale * (i + 1), segment.values[0] if segment.values else "")
    metrics.observe(TOOL_CALL, scale, 'odd"100%\\name')
    metrics.calls_active.set(7)
    metrics.calls_total.inc("caller_hung_up", "caller")
    metrics.tokens_total.inc("input", by=123.5)
    metrics.frames_in.inc(50)


def content(text: bytes) -> dict[str, object]:
    found: dict[str, object] = {}
    for family in text_string_to_metric_families(text.decode()):
        if family.name.startswith(RESTLESS) or family.name.endswith("_created"):
            continue
        samples = {(s.name, tuple(sorted(s.labels.items()))): repr(float(s.value)) for s in family.samples}
        found[family.name] = (family.type, family.documentation, samples)
    return found


def test_same_content_as_prometheus_client(metrics: Metrics) -> None:
    assert content(metrics.render()) == content(generate_latest(metrics.registry))
    fill(metrics, 0.13)
    first = content(metrics.render())
    assert first == content(generate_latest(metrics.registry))
    fill(metrics, 1.7)  # the cached text of the first rendering must not show
    second = content(metrics.render())
    assert second == content(generate_latest(metrics.registry))
    assert first != second
    assert len(second) > 35


def test_foreign_families_in_the_registry_are_rendered() -> None:
    registry = CollectorRegistry()
    Gauge("odd", 'help with \\ and\nline feed and "quote"', ["label"], registry=registry).labels('a"b\\c\nd').set(
        float("-inf")
    )
    Summary("sizes", "Summary.", registry=registry).observe(3.25)
    Gauge("absent", "NaN.", registry=registry).set(float("nan"))
    text = Exposition(registry).render()
    assert content(text) == content(generate_latest(registry))
    assert b"\nabsent NaN\n" in text


def test_an_unchanged_histogram_is_not_rendered_again(metrics: Metrics) -> None:
    metrics.render()
    (series, *_) = metrics._series[TURN_GAP].values()
    text = series.text()
    assert series.text() is text
    metrics.observe(TURN_GAP, 0.5, "played")
    assert series.text() is not text
    assert series.text().endswith('_sum{basis="played"} 0.5\n')


class TestSlices:
    async def test_same_content(self, metrics: Metrics) -> None:
        fill(metrics, 0.2)
        assert content(await metrics.render_in_slices()) == content(metrics.render())

    async def test_gives_the_loop_back(self, metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(exposition, "SLICE_S", -1.0)  # every family uses up its slice
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count_turns())
        await metrics.render_in_slices()
        counting.cancel()
        families = len(list(metrics.registry.collect()))
        assert turns >= families - 1

    async def test_a_family_is_of_one_instant(self, metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(exposition, "SLICE_S", -1.0)

        async def keep_observing() -> None:
            while True:
                metrics.observe(TURN_GAP, 0.5, "played")
                metrics.observe(TURN_GAP, 50.0, "played")
                await asyncio.sleep(0)

        observing = asyncio.create_task(keep_observing())
        await asyncio.sleep(0)
        for _ in range(5):
            text = (await metrics.render_in_slices()).decode()
            (family,) = (f for f in text_string_to_metric_families(text) if f.name == TURN_GAP.metric)
            played = {s.name + s.labels.get("le", ""): s.value for s in family.samples if "played" in str(s)}
            count = played["offhook_turn_gap_seconds_count"]
            assert count > 0
            assert played["offhook_turn_gap_seconds_bucket+Inf"] == count
            assert played["offhook_turn_gap_seconds_bucket10.0"] == count / 2
            assert played["offhook_turn_gap_seconds_sum"] == pytest.approx(count / 2 * 50.5)
        observing.cancel()


def test_promtool_finds_nothing_to_complain_about(metrics: Metrics) -> None:
    require("promtool")
    fill(metrics, 0.3)
    metrics.incomplete(TURN_GAP, "no_mark")
    checked = subprocess.run(["promtool", "check", "metrics"], input=metrics.render(), capture_output=True)
    assert checked.returncode == 0, checked.stderr
    assert not (checked.stdout + checked.stderr).strip()
