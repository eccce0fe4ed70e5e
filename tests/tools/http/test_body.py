"""Bodies as the standards allow them: media types, charsets, content codings, JSON."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest

from offhook.gateway.tools.http.body import MediaType, decoded, inflate, media_type, parsed

J = json.dumps({"city": "Köln"}, ensure_ascii=False)


@pytest.mark.parametrize(
    ("header", "name", "charset"),
    [
        ("", "", ""),
        ("application/json", "application/json", ""),
        ("Application/JSON; Charset=UTF-8", "application/json", "UTF-8"),
        ('text/plain;charset="iso-8859-1"', "text/plain", "iso-8859-1"),
        ('text/plain; x="a;charset=b\\"" ; charset = windows-1251', "text/plain", "windows-1251"),
        ("text/html; charset='utf-8'", "text/html", "utf-8"),
        ("application/problem+json;charset=utf-8;charset=latin-1", "application/problem+json", "utf-8"),
        ("text/plain, text/html", "text/plain", ""),
        (";charset=utf-8", "", "utf-8"),
    ],
)
def test_a_media_type_is_read(header: str, name: str, charset: str) -> None:
    assert media_type(header) == MediaType(name, charset)


def test_kinds_of_media_types() -> None:
    assert MediaType("application/vnd.api+json", "").is_json
    assert MediaType("text/json", "").is_json
    assert MediaType("image/svg+xml", "").is_text
    assert not MediaType("application/pdf", "").is_text
    assert not MediaType("application/jsonp", "").is_json


@pytest.mark.parametrize(
    ("body", "header", "text"),
    [
        (b"\xef\xbb\xbf" + J.encode(), "application/json; charset=utf-8", J),
        (b"\xef\xbb\xbf" + J.encode(), "application/json; charset=iso-8859-1", J),
        (J.encode("latin-1"), "application/json; charset=iso-8859-1", J),
        (J.encode("utf-16"), "application/json; charset=utf-16", J),
        (J.encode("utf-16-le"), "application/json", J),
        (J.encode("utf-32"), "application/json", J),
        ("Москва".encode("cp1251"), "text/plain; charset=windows-1251", "Москва"),
        ("Café Müller, Straße 5".encode("latin-1"), "text/plain; charset=iso-8859-1", "Café Müller, Straße 5"),
        ("“five” €".encode("cp1252"), "text/plain; charset=ISO-8859-1", "“five” €"),
        ("Köln".encode("latin-1"), "text/plain", "Köln"),
        ("Köln".encode(), "text/plain; charset=us-ascii", "KÃ¶ln"),
        ("東京".encode("shift_jis"), "text/plain; charset=Shift_JIS", "東京"),
        (b"a\xff", "text/plain; charset=utf-8", "a\ufffd"),
    ],
)
def test_a_body_is_decoded_by_its_charset(body: bytes, header: str, text: str) -> None:
    assert decoded(body, media_type(header)) == text


@pytest.mark.parametrize("charset", ["klingon", "zip", "base64", "rot13", "a\0b", "undefined"])
def test_an_unknown_charset_is_an_error(charset: str) -> None:
    with pytest.raises(ValueError):
        decoded(b"abc", MediaType("text/plain", charset))


def test_a_cut_body_has_no_half_character() -> None:
    assert decoded("Kö".encode()[:2], MediaType("text/plain", ""), cut=True) == "K"
    assert decoded("Kö".encode()[:2], MediaType("application/json", "utf-8"), cut=True) == "K"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"id": 9007199254740993}', {"id": 9007199254740993}),
        ('{"id": 123456789012345678901234567890}', {"id": 123456789012345678901234567890}),
        ('{"a": 1, "a": 2}', {"a": 2}),
        ('["\\ud800", "x"]', ["\ud800", "x"]),
        ("  7  ", 7),
    ],
)
def test_json_as_rfc_8259_allows_it(text: str, value: object) -> None:
    assert parsed(text) == value


@pytest.mark.parametrize("text", ["{", "[NaN]", '{"a": 1', "[1,]", "<html>", "[" * 100_000, "1 2", "9" * 10_000 + "x"])
def test_invalid_json_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):
        parsed(text)


def gz(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def raw(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("data", "encoding", "plain"),
    [
        (b"plain", "", b"plain"),
        (b"plain", "Identity", b"plain"),
        (gz(b"small"), "gzip", b"small"),
        (gz(b"small"), "X-GZIP", b"small"),
        (gz(b"sm") + gz(b"all"), "gzip", b"small"),
        (gz(b"small") + bytes(20), "gzip", b"small"),
        (zlib.compress(b"small"), "deflate", b"small"),
        (raw(b"small"), "deflate", b"small"),
        (gz(gz(b"small")), "gzip, gzip", b"small"),
        (gz(zlib.compress(b"small")), "deflate, identity, gzip", b"small"),
        (b"", "gzip", b""),
    ],
)
def test_a_content_coding_is_undone(data: bytes, encoding: str, plain: bytes) -> None:
    assert inflate(data, encoding, 1_000) == (plain, False)


def test_a_compressed_body_never_grows_past_the_limit() -> None:
    bomb = gz(bytes(50_000_000))
    assert inflate(bomb, "gzip", 1_000) == (bytes(1_000), True)
    assert inflate(gz(bomb), "gzip, gzip", 1_000) == (bytes(1_000), True)
    assert inflate(gz(bytes(600)) * 1_000, "gzip", 1_000) == (bytes(1_000), True)


@pytest.mark.parametrize(
    ("data", "encoding", "says"),
    [
        (b"x", "br", "not understood"),
        (b"plain", "gzip", "not gzip"),
        (b"plain", "deflate", "not deflate"),
        (gz(b"small" * 100)[:-9], "gzip", "ends too early"),
        (gz(b"sm") + gz(b"all")[:-3], "gzip", "ends too early"),
        (zlib.compress(b"small" * 100)[:-5], "deflate", "ends too early"),
        (gz(b"small")[:-8] + bytes(8), "gzip", "not gzip"),
        (b"x", "gzip, gzip, gzip, gzip", "4 content codings"),
    ],
)
def test_half_or_broken_data_is_an_error(data: bytes, encoding: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        inflate(data, encoding, 1_000)


def test_endless_data_is_cut_not_broken() -> None:
    assert inflate(gz(b"small" * 100)[:-9], "gzip", 1_000, ended=False)[1]
