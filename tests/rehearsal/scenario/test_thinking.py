"""A caller who thinks, as a scenario has it; how often a scenario is played, and how many runs must pass."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from offhook.gateway.cli import rehearse
from offhook.gateway.cli.rehearse import simulate
from offhook.gateway.errors import OperatorError
from offhook.gateway.rehearsal.results.page import page
from offhook.gateway.rehearsal.results.report import ExpectationResult, report_of
from offhook.gateway.rehearsal.results.runs import ScenarioRuns, runs_needed
from offhook.gateway.rehearsal.results.thinking import JudgedLine, Judgement, Statement, ThinkingReport
from offhook.gateway.rehearsal.scenario.load import ScenarioError, load_scenario, parse_scenario
from offhook.gateway.rehearsal.scenario.thinking import CallerLimits, ModelChoice
from offhook.gateway.rehearsal.thinking.party import check_models
from tests.rehearsal.results.paper_call import paper_report

GOOD = """\
name: talk
agent: {name: anna}
caller:
  persona: A guest.
  goal: A table.
  script: {replies: [{on: agent, say: "Hm?", length_ms: 500}]}
model: {replies: [{on: text, say: Hello, length_ms: 500}]}
success: The agent was polite.
judge: {script: {replies: [{on: text, say: "{}"}]}}
"""


def test_the_defaults_of_a_caller_who_thinks():
    scenario = parse_scenario(GOOD)
    thinker, judge = scenario.thinker, scenario.judge
    assert (scenario.steps, scenario.runs, scenario.must_pass) == ((), 1, 1)
    assert thinker.limits == CallerLimits(turns=12, seconds=180, cost_usd=0.5)
    assert thinker.script.replies[0].on == "caller", "the agent is the other side of the caller's model"
    assert (judge.statements, judge.model) == (("The agent was polite.",), ModelChoice())


@pytest.mark.parametrize(
    ("written", "caller", "judge"),
    [
        ("gpt-realtime-2.1", ModelChoice(name="gpt-realtime-2.1"), ModelChoice("openai")),
        ("openai", ModelChoice("openai"), ModelChoice("openai")),
        ("gemini", ModelChoice("gemini"), ModelChoice("gemini")),
    ],
)
def test_the_judge_is_of_the_callers_provider(written, caller, judge):
    scenario = parse_scenario(GOOD.replace("  goal:", f"  model: {written}\n  goal:"))
    assert (scenario.thinker.model, scenario.judge.model) == (caller, judge)


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("  goal: A table.\n", "  goal: A table.\n  steps: [hang_up]\n", "either steps or persona: remove one"),
        ("  goal: A table.\n", "", "needs goal"),
        ("  persona: A guest.\n", "", "needs persona"),
        ("A guest.", '" "', "is empty"),
        ("success: The agent was polite.\n", "", "success is missing"),
        ("success: The agent was polite.", "success: []", "give 1 to 20 statements"),
        ("judge: {script: {replies: [{on: text, say: \"{}\"}]}}\n", "", "both sides need a script"),
        ("judge: {script", "judge: {sript", "did you mean script"),
        ("  goal:", "  limits: {turn: 3}\n  goal:", "did you mean turns"),
        ("  goal:", "  limits: {turns: 0}\n  goal:", "caller.limits.turns"),
        ("  goal:", "  model: {url: 'http://me:pw@host/v1', name: m}\n  goal:", "without a key in it"),
        ("  goal:", "  model: {url: 'http://host/v1'}\n  goal:", "needs the model's name"),
        ("  goal:", "  model: {url: 'http://host/v1', name: m}\n  goal:", "judge.model is missing"),
        ("{on: agent, say", "{on: agnt, say", "caller.script.replies\\[0\\]"),
        ("success:", "outbound: {}\nsuccess:", "remove outbound"),
        ("success:", "runs: 3\nmust_pass: 4\nsuccess:", "is 4 of 3 runs"),
        ("success:", "runs: 0\nsuccess:", "a number from 1"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(before, after, says):
    assert before in GOOD
    with pytest.raises(ScenarioError, match=says):
        parse_scenario(GOOD.replace(before, after, 1))


def test_success_is_not_for_steps():
    with_steps = re.sub(r"  persona.*?\n(?=model)", "  steps: [hang_up]\n", GOOD, flags=re.S)
    with pytest.raises(ScenarioError, match="is for a caller with a persona"):
        parse_scenario(with_steps)


def test_a_caller_without_a_script_needs_real_models():
    bare = parse_scenario(re.sub(r"  script: .*\n|judge: .*\n", "", GOOD))
    check_models(bare, real=True)
    with pytest.raises(OperatorError, match="give --real"):
        check_models(bare, real=False)
    with pytest.raises(OperatorError, match="a load plays callers with steps"):
        bare.check_steps("a load")


def test_the_pages_example_is_a_scenario():
    text = (Path(__file__).parents[3] / "docs" / "rehearsals.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```yaml\n(name: any-table\n.*?)```", text, re.S)
    spoken = example.replace("agent: receptionist.yaml", "agent: {name: anna}", 1).replace("Blue Heron, how", "H", 1)
    silent = re.sub(r"\{(on: \w+, say: [^}]*)\}", r"{\1, length_ms: 500}", spoken)
    scenario = parse_scenario(silent)
    assert (scenario.runs, scenario.must_pass, len(scenario.judge.statements)) == (5, 4, 2)


@pytest.mark.parametrize(
    ("runs", "must_pass", "repeat", "expected"),
    [(1, 1, 1, (1, 1)), (5, 4, 1, (5, 4)), (5, 4, 2, (2, 2)), (5, 4, 20, (20, 16))],
)
def test_repeat_keeps_the_share_that_must_pass(runs, must_pass, repeat, expected):
    assert runs_needed(runs, must_pass, repeat) == expected


def thinking(met: bool) -> ThinkingReport:
    statement = Statement(text="It was <polite>.", met=met, reason="It said please.")
    return ThinkingReport(
        persona="A guest.",
        goal="A table.",
        model="m",
        rehearsed=True,
        ended="hung_up",
        transcript=[JudgedLine(at_ms=10, who="agent", text="Well & good")],
        judgement=Judgement(model="j", statements=[statement], cost_usd=0.0012),
    )


@pytest.mark.parametrize(("must_pass", "good"), [(2, True), (3, False)])
async def test_runs_decide_by_how_many_pass(tmp_path, monkeypatch, capsys, must_pass, good):
    """Two of three runs pass."""
    outcomes = iter([True, False, True])

    async def run(scenario, folder, **_):
        call, met = paper_report(), next(outcomes)
        call.scenario, call.thinking = scenario.name, thinking(met)
        call.verdicts = [ExpectationResult(ok=met, expectation="success", words=f"polite {met}")]
        return report_of([call])

    monkeypatch.setattr(rehearse, "run_scenario", run)
    path = tmp_path / "talk.call.yaml"
    path.write_text(f"{GOOD}runs: 3\nmust_pass: {must_pass}\n", encoding="utf-8")
    junit, json = tmp_path / "junit.xml", tmp_path / "all.json"
    assert await simulate([path], tmp_path / "out", parallel=1, junit=junit, json_path=json) is good
    printed = capsys.readouterr().out
    assert "talk: 2 of 3 runs passed (67%)" in printed
    assert ("2 passed, 0 failed, 1 tolerated" if good else "2 passed, 1 failed") in printed
    suite = ElementTree.parse(junit).getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == (
        "3",
        *(("0", "1") if good else ("1", "0")),
    )
    assert f'"must_pass": {must_pass}' in json.read_text()
    shown = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert f'>67 %</td><td class="n">{must_pass}<' in shown
    assert ("enough passed" if good else "1 failed") in shown


def test_the_page_has_persona_turns_and_reasons(tmp_path):
    call = paper_report()
    call.thinking = thinking(False)
    shown = page([("talk", report_of([call]))], report_of([call]), tmp_path)
    for part in ("A guest.", "A table.", "Well &amp; good", "It was &lt;polite&gt;.", "It said please.", "$0.0012"):
        assert part in shown
    call.thinking.judgement = Judgement(model="j", problem="it answered 503")
    assert "not judged: it answered 503" in page([("talk", report_of([call]))], report_of([call]), tmp_path)


def test_the_bundled_caller_thinks():
    assert load_scenario("thinking-caller").thinker is not None
    assert ScenarioRuns(scenario="s", runs=3, must_pass=2, passed=1).tolerated == 0
