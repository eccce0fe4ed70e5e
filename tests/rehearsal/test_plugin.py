"""The pytest plugin, as someone else's test suite has it: in a folder and a pytest of its own."""

from __future__ import annotations

import asyncio
import tomllib
from pathlib import Path

import pytest

from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.scenario.load import parse_scenario
from tests.rehearsal.short_call import SHORT

pytestmark = pytest.mark.wall_clock

pytest_plugins = ["pytester"]

HAND_MADE = """
import pytest

AGENT = {"name": "anna", "greeting": {"text": "Hello"}, "tools": [{"builtin": "end_call"}]}
MODEL = [
    {"on": "text", "say": "Hello", "length_ms": 700, "delay_ms": 50},
    {"on": "caller", "say": "Well", "length_ms": 900, "delay_ms": 50},
]


async def test_talk(offhook, tmp_path):
    call = await offhook.call(AGENT, model=MODEL)
    assert 500 < await call.agent_speaks() < 1200
    with pytest.raises(AssertionError, match="the call is in progress"):
        call.report
    await call.say("Uh-huh.")
    await call.agent_speaks()
    report = await call.hang_up()
    assert report is call.report
    assert report.ok, report.verdicts
    assert report.end_reason == "caller_hung_up"
    assert [turn.kind for turn in report.line.caller] == ["say"]
    assert report.record.simulated


async def test_silence(offhook):
    call = await offhook.call(AGENT, model={"replies": [{"on": "text", "do": ["mute"]}]})
    await call.agent_speaks(timeout_ms=300)
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, forking_python: str) -> pytest.Pytester:
    """A pytest with our plugin and no other, whether ours is installed or not; its gateways are forked."""
    pytester.makeconftest(f"import sys\nsys.executable = {forking_python!r}\n")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    pytester.makeini("[pytest]\naddopts = -p offhook.gateway.rehearsal.pytest_plugin\n")
    return pytester


def test_the_plugin_is_announced_to_pytest():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"offhook": "offhook.gateway.rehearsal.pytest_plugin"}


def test_a_failed_scenario_reports_its_expectations(suite: pytest.Pytester):
    suite.path.joinpath("good.call.yaml").write_text(SHORT)
    bad = SHORT.replace("name: short", "name: hasty").replace("end_reason: caller_hung_up", "end_reason: time_limit")
    suite.path.joinpath("bad.call.yaml").write_text(bad)
    suite.path.joinpath("unreadable.call.yaml").write_text("name: no\ncaller: {}\n")
    result = suite.runpytest_subprocess("--continue-on-collection-errors", "--junitxml=result.xml")
    result.assert_outcomes(passed=1, failed=1, errors=1)
    result.stdout.fnmatch_lines(["*hasty: the call failed*", "*✗ the call ended by caller_hung_up, not by time_limit*"])
    result.stdout.fnmatch_lines_random(["*unreadable.call.yaml:1: agent is missing*"])
    result.stdout.no_fnmatch_line("*Traceback*")
    assert "not by time_limit" in suite.path.joinpath("result.xml").read_text()
    assert len(list(suite.path.glob("out/pytest/*/call.wav"))) == 2


@pytest.mark.parametrize("runner", ["", "-p pytest_asyncio.plugin --asyncio-mode=auto"])
def test_calls_work_with_and_without_pytest_asyncio(suite: pytest.Pytester, runner: str):
    suite.makepyfile(HAND_MADE)
    result = suite.runpytest_subprocess(*runner.split())
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*the caller could not hear the agent to the end: the agent was not heard within*"])


def test_a_real_model_needs_a_key(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GENAI_USE_VERTEXAI"):
        monkeypatch.delenv(name, raising=False)
    suite.path.joinpath("good.call.yaml").write_text(SHORT)
    result = suite.runpytest_subprocess("--offhook-model=gemini")
    assert "set GEMINI_API_KEY" in result.stdout.str() + result.stderr.str()
    assert result.ret != 0


async def test_environment_model_must_meet_expectations(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """A rehearsal model replaces the real one: the gateway gets its URL and a key."""
    deaf = SHORT.replace("on: caller, say: Well", "on: caller, heard: [' nothing of it'], say: Well")
    suite.path.joinpath("deaf.call.yaml").write_text(SHORT + "  tool_cancelled: never_called\n")
    async with ModelServer(parse_scenario(deaf).script(), api_keys=frozenset({"a key"})) as model:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", model.url)
        monkeypatch.setenv("SSL_CERT_FILE", model.ca_path)
        monkeypatch.setenv("GEMINI_API_KEY", "a key")
        result = await asyncio.to_thread(suite.runpytest_subprocess, "--offhook-model=gemini")
        assert len(model.sessions) == 1
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*✗ the model transcribed 0% of the caller's 2 different words*"])
    result.stdout.no_fnmatch_line("*never_called*")
