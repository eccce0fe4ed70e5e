"""Calls in which people speak on both sides: what holds for a synthesised voice holds for theirs.

The recordings are Debian's: Allison Smith (CC BY-SA 3.0), Carlo Flora (CC BY 3.0).
"""

from __future__ import annotations

import asyncio
import re
from functools import partial
from pathlib import Path

import pytest

from offhook.gateway.cli.quickly import gateway_here
from offhook.gateway.rehearsal.phone.steps import Say, SayOver
from offhook.gateway.rehearsal.quick_clock import Clock, run_quickly
from offhook.gateway.rehearsal.results.report import Report
from offhook.gateway.rehearsal.run import run_scenario
from offhook.gateway.rehearsal.scenario.load import Scenario, load_scenario, parse_scenario
from offhook.gateway.rehearsal.scenario.voices import voices_named
from offhook.gateway.tools.function import THREADS
from tests.needs import require_prompts

DOC = Path(__file__).parents[2] / "docs" / "rehearsals.md"
MENU = """\
name: menu
agent:
  name: dialler
  numbers: ["+15550199"]
  greeting: {text: Say hello. When a menu is read press the key for the directory.}
  tools: [{builtin: send_dtmf}]
outbound: {to: "+15550133"}
caller:
  steps:
    - wait_for_agent: end
    - say: {prompt: en/dir-intro, text: Welcome to the directory.}
    - wait_for_agent: {at: end, timeout_ms: 20000}
    - say: {prompt: en/goodbye}
    - hang_up
model:
  replies:
    - {on: text, say: {prompt: en/hello, text: "Hello?"}}
    - {on: caller, heard: Welcome to the directory., tool: send_dtmf, args: {digits: "1"}}
    - {on: "tool:send_dtmf", say: {prompt: en/one-moment-please, text: One moment please.}}
expect:
  announced: play
  tool_outcomes: {send_dtmf: done}
  never_stopped: true
"""
BUNDLED = ("barge-in-hold", "change-of-mind", "echo", "local-turns", "uh-huh")
HELD = ("voicemail", "menu", *BUNDLED)


def _scenarios() -> dict[str, Scenario]:
    written = re.search(r"`voicemail\.call\.yaml`:\n\n```yaml\n(.*?)```", DOC.read_text(encoding="utf-8"), re.S)
    assert written, "the page has the scenario"
    own = {"voicemail": parse_scenario(written[1]), "menu": parse_scenario(MENU)}
    return own | {name: load_scenario(name, voices_named("people")) for name in BUNDLED}


async def _rehearsed(out: Path, clock: Clock) -> dict[str, Report]:
    async def one(name: str, scenario: Scenario) -> Report:
        return await run_scenario(scenario, out / name, gateway=partial(gateway_here, clock=clock), clock=clock)

    scenarios = _scenarios()
    return dict(zip(scenarios, await asyncio.gather(*map(one, scenarios, scenarios.values())), strict=True))


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    require_prompts("en", "it")
    return run_quickly(partial(_rehearsed, tmp_path_factory.mktemp("people")), 10.0, lambda: THREADS.busy)


@pytest.mark.parametrize("name", HELD)
def test_a_call_between_people_passes(reports: dict[str, Report], name: str) -> None:
    assert [verdict.words for call in reports[name].calls for verdict in call.verdicts if not verdict.ok] == []


def test_every_line_between_people_is_a_recording() -> None:
    require_prompts("en", "it")
    scenario = load_scenario("change-of-mind", voices_named("people"))
    assert all(step.sound for step in scenario.steps if isinstance(step, Say | SayOver))
    sounds = [action.sound for reply in scenario.script().replies for action in reply.do if hasattr(action, "sound")]
    assert sounds
    assert all(sound.name.startswith("people-en") for sound in sounds)
