"""The schema of scenario files: current, valid, and of one mind with the parser."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from offhook.gateway.cli.main import app
from offhook.gateway.rehearsal.model.script import ACTIONS
from offhook.gateway.rehearsal.scenario.expect import KINDS
from offhook.gateway.rehearsal.scenario.load import SCENARIOS, STEPS, ScenarioError, parse_scenario
from offhook.gateway.rehearsal.scenario.schema import scenario_schema
from offhook.gateway.yamlfile import parse_yaml
from offhook.media.wav import write_wav

KEPT = Path(__file__).parents[3] / "docs" / "scenario.schema.json"
VALIDATOR = Draft202012Validator(scenario_schema())

CALL = """\
agent: {name: anna, greeting: {text: Hello}}
caller:
  steps: [STEP, hang_up]
model:
  replies: [REPLY]
"""
STEPS_WRITTEN = [
    "wait_for_agent: end", "wait_for_agent: {at: start, nth: 2}", "say: Uh-huh.", "{say_over: Uh-huh., after_ms: 3}",
    "{say_over: Uh-huh., at_word: booked}", "cough", "cough: 700", "type_ms: 900", "press: 1", "press: '1#'",
    "pause_ms: 20", "hang_up", "wait_for_end", "wait_for_end: 900", "{say: Uh-huh., sound: yes.wav}",
    "say: {prompt: it/hello}", "{say: {prompt: it/hello, text: Pronto}}",
    "{say_over: {prompt: it/hello, text: Pronto}, after_ms: 3}", "say_over: {prompt: it/hello, after_ms: 3}",
]  # fmt: skip
STEPS_WRONG = [
    "wait", "wait_for_agent: later", "{say: Uh-huh., over: 3}", "pause_ms", "pause_ms: long", "hang_up: 3", "say: 3",
    "{say: Uh-huh., cough: 3}", "say: {prompt: 3}", "say: {text: Pronto}", "say: {prompt: it/hello, line: Pronto}",
]  # fmt: skip
REPLIES_WRITTEN = [
    "{on: text, say: booked, length_ms: 300}", "{on: caller, heard: [a, b], do: [{say: booked, length_ms: 9}, abort]}",
    "{on: 'tool:x', tool: y, args: {a: 1}}", "{on: any, close: 1011, reason: gone}", "{on: start, go_away: 3}",
    "{on: caller, heard: a, empty_turn: null}", "{on: text, send: {a: 1}}", "{on: text, send: rubbish}",
    "{on: text, say: {prompt: it/hello, text: Pronto}}", "{on: caller, do: [{say: {prompt: it/hello}, delay_ms: 9}]}",
    "{on: text, oversize: null}", "{on: text, say: booked, length_ms: 300, chunk_ms: [20, 0], transcript: none}",
]  # fmt: skip
REPLIES_WRONG = [
    "{on: text}", "{say: booked, length_ms: 3}", "{on: text, sai: booked}", "{on: text, say: a, length: 3}",
    "{on: text, say: booked, do: [abort]}", "{on: text, do: [say]}", "{on: text, do: [{wait_ms: soon}]}",
    "{on: text, say: a, length_ms: 3, transcript: perhaps}", "{on: text, say: {text: Pronto}}",
    "{on: text, say: {prompt: it/hello, words: Pronto}}",
]  # fmt: skip


@pytest.fixture(autouse=True)
def sounds(two_prompts, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_wav(tmp_path / "yes.wav", np.full(800, 900, np.int16), 8_000)
    monkeypatch.chdir(tmp_path)


def errors(text: str) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(parse_yaml(text).value)]


def call(step: str = "cough", reply: str = "{on: text, say: booked, length_ms: 900}", more: str = "") -> str:
    if not step.startswith("{") and ":" in step:
        step = f"{{{step}}}"
    return CALL.replace("STEP", step).replace("REPLY", f"{reply}, {{on: text, say: booked, length_ms: 9}}") + more


def test_the_schema_in_the_documentation_is_current():
    printed = CliRunner().invoke(app, ["scenario", "schema"])
    assert printed.exit_code == 0
    assert KEPT.read_text(encoding="utf-8") == printed.output, "offhook scenario schema > docs/scenario.schema.json"
    Draft202012Validator.check_schema(json.loads(printed.output))


def test_schema_has_no_indented_docstrings():
    """Python 3.13 strips the indentation of docstrings, older ones keep it: the schema is the same on both."""

    def descriptions(value):
        if isinstance(value, dict):
            own = value.get("description")
            yield from [own] if isinstance(own, str) else []
            value = list(value.values())
        for inner in value if isinstance(value, list) else ():
            yield from descriptions(inner)

    found = list(descriptions(scenario_schema()))
    assert any("\n" in one for one in found), "a docstring of several lines, or the test is void"
    assert not [one for one in found if "\n " in one]


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.call.yaml")), ids=lambda path: path.stem)
def test_bundled_scenarios_fit_the_schema(path):
    assert errors(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("step", STEPS_WRITTEN)
def test_steps_that_are_read_fit(step):
    text = call(step)
    parse_scenario(text)
    assert errors(text) == []


@pytest.mark.parametrize("step", STEPS_WRONG)
def test_steps_that_are_refused_do_not_fit(step):
    text = call(step)
    with pytest.raises(ScenarioError):
        parse_scenario(text)
    assert errors(text)


@pytest.mark.parametrize("reply", REPLIES_WRITTEN)
def test_replies_that_are_read_fit(reply):
    text = call(reply=reply)
    parse_scenario(text)
    assert errors(text) == []


@pytest.mark.parametrize("reply", REPLIES_WRONG)
def test_replies_that_are_refused_do_not_fit(reply):
    text = call(reply=reply)
    with pytest.raises(ScenarioError):
        parse_scenario(text)
    assert errors(text)


@pytest.mark.parametrize(
    ("more", "fits"),
    [
        ("carrier: {noise_dbfs: -50, duplicate_webhook: true}\n", True),
        ("carrier: {noise: -50}\n", False),
        ("expect: {heard_text: [a, b], end_reason: caller_hung_up, barge_ins: [], counted: {calls_total: 1}}\n", True),
        ("expect: {tool_called: {name: a, with: {b: 1}, times: 2}, segments_within_ms: {turn_gap: 900}}\n", True),
        ("expect: {tool_called: {nam: a}}\n", False),
        ("expect: {end_reason: boredom}\n", False),
        ("expect: {barge_ins: [denied]}\n", False),
        ("expect: {answered_within_ms: 0}\n", False),
        ("expect: {segments_within_ms: {gap: 3}}\n", False),
        ("outbound: {to: '+15550133', answers: busy}\nothers: {'+15550134': {steps: [hang_up]}}\n", True),
        ("outbound: {answers: perhaps}\n", False),
        ("allow_outside_effects: true\n", True),
        ("allow_outside_effects: [book]\n", True),
        ("allow_outside_effects: 3\n", False),
        ("voice: espeak\n", True),
        ("voice: {caller: it}\n", True),
        ("voice: kore\n", False),
        ("voice: {caller: kore}\n", False),
        ("voice: {calle: it}\n", False),
        ("extras: 3\n", False),
    ],
)
def test_schema_and_parser_agree_on_the_rest(more, fits):
    text = call(more=more)
    assert (errors(text) == []) is fits
    if fits:
        parse_scenario(text)
    else:
        with pytest.raises(ScenarioError):
            parse_scenario(text)


def test_the_schema_covers_the_whole_language():
    """Every step, action and kind of expectation is in the schema with a word of what it is."""
    schema = scenario_schema()
    steps = {name for one in schema["$defs"]["step"]["anyOf"][1:] for name in one["required"]}
    assert steps == set(STEPS)
    actions = {one["required"][0] for one in schema["$defs"]["action"]["anyOf"][1:]}
    assert actions == set(ACTIONS)
    assert schema["properties"]["expect"]["properties"].keys() == KINDS.keys()
    described = [*schema["$defs"]["step"]["anyOf"][1:], *schema["$defs"]["action"]["anyOf"][1:]]
    described += [*schema["properties"]["expect"]["properties"].values(), *schema["properties"].values()]
    assert all(one["description"] and "(" not in one["description"][:12] for one in described)
