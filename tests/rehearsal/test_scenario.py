"""Scenarios: what a file becomes, and what is said of a file that cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gateway.rehearsal import voice
from gateway.rehearsal.caller_steps import (
    Cough,
    Digit,
    HangUp,
    Keyboard,
    Pause,
    Say,
    SayOver,
    WaitForAgent,
    WaitForEnd,
)
from gateway.rehearsal.expect import Expectation
from gateway.rehearsal.scenario import SCENARIOS, ScenarioError, load_scenario, parse_scenario
from media.wav import write_wav

GOOD = """\
name: short
agent:
  name: anna
  greeting: {text: Hello}
caller:
  steps:
    - wait_for_agent: end
    - say: Uh-huh.
    - hang_up
model:
  replies:
    - {on: text, say: "It is booked. Thank you for calling the Blue Heron. Goodbye!"}
expect:
  end_reason: caller_hung_up
"""


@pytest.fixture(autouse=True)
def no_espeak(monkeypatch, tmp_path):
    monkeypatch.setattr(voice.shutil, "which", lambda name: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_every_bundled_scenario_loads_without_espeak():
    names = sorted(path.name.removesuffix(".call.yaml") for path in SCENARIOS.glob("*.call.yaml"))
    assert "demo" in names
    for name in names:
        scenario = load_scenario(name)
        assert scenario.expect
        assert scenario.script().replies


def test_the_values_of_a_scenario():
    scenario = parse_scenario(GOOD)
    assert (scenario.name, scenario.agent.name, scenario.agent_file) == ("short", "anna", None)
    assert scenario.steps == (WaitForAgent("end"), Say("Uh-huh."), HangUp())
    assert scenario.expect == (Expectation("end_reason", "caller_hung_up"),)
    [reply] = scenario.script().replies
    assert reply.do[0].sound.name.startswith("agent_it_is_booked")


@pytest.mark.parametrize(
    ("written", "step"),
    [
        ("wait_for_agent: start", WaitForAgent("start")),
        ("wait_for_agent: {at: end, nth: 2, timeout_ms: 500}", WaitForAgent("end", 2, 500.0)),
        ("{say_over: Uh-huh., after_ms: 1500}", SayOver("Uh-huh.", 1500.0)),
        ("cough", Cough()),
        ("cough: 700", Cough(700.0)),
        ("type_ms: 900", Keyboard(900.0)),
        ("press: 1", Digit("1")),
        ('press: "12#"', Digit("12#")),
        ("pause_ms: 20", Pause(20.0)),
        ("hang_up", HangUp()),
        ("wait_for_end", WaitForEnd()),
        ("wait_for_end: 900", WaitForEnd(900.0)),
    ],
)
def test_every_step_can_be_written(written, step):
    assert parse_scenario(GOOD.replace("hang_up\n", f"{written}\n", 1)).steps[-1] == step


def test_files_are_sought_beside_the_scenario(tmp_path):
    write_wav(tmp_path / "wish.wav", np.zeros(1600, np.int16), 16_000)
    (tmp_path / "anna.yaml").write_text("name: anna\nnumbers: ['+493012']\n")
    text = GOOD.replace("say: Uh-huh.", "say: wish.wav").replace(
        "agent:\n  name: anna\n  greeting: {text: Hello}\n", "agent: anna.yaml\n"
    )
    (tmp_path / "it.call.yaml").write_text(text)
    scenario = load_scenario(tmp_path / "it.call.yaml")
    assert scenario.agent_file == tmp_path / "anna.yaml"
    assert scenario.dials == "+493012", "the caller dials the agent's own number"
    assert scenario.directory == tmp_path


def test_an_inline_agent_is_written_so_that_the_gateway_finds_its_sounds(tmp_path):
    write_wav(tmp_path / "hello.wav", np.zeros(800, np.int16), 8_000)
    text = GOOD.replace("greeting: {text: Hello}", "greeting: {sound: hello.wav}\n  barge_in: {mode: off}")
    scenario = parse_scenario(text, directory=tmp_path)
    assert scenario.agent.barge_in.mode == "off"
    assert str(tmp_path / "hello.wav") in scenario.agent_text
    assert "mode: 'off'" in scenario.agent_text


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("name: short", "nam: short", ":1: nam: is not known here"),
        ("name: short", "name: [1", ":2: "),
        ("name: short", "name: 7", ":1: name: expected `str`, got `int`"),
        ("    - hang_up", "    - hang", r":9: caller.steps\[2\]: needs exactly one of wait_for_agent"),
        ("    - hang_up", "    - hang_up: 3", r":9: caller.steps\[2\]: hang_up takes nothing"),
        ("    - hang_up", "    - {say: Uh-huh., over: 3}", r":9: caller.steps\[2\].over: is not known here"),
        ("    - hang_up", "    - pause_ms: long", r":9: caller.steps\[2\].ms: expected `float`, got `str`"),
        ("wait_for_agent: end", "wait_for_agent: later", r":7: caller.steps\[0\].at: invalid enum value 'later'"),
        ("say: Uh-huh.", "say: Nobody ever said this.", r":8: caller.steps\[1\]: no recording of .* install espeak"),
        ("say: Uh-huh.", "say: gone.wav", r":8: caller.steps\[1\]: no sound file at gone.wav"),
        ("name: anna", "voic: anna", ":3: agent.voic: is not a field of an agent file"),
        ("end_reason: caller", "ending: caller", ":14: expect.ending: is not known here; known are answered_within"),
        ("end_reason: caller_hung_up", "no_gap: 3", ":14: expect.no_gap: expected `bool`"),
        ("on: text, say", "on: tex, say", r":12: model.replies\[0\]: reply: on is 'tex'"),
        ("on: text, say", "on: text, sai", r":12: model.replies\[0\]: needs exactly one of say"),
        ("It is booked.", "It was never recorded.", r":12: model.replies\[0\].say: no recording"),
        ("model:", "models:", ":10: models: is not known here"),
        ("expect:", "carrier: {noise: 3}\nexpect:", "carrier.noise: is not known here; known are bunch_frames"),
        ("expect:", "carrier: {marks: maybe}\nexpect:", "carrier.marks: invalid enum value 'maybe'"),
    ],
)
def test_mistakes_are_named_with_line_and_field(old, new, says):
    assert old in GOOD
    with pytest.raises(ScenarioError, match=f"^bad.call.yaml{says}" if says[0] == ":" else says):
        parse_scenario(GOOD.replace(old, new, 1), path="bad.call.yaml")


def test_what_is_missing_is_named():
    with pytest.raises(ScenarioError, match="model is missing"):
        parse_scenario(GOOD.partition("model:")[0])
    with pytest.raises(ScenarioError, match="must be a mapping"):
        parse_scenario("- a\n- list\n")
    with pytest.raises(ScenarioError, match=r"nowhere\.call\.yaml: cannot be read"):
        load_scenario(Path("nowhere.call.yaml"))
