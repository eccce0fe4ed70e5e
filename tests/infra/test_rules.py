import importlib.util
import os
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from offhook.gateway.labels import LABELS
from offhook.gateway.telephony.admission import Refusal
from offhook.metrics.segments import BARGEIN_SILENCE, EVENT_LOOP_LAG, OUTSIDE, SEGMENTS, TURN_GAP
from tests.infra.infra_files import INFRA, RULES, alerts, recorded
from tests.needs import require

HERE = Path(__file__).parent
UNIT_TESTS = sorted(HERE.glob("*_test.yml"))


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def promtool(*arguments: str, cwd: Path | None = None) -> None:
    require("promtool")
    # Its tests leave little: less looking for it, and by one thread, takes a third less CPU.
    env = {**os.environ, "GOMAXPROCS": "1", "GOGC": "400"}
    done = subprocess.run(["promtool", *arguments], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


class TestFiles:
    def test_promtool_accepts_the_rules(self) -> None:
        promtool("check", "rules", *map(str, sorted(RULES.glob("*.yml"))))

    def test_promtool_accepts_the_configuration(self, tmp_path: Path) -> None:
        text = (INFRA / "prometheus" / "prometheus.yml").read_text()
        token = tmp_path / "token"
        token.write_text("x")
        (tmp_path / "rules").symlink_to(RULES)
        config = tmp_path / "prometheus.yml"
        config.write_text(text.replace("/run/secrets/console_token", str(token)))
        promtool("check", "config", str(config))

    def test_recording_rules_are_up_to_date(self) -> None:
        for name, text in load(INFRA / "prometheus" / "make_rules.py").rule_files().items():
            assert (RULES / name).read_text() == text, "run python infra/prometheus/make_rules.py"


@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda p: p.stem)
def test_rules_do_what_they_say(path: Path) -> None:
    promtool("test", "rules", path.name, cwd=path.parent)


class TestAlerts:
    def cases(self) -> dict[str, set[bool]]:
        """Alert -> {True if there is a firing case, False if there is a silent one}."""
        found: dict[str, set[bool]] = {}
        for path in UNIT_TESTS:
            for test in yaml.safe_load(path.read_text())["tests"]:
                for case in test.get("alert_rule_test", ()):
                    found.setdefault(case["alertname"], set()).add(bool(case["exp_alerts"]))
        return found

    def test_each_has_a_firing_and_a_silent_case(self) -> None:
        cases = self.cases()
        assert set(cases) == set(alerts())
        assert not [name for name, kinds in cases.items() if kinds != {True, False}]

    def test_each_has_its_section_in_the_runbook(self) -> None:
        headings = re.findall(r"^### (\w+)$", (INFRA / "runbook.md").read_text(), re.MULTILINE)
        assert sorted(headings) == sorted(alerts())
        for name, rule in alerts().items():
            assert rule["annotations"]["runbook_url"] == f"runbook.md#{name.lower()}"

    def test_the_runbook_names_only_what_exists(self) -> None:
        text = (INFRA / "runbook.md").read_text()
        assert set(re.findall(r"\*(Offhook[A-Z]\w+)\*", text)) <= set(alerts())
        segments = {segment.name for segment in SEGMENTS}
        named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)(?:\{[^`]*)?`", text))
        words = set(LABELS.call_endings) | {"no_mark", "no_audio", "call_ended", "no_agent", "at_limit", "target_s"}
        words |= {"turn_detection", "barge_in", "min_speech_ms", "offhook_segment_incomplete_total"}
        words |= {"webhook_signature", "stream_token", "stream_signature"} | {refusal.value for refusal in Refusal}
        assert named <= segments | words

    def test_the_runbook_says_what_latency_leaves_out(self) -> None:
        text = " ".join((INFRA / "runbook.md").read_text().split())
        assert "both phone legs and Twilio's edge; Twilio's own figures imply 230 to 300 ms" in text
        assert "230 to 300 ms" in OUTSIDE

    def test_each_is_a_page_or_a_ticket_with_a_summary(self) -> None:
        for name, rule in alerts().items():
            assert name.startswith("Offhook")
            assert rule["labels"]["severity"] in ("page", "ticket"), name
            assert rule["annotations"]["summary"], name

    def test_every_ratio_stands_on_a_minimum_count(self) -> None:
        for name, rule in alerts().items():
            if "ratio" in rule["expr"] or "/" in rule["expr"]:
                if name == "OffhookNearCapacity":  # a ratio of places, not of samples
                    continue
                assert ">=" in rule["expr"], name

    def test_burn_rates_use_a_long_and_a_short_window(self) -> None:
        for name, rule in alerts().items():
            windows = re.findall(r"_bad:ratio(\w+)", rule["expr"])
            if windows:
                assert windows in (["1h", "5m"], ["6h", "30m"], ["3d", "2h"]), name


class TestServiceLevels:
    @pytest.mark.parametrize(("rule", "segment"), [("turns", TURN_GAP), ("bargeins", BARGEIN_SILENCE)])
    def test_targets_are_bucket_boundaries(self, rule: str, segment) -> None:
        for window in ("5m", "30m", "1h", "2h", "6h", "3d"):
            (le,) = re.findall(r'le="([^"]+)"', recorded()[f"job:offhook_{rule}_bad:increase{window}"])
            assert float(le) == segment.target_s
            assert float(le) in segment.buckets_s()

    def test_loop_lag_alert_uses_a_bucket_boundary(self) -> None:
        (le,) = re.findall(r'le="([^"]+)"', alerts()["OffhookLoopLag"]["expr"])
        assert float(le) == EVENT_LOOP_LAG.target_s

    def test_faults_are_endings(self) -> None:
        faults = load(INFRA / "prometheus" / "make_rules.py").FAULTS.split("|")
        assert set(faults) < set(LABELS.call_endings)
        assert {LABELS.call_endings[fault] for fault in faults} == {"gateway", "model"}


def test_alertmanager_example_names_existing_alerts() -> None:
    text = (INFRA / "prometheus" / "alertmanager.example.yml").read_text()
    config = yaml.safe_load(text)
    receivers = {receiver["name"] for receiver in config["receivers"]}
    routes = [config["route"], *config["route"]["routes"]]
    assert {route["receiver"] for route in routes} == receivers
    for rule in config["inhibit_rules"]:
        for matcher in rule["source_matchers"] + rule["target_matchers"]:
            name, value = re.fullmatch(r"(\w+)=~?\"?([^\"]+)\"?", matcher).groups()
            assert name == "alertname"
            assert any(re.fullmatch(value, alert) for alert in alerts()), matcher
