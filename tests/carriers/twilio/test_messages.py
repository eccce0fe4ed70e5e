"""Twilio's media messages. The invariant: `parse` gives a message, None, or `Malformed`, and nothing else."""

from __future__ import annotations

import base64
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offhook.gateway.carriers.twilio import messages
from offhook.gateway.carriers.twilio.messages import (
    Connected,
    Dtmf,
    Mark,
    Media,
    MediaFormat,
    Start,
    Stop,
    TwilioEncoder,
    is_sid,
    parse,
)
from offhook.gateway.errors import Malformed

REASONS = {
    "not_utf8",
    "not_json",
    "too_deep",
    "not_an_object",
    "missing_field",
    "bad_base64",
    "empty_payload",
    "bad_field",
}
MZ, CA, AC = "MZ" + "18" * 16, "CA" + "a1" * 16, "AC" + "f0" * 16
FRAME = bytes(range(160))

# The shapes of Twilio's documentation: counters and times are strings, sampleRate and channels are numbers.
WIRE = {
    "connected": {"event": "connected", "protocol": "Call", "version": "1.0.0"},
    "start": {
        "event": "start",
        "sequenceNumber": "1",
        "start": {
            "accountSid": AC,
            "streamSid": MZ,
            "callSid": CA,
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
            "customParameters": {"token": "s3cret", "caller": "+15550001111"},
        },
        "streamSid": MZ,
    },
    "media": {
        "event": "media",
        "sequenceNumber": "926",
        "media": {
            "track": "inbound",
            "chunk": "925",
            "timestamp": "18553",
            "payload": base64.b64encode(FRAME).decode(),
        },
        "streamSid": MZ,
    },
    "dtmf": {
        "event": "dtmf",
        "streamSid": MZ,
        "sequenceNumber": "5",
        "dtmf": {"track": "inbound_track", "digit": "#"},
    },
    "mark": {"event": "mark", "sequenceNumber": "4", "streamSid": MZ, "mark": {"name": "r1.3200.0"}},
    "stop": {
        "event": "stop",
        "sequenceNumber": "999",
        "stop": {"accountSid": AC, "callSid": CA},
        "streamSid": MZ,
    },
}
TYPED = {
    "connected": Connected("Call", "1.0.0"),
    "start": Start(
        stream_sid=MZ,
        call_sid=CA,
        account_sid=AC,
        media_format=MediaFormat("audio/x-mulaw", 8000, 1),
        tracks=("inbound",),
        parameters={"token": "s3cret", "caller": "+15550001111"},
        sequence=1,
    ),
    "media": Media(FRAME, 18553, 925, 926, MZ),
    "dtmf": Dtmf("#", 5, MZ),
    "mark": Mark("r1.3200.0", 4, MZ),
    "stop": Stop(CA, 999, MZ),
}


def changed(event: str, path: str, value: object) -> str:
    """The documented message with the field at `path` set (or removed: value is ...)."""
    message = json.loads(json.dumps(WIRE[event]))
    *parents, last = path.split(".")
    part = message
    for key in parents:
        part = part[key]
    if value is ...:
        del part[last]
    else:
        part[last] = value
    return json.dumps(message)


def refused(text: str | bytes) -> str:
    with pytest.raises(Malformed) as caught:
        parse(text)
    error = caught.value
    assert error.peer == "carrier"
    assert error.reason in REASONS
    assert error.what
    assert len(error.what) <= 200
    return error.reason


# --- inbound


@pytest.mark.parametrize("event", WIRE)
def test_documented_messages(event):
    assert parse(json.dumps(WIRE[event])) == TYPED[event]
    assert parse(json.dumps(WIRE[event], indent=2).encode()) == TYPED[event]
    assert parse(json.dumps(dict(reversed(WIRE[event].items())))) == TYPED[event]  # any order of keys


@pytest.mark.parametrize("event", WIRE)
def test_unknown_fields_are_ignored(event):
    assert parse(json.dumps({**WIRE[event], "new": {"deep": [1, None]}, "event2": "x"})) == TYPED[event]


@pytest.mark.parametrize("event", WIRE)
def test_every_cut_and_trailing_bytes_are_malformed(event):
    text = json.dumps(WIRE[event])
    for end in range(len(text)):
        assert refused(text[:end]) in {"not_json", "missing_field", "not_utf8"}
    assert refused(text + "}") == "not_json"
    assert refused(text + text) == "not_json"


