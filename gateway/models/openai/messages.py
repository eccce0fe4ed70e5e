"""The Realtime API's messages, both ways; pure.

Client events are encoded here, server events parsed into one flat struct: a reader dispatches on its `type`, a string.
Only the fields that a link uses are named; every other field and every unknown type is left alone, as the service adds
both without notice. Source: OpenAI docs, "Realtime API" (client events, server events), GA shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pybase64

from offhook.gateway.errors import Malformed
from offhook.gateway.models import Usage

__all__ = [
    "CLEAR",
    "COMMIT",
    "Error",
    "Response",
    "ServerEvent",
    "append",
    "arguments_of",
    "cancel",
    "create_response",
    "delete",
    "function_output",
    "message_item",
    "parse",
    "picture_item",
    "session_update",
    "truncate",
    "usage_of",
]

_APPEND_HEAD, _APPEND_TAIL = b'{"type":"input_audio_buffer.append","audio":"', b'"}'
COMMIT = b'{"type":"input_audio_buffer.commit"}'
CLEAR = b'{"type":"input_audio_buffer.clear"}'

_encode = msgspec.json.Encoder().encode


# --- client events


def append(codes: bytes) -> bytes:
    """Caller audio in the session's input format. Written by hand: it is sent 50 times a second."""
    return _APPEND_HEAD + pybase64.b64encode(codes) + _APPEND_TAIL


def session_update(session: Mapping[str, Any], event_id: str) -> bytes:
    return _encode({"type": "session.update", "event_id": event_id, "session": session})


def message_item(role: str, text: str, item_id: str = "") -> bytes:
    """An item of text. The agent's own words are output, everything else is input."""
    kind = "output_text" if role == "assistant" else "input_text"
    item: dict[str, Any] = {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}
    return _encode({"type": "conversation.item.create", "item": {"id": item_id, **item} if item_id else item})


def picture_item(jpeg: bytes) -> bytes:
    """An item of the caller's: a JPEG picture, as a data URI. The service resolves its `detail` by itself."""
    url = f"data:image/jpeg;base64,{pybase64.b64encode(jpeg).decode()}"
    item = {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": url}]}
    return _encode({"type": "conversation.item.create", "item": item})


def function_output(call_id: str, response: Mapping[str, Any]) -> bytes:
    """Raises what msgspec raises for a value that JSON does not have."""
    item = {"type": "function_call_output", "call_id": call_id, "output": _encode(response).decode()}
    return _encode({"type": "conversation.item.create", "item": item})


def create_response(event_id: str) -> bytes:
    return _encode({"type": "response.create", "event_id": event_id})


def cancel(response_id: str) -> bytes:
    return _encode({"type": "response.cancel", "response_id": response_id})


def truncate(item_id: str, audio_end_ms: int) -> bytes:
    return _encode(
        {"type": "conversation.item.truncate", "item_id": item_id, "content_index": 0, "audio_end_ms": audio_end_ms}
    )


def delete(item_id: str) -> bytes:
    return _encode({"type": "conversation.item.delete", "item_id": item_id})


# --- server events


class Error(msgspec.Struct, frozen=True):
    type: str | None = None
    code: str | None = None
    message: str | None = None
    param: str | None = None
    event_id: str | None = None


class _Item(msgspec.Struct, frozen=True):
    id: str | None = None
    type: str | None = None
    status: str | None = None
    name: str | None = None
    call_id: str | None = None
    arguments: str | None = None


class _StatusDetails(msgspec.Struct, frozen=True):
    reason: str | None = None
    error: Error | None = None


class Response(msgspec.Struct, frozen=True):
    id: str | None = None
    status: str | None = None
    status_details: _StatusDetails | None = None
    usage: dict[str, Any] | None = None

    @property
    def why(self) -> str:
        """The code of a failure, else the reason of an early end, "" for none."""
        details = self.status_details
        if details is None:
            return ""
        return (details.error.code or details.error.type or "" if details.error else "") or details.reason or ""


class _Session(msgspec.Struct, frozen=True):
    id: str | None = None
    expires_at: float | None = None


class ServerEvent(msgspec.Struct, frozen=True):
    """One message; which fields are set depends on its type."""

    type: str
    delta: str | None = None
    item_id: str | None = None
    response_id: str | None = None
    transcript: str | None = None
    item: _Item | None = None
    response: Response | None = None
    session: _Session | None = None
    error: Error | None = None
    usage: dict[str, Any] | None = None
    rate_limits: list[dict[str, Any]] | None = None


_decode = msgspec.json.Decoder(ServerEvent).decode


def parse(data: bytes | str) -> ServerEvent:
    """A server event. Raises `Malformed`."""
    try:
        return _decode(data)
    except msgspec.ValidationError as error:
        raise Malformed("model", "bad_field", f"a message that does not fit: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Malformed("model", "not_json", "a message that is not JSON") from None


def arguments_of(text: str | None) -> dict[str, Any] | None:
    """A function call's arguments; None where they are no JSON object (a call that was cut off)."""
    try:
        value = msgspec.json.decode(text or "{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


# --- usage


def _number(counts: Mapping[str, Any], *names: str) -> int:
    value: Any = counts
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    whole = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12
    return int(value) if whole else 0


def usage_of(counts: Mapping[str, Any]) -> Usage:
    """`response.done`'s usage: what was cached is counted in `input_token_details` as well, and taken out here.

    Input that is of no kind in the details is counted as text.
    """
    total_in, total_out = _number(counts, "input_tokens"), _number(counts, "output_tokens")
    kinds = {kind: _number(counts, "input_token_details", f"{kind}_tokens") for kind in ("text", "audio", "image")}
    cached = {
        kind: _number(counts, "input_token_details", "cached_tokens_details", f"{kind}_tokens")
        for kind in ("text", "audio", "image")
    }
    all_cached = max(_number(counts, "input_token_details", "cached_tokens"), sum(cached.values()))
    cached_text = all_cached - cached["audio"]
    text_in = max(0, kinds["text"] + max(0, total_in - sum(kinds.values())) - (cached_text - cached["image"]))
    audio_out = _number(counts, "output_token_details", "audio_tokens")
    return Usage(
        text_in=text_in,
        audio_in=max(0, kinds["audio"] - cached["audio"]),
        image_in=max(0, kinds["image"] - cached["image"]),
        cached_in=cached_text,
        cached_audio_in=cached["audio"],
        text_out=max(0, total_out - audio_out),
        audio_out=audio_out,
        input_total=total_in,
        output_total=total_out,
        by_name=dict(_flat(counts)),
    )


def _flat(counts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, int]]:
    """Every count under the path of its name, zeros left out: `input_token_details.audio_tokens`."""
    flat: list[tuple[str, int]] = []
    for name, value in list(counts.items())[:20]:
        if isinstance(value, Mapping) and prefix.count(".") < 3:
            flat += _flat(value, f"{prefix}{name}.")
        elif count := _number(counts, name):
            flat.append((f"{prefix}{name}", count))
    return flat
