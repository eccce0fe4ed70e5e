"""Gemini Live's messages as plain values, both ways; pure.

Messages are sent as JSON in the reference's camelCase, one object per text frame, audio from a template. Received
frames are read key by key: an unknown key, a part that cannot be read or a new enum value costs that key and nothing
else, and one frame may hold any mixture (Google: Live API reference, BidiGenerateContent; a server message with a
single new key must not end a call).
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec
import pybase64

from offhook.gateway.errors import Malformed
from offhook.gateway.models import Usage

__all__ = [
    "INPUT_RATE_HZ",
    "OUTPUT_RATE_HZ",
    "UNNAMED",
    "ActivityEnd",
    "ActivityStart",
    "Audio",
    "CallerText",
    "CallsCancelled",
    "ClosingSoon",
    "Context",
    "FunctionCall",
    "FunctionResponse",
    "GenerationComplete",
    "Handle",
    "Incoming",
    "Interrupted",
    "ModelText",
    "OtherPart",
    "Outgoing",
    "Picture",
    "SetupComplete",
    "Skipped",
    "Text",
    "TokenCounts",
    "TurnEnd",
    "encode",
    "parse",
    "usage_of",
]

INPUT_RATE_HZ = 16_000  # what the model takes natively (Live API: audio formats)
OUTPUT_RATE_HZ = 24_000  # the only rate it gives
UNNAMED = "unnamed-call-"


# --- to the model


class Text(msgspec.Struct, frozen=True):
    """Realtime text: the model answers it."""

    text: str


class Context(msgspec.Struct, frozen=True):
    """A user turn the model takes in without answering."""

    text: str


class ActivityStart(msgspec.Struct, frozen=True):
    """The caller's turn begins (own turn detection)."""


class ActivityEnd(msgspec.Struct, frozen=True):
    """The caller's turn is over (own turn detection)."""


class FunctionResponse(msgspec.Struct, frozen=True):
    """A tool's result. `scheduling` is None where the call blocks: the API refuses or ignores it there.

    A `call_id` that begins with `UNNAMED` was assigned here to a call received without one, and is not sent.
    """

    call_id: str
    name: str
    response: dict[str, Any]
    scheduling: str | None = None


class Picture(msgspec.Struct, frozen=True):
    """A JPEG picture that the caller shows: a frame of a video, to the model."""

    jpeg: bytes

    def __repr__(self) -> str:
        return f"Picture({len(self.jpeg)} bytes)"


Outgoing = bytes | Text | Context | ActivityStart | ActivityEnd | FunctionResponse | Picture
"""Caller audio travels as itself: `bytes`, PCM16 LE mono at `INPUT_RATE_HZ`."""

_AUDIO_HEAD = b'{"realtimeInput":{"audio":{"data":"'
_AUDIO_TAIL = b'","mimeType":"audio/pcm;rate=16000"}}}'
_PICTURE_HEAD, _PICTURE_TAIL = b'{"realtimeInput":{"video":{"data":"', b'","mimeType":"image/jpeg"}}}'

_b64encode = pybase64.b64encode


def encode(message: Outgoing) -> bytes:
    """One text frame, UTF-8."""
    if type(message) is bytes:
        return _AUDIO_HEAD + _b64encode(message) + _AUDIO_TAIL
    if type(message) is Picture:
        return _PICTURE_HEAD + _b64encode(message.jpeg) + _PICTURE_TAIL
    return msgspec.json.encode(_body(message))


def _body(message: Outgoing) -> dict[str, Any]:
    match message:
        case Text(text):
            return {"realtimeInput": {"text": text}}
        case Context(text):
            turns = [{"role": "user", "parts": [{"text": text}]}]
            return {"clientContent": {"turns": turns, "turnComplete": False}}
        case ActivityStart():
            return {"realtimeInput": {"activityStart": {}}}
        case ActivityEnd():
            return {"realtimeInput": {"activityEnd": {}}}
        case FunctionResponse(call_id, name, response, scheduling):
            answer: dict[str, Any] = {"name": name, "response": response}
            if not call_id.startswith(UNNAMED):
                answer["id"] = call_id
            if scheduling:
                answer["scheduling"] = scheduling
            return {"toolResponse": {"functionResponses": [answer]}}
    raise TypeError(f"not a message for the model: {type(message).__name__}")


# --- from the model


class SetupComplete(msgspec.Struct, frozen=True):
    """The session is up."""


class Audio(msgspec.Struct, frozen=True):
    """PCM16 LE mono at `OUTPUT_RATE_HZ`, any length, never empty."""

    pcm: bytes


class OtherPart(msgspec.Struct, frozen=True):
    """A text, code or other part of the model's turn: content that is not spoken."""

    thought: bool


