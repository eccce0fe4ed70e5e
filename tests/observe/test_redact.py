"""Secrets are found in every form they are written down in, and nothing else is touched."""

from __future__ import annotations

import json
import logging
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from offhook.gateway.observe.redact import MASK, RedactingFormatter, Redactor, secrets_of

ENVIRON = {
    "SHOP_API_KEY": "a/b+c&d=7f3a",
    "TWILIO_AUTH_TOKEN": "new-token-1,old-token-2",
    "OFFHOOK_REDIS_URL": "redis://:hunter2hunter@cache:6379",
    "PLAIN": "not secret at all",
    "BOOKINGS": "named in the agent file",
    "SHORT_KEY": "abc",
    "HOME": "/home/someone",
    "PWD": "/srv/offhook",  # in every traceback
}


def test_secrets_are_found_by_name_and_by_reference() -> None:
    found = secrets_of(ENVIRON, [{"http": {"headers": {"X": "Bearer ${BOOKINGS}", "Y": ["${NOT_SET}"]}}}])
    assert found == {
        "a/b+c&d=7f3a",
        "new-token-1,old-token-2",
        "new-token-1",
        "old-token-2",
        "redis://:hunter2hunter@cache:6379",
        "hunter2hunter",
        "named in the agent file",
    }


@pytest.mark.parametrize(
    "text",
    ["a/b+c&d=7f3a", quote("a/b+c&d=7f3a", safe=""), "https://x/?k=a%2Fb%2Bc%26d%3D7f3a&l=1", "'a/b+c&d=7f3a'"],
)
def test_no_form_of_a_secret_is_left(text: str) -> None:
    masked = Redactor(secrets_of(ENVIRON)).text(f"before {text} after")
    assert "7f3a" not in masked
    assert MASK in masked
    assert masked.startswith("before ")
    assert masked.endswith(" after")


def test_values_keep_their_shape() -> None:
    redactor = Redactor(["s3cret-1"])
    value = {"a": ["s3cret-1", 7, None], "s3cret-1": {"b": "x s3cret-1 y"}}
    assert redactor.value(value) == {"a": [MASK, 7, None], MASK: {"b": f"x {MASK} y"}}
    assert Redactor().value(value) is value


@pytest.mark.parametrize("secret", ['pass"word\\1\n', "pass'word\"", 'pässword"'])
def test_secret_with_quotes_is_found_in_json_and_value(secret: str) -> None:
    for written in (json.dumps({"p": secret}), msgspec.json.encode({"p": secret}).decode(), repr({"p": secret})):
        assert "word" not in Redactor([secret]).text(written)


def test_log_line_and_traceback_hold_no_secret() -> None:
    formatter = RedactingFormatter("%(message)s", Redactor(["s3cret-1"]))
    try:
        raise RuntimeError("s3cret-1 was refused")
    except RuntimeError as error:
        info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("x", logging.ERROR, __file__, 1, "asked with %s", ("s3cret-1",), info)
    line = formatter.format(record)
    assert "s3cret" not in line
    assert "RuntimeError" in line
    assert f"asked with {MASK}" in line


def line_of(message: str, *args: object, info: Any = None) -> str:
    formatter = RedactingFormatter("%(levelname)s %(message)s", Redactor([]))
    return formatter.format(logging.LogRecord("x", logging.INFO, __file__, 1, message, args, info))


def test_what_a_peer_sends_makes_no_log_line() -> None:
    sent = "ringing\r\nERROR forged\x1b[2J\u2028x"
    assert line_of("call %s", sent) == "INFO call ringing\\r\\nERROR forged\\x1b[2J\\u2028x"
    assert line_of("tool failed\n%s", "a\nERROR forged\x1b") == "INFO tool failed\n    a\n    ERROR forged\\x1b"
    try:
        raise ValueError(sent)
    except ValueError as error:
        lines = line_of("it failed", info=(type(error), error, error.__traceback__)).split("\n")
    assert lines[:2] == ["INFO it failed", "Traceback (most recent call last):"]
    assert all(line.startswith("    ") for line in lines[2:])
    assert not any("\x1b" in line or "\r" in line for line in lines)
