"""Agent files: what is accepted, and errors with file, line and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from offhook.gateway.agent.load import load_agent, parse_agent
from offhook.gateway.errors import AgentFileError


def test_a_name_is_enough() -> None:
    agent = parse_agent("name: reception")
    assert agent.name == "reception"
    assert agent.model.name == "gemini-3.8-live"
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
    ],
)
def test_errors_name_line_and_field(text: str, line: int, field: str, says: str) -> None:
    with pytest.raises(AgentFileError, match=says) as caught:
        parse_agent(text, path="a.yaml")
    assert (caught.value.line, caught.value.field) == (line, field)
    assert str(caught.value).startswith(f"a.yaml:{line}: ")


def test_off_is_a_word_and_true_a_boolean() -> None:
    agent = parse_agent("name: a\nbarge_in: {mode: off}\nrecording: {enabled: true}")
    assert agent.barge_in.mode == "off"
    assert agent.recording.enabled is True


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AgentFileError, match="cannot be read"):
        load_agent(tmp_path / "none.yaml")


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: a")
    assert load_agent(tmp_path / "a.yaml").directory == str(tmp_path.resolve())
