"""Twilio's media-stream messages, both directions. No I/O. Source: Twilio docs, "Media Streams: WebSocket
messages".

`parse` returns a message, None for an unknown event, or raises `Malformed`: nothing else, for any input. Twilio sends
counters and times as JSON strings; numbers are accepted as well. Fields that only inform may be missing, fields that
the gateway acts on may not.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
import pybase64
from msgspec import Meta, Struct, field

from offhook.gateway.errors import Malformed

__all__ = [
    "MAX_MESSAGE_BYTES",
    "START_DEADLINE_S",
    "Connected",
    "Dtmf",
    "Mark",
    "Media",
    "MediaFormat",
    "Message",
    "Start",
    "Stop",
    "TwilioEncoder",
    "is_call_sid",
    "is_sid",
    "parse",
]

MAX_MESSAGE_BYTES = 64 * 1024  # a frame of 20 ms is 400 bytes: 64 KiB is 6 s of audio in one, or an attack
START_DEADLINE_S = 5.0  # Twilio sends `start` right after `connected`; a socket without it takes up a place


# --- what Twilio sends


class MediaFormat(Struct, frozen=True):
    """The stream's audio. Twilio documents one format; any other must be refused, not guessed."""

    encoding: str
    rate_hz: int
    channels: int

    @property
    def is_telephone(self) -> bool:
        """Mu-law, 8 kHz, mono: the only supported format."""
        return self.encoding == "audio/x-mulaw" and self.rate_hz == 8000 and self.channels == 1


class Connected(Struct, frozen=True):
    """The socket is up: always the first message."""

    protocol: str
    version: str


class Start(Struct, frozen=True):
    """The stream begins. SIDs are 1 to 64 of `A-Za-z0-9_-`, so safe in paths, URLs and logs.

    `parameters` are the `<Parameter>`s of our TwiML. The one-time token is one of them: never log them.
    """

    stream_sid: str
    call_sid: str
    account_sid: str
    media_format: MediaFormat
    tracks: tuple[str, ...]
    parameters: dict[str, str]
    sequence: int

    def __repr__(self) -> str:
        return f"Start(stream_sid={self.stream_sid!r}, call_sid={self.call_sid!r}, parameters=...)"


class Media(Struct, frozen=True, gc=False):
    """Audio of the caller: mu-law bytes, 160 (20 ms) as a rule, any number above 0 by the protocol.

    `timestamp_ms` counts from the start of the stream and is the reliable clock: `chunk` times 20 ms is not.
    `chunk` and `sequence` count from 1; 0 where the message had none.
    """

    payload: bytes
    timestamp_ms: int
    chunk: int
    sequence: int
    stream_sid: str


class Dtmf(Struct, frozen=True):
    """The caller pressed a key: one of `0123456789ABCD*#`."""

    digit: str
    sequence: int
    stream_sid: str


class Mark(Struct, frozen=True):
    """The echo of a mark: all audio before it was played or cleared, or there was none."""

    name: str
    sequence: int
    stream_sid: str


class Stop(Struct, frozen=True):
    """The stream is over; Twilio gives no reason."""

    call_sid: str
    sequence: int
    stream_sid: str


Message = Connected | Start | Media | Dtmf | Mark | Stop


def is_sid(text: str) -> bool:
    """Whether this can name a call, a stream or an account: 1 to 64 of `A-Za-z0-9_-`.

    Wider than Twilio's own (two letters, 32 hex digits), for compatible carriers and simulations.
    """
    return re.match(_SID, text) is not None


def is_call_sid(text: str) -> bool:
    """Whether this is the SID of a call of Twilio's: `CA` and 32 hexadecimal digits."""
    return re.match(r"^CA[0-9a-fA-F]{32}\Z", text) is not None


# --- the JSON

_Count = Annotated[int, Meta(ge=0, le=2**53)]  # the integers that JSON numbers hold exactly
_SID = r"^[A-Za-z0-9_-]{1,64}\Z"
_Sid = Annotated[str, Meta(pattern=_SID)]


class _ConnectedWire(Struct, tag_field="event", tag="connected"):
    protocol: str = ""
    version: str = ""


class _FormatWire(Struct):
    encoding: str
    rate_hz: _Count = field(name="sampleRate")
    channels: _Count


class _StartBody(Struct):
    call_sid: _Sid = field(name="callSid")
    media_format: _FormatWire = field(name="mediaFormat")
    account_sid: Annotated[str, Meta(pattern=rf"\A\Z|{_SID}")] = field(name="accountSid", default="")
    tracks: list[str] = []
    parameters: dict[str, str] = field(name="customParameters", default_factory=dict)


class _StartWire(Struct, tag_field="event", tag="start"):
    start: _StartBody
    stream_sid: _Sid = field(name="streamSid")
    sequence: _Count = field(name="sequenceNumber", default=0)


class _MediaBody(Struct, gc=False):
    payload: Annotated[bytes, Meta(min_length=1)]
    timestamp: _Count
    chunk: _Count = 0
    track: Literal["inbound"] = "inbound"  # the agent's own voice must never pass for the caller's


class _MediaWire(Struct, tag_field="event", tag="media", gc=False):
    media: _MediaBody
    stream_sid: str = field(name="streamSid", default="")
    sequence: _Count = field(name="sequenceNumber", default=0)


