"""Agent files: what is accepted, and errors with file, line and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from offhook.gateway.agent.load import load_agent, parse_agent
from offhook.gateway.agent.policy import policy_of, pre_roll_s
from offhook.gateway.errors import AgentFileError


def test_a_name_is_enough() -> None:
    agent = parse_agent("name: reception")
    assert agent.name == "reception"
    assert agent.model.name == ""  # the provider's default
    assert agent.barge_in.mode == "hold"
    assert not agent.recording.enabled


@pytest.mark.parametrize(
    ("text", "line", "field", "says"),
    [
        ("", 1, "", "must be a mapping"),
        ("- a", 1, "", "must be a mapping"),
        ("name: [", 1, "", "expected"),
        ("name: a\nnmae: b", 2, "nmae", "is not a field"),
        ("name: 3", 1, "name", "expected `str`"),
        ("name: a\nbarge_in:\n  mode: sometimes", 3, "barge_in.mode", "invalid enum value"),
        ("name: a\nidle: {prompt_after_s: -1}", 2, "idle.prompt_after_s", ">= 0"),
        ("name: a\ntools:\n  - {builtin: end_call}\n  - {buildin: x}", 4, "tools[1].buildin", "is not a field"),
        ("name: a\ndirectory: /", 2, "directory", "remove it"),
        ("name: a\nidle:\n  prompt_after_s: 30", 3, "idle.prompt_after_s", "less than goodbye_after_s"),
        ("name: a\nlimits:\n  call_s: 30", 2, "limits.warning_s", "less than call_s"),
        (
            "name: a\nturn_detection:\n  mode: local\n  start_sensitivity: high",
            4,
            "turn_detection.start_sensitivity",
            "is the model's own detection",
        ),
        ("name: a\nturn_detection:\n  pre_roll_ms: 100", 3, "turn_detection.pre_roll_ms", "needs"),
        ("name: a\nturn_detection: {mode: local}\nbarge_in:\n  mode: model", 4, "barge_in.mode", "use hold or stop"),
        ("name: a\nbarge_in:\n  mode: off\n  dtmf: true", 4, "barge_in.dtmf", "cannot interrupt"),
        ("name: a\ngreeting: {text: hi, sound: hi.wav}", 2, "greeting", "not both"),
        ("name: a\nfallback: {dial: '+1', enqueue: q}", 2, "fallback", "not both"),
        (
            "name: a\nmodel: {compress_at_tokens: 2000, compress_to_tokens: 3000}",
            2,
            "model.compress_to_tokens",
            "less than",
        ),
        ("name: a\ntools: [{name: x, builtin: end_call}, {name: x, builtin: remember}]", 2, "tools", "named x"),
        ("name: a\nnumbers: [+15551234567]", 2, "numbers[0]", 'put quotes around it: "\\+15551234567"'),
        ("name: a\nvariables:\n  a: b\n  pin: 0123", 4, "variables.pin", 'put quotes around it: "0123"'),
        ("name: a\nrecording: {enabled: yes}", 2, "recording.enabled", "write true"),
        (
            "name: a\ntools:\n- builtin: transfer_call\n  options:\n    targets:\n      front desk: x",
            6,
            "tools[0].options.targets.front desk",
            "must be a number",
        ),
        ("name: a\ntimezone: Berlin", 2, "timezone", "did you mean Europe/Berlin?"),
        ("name: a\ntimezone: Europe/Berln", 2, "timezone", "did you mean Europe/Berlin?"),
        ("name: a\ntimezone: New York", 2, "timezone", "did you mean America/New_York?"),
        ("name: a\ntimezone: CEST", 2, "timezone", "IANA time zone database such as"),
        ("name: a\ntimezone: Europe", 2, "timezone", "IANA time zone database such as"),
        ("name: a\ntimezone: ../etc/passwd", 2, "timezone", "IANA time zone database such as"),
    ],
)
def test_errors_name_line_and_field(text: str, line: int, field: str, says: str) -> None:
    with pytest.raises(AgentFileError, match=says) as caught:
        parse_agent(text, path="a.yaml")
    assert (caught.value.line, caught.value.field) == (line, field)
    assert str(caught.value).startswith(f"a.yaml:{line}: ")


def test_braces_unquoted_says_put_quotes() -> None:
    text = "name: receptionist\ninstructions: {{restaurant}} is where you work. Be brief.\nvariables: {restaurant: B}\n"
    with pytest.raises(AgentFileError, match=r"a\.yaml:2: put quotes around a text that begins with \{\{"):
        parse_agent(text, path="a.yaml")


def test_key_given_twice_is_refused_with_both_lines() -> None:
    text = "name: a\ntools:\n  - builtin: end_call\nlimits:\n  call_s: 300\ntools:\n  - builtin: remember\n"
    with pytest.raises(AgentFileError, match=r"a.yaml:6: tools is there twice \(lines 2 and 6\)"):
        parse_agent(text, path="a.yaml")


def test_off_is_a_word_and_true_a_boolean() -> None:
    agent = parse_agent("name: a\nlanguage: no\nbarge_in: {mode: off}\nrecording: {enabled: true}")
    assert agent.language == "no"
    assert agent.barge_in.mode == "off"
    assert agent.recording.enabled is True


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/Argentina/Buenos_Aires", "UTC"])
def test_timezone_takes_iana_names(zone: str) -> None:
    assert parse_agent(f"name: a\ntimezone: {zone}").timezone == zone


def test_local_turns_have_defaults_of_their_own() -> None:
    unset = parse_agent("name: a\nturn_detection: {mode: local}")
    assert policy_of(unset).end_silence_s == 0.7
    assert pre_roll_s(unset) == 0.3
    zero = parse_agent("name: a\nturn_detection: {mode: local, end_silence_ms: 0, pre_roll_ms: 0}")
    assert policy_of(zero).end_silence_s == 0
    assert pre_roll_s(zero) == 0


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AgentFileError, match="cannot be read"):
        load_agent(tmp_path / "none.yaml")


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: a")
    assert load_agent(tmp_path / "a.yaml").directory == str(tmp_path.resolve())
