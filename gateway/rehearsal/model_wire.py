"""The Gemini Live protocol as the service speaks it, read for ourselves: nothing is shared with the gateway.

Sources: Google's Live API reference (BidiGenerateContent), its notes per model, and what released clients
(google-genai 3.4) put on the wire. Clients may use camelCase or snake_case at any level, either base64
alphabet, text or binary frames.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import msgspec
import pybase64

__all__ = [
    "MODELS",
    "BadMessage",
    "Profile",
    "Refused",
    "audio_frame",
    "base64_decoded",
    "camel_keys",
    "check_setup",
    "client_message",
    "declared_functions",
    "pcm_rate_hz",
    "pretty",
]


class BadMessage(ValueError):
    """The client broke the protocol; the service would close with 1007."""


class Refused(Exception):
    """The service would not accept this; carries the close code and reason it would give."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code, self.reason = code, reason


@dataclass(frozen=True, slots=True)
class Profile:
    """How one model differs. `thinking`: which field of thinkingConfig it takes, if any."""

    client_content: Literal["any time", "initial history"]
    explicit_roles: bool
    blocking: Literal["default", "opt in", "only", "never"]
    thinking: Literal["none", "level", "budget"]
    proactive_and_affective: Literal["never", "v1alpha"]
    context_update: bool
    same_frame_transcript: bool
    extended_thinking: bool = False
    marks_finished: bool = False
    waits_for_caller: bool = True  # a result that interrupts lets a speaking caller finish first


_NEW = Profile("any time", True, "opt in", "none", "never", True, True)
_OLD = Profile("any time", False, "default", "budget", "v1alpha", False, False, waits_for_caller=False)
MODELS: dict[str, Profile] = {
    "gemini-3.8-live": _NEW,
    "gemini-3.8-live-extended-thinking": Profile(
        "any time", True, "never", "level", "never", True, True, extended_thinking=True
    ),
    "gemini-3.1-flash-live-preview": Profile(
        "initial history", False, "only", "level", "never", False, True, marks_finished=True
    ),
    "gemini-2.5-flash-native-audio-preview-12-2025": _OLD,
    "gemini-2.5-flash-native-audio-latest": _OLD,
    "gemini-live-2.5-flash-native-audio": _OLD,
}


def _words(names: str) -> frozenset[str]:
    return frozenset(names.split())


_SETUP = _words(
    """
    model generationConfig systemInstruction tools sessionResumption inputAudioTranscription
    outputAudioTranscription realtimeInputConfig contextWindowCompression proactivity historyConfig
    avatarConfig safetySettings labels
    """
)
_SETUP_VERTEX = _SETUP | {"explicitVadSignal"}
_GENERATION = _words(
    """
    responseModalities temperature topP topK maxOutputTokens mediaResolution seed speechConfig
    thinkingConfig enableAffectiveDialog translationConfig candidateCount presencePenalty
    frequencyPenalty stopSequences responseMimeType responseSchema
    """
)
_REALTIME = frozenset(
    ["automaticActivityDetection", "activityHandling", "turnCoverage", "interimTranscriptTimestampEnabled"]
)
_DETECTION = frozenset(
    ["disabled", "startOfSpeechSensitivity", "endOfSpeechSensitivity", "prefixPaddingMs", "silenceDurationMs"]
)
_CLIENT = frozenset(["setup", "clientContent", "realtimeInput", "toolResponse", "contextUpdate"])
# Maps whose keys are the user's own names and are left as they are.
_OPAQUE = _words(
    """
    response args parameters parametersJsonSchema responseSchema responseJsonSchema labels
    """
)


@lru_cache(maxsize=1024)
def _camel(key: str) -> str:
    return re.sub(r"_([a-z0-9])", lambda m: m.group(1).upper(), key)


def camel_keys(value: Any) -> Any:
    """The same with camelCase keys at every level; a key present in both spellings is merged."""
    if isinstance(value, dict):
        out: dict[str, Any] = {}
        for key, inner in value.items():
            name = _camel(key)
            new = inner if name in _OPAQUE else camel_keys(inner)
            out[name] = _merged(out[name], new) if name in out else new
        return out
    if isinstance(value, list):
        return [camel_keys(inner) for inner in value]
    return value


def _merged(a: Any, b: Any) -> Any:
    if isinstance(a, dict) and isinstance(b, dict):
        return {**a, **{k: _merged(a[k], v) if k in a else v for k, v in b.items()}}
    return b


def client_message(data: str | bytes) -> tuple[str, Any]:
    """One frame as (kind, body).

    The kinds: setup, clientContent, realtimeInput, toolResponse, contextUpdate.
    """
    try:
        raw = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadMessage("Invalid JSON payload received.") from None
    if not isinstance(raw, dict):
        raise BadMessage("Invalid JSON payload received. A message is an object.")
    message = camel_keys(raw)
    for key in message:
        if key not in _CLIENT:
            raise BadMessage(f'Invalid JSON payload received. Unknown name "{key}": Cannot find field.')
    if len(message) != 1:
        raise BadMessage(f"A message holds exactly one of its kinds, not {len(message)}.")
    [(kind, body)] = message.items()
    if not isinstance(body, dict):
        raise BadMessage(f"Invalid value at '{kind}': an object is expected.")
    return kind, body


def base64_decoded(text: Any) -> bytes:
    """Bytes out of standard or URL-safe base64, padded or not."""
    if not isinstance(text, str):
        raise BadMessage("Base64 data must be a string.")
    if "-" in text or "_" in text:
        text = text.replace("-", "+").replace("_", "/")
    try:
        return pybase64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise BadMessage("Base64 decoding failed.") from None


