"""The OpenAI Realtime protocol, server side: what a session may hold, what a client may send, what the service sends.

Sources: OpenAI docs, "Realtime API" (GA), and the types of openai-python 3.57. Nothing is shared with the gateway.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

import pybase64

from offhook.media.formats import ALAW_8K, MULAW_8K, PCM16_24K, AudioFormat

__all__ = [
    "APPEND_MAX_BYTES",
    "MODELS",
    "EventRefused",
    "audio_bytes",
    "client_event",
    "default_session",
    "encoded",
    "format_of",
    "image_bytes",
    "merged",
    "usage",
]

MODELS = (
    "gpt-realtime",
    "gpt-realtime-mini",
    "gpt-realtime-1.5",
    "gpt-realtime-2",
    "gpt-realtime-2.1",
    "gpt-realtime-2.1-mini",
)
VOICES = ("alloy", "ash", "ballad", "coral", "echo", "sage", "shimmer", "verse", "marin", "cedar")
APPEND_MAX_BYTES = 15 * 2**20


class EventRefused(ValueError):
    """The service answers this event with an `error` event; the session lives.

    `race`: two peers acting at once may cause it, so it is no violation of the client's.
    """

    def __init__(self, code: str, message: str, param: str | None = None, *, race: bool = False) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.param, self.race = code, message, param, race


def encoded(event: Mapping[str, Any]) -> bytes:
    """An event as the service writes it."""
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()


def client_event(data: str | bytes) -> dict[str, Any]:
    """Parse one frame. Raises `EventRefused`."""
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        raise EventRefused("invalid_json", "The message is not JSON.") from None
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        raise EventRefused("missing_required_parameter", "Missing required parameter: 'type'.", "type")
    return event


def audio_bytes(event: Mapping[str, Any]) -> bytes:
    """The audio of an append. Raises `EventRefused`."""
    audio = event.get("audio")
    if not isinstance(audio, str):
        raise EventRefused("missing_required_parameter", "Missing required parameter: 'audio'.", "audio")
    if len(audio) > APPEND_MAX_BYTES:
        raise EventRefused("invalid_value", "Invalid 'audio': longer than 15 MiB.", "audio")
    try:
        return pybase64.b64decode(audio, validate=True)
    except ValueError:
        raise EventRefused("invalid_value", "Invalid 'audio': expected base64-encoded bytes.", "audio") from None


def image_bytes(part: Mapping[str, Any]) -> bytes:
    """The JPEG picture of an `input_image`: a data URI. Raises `EventRefused`."""
    kind, _, data = str(part.get("image_url")).partition(",")
    try:
        if kind == "data:image/jpeg;base64":
            return pybase64.b64decode(data, validate=True)
    except ValueError:
        pass
    raise EventRefused("invalid_value", "Invalid 'image_url': expected a data URI with PNG or JPEG.", "item.content")


# -- the session ----------------------------------------------------------------------------------------------

_DETECTION: dict[str, Any] = {
    "type": "server_vad",
    "threshold": 0.5,
    "prefix_padding_ms": 300,
    "silence_duration_ms": 500,
    "idle_timeout_ms": None,
    "create_response": True,
    "interrupt_response": True,
}
_SEMANTIC: dict[str, Any] = {
    "type": "semantic_vad",
    "eagerness": "auto",
    "create_response": True,
    "interrupt_response": True,
}
# The fields that a session may have, by section; None: any value.
_FIELDS: dict[str, Any] = {
    **dict.fromkeys(("type", "instructions", "max_output_tokens", "parallel_tool_calls", "tool_choice", "tools")),
    **dict.fromkeys(("output_modalities", "truncation", "tracing", "include", "prompt", "model")),
    "reasoning": {"effort": None},
    "audio": {
        "input": {
            "format": {"type": None, "rate": None},
            "noise_reduction": {"type": None, "strength": None},
            "transcription": dict.fromkeys(("model", "language", "prompt", "keywords", "languages", "delay")),
            "turn_detection": dict.fromkeys((*_DETECTION, *_SEMANTIC)),
        },
        "output": {"format": {"type": None, "rate": None}, "voice": None, "speed": None},
    },
}


def default_session(session_id: str, model: str, expires_at: int) -> dict[str, Any]:
    """What `session.created` has: PCM at 24 kHz, the service's own turn detection on."""
    pcm = {"type": "audio/pcm", "rate": 24000}
    return {
        "type": "realtime",
        "object": "realtime.session",
        "id": session_id,
        "model": model,
        "expires_at": expires_at,
        "output_modalities": ["audio"],
        "instructions": "Be a helpful assistant.",
        "tools": [],
        "tool_choice": "auto",
        "max_output_tokens": "inf",
        "truncation": "auto",
        "tracing": None,
        "include": None,
        "audio": {
            "input": {
                "format": dict(pcm),
                "noise_reduction": None,
                "transcription": None,
                "turn_detection": dict(_DETECTION),
            },
            "output": {"format": dict(pcm), "voice": "marin", "speed": 1.0},
        },
    }


