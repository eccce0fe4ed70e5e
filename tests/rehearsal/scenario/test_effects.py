"""Rehearsed calls are marked as such, and a tool with effects in the world acts only where its scenario says so."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from offhook.gateway.rehearsal.results.report import CallReport
from offhook.gateway.rehearsal.run import run_scenario
from offhook.gateway.rehearsal.scenario.load import parse_scenario

pytestmark = pytest.mark.wall_clock

TOOL = '''\
"""A tool whose effect is a file."""

import os
from pathlib import Path


def act(what: str) -> str:
    """Act.

    Args:
        what: What to do.
    """
    Path(os.environ["ACTED"]).write_text(what)
    return "it is done"
'''
CALL = """\
name: NAME
agent:
  name: actor
  greeting: {text: Hello}
  tools: [{function: "acting:act", outside_effects: true}]
caller:
  steps: [{wait_for_agent: end}, {pause_ms: 1500}, hang_up]
model:
  replies:
    - {on: text, do: [{say: One moment., length_ms: 800}, {tool: act, args: {what: book}}]}
"""
ALLOWED = {"not said": "", "all": "true", "by name": "[act]", "another one": "[book]", "none": "false"}


@pytest.fixture(scope="module")
def lived(tmp_path_factory, forked) -> dict[str, tuple[CallReport, Path]]:
    folder = tmp_path_factory.mktemp("effects")
    (folder / "acting.py").write_text(TOOL)
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))

    async def one(name: str, said: str) -> tuple[CallReport, Path]:
        more = f"allow_outside_effects: {said}\n" if said else ""
        scenario = parse_scenario(CALL.replace("NAME", name) + more)
        acted = folder / f"{name}.txt"
        environment = {"PYTHONPATH": path, "ACTED": str(acted)}
        report = await run_scenario(scenario, folder / name, environment=environment)
        return report.calls[0], acted

    async def all_of_them() -> list[tuple[CallReport, Path]]:
        return await asyncio.gather(*(one(name, said) for name, said in ALLOWED.items()))

    return dict(zip(ALLOWED, asyncio.run(all_of_them()), strict=True))


@pytest.mark.parametrize("name", ["not said", "another one", "none"])
def test_a_rehearsal_simulates_outside_effects(lived, name):
    report, acted = lived[name]
    assert not acted.exists()
    assert report.record is not None
    assert [tool.name for tool in report.record.tool_calls] == ["act"]
    assert report.model is not None
    [(_, answer)] = report.model.tool_answers
    assert "it is done" not in answer
    assert "rehears" in answer.lower(), "the model is told why"


@pytest.mark.parametrize("name", ["all", "by name"])
def test_an_allowed_outside_effect_happens(lived, name):
    report, acted = lived[name]
    assert acted.read_text() == "book"
    assert report.model is not None
    [(_, answer)] = report.model.tool_answers
    assert "it is done" in answer


def test_every_rehearsed_call_is_recorded_as_simulated(lived):
    assert all(report.record is not None and report.record.simulated for report, _ in lived.values())