def pcm_rate_hz(mime_type: Any) -> int:
    """16000 unless the MIME type states another rate."""
    if not isinstance(mime_type, str) or not mime_type.startswith("audio/pcm"):
        raise BadMessage(f"Unsupported audio type {mime_type!r}: audio/pcm is expected.")
    rate = re.search(r"rate=(\d+)", mime_type)
    rate_hz = int(rate.group(1)) if rate else 16_000
    if not 4_000 <= rate_hz <= 96_000:
        raise BadMessage(f"Unsupported sample rate {rate_hz}.")
    return rate_hz


def check_setup(setup: Mapping[str, Any], version: str, vertex: bool) -> Profile:
    """The model's profile, or Refused as the service would: 1008 for the model, 1007 for a field."""
    name = str(setup.get("model", "")).rsplit("/", 1)[-1]
    if not vertex and not str(setup.get("model", "")).startswith(("models/", "tunedModels/")):
        raise Refused(1008, f"{setup.get('model')!r} is not a model name: models/NAME is expected.")
    profile = MODELS.get(name)
    if profile is None:
        raise Refused(
            1008,
            f"models/{name[:40]} is not found for API version {version},"
            " or is not supported for bidiGenerateContent.",
        )
    _only(setup, _SETUP_VERTEX if vertex else _SETUP, "setup")
    generation = _object(setup, "generationConfig", "setup")
    _only(generation, _GENERATION, "setup.generation_config")
    realtime = _object(setup, "realtimeInputConfig", "setup")
    _only(realtime, _REALTIME, "setup.realtime_input_config")
    _only(
        _object(realtime, "automaticActivityDetection", "setup.realtime_input_config"),
        _DETECTION,
        "setup.realtime_input_config.automatic_activity_detection",
    )
    if generation.get("responseModalities") not in (None, [], ["AUDIO"]):
        raise Refused(1007, "Cannot extract voices from a non-audio request.")
    thinking = _object(generation, "thinkingConfig", "setup.generation_config")
    allowed = {"none": set(), "level": {"thinkingLevel"}, "budget": {"thinkingBudget"}}[profile.thinking]
    for key in thinking:
        if profile.thinking == "none" or key not in allowed | {"includeThoughts"}:
            raise Refused(
                1007, f"Request contains an invalid argument. {key} is not supported by this model."
            )
    proactivity = _object(setup, "proactivity", "setup")
    affective = generation.get("enableAffectiveDialog")
    if profile.proactive_and_affective == "never":
        if affective is not None:
            raise Refused(1007, "Request contains an invalid argument. Affective dialog is not supported.")
        if profile.context_update and proactivity.get("proactiveAudio") is False:
            raise Refused(1007, "Request contains an invalid argument. Proactive audio cannot be turned off.")
        if not profile.context_update and proactivity:
            raise Refused(1007, "Request contains an invalid argument. Proactivity is not supported.")
    elif (affective or proactivity) and not vertex and version != "v1alpha":
        raise Refused(1007, "Invalid JSON payload received. Unknown name \"proactivity\" at 'setup'.")
    if not vertex and "transparent" in _object(setup, "sessionResumption", "setup"):
        raise Refused(
            1007, "Invalid JSON payload received. Unknown name \"transparent\" at 'setup.session_resumption'."
        )
    for function in declared_functions(setup.get("tools")):
        behavior = function.get("behavior")
        if (profile.blocking == "only" and behavior == "NON_BLOCKING") or (
            profile.blocking == "never" and behavior == "BLOCKING"
        ):
            raise Refused(
                1007, f"Request contains an invalid argument. {behavior} is not supported by this model."
            )
    return profile


def declared_functions(tools: Any) -> Iterator[Mapping[str, Any]]:
    """Every function declaration in a list of tools."""
    for tool in tools or ():
        if not isinstance(tool, dict):
            raise Refused(1007, "Invalid value at 'setup.tools': an object is expected.")
        for function in tool.get("functionDeclarations") or ():
            if not function.get("name"):
                raise Refused(1007, "Request contains an invalid argument. A function needs a name.")
            yield function


def _only(value: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    for key in value:
        if key not in known:
            raise Refused(
                1007,
                f"Invalid JSON payload received. Unknown name \"{key}\" at '{where}': Cannot find field.",
            )


def _object(value: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    inner = value.get(key)
    if inner is None:
        return {}
    if not isinstance(inner, dict):
        raise Refused(1007, f"Invalid value at '{where}.{key}': an object is expected.")
    return inner


def pretty(message: Mapping[str, Any]) -> bytes:
    """A server message as the service writes it: indented JSON with a final line break."""
    return json.dumps(message, indent=2, ensure_ascii=False).encode() + b"\n"


_AUDIO_HEAD = b"""{
  "serverContent": {
    "modelTurn": {
      "parts": [
        {
          "inlineData": {
            "mimeType": "audio/pcm;rate=24000",
            "data": \""""
_AUDIO_TAIL = b"""\"
          }
        }
      ]
    }"""
_END = b"\n  }\n}\n"


def audio_frame(data_base64: bytes, transcript: Mapping[str, Any] | None = None) -> bytes:
    """A frame of model audio, with a piece of its transcript if given. Built by hand: it is the hot one."""
    if transcript is None:
        return b"".join((_AUDIO_HEAD, data_base64, _AUDIO_TAIL, _END))
    piece = b',\n    "outputTranscription": ' + json.dumps(transcript, ensure_ascii=False).encode()
    return b"".join((_AUDIO_HEAD, data_base64, _AUDIO_TAIL, piece, _END))