def test_numbers_as_numbers_too():
    text = changed("media", "media.timestamp", 18553)
    assert parse(text) == TYPED["media"]
    assert parse(text.replace('"925"', "925").replace('"926"', "926")) == TYPED["media"]
    assert parse(changed("start", "start.mediaFormat.sampleRate", "8000")) == TYPED["start"]


def test_what_only_informs_may_be_missing():
    bare = {"event": "media", "media": {"payload": "/w==", "timestamp": "20"}}
    assert parse(json.dumps(bare)) == Media(b"\xff", 20, 0, 0, "")
    assert parse('{"event":"stop"}') == Stop("", 0, "")
    assert parse('{"event":"connected"}') == Connected("", "")
    assert parse(changed("start", "start.customParameters", ...)).parameters == {}


@pytest.mark.parametrize("count", [1, 159, 160, 161, 7_919, 8_000, 48_000])
def test_payloads_of_any_length(count):
    codes = bytes(i * 31 % 256 for i in range(count))
    assert parse(changed("media", "media.payload", base64.b64encode(codes).decode())).payload == codes


@pytest.mark.parametrize("event", ["new_event", "", "Media", "media ", "\x00", "☎", "x" * 10_000])
def test_unknown_events_are_none(event):
    assert parse(json.dumps({"event": event, "media": 3})) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not_json"),
        (" ", "not_json"),
        ("hello", "not_json"),
        ("{", "not_json"),
        ('{"event": "media",}', "not_json"),
        ("\ufeff" + json.dumps(WIRE["connected"]), "not_json"),
        ("[]", "not_an_object"),
        ("null", "not_an_object"),
        ("3", "not_an_object"),
        ('"media"', "not_an_object"),
        ("NaN", "not_json"),
        ("{}", "missing_field"),
        ('{"event": null}', "bad_field"),
        ('{"event": 3}', "bad_field"),
        ('{"event": ["media"]}', "bad_field"),
        ('{"event": "media"}', "missing_field"),
        ('{"event": "media", "media": []}', "not_an_object"),
        ('{"event": "media", "media": null}', "not_an_object"),
        ('{"event": "new", "x": ' + "[" * 100_000 + "]" * 100_000 + "}", "too_deep"),
        ('{"event": "media", "x": ' + '{"a":' * 10_000 + "1" + "}" * 10_000 + "}", "too_deep"),
        ("[" * 100_000, "not_an_object"),
        ('{"event": "connected", "version": "\ud800"}', "not_utf8"),  # a lone surrogate, as text
        (b'{"event": "connected", "version": "\xff"}', "not_utf8"),
        (b'{"event": "mark", "mark": {"name": "\xc3("}}', "not_utf8"),
        (b"\xff\xfe\x00", "not_json"),
        ('{"event": "new", "x": NaN}', "not_json"),
    ],
)
def test_not_messages(text, reason):
    assert refused(text) == reason


@pytest.mark.parametrize("number", [-1, "-1", 2**64, str(2**64), 1e400, "1e400", "NaN", "", " 5", "0x3", "x"])
@pytest.mark.parametrize("path", ["media.timestamp", "media.chunk", "sequenceNumber"])
def test_numbers_that_are_none(path, number):
    text = changed("media", path, "HERE").replace('"HERE"', json.dumps(number))
    assert refused(text.replace("Infinity", "1e400")) == "bad_field"


@pytest.mark.parametrize("value", [None, True, 1.5, [], {}, "9" * 5_000])
def test_numbers_of_other_types(value):
    assert refused(changed("media", "media.timestamp", value)) in {"bad_field", "not_an_object"}


@pytest.mark.parametrize(
    "payload", ["_-_-", "YQ", "YQ=", "Y Q=", "YQ==\n", " YQ==", "YQ==YQ==", "Y", "====", "Y===", "é234", "YQ=="[::-1]]
)
def test_bad_base64(payload):
    assert refused(changed("media", "media.payload", payload)) == "bad_base64"