class ModelText(msgspec.Struct, frozen=True):
    """A piece of the model's transcript (`outputTranscription`)."""

    text: str


class CallerText(msgspec.Struct, frozen=True):
    """A piece of the caller's transcript (`inputTranscription`)."""

    text: str
    finished: bool


class FunctionCall(msgspec.Struct, frozen=True):
    """The model calls a function. `call_id` is "" when it was received without one."""

    call_id: str
    name: str
    arguments: dict[str, Any]


class CallsCancelled(msgspec.Struct, frozen=True):
    """`toolCallCancellation`: the model no longer wants the results of these calls."""

    call_ids: tuple[str, ...]


class GenerationComplete(msgspec.Struct, frozen=True):
    """The turn's content is all sent."""


class Interrupted(msgspec.Struct, frozen=True):
    """The model heard the caller and stopped."""


class TurnEnd(msgspec.Struct, frozen=True):
    """`turnComplete`. `more`: the interaction goes on (extended thinking, `interactionStatus` IN_PROGRESS)."""

    more: bool
    reason: str  # turnCompleteReason, "" for the ordinary end


class ClosingSoon(msgspec.Struct, frozen=True):
    """`goAway`."""

    time_left_s: float


class Handle(msgspec.Struct, frozen=True):
    """`sessionResumptionUpdate`: `value` is "" unless `resumable`. Secret: it opens the conversation."""

    value: str
    resumable: bool

    def __repr__(self) -> str:
        return f"Handle(value=<{len(self.value)} characters>, resumable={self.resumable})"


class TokenCounts(msgspec.Struct, frozen=True):
    """`usageMetadata`, by the API's own names; a modality's share as `promptTokensDetails.AUDIO`."""

    counts: dict[str, int]


class Skipped(msgspec.Struct, frozen=True):
    """Part of a frame that was skipped: an unknown key, or a value of the wrong type."""

    where: str
    unknown: bool
    value: str = ""  # where it helps: a media type


Incoming = (
    SetupComplete
    | Audio
    | OtherPart
    | ModelText
    | CallerText
    | FunctionCall
    | CallsCancelled
    | GenerationComplete
    | Interrupted
    | TurnEnd
    | ClosingSoon
    | Handle
    | TokenCounts
    | Skipped
)

_TOP = frozenset(
    (
        "setupComplete",
        "serverContent",
        "toolCall",
        "toolCallCancellation",
        "goAway",
        "sessionResumptionUpdate",
        "usageMetadata",
        "voiceActivity",  # known to the SDK; not used here
        "voiceActivityDetectionSignal",
    )
)
_CONTENT = frozenset(
    (
        "modelTurn",
        "interrupted",
        "generationComplete",
        "turnComplete",
        "turnCompleteReason",
        "waitingForInput",
        "inputTranscription",
        "interimInputTranscription",
        "outputTranscription",
        "groundingMetadata",
        "urlContextMetadata",
        "interactionStatus",
    )
)
TOKENS_MAX = 2**31 - 1
_WITHOUT_A_DEADLINE_S = 10.0  # for a goAway whose timeLeft cannot be read: 50 s is usual, this is in time anyway
_URLSAFE = str.maketrans("-_", "+/")
# Vertex AI says "candidates" where the Developer API says "response".
_USAGE_NAMES = {
    "candidatesTokenCount": "responseTokenCount",
    "candidatesTokensDetails": "responseTokensDetails",
}

_decode = msgspec.json.Decoder().decode


def parse(frame: bytes | str) -> list[Incoming]:
    """The values in one frame, text or binary, in the order in which they are to be acted on.

    An empty frame has none. Raises `Malformed` when the frame is not a JSON object; anything less is a
    `Skipped` among the values: also text that is not Unicode and a number out of range.
    """
    if not frame or (len(frame) < 8 and not frame.strip()):
        return []
    repaired: list[Incoming] = []
    try:
        message = _decode(frame)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeError, RecursionError):
        message = _decode_leniently(frame, repaired)
    if type(message) is not dict:
        raise Malformed("model", "not_an_object", "a frame is not a JSON object")
    return [*repaired, *_values_of(message)] if repaired else _values_of(message)


def _decode_leniently(frame: bytes | str, repaired: list[Incoming]) -> Any:
    """What a strict reader refuses: a byte order mark, which a reader may ignore (RFC 8259, 8.1), half of a surrogate
    pair, bytes that are not UTF-8, numbers beyond a double (None). What was lost is noted. Raises `Malformed`.
    """
    text = frame if isinstance(frame, str) else frame.decode("utf-8", "replace")
    try:
        message = json.loads(text.removeprefix("\ufeff"), parse_constant=lambda _: None, parse_float=_finite)
        whole = json.dumps(message, ensure_ascii=False)
    except (ValueError, RecursionError):
        raise Malformed("model", "not_json", "a frame is not JSON") from None
    mended = whole.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if mended != whole:
        message = json.loads(mended)
    if "\ufffd" in mended or not text.startswith("\ufeff"):
        repaired.append(Skipped("frame", unknown=False))
    return message


