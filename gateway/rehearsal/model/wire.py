"""The Gemini Live protocol, server side. A parser of its own: nothing is shared with the gateway.

Sources: Google's Live API reference (BidiGenerateContent), its notes per model, and what released clients
(google-genai 3.4) put on the wire. Clients may use camelCase or snake_case at any level, either base64
alphabet, text or binary frames. The texts of refusals are modelled on reports, the codes are the service's.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import msgspec
import pybase64
from msgspec import Struct, field

from offhook.gateway.rehearsal.model.declarations import Function, wrong_functions

__all__ = [
    "MODELS",
    "AutomaticDetection",
    "BadMessage",
    "Blob",
    "ClientContent",
    "ContextUpdate",
    "Function",
    "FunctionResponse",
    "Profile",
    "RealtimeInput",
    "SessionRefused",
    "Setup",
    "ToolResponse",
    "audio_frame",
    "base64_decoded",
    "caller_transcript",
    "camel_keys",
    "checked_setup",
    "client_message",
    "functions",
    "generation_complete",
    "go_away",
    "interrupted",
    "model_transcript",
    "pcm_rate_hz",
    "pretty",
    "resumption_update",
    "setup_complete",
    "thought",
    "tool_call_cancellation",
    "tool_calls",
    "turn_complete",
    "usage_metadata",
    "voice_activity",
]


class BadMessage(ValueError):
    """The client violated the protocol; the service would close with 1007."""


class SessionRefused(Exception):
    """The service would refuse the session with this close code and reason.

    `scripted`: the refusal is a fault of the script, not an error of the client.
    """

    def __init__(self, code: int, reason: str, scripted: bool = False) -> None:
        super().__init__(f"{code} {reason}")
        self.code, self.reason, self.scripted = code, reason, scripted


# -- models -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How a model differs from the others.

    `blocking`: which functions block. `thinking`: the field of thinkingConfig it takes, if any.
    `waits_for_caller`: a result that interrupts lets a speaking caller finish first. `marks_finished`: each
    piece of the caller's transcript is marked as the last.
    """

    client_content: Literal["any time", "initial history"] = "any time"
    explicit_roles: bool = True
    blocking: Literal["default", "opt in", "only", "never"]
    thinking: Literal["none", "thinkingLevel", "thinkingBudget"]
    proactive_and_affective: Literal["always on", "never", "v1alpha"]
    context_update: bool = True
    same_frame_transcript: bool = True
    extended_thinking: bool = False
    marks_finished: bool = False
    waits_for_caller: bool = True
    context_tokens: int = 131_072
    uncompressed_s: float = 900.0


_GEMINI_2_5 = Profile(
    explicit_roles=False,
    blocking="default",
    thinking="thinkingBudget",
    proactive_and_affective="v1alpha",
    context_update=False,
    same_frame_transcript=False,
    waits_for_caller=False,
)
MODELS: dict[str, Profile] = {
    "gemini-3.8-live": Profile(blocking="opt in", thinking="none", proactive_and_affective="always on"),
    "gemini-3.8-live-extended-thinking": Profile(
        blocking="never",
        thinking="thinkingLevel",
        proactive_and_affective="always on",
        extended_thinking=True,
    ),
    "gemini-3.1-flash-live-preview": Profile(
        client_content="initial history",
        explicit_roles=False,
        blocking="only",
        thinking="thinkingLevel",
        proactive_and_affective="never",
        context_update=False,
        marks_finished=True,
    ),
    "gemini-2.5-flash-native-audio-preview-12-2025": _GEMINI_2_5,
    "gemini-2.5-flash-native-audio-latest": _GEMINI_2_5,
    "gemini-live-2.5-flash-native-audio": _GEMINI_2_5,
}

_VOICES = frozenset(
    """
    Zephyr Puck Charon Kore Fenrir Leda Orus Aoede Callirrhoe Autonoe Enceladus Iapetus Umbriel Algieba
    Despina Erinome Algenib Rasalgethi Laomedeia Achernar Alnilam Schedar Gacrux Pulcherrima Achird
    Zubenelgenubi Vindemiatrix Sadachbia Sadaltager Sulafat
    """.split()  # noqa: SIM905
)


# -- what clients send ------------------------------------------------------------------------------------


class _Wire(Struct, rename="camel", forbid_unknown_fields=True):
    """A message of the client. Fields that we do not use are mappings; unknown fields are refused."""