class _DtmfBody(Struct):
    digit: Annotated[str, Meta(pattern=r"^[0-9A-D*#]\Z")]


class _DtmfWire(Struct, tag_field="event", tag="dtmf"):
    dtmf: _DtmfBody
    stream_sid: str = field(name="streamSid", default="")
    sequence: _Count = field(name="sequenceNumber", default=0)


class _MarkBody(Struct):
    name: str


class _MarkWire(Struct, tag_field="event", tag="mark"):
    mark: _MarkBody
    stream_sid: str = field(name="streamSid", default="")
    sequence: _Count = field(name="sequenceNumber", default=0)


class _StopBody(Struct):
    call_sid: str = field(name="callSid", default="")


class _StopWire(Struct, tag_field="event", tag="stop"):
    stop: _StopBody = field(default_factory=_StopBody)
    stream_sid: str = field(name="streamSid", default="")
    sequence: _Count = field(name="sequenceNumber", default=0)


class _Envelope(Struct):
    event: str


_EVENTS = {"connected", "start", "media", "dtmf", "mark", "stop"}
_Wire = _ConnectedWire | _StartWire | _MediaWire | _DtmfWire | _MarkWire | _StopWire
_decode = msgspec.json.Decoder(_Wire, strict=False).decode
_decode_envelope = msgspec.json.Decoder(_Envelope).decode

# Beginnings of msgspec's messages -> the metric's reasons; "bad_field" is the rest.
_REASONS = (
    ("Expected `object`", "not_an_object"),
    ("Object missing required field", "missing_field"),
    ("Invalid base64", "bad_base64"),
    ("Expected `bytes` of length", "empty_payload"),
)


def parse(text: str | bytes) -> Message | None:
    """One message of Twilio's; None when its event is unknown.

    Raises `Malformed` with peer "carrier" and reason one of `not_utf8`, `not_json`, `too_deep`,
    `not_an_object`, `missing_field`, `bad_base64`, `empty_payload`, `bad_field`.
    """
    try:
        wire = _decode(text)
    except (ValueError, RecursionError) as error:
        malformed = _malformed(text, error)
        if malformed is None:
            return None
        raise malformed from None
    if type(wire) is _MediaWire:  # 50 a second: first
        media = wire.media
        return Media(media.payload, media.timestamp, media.chunk, wire.sequence, wire.stream_sid)
    match wire:
        case _MarkWire():
            return Mark(wire.mark.name, wire.sequence, wire.stream_sid)
        case _DtmfWire():
            return Dtmf(wire.dtmf.digit, wire.sequence, wire.stream_sid)
        case _ConnectedWire():
            return Connected(wire.protocol, wire.version)
        case _StartWire(start=body):
            form = body.media_format
            return Start(
                stream_sid=wire.stream_sid,
                call_sid=body.call_sid,
                account_sid=body.account_sid,
                media_format=MediaFormat(form.encoding, form.rate_hz, form.channels),
                tracks=tuple(body.tracks),
                parameters=body.parameters,
                sequence=wire.sequence,
            )
        case _StopWire():
            return Stop(wire.stop.call_sid, wire.sequence, wire.stream_sid)
    raise AssertionError(wire)


def _malformed(text: str | bytes, error: ValueError | RecursionError) -> Malformed | None:
    """What is wrong with the message; None when it is well formed and only its event is unknown."""
    if isinstance(error, msgspec.ValidationError):
        try:
            if _decode_envelope(text).event not in _EVENTS:
                return None
        except (ValueError, RecursionError) as deeper:  # the first error met hid a worse one
            if not isinstance(deeper, msgspec.ValidationError):
                error = deeper
    if isinstance(error, msgspec.ValidationError):
        what = str(error)
        reason = next((known for start, known in _REASONS if what.startswith(start)), "bad_field")
    elif isinstance(error, RecursionError):
        reason, what = "too_deep", "the message is nested too deeply"
    elif isinstance(error, UnicodeError):
        reason, what = "not_utf8", "the message is not valid UTF-8"
    else:
        reason, what = "not_json", str(error)
    return Malformed("carrier", reason, what[:200])


# --- what Twilio receives


class TwilioEncoder:
    """Builds the messages of one stream, to be sent as text (a binary frame is Twilio's warning 31950)."""

    def __init__(self, stream_sid: str) -> None:
        sid = msgspec.json.encode(stream_sid).decode()
        self._media = f'{{"event":"media","streamSid":{sid},"media":{{"payload":"'
        self._mark = f'{{"event":"mark","streamSid":{sid},"mark":{{"name":'
        self._clear = f'{{"event":"clear","streamSid":{sid}}}'

    def media(self, codes: bytes) -> str:
        """Append audio to Twilio's queue: mu-law 8 kHz mono, any length."""
        return self._media + pybase64.b64encode_as_string(codes) + '"}}'

    def mark(self, name: str) -> str:
        """Have `name` echoed once all audio sent before it was played (or cleared)."""
        return self._mark + msgspec.json.encode(name).decode() + "}}"

    def clear(self) -> str:
        """Drop Twilio's queue; it echoes the marks in it."""
        return self._clear
