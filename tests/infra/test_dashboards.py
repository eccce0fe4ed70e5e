import importlib.util
import json
import re
from typing import Any

import pytest

from offhook.metrics.canary import LINE_SEGMENTS
from offhook.metrics.segments import BY_NAME, OUTSIDE, SEGMENTS
from tests.infra.infra_files import DASHBOARDS, INFRA, alerts, dashboards, panel_queries, panels

ALL = dashboards()
DESCRIBED = {**BY_NAME, **{f"canary_{segment.name}": segment for segment in LINE_SEGMENTS}}


def every_panel() -> list[Any]:
    return [
        pytest.param(panel, id=f"{name}: {panel['title']}")
        for name, dashboard in ALL.items()
        for panel in panels(dashboard)
        if panel["type"] not in ("row", "text")
    ]


def test_the_four_are_there() -> None:
    assert set(ALL) == {"overview.json", "latency.json", "resources.json", "reliability.json"}


def test_they_are_what_the_script_makes() -> None:
    pytest.importorskip("grafana_foundation_sdk", reason="pip install grafana-foundation-sdk to make the dashboards")
    spec = importlib.util.spec_from_file_location("make_dashboards", INFRA / "grafana" / "make_dashboards.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, text in module.dashboards().items():
        assert json.loads((DASHBOARDS / name).read_text()) == json.loads(text), (
            "run python infra/grafana/make_dashboards.py"
        )


@pytest.mark.parametrize("dashboard", ALL.values(), ids=ALL)
class TestEachDashboard:
    def test_panel_ids_are_unique(self, dashboard: dict[str, Any]) -> None:
        ids = [panel["id"] for panel in panels(dashboard)]
        assert len(set(ids)) == len(ids)
        assert all(ids)

    def test_panels_do_not_overlap(self, dashboard: dict[str, Any]) -> None:
        taken: set[tuple[int, int]] = set()
        for panel in panels(dashboard):
            at = panel["gridPos"]
            cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
            assert not cells & taken, panel["title"]
            assert max(x for x, _ in cells) < 24
            taken |= cells

    def test_it_has_the_variables_and_no_fixed_uid(self, dashboard: dict[str, Any]) -> None:
        assert [v["name"] for v in dashboard["templating"]["list"]] == ["datasource", "namespace", "pod"]
        pod = dashboard["templating"]["list"][2]
        assert pod["multi"]
        assert pod["includeAll"]
        assert not dashboard.get("uid")
        assert set(re.findall(r'"uid": "([^"]*)"', json.dumps(dashboard["panels"]))) == {"${datasource}"}

    def test_it_says_what_is_outside_its_latencies(self, dashboard: dict[str, Any]) -> None:
        (first, *_) = dashboard["panels"]
        assert first["type"] == "text"
        assert OUTSIDE in first["options"]["content"]
        assert OUTSIDE in dashboard["description"]


@pytest.mark.parametrize("panel", every_panel())
class TestEachPanel:
    def test_it_is_complete(self, panel: dict[str, Any]) -> None:
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        refs = [target["refId"] for target in panel["targets"]]
        assert refs
        assert len(set(refs)) == len(refs)
        assert all(refs)

    def test_a_latency_shows_its_count_and_what_is_outside(self, panel: dict[str, Any]) -> None:
        exprs = [target["expr"] for target in panel["targets"]]
        if not any(re.search(r"histogram_quantile|:p\d\d_", expr) for expr in exprs):
            return
        assert OUTSIDE in panel["description"]
        if panel["type"] == "stat":
            assert panel["fieldConfig"]["defaults"]["noValue"] == "too few samples"  # the count is the panel beside it
        else:
            assert any("_count" in expr for expr in exprs)
        for expr in exprs:
            quantile = re.match(r"histogram_quantile\((0\.\d+)", expr)
            if quantile and " and on " in expr:
                minimum = {"0.5": "1", "0.95": "20", "0.99": "300"}[quantile[1]]
                assert expr.endswith(f">= {minimum}")
            elif quantile:
                assert quantile[1] == "0.5"  # only a median may go without

    def test_a_segment_is_described_by_its_definition(self, panel: dict[str, Any]) -> None:
        metrics = {
            m
            for target in panel["targets"]
            for m in re.findall(r"offhook_(\w+)_seconds(?:_bucket|:p95)", target["expr"])
        }
        if len(metrics) != 1:
            return
        segment = DESCRIBED[metrics.pop()]
        assert panel["description"].startswith(segment.help)
        limits = [step["value"] for step in panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", ())]
        if segment.target_s is not None and panel["type"] == "timeseries":
            assert segment.target_s in limits


def test_every_exported_segment_is_on_a_dashboard() -> None:
    shown = " ".join(panel_queries().values())
    assert not [s.name for s in SEGMENTS if not s.rig_only and s.metric not in shown]


def test_the_heatmap_adds_buckets_over_replicas() -> None:
    (heatmap,) = (p for p in panels(ALL["latency.json"]) if p["type"] == "heatmap")
    (target,) = heatmap["targets"]
    assert target["format"] == "heatmap"
    assert target["expr"].startswith("sum by (le) (increase(offhook_turn_gap_seconds_bucket")


def test_overview_limits_are_those_of_the_alerts() -> None:
    (burnt,) = (p for p in panels(ALL["overview.json"]) if p["title"].startswith("Budget burnt"))
    exprs = " ".join(target["expr"] for target in burnt["targets"])
    for budget, alert in (
        ("turns_bad:ratio1h", "OffhookTurnGapFastBurn"),
        ("bargeins_bad:ratio1h", "OffhookBargeInFastBurn"),
        ("calls_bad:ratio1h", "OffhookCallsFailFastBurn"),
    ):
        (share,) = re.findall(rf"{budget}\{{[^}}]*\}} / ([\d.]+)", exprs)
        assert re.search(rf"{budget} > [\d.]+ \* {re.escape(share)}\b", alerts()[alert]["expr"])