def _finite(digits: str) -> float | None:
    value = float(digits)
    return value if math.isfinite(value) else None


def usage_of(counts: Mapping[str, int]) -> Usage:
    """A turn's `usageMetadata` as tokens billed.

    Tokens without a modality are text: the service leaves a few dozen a turn without one. Thoughts are text out, a
    tool's prompt is text in. Cached tokens have no price of their own in the Live API.
    """
    count = counts.get
    prompt, response = count("promptTokenCount", 0), count("responseTokenCount", 0)
    audio_in, audio_out = count("promptTokensDetails.AUDIO", 0), count("responseTokensDetails.AUDIO", 0)
    image_in = count("promptTokensDetails.IMAGE", 0) + count("promptTokensDetails.VIDEO", 0)
    return Usage(
        text_in=max(prompt - audio_in - image_in, 0) + count("toolUsePromptTokenCount", 0),
        audio_in=audio_in,
        image_in=image_in,
        text_out=max(response - audio_out, 0) + count("thoughtsTokenCount", 0),
        audio_out=audio_out,
        input_total=prompt,
        output_total=response,
        by_name=counts,
    )


def _values_of(message: Mapping[str, Any]) -> list[Incoming]:
    """In this order: the caller's words, the turn's words, its audio, its calls, its ends, and the connection's
    messages; so a turn is whole before it is over, whichever way the frame was packed.
    """
    found: list[Incoming] = []
    content = message.get("serverContent")
    if content is not None and len(message) == 1:  # the hot one
        _content(content, {}, found)
        return found
    for key in message:
        if key not in _TOP:
            found.append(Skipped(key, unknown=True))
    if "setupComplete" in message:
        found.append(SetupComplete())
    if (body := message.get("toolCallCancellation")) is not None:
        ids = _get(body, "ids", list, "toolCallCancellation", found) or ()
        found.append(CallsCancelled(tuple(i for i in ids if isinstance(i, str))))
    if content is not None or "toolCall" in message or "usageMetadata" in message:
        _content(content if content is not None else {}, message, found)
    if (body := message.get("sessionResumptionUpdate")) is not None and _is_object(
        body, "sessionResumptionUpdate", found
    ):
        value = body.get("newHandle")
        value = value if isinstance(value, str) else ""
        resumable = body.get("resumable") is True and bool(value)
        found.append(Handle(value if resumable else "", resumable))
    if (body := message.get("goAway")) is not None:
        found.append(ClosingSoon(_seconds(body.get("timeLeft") if isinstance(body, dict) else None, found)))
    return found


def _content(content: Any, message: Mapping[str, Any], found: list[Incoming]) -> None:
    if not _is_object(content, "serverContent", found):
        content = {}
    for key in content:
        if key not in _CONTENT:
            found.append(Skipped(f"serverContent.{key}", unknown=True))
    if (body := content.get("inputTranscription")) is not None:
        text = _get(body, "text", str, "inputTranscription", found)
        finished = isinstance(body, dict) and body.get("finished") is True
        if text or finished:
            found.append(CallerText(text or "", finished))
    if (body := content.get("outputTranscription")) is not None:
        text = _get(body, "text", str, "outputTranscription", found)
        if text:
            found.append(ModelText(text))
    if (turn := content.get("modelTurn")) is not None:
        for part in _get(turn, "parts", list, "modelTurn", found) or ():
            _part(part, found)
    if (body := message.get("toolCall")) is not None:
        for call in _get(body, "functionCalls", list, "toolCall", found) or ():
            _call(call, found)
    if content.get("generationComplete") is True:
        found.append(GenerationComplete())
    if content.get("interrupted") is True:
        found.append(Interrupted())
    if (body := message.get("usageMetadata")) is not None:
        _usage(body, found)
    if content.get("turnComplete") is True:
        reason = content.get("turnCompleteReason")
        found.append(
            TurnEnd(
                more=content.get("interactionStatus") == "IN_PROGRESS",
                reason=reason if isinstance(reason, str) else "",
            )
        )


