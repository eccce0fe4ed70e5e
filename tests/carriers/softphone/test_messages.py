"""What a page may send, and what is refused, without a socket."""

from __future__ import annotations

import base64
import json

import pytest

from offhook.gateway.carriers.softphone.messages import (
    Cleared,
    Key,
    PageEncoder,
    PageHangUp,
    PageMark,
    PageStart,
    parse,
)
from offhook.gateway.errors import Malformed


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ('{"type": "start", "call_id": "web-1", "token": "t"}', PageStart("web-1", "t")),
        ('{"type": "mark", "name": "r1.160.0", "more": 1}', PageMark("r1.160.0")),
        ('{"type": "cleared"}', Cleared()),
        ('{"type": "key", "key": "#"}', Key("#")),
        ('{"type": "hang_up"}', PageHangUp()),
    ],
)
def test_message_of_the_page_is_read(text: str, meant: object) -> None:
    assert parse(text) == meant


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not_json"),
        ("{", "not_json"),
        ('"\ud800"', "not_json"),
        ("[]", "bad_field"),
        ('{"type": "dance"}', "bad_field"),
        ('{"type": "start", "call_id": "web-1"}', "bad_field"),
        ('{"type": "mark", "name": "%s"}' % ("r" * 101), "bad_field"),
        ('{"type": "key", "key": "11"}', "bad_field"),
        ('{"type": "key", "key": "1\\n"}', "bad_field"),
        ('{"type": "mark", "name": "a", "x": %s}' % ("[" * 100_000), "too_deep"),
    ],
)
def test_malformed_message_has_a_reason(text: str, reason: str) -> None:
    with pytest.raises(Malformed) as caught:
        parse(text)
    assert caught.value.reason == reason


def test_encoder_writes_json() -> None:
    encoder = PageEncoder()
    audio = json.loads(encoder.media(b"\xff\x00"))
    assert (audio["type"], base64.b64decode(audio["codes"])) == ("audio", b"\xff\x00")
    assert json.loads(encoder.mark("c1")) == {"type": "mark", "name": "c1"}
    assert json.loads(encoder.clear()) == {"type": "clear"}
