"""An agent's settings as the Realtime API takes them, and what `offhook check` says of those that it does not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from offhook.gateway.agent.load import parse_agent
from offhook.gateway.errors import OperatorError
from offhook.gateway.models.openai.settings import OpenAISettings
from offhook.gateway.models.openai.setup import check, session_config
from offhook.gateway.providers import check_agent, name_of, provider_of, with_provider
from offhook.gateway.rehearsal.model.realtime.wire import default_session, merged
from offhook.media.formats import ALAW_8K, MULAW_8K, PCM16_16K, AudioFormat

KEY = "sk-that-must-not-show"


def agent(yaml: str = "") -> Any:
    return parse_agent(f"name: a\nmodel: {{provider: openai}}\n{yaml}" if "model:" not in yaml else f"name: a\n{yaml}")


class Looks(msgspec.Struct):
    name: str = "look_up"
    description: str = "Look something up."
    parameters: dict[str, Any] = {}
    blocking: bool = False
    entry: int | None = 0


@pytest.mark.parametrize(
    ("yaml", "field", "fix"),
    [
        ("voice: Kore", "voice", "use one of alloy"),
        ("voice: Marin", "voice", "did you mean marin"),
        (
            "model: {provider: openai, name: gpt-realtime}",
            "model.name",
            "shut down on 2027-01-20: use gpt-realtime-2.1",
        ),
        ("model: {provider: openai, name: gpt-live-1}", "model.name", "another API"),
        ("model: {provider: openai, name: gpt-realtime-2.2}", "model.name", "did you mean gpt-realtime-2.1"),
        ("model: {provider: openai, temperature: 1}", "model.temperature", "remove it"),
        ("model: {provider: openai, thinking_budget: 0}", "model.thinking_budget", "thinking_level"),
        ("model: {provider: openai, name: gpt-realtime-1.5, thinking_level: low}", "model.thinking_level", "remove it"),
        (
            "model: {provider: openai, transcription: whisper-1}",
            "model.transcription",
            "use one of gpt-live-transcribe",
        ),
        ("turn_detection: {start_sensitivity: high}", "turn_detection.start_sensitivity", "use eagerness"),
        ("turn_detection: {eagerness: low, end_silence_ms: 300}", "turn_detection.end_silence_ms", "no effect"),
        ("language: english please", "language", "en-US"),
        ("instructions: 'Hello {{nobody}}.'", "instructions", "nobody"),
    ],
)
def test_what_it_cannot_do_is_said_with_the_fix(yaml: str, field: str, fix: str) -> None:
    (problem,) = check_agent(agent(yaml), (), {})
    assert problem.field == field
    assert fix in problem.fix


@pytest.mark.parametrize(
    ("tool", "field"),
    [
        (Looks(name="look.up"), "tools[0].name"),
        (Looks(description=""), "tools[0].description"),
        (Looks(blocking=True), "tools[0].blocking"),
        (Looks(parameters={"type": "array"}), "tools[0].parameters"),
    ],
)
def test_a_tool_it_would_refuse(tool: Looks, field: str) -> None:
    assert [problem.field for problem in check(agent(), (tool,))] == [field]


@pytest.mark.parametrize("yaml", ["model: {noise_reduction: far_field}", "turn_detection: {eagerness: low}"])
def test_other_provider_refuses_these_settings(yaml: str) -> None:
    (problem,) = check_agent(parse_agent(f"name: a\n{yaml}"), (), {})
    assert "no such setting" in problem.fix


FULL = """model: {provider: openai, thinking_level: low, noise_reduction: far_field, transcription: gpt-live-transcribe}
voice: cedar
language: de-DE
turn_detection: {end_silence_ms: 400, prefix_padding_ms: 200}"""


@pytest.mark.parametrize(
    ("yaml", "detection"),
    [
        ("", {"type": "server_vad", "silence_duration_ms": 500}),
        (FULL, {"type": "server_vad", "silence_duration_ms": 400, "prefix_padding_ms": 200}),
        ("turn_detection: {eagerness: low}", {"type": "semantic_vad", "eagerness": "low"}),
        ("turn_detection: {mode: local}", None),
    ],
)
@pytest.mark.parametrize(
    ("line", "form"),
    [
        (MULAW_8K, {"type": "audio/pcmu"}),
        (ALAW_8K, {"type": "audio/pcma"}),
        (PCM16_16K, {"type": "audio/pcm", "rate": 24_000}),
    ],
)
def test_service_accepts_the_session(yaml: str, detection: Any, line: AudioFormat, form: dict[str, Any]) -> None:
    config = session_config(agent(yaml), (Looks(),), "Be kind.", caller=line, line=line)
    session = merged(default_session("sess_1", "gpt-realtime-2.1", 0), config, has_spoken=False)
    heard = session["audio"]["input"]
    assert heard["format"] == session["audio"]["output"]["format"] == form
    found = heard["turn_detection"]
    if detection is None:
        assert found is None
        return
    assert detection.items() <= found.items()
    assert found["create_response"] is found["interrupt_response"] is False


def test_settings_of_the_agent_file_are_in_the_session() -> None:
    config = session_config(agent(FULL), (Looks(),), "Be kind.", caller=MULAW_8K, line=MULAW_8K)
    assert config["audio"]["output"]["voice"] == "cedar"
    assert config["audio"]["input"]["noise_reduction"] == {"type": "far_field"}
    assert config["audio"]["input"]["transcription"] == {"model": "gpt-live-transcribe", "language": "de"}
    assert config["reasoning"] == {"effort": "low"}
    assert config["tools"][0]["parameters"] == {"type": "object", "properties": {}}
    assert "temperature" not in config


@pytest.mark.parametrize(
    ("model", "provider", "name"),
    [
        ("{provider: openai, name: gpt-realtime-2.1-mini}", "openai", "gpt-realtime-2.1-mini"),
        ("{provider: openai}", "openai", "gpt-realtime-2.1"),
        ("gpt-realtime-2", "openai", "gpt-realtime-2"),
        ("gemini-3.8-live", "gemini", "gemini-3.8-live"),
        ("{name: gemini-3.8-live}", "gemini", "gemini-3.8-live"),
        ("{}", "gemini", "gemini-3.8-live"),
    ],
)
def test_provider_of_an_agent(model: str, provider: str, name: str) -> None:
    found = parse_agent(f"name: a\nmodel: {model}")
    assert (provider_of(found), name_of(found)) == (provider, name)


def test_unknown_provider_is_refused() -> None:
    with pytest.raises(OperatorError, match="did you mean openai"):
        provider_of(parse_agent("name: a\nmodel: {provider: openay}"))


def test_any_agent_runs_on_another_provider() -> None:
    restaurant = parse_agent("name: a\nvoice: Kore\nmodel: {temperature: 1.0}\nturn_detection: {end_sensitivity: low}")
    moved = with_provider(restaurant, "openai")
    assert check_agent(moved, (), {}) == []
    assert with_provider(moved, "openai") is moved
    assert with_provider(restaurant, "") is restaurant


@pytest.mark.parametrize(
    ("base_url", "url", "header"),
    [
        ("", "wss://api.openai.com/v1/realtime?model=gpt-realtime-2.1", "Authorization"),
        ("http://127.0.0.1:9/v1/", "ws://127.0.0.1:9/v1/realtime?model=gpt-realtime-2.1", "Authorization"),
        (
            "https://desk.openai.azure.com/openai/v1",
            "wss://desk.openai.azure.com/openai/v1/realtime?model=gpt-realtime-2.1",
            "api-key",
        ),
    ],
)
def test_address_and_key(base_url: str, url: str, header: str) -> None:
    settings = OpenAISettings.read({"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": base_url})
    assert settings.url("gpt-realtime-2.1") == url
    assert KEY in settings.headers()[header]
    assert "OpenAI-Beta" not in settings.headers()
    assert KEY not in repr(settings) + str(settings.shown())


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OPENAI_API_KEY": "with a space"},
        {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "api.openai.com"},
        {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "https://desk.openai.azure.com"},
        {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "https://desk.openai.azure.com/openai?api-version=2025-04-01"},
    ],
)
def test_unusable_settings_say_what_to_do(environ: dict[str, str]) -> None:
    with pytest.raises(OperatorError, match="OPENAI_"):
        OpenAISettings.read(environ)