def _part(part: Any, found: list[Incoming]) -> None:
    if not _is_object(part, "modelTurn.parts", found):
        return
    blob = part.get("inlineData")
    if blob is None:
        if part:
            found.append(OtherPart(thought=part.get("thought") is True))
        return
    data = blob.get("data") if isinstance(blob, dict) else None
    mime_type = blob.get("mimeType") if isinstance(blob, dict) else None
    # Without a media type it is audio: no other modality is requested.
    if mime_type is not None and not (isinstance(mime_type, str) and _is_our_audio(mime_type)):
        found.append(Skipped("inlineData.mimeType", unknown=False, value=str(mime_type)[:60]))
        return
    pcm = None
    if type(data) is str:
        if "-" in data or "_" in data:
            data = data.translate(_URLSAFE)
        with contextlib.suppress(ValueError):
            pcm = pybase64.b64decode(data + "=" * (-len(data) % 4), validate=True)
    if pcm is None:
        found.append(Skipped("inlineData.data", unknown=False))
    elif pcm:
        found.append(Audio(pcm))


_PARAMETER = re.compile(r"""\s*;\s*(?:([^\s;="]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*)))?""")


@lru_cache(maxsize=64)
def _is_our_audio(media_type: str) -> bool:
    """Whether a media type (RFC 9110, 8.3.1) is PCM16 LE mono at `OUTPUT_RATE_HZ`, by what it says of itself.

    `audio/L16` is big-endian (RFC 2586) and refused, but for Google's `audio/L16;codec=pcm`, which its text-to-speech
    sends in little-endian.
    """
    kind, semicolon, rest = media_type.partition(";")
    given: dict[str, str] = {}
    rest = semicolon + rest
    while rest.strip():
        if (found := _PARAMETER.match(rest)) is None:
            return False
        if found[1]:
            value = re.sub(r"\\(.)", r"\1", found[2]) if found[2] is not None else found[3]
            given[found[1].lower()] = value.lower()
        rest = rest[found.end() :]
    kind = kind.strip().lower()
    return (
        (kind == "audio/pcm" or (kind == "audio/l16" and given.get("codec") == "pcm"))
        and given.get("codec", "pcm") == "pcm"
        and given.get("rate", str(OUTPUT_RATE_HZ)) == str(OUTPUT_RATE_HZ)
        and given.get("channels", "1") == "1"
    )


def _call(call: Any, found: list[Incoming]) -> None:
    if not _is_object(call, "toolCall.functionCalls", found):
        return
    call_id, name, arguments = call.get("id"), call.get("name"), call.get("args")
    if not isinstance(name, str) or not name:
        found.append(Skipped("toolCall.functionCalls.name", unknown=False))
        return
    if arguments is not None and not isinstance(arguments, dict):
        found.append(Skipped("toolCall.functionCalls.args", unknown=False))
        arguments = None
    found.append(FunctionCall(call_id if isinstance(call_id, str) else "", name, arguments or {}))


def _usage(body: Any, found: list[Incoming]) -> None:
    if not _is_object(body, "usageMetadata", found):
        return
    counts: dict[str, int] = {}
    for key, value in body.items():
        name = _USAGE_NAMES.get(key, key)
        if isinstance(value, list):
            for detail in value:
                if isinstance(detail, dict) and (tokens := _tokens(detail.get("tokenCount"), key, found)) is not None:
                    share = f"{name}.{detail.get('modality', 'UNSPECIFIED')}"
                    counts[share] = counts.get(share, 0) + tokens
        elif (tokens := _tokens(value, key, found)) is not None:
            counts[name] = tokens
    if counts:
        found.append(TokenCounts(counts))


def _tokens(value: Any, key: str, found: list[Incoming]) -> int | None:
    """A count of tokens, an int32 of the reference; None for what is no number, or (with a `Skipped`) out of range."""
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    if 0 <= value <= TOKENS_MAX:
        return value
    found.append(Skipped(f"usageMetadata.{key}", unknown=False))
    return None


def _seconds(duration: Any, found: list[Incoming]) -> float:
    """A protobuf Duration in JSON, "50s" or "9.5s"."""
    try:
        left = float(duration.removesuffix("s"))
        if 0 <= left < 1e6:
            return left
    except (AttributeError, ValueError):
        pass
    found.append(Skipped("goAway.timeLeft", unknown=False))
    return _WITHOUT_A_DEADLINE_S


def _is_object(value: Any, where: str, found: list[Incoming]) -> bool:
    if isinstance(value, dict):
        return True
    found.append(Skipped(where, unknown=False))
    return False


def _get(value: Any, key: str, kind: type, where: str, found: list[Incoming]) -> Any:
    """`value[key]` when it is of that type; None when absent, or (with a `Skipped`) when it is not."""
    if not _is_object(value, where, found):
        return None
    inner = value.get(key)
    if inner is None or isinstance(inner, kind):
        return inner
    found.append(Skipped(f"{where}.{key}", unknown=False))
    return None