@pytest.mark.parametrize(
    ("event", "path", "value", "reason"),
    [
        ("media", "media.payload", "", "empty_payload"),
        ("media", "media.payload", ..., "missing_field"),
        ("media", "media.payload", 3, "bad_field"),
        ("media", "media.payload", None, "bad_field"),
        ("media", "media.timestamp", ..., "missing_field"),
        ("media", "media.track", "outbound", "bad_field"),
        ("media", "media.track", "x" * 60_000, "bad_field"),
        ("media", "streamSid", 5, "bad_field"),
        ("start", "start", ..., "missing_field"),
        ("start", "streamSid", ..., "missing_field"),
        ("start", "streamSid", "", "bad_field"),
        ("start", "start.callSid", ..., "missing_field"),
        ("start", "start.callSid", "", "bad_field"),
        ("start", "start.callSid", "../../etc/passwd", "bad_field"),
        ("start", "start.callSid", CA + "\n", "bad_field"),
        ("start", "start.callSid", "x" * 65, "bad_field"),
        ("start", "start.accountSid", "a b", "bad_field"),
        ("start", "start.mediaFormat", ..., "missing_field"),
        ("start", "start.mediaFormat.sampleRate", -8000, "bad_field"),
        ("start", "start.customParameters", [], "not_an_object"),
        ("start", "start.customParameters", {"a": 1}, "bad_field"),
        ("start", "start.tracks", "inbound", "bad_field"),
        ("dtmf", "dtmf.digit", "", "bad_field"),
        ("dtmf", "dtmf.digit", "12", "bad_field"),
        ("dtmf", "dtmf.digit", "E", "bad_field"),
        ("dtmf", "dtmf.digit", "1\n", "bad_field"),
        ("dtmf", "dtmf.digit", "٣", "bad_field"),
        ("dtmf", "dtmf", ..., "missing_field"),
        ("mark", "mark.name", ..., "missing_field"),
        ("mark", "mark.name", 3, "bad_field"),
        ("stop", "stop", None, "not_an_object"),
    ],
)
def test_bad_fields(event, path, value, reason):
    assert refused(changed(event, path, value)) == reason


@pytest.mark.parametrize("digit", "0123456789ABCD*#")
def test_every_key(digit):
    assert parse(changed("dtmf", "dtmf.digit", digit)).digit == digit


def test_parameters_are_taken_as_they_are():
    odd = {"": "empty name", "&<>\"'": "\x00\x1f\x7f", "☎": "ünï", "long": "x" * 500}
    assert parse(changed("start", "start.customParameters", odd)).parameters == odd


@pytest.mark.parametrize(
    ("encoding", "rate_hz", "channels", "is_telephone"),
    [
        ("audio/x-mulaw", 8000, 1, True),
        ("audio/x-mulaw", 16000, 1, False),
        ("audio/x-mulaw", 8000, 2, False),
        ("audio/l16", 8000, 1, False),
    ],
)
def test_media_format(encoding, rate_hz, channels, is_telephone):
    form = {"encoding": encoding, "sampleRate": rate_hz, "channels": channels}
    assert parse(changed("start", "start.mediaFormat", form)).media_format.is_telephone is is_telephone


def test_an_empty_account_sid_is_none():
    assert parse(changed("start", "start.accountSid", "")) == parse(changed("start", "start.accountSid", ...))


def test_the_token_is_not_shown():
    start = parse(json.dumps(WIRE["start"]))
    assert "s3cret" not in repr(start) + str(start)
    text = json.dumps(WIRE["start"]).replace('"channels": 1', '"channels": "s"')
    with pytest.raises(Malformed) as caught:
        parse(text)
    assert "s3cret" not in str(caught.value)


# --- what Twilio receives


def test_sent_messages_are_the_documented_ones():
    out = TwilioEncoder(MZ)
    assert json.loads(out.media(FRAME)) == {
        "event": "media",
        "streamSid": MZ,
        "media": {"payload": base64.b64encode(FRAME).decode()},
    }
    assert json.loads(out.mark("r1.2.3")) == {"event": "mark", "streamSid": MZ, "mark": {"name": "r1.2.3"}}
    assert json.loads(out.clear()) == {"event": "clear", "streamSid": MZ}


@given(st.binary(max_size=2_000), st.text(max_size=50).filter(lambda s: s.isprintable()), st.text(max_size=40))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_any_value_is_encoded(codes, name, sid):
    out = TwilioEncoder(sid.encode("utf-8", "replace").decode())
    assert base64.b64decode(json.loads(out.media(codes))["media"]["payload"], validate=True) == codes
    assert json.loads(out.mark(name))["mark"]["name"] == name


@pytest.mark.parametrize("sid", [CA, MZ, "a", "550e8400-e29b-41d4-a716-446655440000", "x_" * 32])
def test_sids(sid):
    assert is_sid(sid)


@pytest.mark.parametrize("sid", ["", "a/b", "..", "a b", CA + "\n", "é", "x" * 65, "\x00"])
def test_not_sids(sid):
    assert not is_sid(sid)


def test_limits_have_room_for_what_twilio_sends():
    frame = json.dumps(WIRE["media"])
    assert len(frame) < 500
    assert math.ceil(messages.MAX_MESSAGE_BYTES / len(frame)) > 100
