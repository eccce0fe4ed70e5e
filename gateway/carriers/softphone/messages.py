"""The messages between the page and the gateway: JSON objects with a `type`, and the caller's audio in binary. Pure.

From the page: `start` first, then binary frames of 20 ms, `mark` (everything before it has left the loudspeaker),
`cleared` (the queue is empty and the loudspeaker silent), `key`, `hang_up`.
To the page: `audio`, `mark`, `clear`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import pybase64

from offhook.gateway.call.line import LineFormats
from offhook.gateway.errors import Malformed
from offhook.media.formats import MULAW_8K, PCM16_16K, PCM16_24K

__all__ = [
    "MAX_MESSAGE_BYTES",
    "TELEPHONE",
    "WIDE",
    "Cleared",
    "Key",
    "Message",
    "PageEncoder",
    "PageHangUp",
    "PageMark",
    "PageStart",
    "parse",
]

TELEPHONE = LineFormats(gives=MULAW_8K, takes=MULAW_8K)  # what callers hear, and are heard by
WIDE = LineFormats(gives=PCM16_16K, takes=PCM16_24K)  # the model's own rates
MAX_MESSAGE_BYTES = 64 * 1024


class PageStart(msgspec.Struct, frozen=True, tag="start"):
    """The socket is this call's stream."""

    call_id: Annotated[str, msgspec.Meta(max_length=100)]
    token: Annotated[str, msgspec.Meta(max_length=100)]


class PageMark(msgspec.Struct, frozen=True, tag="mark"):
    """This mark was reached; a mark that a clear dropped comes back as well."""

    name: Annotated[str, msgspec.Meta(max_length=100)]


class Cleared(msgspec.Struct, frozen=True, tag="cleared"):
    """The oldest clear not yet acknowledged is done."""


class Key(msgspec.Struct, frozen=True, tag="key"):
    """The caller pressed a key of the keypad."""

    key: Annotated[str, msgspec.Meta(pattern=r"^[0-9A-D*#]\Z")]


class PageHangUp(msgspec.Struct, frozen=True, tag="hang_up"):
    """The caller hung up, or left the page."""


Message = PageStart | PageMark | Cleared | Key | PageHangUp
_DECODER = msgspec.json.Decoder(Message)


def parse(text: str) -> Message:
    """One message of the page. Raises `Malformed`."""
    try:
        message: Message = _DECODER.decode(text)
    except msgspec.ValidationError as error:
        raise Malformed("carrier", "bad_field", str(error)) from None
    except RecursionError:
        raise Malformed("carrier", "too_deep", "too deeply nested") from None
    except ValueError:  # not JSON, or lone surrogates
        raise Malformed("carrier", "not_json", "not JSON") from None
    return message


class PageEncoder:
    """The `Encoder` of a `StreamLine`."""

    def media(self, codes: bytes) -> str:
        return f'{{"type":"audio","codes":"{pybase64.b64encode(codes).decode()}"}}'

    def mark(self, name: str) -> str:
        return f'{{"type":"mark","name":"{name}"}}'

    def clear(self) -> str:
        return '{"type":"clear"}'