class AutomaticDetection(_Wire):
    disabled: bool = False
    start_of_speech_sensitivity: Literal[
        "START_SENSITIVITY_UNSPECIFIED", "START_SENSITIVITY_HIGH", "START_SENSITIVITY_LOW"
    ] = "START_SENSITIVITY_UNSPECIFIED"
    end_of_speech_sensitivity: Literal["END_SENSITIVITY_UNSPECIFIED", "END_SENSITIVITY_HIGH", "END_SENSITIVITY_LOW"] = (
        "END_SENSITIVITY_UNSPECIFIED"
    )
    prefix_padding_ms: int | None = None
    silence_duration_ms: int | None = None


class _RealtimeConfig(_Wire):
    automatic_activity_detection: AutomaticDetection = field(default_factory=AutomaticDetection)
    activity_handling: Literal["ACTIVITY_HANDLING_UNSPECIFIED", "START_OF_ACTIVITY_INTERRUPTS", "NO_INTERRUPTION"] = (
        "ACTIVITY_HANDLING_UNSPECIFIED"
    )
    turn_coverage: Literal[
        "TURN_COVERAGE_UNSPECIFIED",
        "TURN_INCLUDES_ONLY_ACTIVITY",
        "TURN_INCLUDES_ALL_INPUT",
        "TURN_INCLUDES_AUDIO_ACTIVITY_AND_ALL_VIDEO",
    ] = "TURN_COVERAGE_UNSPECIFIED"
    interim_transcript_timestamp_enabled: bool = False


class _Generation(_Wire):
    response_modalities: list[str] = []
    temperature: float | None = None
    top_p: float | None = None
    top_k: float | None = None
    max_output_tokens: int | None = None
    candidate_count: int | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop_sequences: list[str] = []
    media_resolution: str | None = None
    response_mime_type: str | None = None
    response_schema: dict[str, Any] | None = None
    speech_config: dict[str, Any] = {}
    thinking_config: dict[str, Any] = {}
    translation_config: dict[str, Any] | None = None
    enable_affective_dialog: bool | None = None


class _Tool(_Wire):
    function_declarations: list[Function] = []
    google_search: dict[str, Any] | None = None
    google_search_retrieval: dict[str, Any] | None = None
    google_maps: dict[str, Any] | None = None
    code_execution: dict[str, Any] | None = None
    url_context: dict[str, Any] | None = None


class _Content(_Wire):
    role: str | None = None
    parts: list[dict[str, Any]] = []


class _Resumption(_Wire):
    handle: str | None = None
    transparent: bool | None = None


class _SlidingWindow(_Wire):
    target_tokens: int | None = None


class _Compression(_Wire):
    trigger_tokens: int | None = None
    sliding_window: _SlidingWindow = field(default_factory=_SlidingWindow)


class _History(_Wire):
    initial_history_in_client_content: bool = False


class _Proactivity(_Wire):
    proactive_audio: bool | None = None
    proactive_video: bool | None = None


class Setup(_Wire):
    model: str
    generation_config: _Generation = field(default_factory=_Generation)
    system_instruction: _Content | None = None
    tools: list[_Tool] = []
    session_resumption: _Resumption | None = None
    input_audio_transcription: dict[str, Any] | None = None
    output_audio_transcription: dict[str, Any] | None = None
    realtime_input_config: _RealtimeConfig = field(default_factory=_RealtimeConfig)
    context_window_compression: _Compression | None = None
    proactivity: _Proactivity | None = None
    history_config: _History = field(default_factory=_History)
    avatar_config: dict[str, Any] | None = None
    safety_settings: list[dict[str, Any]] = []
    labels: dict[str, str] = {}
    explicit_vad_signal: bool | None = None


class Blob(_Wire):
    mime_type: str
    data: str = ""


class RealtimeInput(_Wire):
    audio: Blob | None = None
    video: Blob | None = None
    text: str | None = None
    media_chunks: list[Blob] = []
    activity_start: dict[str, Any] | None = None
    activity_end: dict[str, Any] | None = None
    audio_stream_end: bool = False


class ClientContent(_Wire):
    turns: list[_Content] = []
    turn_complete: bool = False


class FunctionResponse(_Wire):
    response: dict[str, Any]
    id: str | None = None
    name: str | None = None
    scheduling: str | None = None
    will_continue: bool = False
    parts: list[dict[str, Any]] = []


class ToolResponse(_Wire):
    function_responses: list[FunctionResponse]


class _ToolsUpdate(_Wire):
    tools: list[_Tool] = []


class ContextUpdate(_Wire):
    system_instruction: _Content | None = None
    tools: _ToolsUpdate | None = None


Message = dict[str, Any] | RealtimeInput | ClientContent | ToolResponse | ContextUpdate

