"""A run against its baseline: what is slower fails, what is the same does not, what is unlike is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from offhook.gateway.errors import OperatorError
from offhook.gateway.rehearsal.results.baseline import Comparison, compare, facts_of, read_baseline
from offhook.gateway.rehearsal.results.page import page
from offhook.gateway.rehearsal.results.report import Report, report_of, write_report
from tests.rehearsal.results.paper_call import paper_report

PATH = Path("main.json")
CALLS = 40


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "table.call.yaml"
    path.write_text("name: table\n")
    return path


def run(scenario: Path, noise: int, *, added_ms: float = 0.0, calls: int = CALLS, **facts: Any) -> Report:
    """A run whose gateway adds about 8 ms and, in one answer of twenty, 60: as on a machine that does other things."""
    random, made = np.random.default_rng(noise), []
    for _ in range(calls):
        call = paper_report()
        for turn in call.line.caller:
            late_ms = 60.0 if random.random() < 0.05 else 0.0
            turn.line_to_model_ms = float(random.gamma(4.0, 1.0)) + late_ms
            turn.model_to_line_ms = float(random.gamma(4.0, 1.0)) + added_ms
        made.append(call)
    report = report_of(made)
    report.run = facts_of({"table": scenario}, **{"seed": 1, "repeat": calls, "speed": 1.0, **facts})
    return report


def compared(before: Report, now: Report) -> Comparison:
    return compare(PATH, before, now)


def test_30_ms_more_fail_20_times_of_20(scenario: Path) -> None:
    for seed in range(20):
        found = compared(run(scenario, seed), run(scenario, 100 + seed, added_ms=30.0))
        assert not found.ok
        assert any(failure.startswith("added: P50") for failure in found.failures)


def test_the_same_again_never_fails(scenario: Path) -> None:
    found = [compared(run(scenario, seed), run(scenario, 100 + seed)).failures for seed in range(20)]
    assert found == [[]] * 20


def test_a_constant_delay_on_the_quick_clock_fails(scenario: Path) -> None:
    """There all samples of a run are alike: half of all permutations have the same difference of medians."""

    def quick(added_ms: float) -> Report:
        made = run(scenario, 1, calls=24, speed=20.0)
        for turn in (turn for call in made.calls for turn in call.line.caller):
            turn.line_to_model_ms, turn.model_to_line_ms = 0.0, added_ms
        return made

    assert compared(quick(0.0), quick(0.0)).ok
    assert any(failure.startswith("added: P50 30 ms") for failure in compared(quick(0.0), quick(30.0)).failures)


def test_a_difference_below_the_floor_is_none(scenario: Path) -> None:
    assert compared(run(scenario, 1), run(scenario, 2, added_ms=4.0)).ok


def test_few_samples_are_not_judged(scenario: Path) -> None:
    found = compared(run(scenario, 1, calls=3), run(scenario, 2, calls=3, added_ms=500.0))
    assert found.ok
    assert found.notes[0].startswith("too few samples to judge (below 12 on one side):")


def test_a_tool_called_differently_fails(scenario: Path) -> None:
    before, now = run(scenario, 1, calls=2), run(scenario, 2, calls=2)
    assert now.calls[1].record is not None
    now.calls[1].record.tool_calls[0].arguments = {"day": "Sunday"}
    (failure,) = compared(before, now).failures
    assert '{"day": "Sunday"}' in failure
    assert "instead of" in failure
    assert before.calls[1].record is not None
    before.calls[1].record.tool_calls[0].arguments = {"day": "Monday"}
    varied = compared(before, now)
    assert varied.ok
    assert "tools were called differently within the baseline" in varied.notes[-1]


def test_a_reply_heard_less_fails(scenario: Path) -> None:
    before, now = run(scenario, 1), run(scenario, 2)
    for call in now.calls:
        call.line.replies[-1].heard_ms -= 400.0
    assert any(failure.startswith("reply_unheard: P") for failure in compared(before, now).failures)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"seed": 2}, "another seed (2 instead of 1)"),
        ({"speed": 10.0}, "another speed"),
        ({"provider": "openai"}, "provider"),
        ({"voice": "people"}, "voice"),
    ],
)
def test_unlike_runs_are_refused(scenario: Path, facts: dict[str, Any], words: str) -> None:
    with pytest.raises(OperatorError, match=r"main.json: made with") as error:
        compared(run(scenario, 1, calls=1, **facts), run(scenario, 1, calls=1))
    assert words in str(error.value)


def test_other_scenarios_and_machines_are_refused(scenario: Path) -> None:
    before, now = run(scenario, 1, calls=1), run(scenario, 1, calls=1)
    assert before.run is not None
    before.run.machine = "a laptop, 8 cores, Linux"
    with pytest.raises(OperatorError, match="another machine"):
        compared(before, now)
    scenario.write_text("name: table\nabout: changed\n")
    with pytest.raises(OperatorError, match=r"scenarios that have changed since \(table\)"):
        compared(before, run(scenario, 1, calls=1))
    before.run.scenarios = {"other": "0"}
    with pytest.raises(OperatorError, match=r"other scenarios \(other, table only in one of the runs\)"):
        compared(before, now)


def test_a_baseline_is_read_back_or_explained(scenario: Path, tmp_path: Path) -> None:
    report, path = run(scenario, 1, calls=1), tmp_path / "main.json"
    write_report(report, path)
    assert msgspec.to_builtins(read_baseline(path).run) == msgspec.to_builtins(report.run)
    report.run = None
    write_report(report, path)
    for text, words in ((None, "no facts of its run"), ("[]", "no report of"), ("\xff", "no report of")):
        if text is not None:
            path.write_bytes(text.encode("latin-1"))
        with pytest.raises(OperatorError, match=words):
            read_baseline(path)
    with pytest.raises(OperatorError, match="cannot be read"):
        read_baseline(tmp_path / "none.json")


def test_the_page_shows_both_distributions(scenario: Path) -> None:
    before, now = run(scenario, 1), run(scenario, 2, added_ms=30.0)
    text = page([("table", now)], now, Path("/out"), compared(before, now))
    assert "Against the baseline" in text
    figure = text.partition("added: both runs")[2].partition("</svg>")[0]
    assert figure.count("<polyline") == 2
    assert "http" not in text, "no remote resources"
