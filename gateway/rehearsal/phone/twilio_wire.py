"""Twilio's messages, signatures and TwiML, parsed independently: nothing is shared with the gateway.

Sources: Twilio's "Media Streams: WebSocket messages", "TwiML for Programmable Voice" and "Webhooks security".
The parser is as strict as Twilio: what Twilio logs as 31950 or 31951 raises `Unfit`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

import msgspec
import pybase64

__all__ = [
    "ClearMessage",
    "ConnectVerb",
    "DialVerb",
    "EnqueueVerb",
    "HangupVerb",
    "MarkMessage",
    "MediaMessage",
    "PauseVerb",
    "PlayVerb",
    "RedirectVerb",
    "RejectVerb",
    "SayVerb",
    "Unfit",
    "Verb",
    "message",
    "parse_twiml",
    "payload",
    "sign",
    "signed_socket_url",
]

TWIML_MAX_BYTES = 64 * 1024
PARAMETER_MAX = 500  # name and value together stay under this


class Unfit(Exception):
    """Twilio would not accept this; `code` is the error or warning that it would log."""

    def __init__(self, code: int, what: str) -> None:
        super().__init__(f"{code}: {what}")
        self.code, self.what = code, what


# --- messages to us


class _Payload(msgspec.Struct, forbid_unknown_fields=True):
    payload: str


class _Name(msgspec.Struct, forbid_unknown_fields=True):
    name: str


class _Message(msgspec.Struct, tag_field="event", forbid_unknown_fields=True):
    stream_sid: str = msgspec.field(name="streamSid")


class MediaMessage(_Message, tag="media", forbid_unknown_fields=True):
    """Audio to be queued."""

    media: _Payload


class MarkMessage(_Message, tag="mark", forbid_unknown_fields=True):
    """A mark to be echoed once all audio queued before it has been played."""

    mark: _Name


class ClearMessage(_Message, tag="clear", forbid_unknown_fields=True):
    """The queue is to be emptied."""


_Known = MediaMessage | MarkMessage | ClearMessage
_decoder: msgspec.json.Decoder[_Known] = msgspec.json.Decoder(_Known)


def message(text: str, stream_sid: str) -> _Known:
    """Parse one text frame of the gateway. Raises `Unfit` (31951)."""
    try:
        found = _decoder.decode(text)
    except msgspec.MsgspecError as error:
        raise Unfit(31951, f"{error}: {text[:120]}") from None
    if found.stream_sid != stream_sid:
        raise Unfit(31951, f"streamSid is {found.stream_sid[:40]!r}, this stream is {stream_sid}")
    if isinstance(found, MarkMessage) and not found.mark.name:
        raise Unfit(31951, "mark.name is empty")
    return found


def payload(media: MediaMessage) -> bytes:
    """Mu-law bytes. Raises `Unfit` (31951) for bad base64, an empty payload or a file header in front."""
    try:
        audio = pybase64.b64decode(media.media.payload, validate=True)
    except ValueError:
        raise Unfit(31951, f"media.payload is not base64: {media.media.payload[:40]!r}") from None
    if not audio:
        raise Unfit(31951, "media.payload is empty")
    if audio[:4] in (b"RIFF", b".snd", b"OggS"):
        raise Unfit(31951, "media.payload begins with a file header, which plays as noise")
    return audio


# --- signatures


def sign(url: str, fields: Mapping[str, str], auth_token: str) -> str:
    """The X-Twilio-Signature of a request to `url` with these form fields ({} for GET and upgrades)."""
    text = url + "".join(name + fields[name] for name in sorted(fields))
    return base64.b64encode(hmac.new(auth_token.encode(), text.encode(), hashlib.sha1).digest()).decode()


def signed_socket_url(url: str) -> str:
    """The URL that is signed at a WebSocket upgrade: without user-info, and without the port over TLS."""
    scheme, netloc, path, query, _ = urlsplit(url)
    host = netloc.rpartition("@")[2]
    if scheme in ("https", "wss"):
        host = host.partition(":")[0]
    return urlunsplit((scheme, host, path, query, ""))


# --- TwiML


@dataclass(frozen=True, slots=True)
class ConnectVerb:
    """`<Connect><Stream>`: `url` and its `<Parameter>`s; `action` is requested when the stream has ended."""

    url: str
    parameters: tuple[tuple[str, str], ...] = ()
    action: str = ""
    method: str = "POST"
    status_callback: str = ""


@dataclass(frozen=True, slots=True)
class SayVerb:
    text: str


@dataclass(frozen=True, slots=True)
class PlayVerb:
    """A sound file, `loop` times (0: until something else is to be done), or the tones of `digits`."""

    url: str
    loop: int = 1
    digits: str = ""


@dataclass(frozen=True, slots=True)
class PauseVerb:
    length_s: float = 1.0


@dataclass(frozen=True, slots=True)
class DialVerb:
    """`to`: the number, address, conference or queue that is dialled. `whisper` is requested for the party
    that answers.

    A conference begins with the first participant that `starts` it and is over when one that `ends` it leaves.
    """

    to: str
    action: str = ""
    method: str = "POST"
    whisper: str = ""
    caller_id: str = ""
    conference: bool = False
    starts: bool = True
    ends: bool = False


@dataclass(frozen=True, slots=True)
class EnqueueVerb:
    queue: str


@dataclass(frozen=True, slots=True)
class RedirectVerb:
    url: str
    method: str = "POST"


@dataclass(frozen=True, slots=True)
class RejectVerb:
    reason: str = "rejected"


@dataclass(frozen=True, slots=True)
class HangupVerb:
    pass


Verb = ConnectVerb | SayVerb | PlayVerb | PauseVerb | DialVerb | EnqueueVerb | RedirectVerb | RejectVerb | HangupVerb


def parse_twiml(body: bytes, content_type: str = "text/xml") -> tuple[Verb, ...]:
    """The verbs of a document, in order. Raises `Unfit` with the code Twilio logs."""
    if content_type.partition(";")[0].strip() not in ("text/xml", "application/xml", "text/html"):
        raise Unfit(12300, f"TwiML has content type {content_type!r}; it is text/xml")
    if len(body) > TWIML_MAX_BYTES:
        raise Unfit(11750, f"TwiML of {len(body)} bytes; 64 kB is the most")
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError as error:
        raise Unfit(12100, f"TwiML is not XML: {error}") from None
    if root.tag != "Response":
        raise Unfit(12200, f"TwiML begins with <{root.tag}>; it is <Response>")
    return tuple(_verb(element) for element in root)


def _verb(element: ElementTree.Element) -> Verb:
    get, text = element.get, "".join(element.itertext()).strip()
    match element.tag:
        case "Connect":
            return _connect(element)
        case "Say":
            return SayVerb(text)
        case "Play":
            return PlayVerb(text, int(get("loop", "1")), get("digits", ""))
        case "Pause":
            return PauseVerb(float(get("length", "1")))
        case "Dial":
            return _dial(element, text)
        case "Enqueue":
            return EnqueueVerb(text)
        case "Redirect":
            return RedirectVerb(text, get("method", "POST").upper())
        case "Reject":
            return RejectVerb(get("reason", "rejected"))
        case "Hangup":
            return HangupVerb()
    raise Unfit(12200, f"<{element.tag}> is a verb that this carrier does not support")


def _dial(element: ElementTree.Element, text: str) -> DialVerb:
    nouns = {"Number", "Sip", "Conference", "Queue", "Client"}
    if any(child.tag not in nouns for child in element) or not text:
        raise Unfit(12200, "<Dial> holds a number, an address, a conference or a queue")
    noun = element[0] if len(element) else ElementTree.Element("Number")
    return DialVerb(
        text,
        element.get("action", ""),
        element.get("method", "POST").upper(),
        whisper=noun.get("url", ""),
        caller_id=element.get("callerId", ""),
        conference=noun.tag == "Conference",
        starts=noun.get("startConferenceOnEnter", "true") == "true",
        ends=noun.get("endConferenceOnExit", "false") == "true",
    )


def _connect(element: ElementTree.Element) -> ConnectVerb:
    streams = element.findall("Stream")
    if len(element) != 1 or len(streams) != 1:
        raise Unfit(12200, "<Connect> holds exactly one <Stream>")
    [stream] = streams
    url = stream.get("url", "")
    parts = urlsplit(url)
    loopback = parts.hostname in ("127.0.0.1", "localhost", "::1")  # a rehearsal without TLS
    if parts.scheme != "wss" and not (parts.scheme == "ws" and loopback):
        raise Unfit(31922, f"the stream's URL is {url!r}; it begins with wss://")
    if not parts.netloc:
        raise Unfit(31923, f"the stream's URL is {url!r}; it has no host")
    if parts.query:
        raise Unfit(31920, "the stream's URL has a query string, which Twilio drops: use <Parameter>")
    if stream.get("track", "inbound_track") != "inbound_track":
        raise Unfit(31941, f"track is {stream.get('track')!r}; a two-way stream has inbound_track")
    parameters = []
    for child in stream:
        name, value = child.get("name", ""), child.get("value", "")
        if child.tag != "Parameter" or not name:
            raise Unfit(12200, "<Stream> holds <Parameter name=... value=...> only")
        if len(name) + len(value) >= PARAMETER_MAX:
            raise Unfit(12200, f"<Parameter> {name!r} and its value have 500 characters or more")
        parameters.append((name, value))
    return ConnectVerb(
        url=url,
        parameters=tuple(parameters),
        action=element.get("action", ""),
        method=element.get("method", "POST").upper(),
        status_callback=stream.get("statusCallback", ""),
    )