def merged(session: Mapping[str, Any], update: Any, *, has_spoken: bool) -> dict[str, Any]:
    """The session after a `session.update`: only the fields present change. Raises `EventRefused`."""
    if not isinstance(update, dict) or update.get("type") != "realtime":
        raise EventRefused("missing_required_parameter", "Missing required parameter: 'session.type'.", "session.type")
    _known(update, _FIELDS, "session")
    if "model" in update and update["model"] != session["model"]:
        raise EventRefused("invalid_value", "The model of a session cannot be changed.", "session.model")
    new = copy.deepcopy(dict(session))
    _merge(new, update)
    sound = new["audio"]
    for way in ("input", "output"):
        _right_format(sound[way]["format"], f"session.audio.{way}.format")
    voice = sound["output"]["voice"]
    if isinstance(voice, str) and voice not in VOICES:
        raise EventRefused("invalid_value", f"Invalid value: {voice[:40]!r}.", "session.audio.output.voice")
    if has_spoken and voice != session["audio"]["output"]["voice"]:
        raise EventRefused("cannot_update_voice", "Cannot update a conversation's voice if assistant audio is present.")
    _right_detection(update, new)
    for index, tool in enumerate(new["tools"]):
        if not isinstance(tool, dict) or tool.get("type") != "function" or not tool.get("name"):
            raise EventRefused("invalid_value", "A tool needs a type and a name.", f"session.tools[{index}]")
    return new


def _known(value: Any, fields: Any, where: str) -> None:
    if not isinstance(value, dict) or fields is None:
        return
    for name, inner in value.items():
        if name not in fields:
            raise EventRefused("unknown_parameter", f"Unknown parameter: '{where}.{name}'.", f"{where}.{name}")
        _known(inner, fields[name], f"{where}.{name}")


def _merge(into: dict[str, Any], update: Mapping[str, Any]) -> None:
    for name, value in update.items():
        if name in ("audio", "input", "output") and isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = copy.deepcopy(value)


def _right_format(form: Any, where: str) -> None:
    kind = form.get("type") if isinstance(form, dict) else None
    if kind not in ("audio/pcm", "audio/pcmu", "audio/pcma"):
        raise EventRefused("invalid_value", f"Invalid value: {str(kind)[:40]!r}.", f"{where}.type")
    if kind == "audio/pcm" and form.get("rate") != 24000:
        raise EventRefused("invalid_value", "Invalid rate: only 24000 is supported.", f"{where}.rate")
    if kind != "audio/pcm" and "rate" in form:
        raise EventRefused("unknown_parameter", f"Unknown parameter: '{where}.rate'.", f"{where}.rate")


def _right_detection(update: Mapping[str, Any], session: dict[str, Any]) -> None:
    """The defaults of the detection that the client chose."""
    where = session["audio"]["input"]
    given = where["turn_detection"]
    if given is None:
        return
    kind = given.get("type")
    if kind not in ("server_vad", "semantic_vad"):
        name = "session.audio.input.turn_detection.type"
        raise EventRefused("invalid_value", f"Invalid value: {str(kind)[:40]!r}.", name)
    defaults = _DETECTION if kind == "server_vad" else _SEMANTIC
    for name in given:
        if name not in defaults:
            path = f"session.audio.input.turn_detection.{name}"
            raise EventRefused("unknown_parameter", f"Unknown parameter: '{path}'.", path)
    where["turn_detection"] = {**defaults, **given}


def format_of(form: Mapping[str, Any]) -> AudioFormat:
    """A session's format of one direction."""
    return {"audio/pcm": PCM16_24K, "audio/pcmu": MULAW_8K, "audio/pcma": ALAW_8K}[form["type"]]


# -- usage ----------------------------------------------------------------------------------------------------


def usage(
    text_in: int, audio_in: int, image_in: int, cached: tuple[int, int], text_out: int, audio_out: int
) -> dict[str, Any]:
    """Tokens of a response; `cached` (text, audio) is part of the input."""
    return {
        "total_tokens": text_in + audio_in + image_in + text_out + audio_out,
        "input_tokens": text_in + audio_in + image_in,
        "output_tokens": text_out + audio_out,
        "input_token_details": {
            "text_tokens": text_in,
            "audio_tokens": audio_in,
            "image_tokens": image_in,
            "cached_tokens": sum(cached),
            "cached_tokens_details": {"text_tokens": cached[0], "audio_tokens": cached[1], "image_tokens": 0},
        },
        "output_token_details": {"text_tokens": text_out, "audio_tokens": audio_out},
    }