_KINDS: dict[str, Any] = {
    "setup": dict[str, Any],
    "realtimeInput": RealtimeInput,
    "clientContent": ClientContent,
    "toolResponse": ToolResponse,
    "contextUpdate": ContextUpdate,
}
# Mappings whose keys are names of the user and stay unchanged.
_OPAQUE = frozenset(
    [
        "response",
        "args",
        "parameters",
        "parametersJsonSchema",
        "responseSchema",
        "responseJsonSchema",
        "labels",
    ]
)


@lru_cache(maxsize=1024)
def _camel(key: str) -> str:
    return re.sub(r"_([a-z0-9])", lambda m: m.group(1).upper(), key)


def camel_keys(value: Any) -> Any:
    """The same with camelCase keys at every level and without nulls, which are unset fields.

    A key present in both spellings is merged.
    """
    if isinstance(value, dict):
        out: dict[str, Any] = {}
        for key, inner in value.items():
            if inner is not None:
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


def client_message(data: str | bytes) -> Message:
    """Parse one frame. A setup stays a mapping (camelCase): what it may hold depends on the model."""
    try:
        raw = msgspec.json.decode(data)
        message = camel_keys(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadMessage("Invalid JSON payload received.") from None
    if not isinstance(message, dict):
        raise BadMessage("Invalid JSON payload received. A message is an object.")
    for key in message:
        if key not in _KINDS:
            raise BadMessage(f'Invalid JSON payload received. Unknown name "{key[:40]}": Cannot find field.')
    if len(message) != 1:
        raise BadMessage(f"A message holds exactly one of its kinds, not {len(message)}.")
    [(kind, body)] = message.items()
    try:
        read: Message = msgspec.convert(body, _KINDS[kind], strict=False)
    except msgspec.ValidationError as error:
        raise BadMessage(f"Invalid JSON payload received. {kind}: {error}") from None
    return read


def base64_decoded(text: str) -> bytes:
    """Bytes out of standard or URL-safe base64, padded or not."""
    if "-" in text or "_" in text:
        text = text.replace("-", "+").replace("_", "/")
    try:
        return pybase64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise BadMessage("Base64 decoding failed.") from None


def pcm_rate_hz(mime_type: str) -> int:
    """16000 unless the MIME type states another rate."""
    if not mime_type.startswith("audio/pcm"):
        raise BadMessage(f"Unsupported audio type {mime_type[:40]!r}: audio/pcm is expected.")
    rate = re.search(r"rate=(\d{1,6})", mime_type)
    rate_hz = int(rate.group(1)) if rate else 16_000
    if not 4_000 <= rate_hz <= 96_000:
        raise BadMessage(f"Unsupported sample rate {rate_hz}.")
    return rate_hz


def functions(tools: list[_Tool]) -> Iterator[Function]:
    for tool in tools:
        yield from tool.function_declarations


def checked_setup(raw: Mapping[str, Any], version: str, vertex: bool) -> tuple[Setup, Profile]:
    """The setup and the model's profile.

    Raises SessionRefused as the service would: 1008 for the model, 1007 for a field that is unknown or not allowed.
    """
    name = str(raw.get("model", ""))
    known = MODELS.get(name.rsplit("/", 1)[-1])
    if known is None or not (vertex or name.startswith(("models/", "tunedModels/"))):
        raise SessionRefused(
            1008,
            f"{name[:50]} is not found for API version {version}, or not supported for bidiGenerateContent.",
        )
    try:
        setup = msgspec.convert(dict(raw), Setup, strict=False)
    except msgspec.ValidationError as error:
        raise SessionRefused(1007, f"Invalid JSON payload received. setup: {error}") from None
    if (wrong := _wrong(setup, known, version, vertex)) is not None:
        raise SessionRefused(1007, f"Request contains an invalid argument. {wrong}")
    return setup, known


def _wrong(setup: Setup, profile: Profile, version: str, vertex: bool) -> str | None:
    generation = setup.generation_config
    if generation.response_modalities not in ([], ["AUDIO"]):
        return "This model answers with AUDIO alone."
    for key in generation.thinking_config:
        if profile.thinking == "none" or key not in (profile.thinking, "includeThoughts"):
            return f"{key} is not supported by this model."
    prebuilt = (generation.speech_config.get("voiceConfig") or {}).get("prebuiltVoiceConfig") or {}
    if prebuilt.get("voiceName", "Kore") not in _VOICES:
        return f"Unknown voice {str(prebuilt['voiceName'])[:40]}."
    affective, proactivity = generation.enable_affective_dialog, setup.proactivity
    match profile.proactive_and_affective:
        case "always on":
            if affective is not None:
                return "Affective dialog is not supported by this model."
            if proactivity is not None and proactivity.proactive_audio is False:
                return "Proactive audio cannot be turned off."
        case "never" if affective is not None or proactivity is not None:
            return "Proactivity and affective dialog are not supported by this model."
        case "v1alpha" if not vertex and version != "v1alpha" and (affective or proactivity is not None):
            return f"Proactivity and affective dialog are not known to {version}."
    resumption = setup.session_resumption
    if not vertex and resumption is not None and resumption.transparent is not None:
        return "sessionResumption.transparent is not known here."
    if not vertex and setup.explicit_vad_signal is not None:
        return "explicitVadSignal is not known here."
    forbidden = {"only": "NON_BLOCKING", "never": "BLOCKING"}.get(profile.blocking)
    for function in functions(setup.tools):
        if function.behavior == forbidden:
            return f"{forbidden} functions are not supported by this model."
    return wrong_functions(functions(setup.tools), vertex=vertex)


# -- what the service sends -------------------------------------------------------------------------------


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


def audio_frame(data_base64: bytes, transcript: str | None = None) -> bytes:
    """A frame of model audio, with a piece of its transcript if given. Built by hand: it is the most frequent one."""
    if transcript is None:
        return b"".join((_AUDIO_HEAD, data_base64, _AUDIO_TAIL, _END))
    piece = json.dumps({"text": transcript}, ensure_ascii=False).encode()
    return b"".join((_AUDIO_HEAD, data_base64, _AUDIO_TAIL, b',\n    "outputTranscription": ', piece, _END))


def setup_complete() -> dict[str, Any]:
    return {"setupComplete": {}}


def resumption_update(handle: str | None = None, *, last_index: int | None = None) -> dict[str, Any]:
    """A new resumption handle, or with None that the session cannot be resumed now.

    `last_index`: of the last client message that the session has consumed, for transparent resumption.
    """
    if handle is None:
        return {"sessionResumptionUpdate": {"resumable": False}}
    update: dict[str, Any] = {"newHandle": handle, "resumable": True}
    if last_index is not None:
        update["lastConsumedClientMessageIndex"] = str(last_index)  # int64 is a string in JSON
    return {"sessionResumptionUpdate": update}


def voice_activity(kind: str, offset_s: float) -> dict[str, Any]:
    """`kind`: ACTIVITY_START or ACTIVITY_END; `offset_s`: its position in the received audio."""
    return {"voiceActivity": {"type": kind, "audioOffset": f"{offset_s:g}s"}}


def interrupted() -> dict[str, Any]:
    return {"serverContent": {"interrupted": True}}


def thought(text: str) -> dict[str, Any]:
    """A part that the client must not speak."""
    return {"serverContent": {"modelTurn": {"parts": [{"text": text, "thought": True}]}}}


def caller_transcript(text: str, *, finished: bool) -> dict[str, Any]:
    """A piece of the caller's transcript; `finished`: it is marked as the last."""
    transcription: dict[str, Any] = {"text": text}
    if finished:
        transcription["finished"] = True
    return {"serverContent": {"inputTranscription": transcription}}


def model_transcript(text: str) -> dict[str, Any]:
    return {"serverContent": {"outputTranscription": {"text": text}}}


def generation_complete() -> dict[str, Any]:
    return {"serverContent": {"generationComplete": True}}


def turn_complete(usage: Mapping[str, Any], status: str | None = None) -> dict[str, Any]:
    """The end of a turn with its `usageMetadata`; `status`: the interactionStatus of models that report one."""
    content: dict[str, Any] = {"turnComplete": True}
    if status is not None:
        content["interactionStatus"] = status
    return {"serverContent": content, "usageMetadata": usage}


def usage_metadata(text: int, audio: int, answer: int, image: int = 0, *, vertex: bool) -> dict[str, Any]:
    """Tokens of a turn: text, audio and pictures of the context, and the audio of the answer."""
    name = "candidates" if vertex else "response"
    return {
        "promptTokenCount": audio + text + image,
        f"{name}TokenCount": answer,
        "totalTokenCount": audio + text + image + answer,
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": text},
            {"modality": "AUDIO", "tokenCount": audio},
            *([{"modality": "IMAGE", "tokenCount": image}] if image else []),
        ],
        f"{name}TokensDetails": [{"modality": "AUDIO", "tokenCount": answer}],
    }


def tool_calls(calls: Iterable[tuple[str, str, Mapping[str, Any]]]) -> dict[str, Any]:
    """One `toolCall` message; each call is its id, function name and arguments."""
    listed = [{"id": call_id, "name": name, "args": args} for call_id, name, args in calls]
    return {"toolCall": {"functionCalls": listed}}


def tool_call_cancellation(ids: Sequence[str]) -> dict[str, Any]:
    return {"toolCallCancellation": {"ids": list(ids)}}


def go_away(time_left_s: float) -> dict[str, Any]:
    return {"goAway": {"timeLeft": f"{time_left_s:g}s"}}
