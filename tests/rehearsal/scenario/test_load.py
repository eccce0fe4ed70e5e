"""Scenarios: what a file becomes, and what is said of a file that cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offhook.gateway.rehearsal.phone import prompts, voice
from offhook.gateway.rehearsal.phone.prompts import prompt
from offhook.gateway.rehearsal.phone.steps import (
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
from offhook.gateway.rehearsal.scenario.expect import Expectation
from offhook.gateway.rehearsal.scenario.load import SCENARIOS, ScenarioError, load_scenario, parse_scenario
from offhook.gateway.rehearsal.scenario.voices import Voices
from offhook.media.wav import write_wav

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
    monkeypatch.setattr(voice, "espeak_command", list)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_every_bundled_scenario_loads_without_espeak():
    names = sorted(path.name.removesuffix(".call.yaml") for path in SCENARIOS.glob("*.call.yaml"))
    assert "demo" in names
    assert len(names) >= 40
    for name in names:
        scenario = load_scenario(name)
        assert scenario.expect
        assert scenario.about
        scenario.script()


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


def test_a_prompt_speaks_for_caller_and_agent(two_prompts):
    text = GOOD.replace("say: Uh-huh.", "say: {prompt: it/hello, text: Pronto}").replace(
        '{on: text, say: "It is booked. Thank you for calling the Blue Heron. Goodbye!"}',
        "{on: text, say: {prompt: it/digits/7}}",
    )
    scenario = parse_scenario(text)
    said = scenario.steps[1]
    assert (said.line, said.sound) == ("Pronto", prompt("it/hello"))
    [reply] = scenario.script().replies
    assert (reply.do[0].text, reply.do[0].sound) == ("it/digits/7", prompt("it/digits/7"))


@pytest.mark.parametrize(
    ("voices", "caller", "agent"),
    [
        ("espeak", False, False),
        ("it", True, True),
        ("{caller: it}", True, False),
        ("{agent: it}", False, True),
    ],
)
def test_a_voice_speaks_every_line_of_its_side(two_prompts, voices, caller, agent):
    text = f"{GOOD}voice: {voices}\n"
    scenario = parse_scenario(text.replace('Goodbye!"}', 'Goodbye!", length_ms: 900}'))
    [reply] = scenario.script().replies
    assert (scenario.steps[1].line, reply.do[0].text[:12]) == ("Uh-huh.", "It is booked")
    assert (scenario.steps[1].sound is not None, reply.do[0].sound is not None) == (caller, agent)


def test_voices_of_the_command_replace_the_scenarios(two_prompts, tmp_path):
    path = tmp_path / "short.call.yaml"
    path.write_text(f"{GOOD}voice: ru\n")
    assert load_scenario(path, Voices()).steps[1].sound is None
    assert load_scenario(path, Voices("it", "it")).steps[1].sound is not None
    with pytest.raises(ScenarioError, match=r"model.replies\[0\].say: the prompts of 'ru' .*voices install ru"):
        load_scenario(path)


def test_over_the_agent_at_a_word():
    text = GOOD.replace("hang_up\n", "{say_over: Uh-huh., at_word: goodbye}\n", 1)
    step = parse_scenario(text).steps[-1]
    assert isinstance(step, SayOver)
    line_ms = (
        1000 * len(voice.line("It is booked. Thank you for calling the Blue Heron. Goodbye!", 8000, "agent")) / 8000
    )
    assert 0.7 * line_ms < step.after_ms < line_ms


def test_other_parties_of_a_scenario():
    assert parse_scenario(GOOD).others is None, "no way to Twilio's REST API unless somebody may be called"
    others = "others: {'+15550177': {answers: busy, steps: [hang_up]}}\n"
    scenario = parse_scenario(GOOD + "outbound: {to: '+15550133', answered_by: machine_start}\n" + others)
    assert scenario.outbound is not None
    assert scenario.others is not None
    assert scenario.others["+15550133"].steps == scenario.steps
    assert scenario.others["+15550133"].answered_by == "machine_start"
    assert (scenario.others["+15550177"].answers, scenario.others["+15550177"].steps) == ("busy", (HangUp(),))


def test_files_are_sought_beside_the_scenario(tmp_path):
    write_wav(tmp_path / "wish.wav", np.zeros(1600, np.int16), 16_000)
    (tmp_path / "anna.yaml").write_text("name: anna\nnumbers: ['+4930123456']\n")
    text = GOOD.replace("say: Uh-huh.", "say: wish.wav").replace(
        "agent:\n  name: anna\n  greeting: {text: Hello}\n", "agent: anna.yaml\n"
    )
    (tmp_path / "it.call.yaml").write_text(text)
    scenario = load_scenario(tmp_path / "it.call.yaml")
    assert scenario.agent_file == tmp_path / "anna.yaml"
    assert scenario.dials == "+4930123456", "the caller dials the agent's own number"
    assert scenario.directory == tmp_path


def test_the_sounds_of_an_inline_agent_are_found(tmp_path):
    write_wav(tmp_path / "hello.wav", np.zeros(800, np.int16), 8_000)
    text = GOOD.replace("greeting: {text: Hello}", "greeting: {sound: hello.wav}\n  barge_in: {mode: off}")
    scenario = parse_scenario(text, directory=tmp_path)
    assert scenario.agent.barge_in.mode == "off"
    assert str(tmp_path / "hello.wav") in scenario.agent_text
    assert "mode: 'off'" in scenario.agent_text


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("name: short", "nam: short", ":1: nam: is not known here; did you mean name\\? known are name, about"),
        ("name: short", "name: [1", ":2: "),
        ("name: short", "name: 7", ":1: name: expected `str`, got `int`"),
        ("    - hang_up", "    - hang", r":9: caller.steps\[2\]: did you mean hang_up\? needs exactly one of"),
        ("    - hang_up", "    - hang_up: 3", r":9: caller.steps\[2\]: hang_up takes nothing"),
        ("    - hang_up", "    - {say: Uh-huh., over: 3}", r":9: caller.steps\[2\].over: is not known here"),
        (
            "    - hang_up",
            "    - {say_over: Uh-huh., after: 3}",
            r"\[2\].after: is not known here; did you mean after_ms\?",
        ),
        (
            "    - hang_up",
            "    - {say_over: Uh-huh., at_word: eel}",
            r":9: caller.steps\[2\].at_word: the model never says",
        ),
        (
            "    - hang_up",
            "    - {say_over: Uh-huh., at_word: Blue, after_ms: 3}",
            r"caller.steps\[2\].at_word: takes either at_word or after_ms",
        ),
        ("    - hang_up", "    - pause_ms: long", r":9: caller.steps\[2\].pause_ms: expected `float`, got `str`"),
        (
            "wait_for_agent: end",
            "wait_for_agent: later",
            r":7: caller.steps\[0\].wait_for_agent: invalid enum value 'later': use one of end, start",
        ),
        ("say: Uh-huh.", "say: {prompt: beep}", r":8: caller.steps\[1\].*write LANGUAGE/NAME, such as en/vm-intro"),
        ("say: Uh-huh.", "say: {prompt: ru/beep, line: Beep}", r":8: caller.steps\[1\].*either a prompt"),
        ("name: short", "voice: kore", r":1: voice: .*espeak"),
        ("say: Uh-huh.", "say: Nobody ever said this.", r":8: caller.steps\[1\]: no recording of .* install espeak"),
        ("say: Uh-huh.", "say: gone.wav", r":8: caller.steps\[1\]: no sound file at gone.wav"),
        ("name: anna", "voic: anna", ":3: agent.voic: is not a field of an agent file"),
        ("end_reason: caller", "end_reson: caller", ":14: expect.end_reson: is not known here; did you mean"),
        ("end_reason: caller_hung_up", "end_reason: caller_hangup", ":14: expect.end_reason: invalid enum value"),
        ("end_reason: caller_hung_up", "heard_text: [a, 3]", r":14: expect.heard_text\[1\]: expected `str`"),
        (
            "end_reason: caller_hung_up",
            "barge_ins: [denied]",
            r":14: expect.barge_ins\[0\]: invalid enum value 'denied'",
        ),
        (
            "end_reason: caller_hung_up",
            "segments_within_ms: {gap: 1}",
            ":14: expect.segments_within_ms.gap: invalid enum",
        ),
        (
            "end_reason: caller_hung_up",
            "tool_called: {name: a, args: {}}",
            "expect.tool_called.args: is not a field of",
        ),
        (
            "end_reason: caller_hung_up",
            "answered_within_ms: -1",
            ":14: expect.answered_within_ms: expected `float` > 0",
        ),
        ("end_reason: caller_hung_up", "no_gap: 3", ":14: expect.no_gap: expected `bool`"),
        ("on: text, say", "on: tex, say", r":12: model.replies\[0\]: reply: on is 'tex'"),
        ("on: text, say", "on: text, sai", r":12: model.replies\[0\]: did you mean say\? needs exactly one of"),
        ("on: text, say", "on: text, delay: 3, say", r":12: .*unknown field 'delay'; did you mean delay_ms\?"),
        ("It is booked.", "It was never recorded.", r":12: model.replies\[0\].say: no recording"),
        ("model:", "models:", ":10: models: is not known here"),
        ("expect:", "outbound: {too: '+1'}\nexpect:", ":13: outbound.too: is not known here; did you mean to\\?"),
        ("expect:", "others: {'+1': {steps: [hop]}}\nexpect:", r":13: others.\+1.steps\[0\]: needs exactly one of"),
        ("expect:", "allow_outside_effects: often\nexpect:", ":13: allow_outside_effects: expected `bool"),
        ("expect:", "carrier: {noise: 3}\nexpect:", "carrier.noise: is not known here; did you mean noise_dbfs\\?"),
        ("expect:", "carrier: {marks: maybe}\nexpect:", "carrier.marks: invalid enum value 'maybe'"),
    ],
)
def test_mistakes_are_named_with_line_and_field(old, new, says):
    assert old in GOOD
    with pytest.raises(ScenarioError, match=f"^bad.call.yaml{says}" if says[0] == ":" else says):
        parse_scenario(GOOD.replace(old, new, 1), path="bad.call.yaml")


def test_prompts_that_are_not_installed_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(prompts, "SOUNDS_DIR", tmp_path)
    with pytest.raises(ScenarioError, match=r":8: caller.steps\[1\].*prompts of 'ru'.*offhook voices install ru"):
        parse_scenario(GOOD.replace("say: Uh-huh.", "say: {prompt: ru/beep}", 1), path="bad.call.yaml")


def test_a_missing_thing_is_named():
    with pytest.raises(ScenarioError, match="model is missing"):
        parse_scenario(GOOD.partition("model:")[0])
    with pytest.raises(ScenarioError, match="must be a mapping"):
        parse_scenario("- a\n- list\n")
    with pytest.raises(ScenarioError, match=r"nowhere\.call\.yaml: cannot be read"):
        load_scenario(Path("nowhere.call.yaml"))


@pytest.mark.parametrize("name", ["x" * 5_000, r"a\0b"], ids=["too long", "zero byte"])
def test_a_name_that_no_file_can_have_is_not_there(name):
    inline = GOOD[GOOD.index("agent:") : GOOD.index("caller:")]
    with pytest.raises(ScenarioError, match="no agent file at"):
        parse_scenario(GOOD.replace(inline, f'agent: "{name}"\n'))
    with pytest.raises(ScenarioError, match="no sound file at"):
        parse_scenario(GOOD.replace("say: Uh-huh.", f'say: "{name}.wav"'))
    with pytest.raises(ScenarioError, match="no sound file at"):
        parse_scenario(GOOD.replace("{on: text, say", f'{{on: text, sound: "{name}.wav", say'))
