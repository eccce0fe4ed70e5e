"""Bodies of HTTP answers as the standards allow them. No I/O.

Media types by RFC 9110 (8.3), content codings by RFC 1950 to 1952, JSON by RFC 8259. A body that ends too early is an
error: half an answer must not pass for the whole.
"""

from __future__ import annotations

import codecs
import json
import re
import zlib
from dataclasses import dataclass
from typing import Any

import msgspec

__all__ = ["MediaType", "decoded", "inflate", "media_type", "parsed"]

_PARAMETER = re.compile(r'\s*;\s*([!#$%&\'*+.^_`|~\w-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;,]*))')
_JSON = ("application/json", "text/json", "text/x-json", "application/x-json")
_TEXT = (
    "application/xml",
    "application/javascript",
    "application/yaml",
    "application/x-yaml",
    "application/x-ndjson",
    "application/jsonl",
    "application/x-www-form-urlencoded",
)
_MARKS = (  # longest first: UTF-32LE begins as UTF-16LE does
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WINDOWS = ("iso8859-1", "ascii")  # what is labelled so on the web is windows-1252 (WHATWG Encoding, 4.2)
_CODINGS_MAX = 3  # one inside the other


@dataclass(frozen=True, slots=True)
class MediaType:
    """A Content-Type: `name` in lower case without parameters, "" for none; `charset` as declared, "" for none."""

    name: str
    charset: str

    @property
    def is_json(self) -> bool:
        return self.name in _JSON or self.name.endswith("+json")

    @property
    def is_text(self) -> bool:
        return not self.name or self.name.startswith("text/") or self.name in _TEXT or self.name.endswith("+xml")


def media_type(header: str) -> MediaType:
    """The media type of a Content-Type header; parameters in any order and case, quoted or not."""
    name = re.split(r"[;,]", header, maxsplit=1)[0]
    parameters: dict[str, str] = {}
    for key, quoted, plain in _PARAMETER.findall(header[len(name) :]):
        value = re.sub(r"\\(.)", r"\1", quoted) if quoted else plain
        parameters.setdefault(key.lower(), value.strip().strip("'"))
    return MediaType(name.strip().lower(), parameters.get("charset", ""))


def decoded(body: bytes, kind: MediaType, *, cut: bool = False) -> str:
    """The body's text, without a byte order mark. `cut`: it goes on, so that its last character may be in part.

    Raises ValueError for a charset that is not known.
    """
    marked = next((name for mark, name in _MARKS if body.startswith(mark)), "")
    if marked:
        name = marked
    elif kind.charset:
        try:
            codec = codecs.lookup(kind.charset)
            b"a".decode(kind.charset, "replace")  # refuses codecs that do not make text, such as zip
        except (LookupError, ValueError):
            raise ValueError(f"the charset {kind.charset[:40]!r} is not known") from None
        name = "cp1252" if codec.name in _WINDOWS else codec.name
    elif kind.is_json:
        name = json.detect_encoding(body)
    else:
        name = "utf-8"
        try:
            return codecs.getincrementaldecoder(name)().decode(body, not cut)
        except UnicodeDecodeError:
            name = "cp1252"  # undeclared, and not UTF-8
    return codecs.getincrementaldecoder(name)("replace").decode(body, not cut)


def parsed(text: str) -> Any:
    """A JSON text. The last of several values of one name counts. Raises `ValueError`."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        try:
            return json.loads(text, parse_constant=_no_number)  # takes lone surrogates, which RFC 8259 (8.2) allows
        except (ValueError, RecursionError):
            raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("it nests too deeply") from None


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def inflate(data: bytes, encoding: str, limit: int, *, ended: bool = True) -> tuple[bytes, bool]:
    """The body without its Content-Encoding, at most `limit` bytes, and whether there was more.

    `ended`: `data` is all that was sent. Raises ValueError for a coding that is not understood, for data that is not
    in that coding, and for data that ends before its coding does.
    """
    codings = [name for part in encoding.lower().split(",") if (name := part.strip()) not in ("", "identity")]
    if len(codings) > _CODINGS_MAX:
        raise ValueError(f"{len(codings)} content codings, one inside the other")
    for index, name in enumerate(reversed(codings)):
        if name not in ("gzip", "x-gzip", "deflate"):
            raise ValueError(f"Content-Encoding {name[:40]} is not understood")
        # The inner codings may need more than the limit to give that much: they shrink, they do not grow.
        data, more = _inflated(data, name, limit if index == len(codings) - 1 else limit + 1_000, ended)
        ended = ended and not more
    return data[:limit], len(data) > limit or not ended


def _inflated(data: bytes, name: str, limit: int, ended: bool) -> tuple[bytes, bool]:
    if not data:
        return b"", False  # an empty body, as after HEAD
    plain = bytearray()
    # deflate is zlib (RFC 9110, 8.4.1.2); some servers send it raw.
    bare = name == "deflate" and (data[0] & 0x0F != 8 or int.from_bytes(data[:2], "big") % 31)
    try:
        while data:
            unpacker = zlib.decompressobj(-15 if bare else 15 if name == "deflate" else 31)
            plain += unpacker.decompress(data, limit + 1 - len(plain))
            if len(plain) > limit:
                return bytes(plain[: limit + 1]), True
            if not unpacker.eof:
                if ended:
                    raise ValueError(f"the {name} data ends too early")
                break
            data = unpacker.unused_data.lstrip(b"\0") if name != "deflate" else b""  # RFC 1952: several members
    except zlib.error as error:
        raise ValueError(f"not {name}: {error}") from None
    return bytes(plain), False
