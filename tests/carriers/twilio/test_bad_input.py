"""What a carrier, or somebody who pretends to be one, may send: over real sockets, against a running server, with
ten healthy calls beside it. None is disturbed, and each case is counted under its reason.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from typing import Any
from unittest import mock
from urllib.parse import quote

import pytest

from offhook.gateway.carriers.twilio import messages
from offhook.gateway.carriers.twilio.signature import sign
from offhook.gateway.rehearsal.model.script import Reply, Script
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.phone.steps import HangUp, Pause, Say, WaitForAgent
from offhook.gateway.rehearsal.quick_clock import run_quickly
from offhook.gateway.web import connections, limits
from tests.carriers.twilio.raw_socket import BINARY, CLOSE, FRAME, PING, TEXT, RawSocket, media, ring, start_of
from tests.carriers.twilio.telephone_rig import API_TOKEN, GREETING, PUBLIC, Exchange, exchange
from tests.rig.sounds import sound

HEALTHY = 10
SATURDAY = Reply("caller", (Speak("Saturday for two is no problem.", sound("saturday")),))
AGENTS = {
    "healthy": ("greeting: {text: Greet.}", Script((GREETING, SATURDAY))),
    "silent": ("", Script(())),
}
DEEP = 10_000
FORM = "application/x-www-form-urlencoded"

Case = Callable[[Exchange], Awaitable[object]]
CASES: dict[str, tuple[tuple[str, ...], Case]] = {}  # name -> what must be counted, how it is done
ENDINGS: dict[str, str] = {}  # case -> its call, which must end by its own `stop`


def case(*counted: str) -> Callable[[Case], Case]:
    def keep(function: Case) -> Case:
        CASES[function.__name__] = counted, function
        return function

    return keep


def carrier(reason: str) -> str:
    return f'input_errors_total peer="carrier",reason="{reason}"'


def http(reason: str) -> str:
    return f'input_errors_total peer="http",reason="{reason}"'


def auth(kind: str) -> str:
    return f'auth_failures_total kind="{kind}"'


# --- messages on a stream that is up: the call must live on, and take the next sound frame


def on_stream(name: str, reason: str, *sent: object) -> None:
    """A case of messages (JSON values, or texts as they stand)."""

    async def run(x: Exchange) -> None:
        socket = await RawSocket.streaming(x, "silent")
        call = x.gateway.calls[socket.call_sid]
        for message in sent:
            await (socket.text(message) if isinstance(message, str) else socket.json(message))
        before_ms = call.hearing.received_samples
        await socket.json({**media(1), "sequenceNumber": "0"})
        await x.until(lambda: call.hearing.received_samples > before_ms)
        await socket.json({"event": "stop", "stop": {}}, {"event": "stop", "stop": {}})
        ENDINGS[name] = socket.call_sid

    CASES[name] = ((carrier(reason),) if reason else ()), run


TELEPHONE = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
START_AGAIN = {"event": "start", "streamSid": "MZ1", "start": {"callSid": "CA1", "mediaFormat": TELEPHONE}}
NESTED = "[" * DEEP + "]" * DEEP
on_stream("malformed JSON", "not_json", '{"event":"media",')
on_stream("an array", "not_an_object", [1, 2])
on_stream("a number", "not_an_object", 7)
on_stream("null", "not_an_object", None)
on_stream("nested 10,000 deep", "not_an_object", NESTED)
on_stream("nested inside a message", "too_deep", '{"event":"media","x":' + NESTED + "}")
on_stream("an unknown event", "unknown_event", {"event": "telepathy"})
on_stream("no event", "missing_field", {"media": {}})
on_stream("missing fields", "missing_field", {"event": "media"})
on_stream("extra fields", "", {**media(1), "new": {"deep": [1]}, "sequenceNumber": "2"})
on_stream("numbers as numbers", "", {**media(1, chunk=1, timestamp=20), "sequenceNumber": 2})
on_stream("NaN", "not_json", json.dumps(media(1, timestamp=float("nan"))))
on_stream("1e400", "bad_field", json.dumps(media(1)).replace('"20"', "1e400"))
on_stream("a negative time", "bad_field", media(1, timestamp="-20"))
on_stream("a time of 2^64", "bad_field", media(1, timestamp=str(2**64)))
on_stream("a second start", "bad_order", START_AGAIN)
on_stream("a second connected", "bad_order", {"event": "connected"})
on_stream("another stream's frame", "wrong_call", {**media(1), "streamSid": "MZ" + "f" * 32})
on_stream("a repeated count", "repeated", {**media(1), "sequenceNumber": "1"})
on_stream("a gap in the count", "gap", {**media(1), "sequenceNumber": "77"})
on_stream("a time that goes back", "bad_time", {**media(5), "sequenceNumber": "2"}, {**media(2), "sequenceNumber": "3"})
on_stream("a time an hour ahead", "bad_time", media(1, timestamp="3600000"))
on_stream("bad base64: alphabet", "bad_base64", media(1, payload="!!!!"))
on_stream("bad base64: padding", "bad_base64", media(1, payload="/w"))
on_stream("bad base64: whitespace", "bad_base64", media(1, payload="//// ////"))
on_stream("bad base64: of URLs", "bad_base64", media(1, payload="__--"))
on_stream("no payload", "empty_payload", media(1, payload=""))
for size in (1, 159, 161, 7_919, 8_000):
    on_stream(f"{size} bytes of audio", "", media(1, payload=base64.b64encode(bytes(size)).decode()))
on_stream("a WAV header", "bad_audio", media(1, payload=base64.b64encode(b"RIFF\x24\0\0\0WAVEfmt ").decode()))
on_stream("our own voice", "bad_field", media(1, track="outbound"))
on_stream("an unknown key", "bad_field", {"event": "dtmf", "dtmf": {"digit": "Z"}})
on_stream("a mark of nobody's", "unknown_mark", {"event": "mark", "mark": {"name": "hello"}})
on_stream("a mark never sent", "", {"event": "mark", "mark": {"name": "r99.800.0"}})
on_stream("a mark of 10 kB", "unknown_mark", {"event": "mark", "mark": {"name": "r" + "9" * 10_000}})


# --- frames: the socket is closed with the right code; the call itself may come back on another


@case(carrier("binary"))
async def a_binary_frame(x: Exchange) -> None:
    socket = await RawSocket.streaming(x, "silent")
    await socket.frame(BINARY, b"\0" * 100)
    await socket.stop()
    await x.record(socket.call_sid)


def breaking(name: str, reason: str, code: int, opcode: int, data: bytes, **how: bool) -> None:
    async def run(x: Exchange) -> None:
        socket = await RawSocket.streaming(x, "silent")
        await socket.frame(opcode, data, **how)
        assert await socket.closed() == code
        x.gateway.calls[socket.call_sid].feed(messages_end(x, socket.call_sid))

    CASES[name] = (carrier(reason),), run


def messages_end(x: Exchange, call_sid: str) -> Any:
    from offhook.gateway.conversation.events import StreamStopped

    return StreamStopped(x.gateway.calls[call_sid].clock())


breaking("a message over the limit", "too_large", 1009, TEXT, b" " * (messages.MAX_MESSAGE_BYTES + 1))
breaking("ten seconds of audio", "too_large", 1009, TEXT, json.dumps(media(1, payload=FRAME * 500)).encode())
breaking("invalid UTF-8", "not_utf8", 1007, TEXT, b'{"event":"\xff\xfe"}')
breaking("a compressed frame", "bad_frame", 1002, TEXT, b"\0" * 50, rsv1=True)
breaking("a huge close reason", "bad_frame", 1002, CLOSE, b"\x03\xe8" + b"x" * 300)
breaking("a fragmented ping", "bad_frame", 1002, PING, b"", fin=False)


@case(carrier("too_many"))
async def a_ping_flood(x: Exchange) -> None:
    socket = await RawSocket.streaming(x, "silent")
    with suppress(ConnectionError):
        for _ in range(40):
            await socket.raw(b"\x89\x80\0\0\0\0" * 100)
    assert await socket.closed() in (0, 1008)
    x.gateway.calls[socket.call_sid].feed(messages_end(x, socket.call_sid))


@case(carrier("too_many"))
async def more_audio_than_time(x: Exchange) -> None:
    socket = await RawSocket.streaming(x, "silent")
    for n in range(300):
        await socket.json(media(n + 1))
    call = x.gateway.calls[socket.call_sid]
    await socket.stop()
    await x.record(socket.call_sid)
    assert call.hearing.received_samples <= 48_000


# --- before the start


def refused(
    name: str, counted: str | tuple[str, ...], code: int, *sent: Callable[[Exchange, str, str], object]
) -> None:
    async def run(x: Exchange) -> None:
        call_sid, token = await ring(x, "silent")
        async with RawSocket(x) as socket:
            for make in sent:
                await socket.json(make(x, call_sid, token))
            assert await socket.closed() == code
        assert x.gateway.calls[call_sid].line is None
        x.gateway.calls[call_sid].feed(messages_end(x, call_sid))

    CASES[name] = (counted,) if isinstance(counted, str) else counted, run


def connected(x: Exchange, call_sid: str, token: str) -> object:
    return {"event": "connected"}


refused("nothing after the upgrade", carrier("timeout"), 1008)
refused(
    "media before start", (carrier("bad_order"), carrier("timeout")), 1008, connected, *[lambda x, c, t: media(1)] * 2
)
refused("twenty messages and no start", (carrier("bad_order"), carrier("too_many")), 1008, *[connected] * 20)
refused("another format", carrier("bad_format"), 1003, connected, lambda x, c, t: start_of(
    x, c, t, mediaFormat={"encoding": "audio/l16", "sampleRate": 16000, "channels": 2}))  # fmt: skip
refused("another account", carrier("wrong_call"), 1008, connected, lambda x, c, t: start_of(
    x, c, t, accountSid="AC" + "e" * 32))  # fmt: skip
refused("another call", auth("stream_token"), 1008, connected, lambda x, c, t: start_of(x, "CA" + "e" * 32, t))
refused("no token", auth("stream_token"), 1008, connected, lambda x, c, t: start_of(x, c, ""))
refused("a wrong token", auth("stream_token"), 1008, connected, lambda x, c, t: start_of(x, c, t[:-1] + "!"))
refused("a token of odd letters", auth("stream_token"), 1008, connected, lambda x, c, t: start_of(x, c, "\0ü<&>" * 80))
refused(
    "parameters that are no texts",
    (carrier("bad_field"), carrier("timeout")),
    1008,
    connected,
    lambda x, c, t: start_of(x, c, t, customParameters={"token": [1]}),
)


@case(carrier("bad_order"))
async def start_without_connected(x: Exchange) -> None:
    call_sid, token = await ring(x, "silent")
    async with RawSocket(x) as socket:
        await socket.json(start_of(x, call_sid, token))
        await x.until(lambda: x.gateway.calls[call_sid].line)
        await socket.stop()
        await x.record(call_sid)


@case(auth("stream_token"))
async def a_token_twice(x: Exchange) -> None:
    """At the same instant: one stream gets the call, the other nothing."""
    call_sid, token = await ring(x, "silent")
    async with RawSocket(x) as one, RawSocket(x) as two:
        await asyncio.gather(*(s.json(connected(x, "", ""), start_of(x, call_sid, token)) for s in (one, two)))
        done, pending = await asyncio.wait(
            [asyncio.create_task(s.closed()) for s in (one, two)], return_when=asyncio.FIRST_COMPLETED
        )
        assert [task.result() for task in done] == [1008]
        assert x.gateway.calls[call_sid].line
        x.gateway.calls[call_sid].feed(messages_end(x, call_sid))
        await asyncio.wait(pending)


@case(auth("stream_signature"))
async def a_flood_without_signature(x: Exchange) -> None:
    async def one() -> int:
        async with RawSocket(x, signed=False) as socket:
            return socket.status

    assert set(await asyncio.gather(*(one() for _ in range(200)))) == {403}


@case(carrier("timeout"))
async def a_message_never_finished(x: Exchange) -> None:
    async with RawSocket(x) as socket:
        await socket.frame(TEXT, b'{"event":', fin=False)
        assert await socket.closed() == 1008


@case(carrier("timeout"))
async def a_frame_never_finished(x: Exchange) -> None:
    async with RawSocket(x) as socket:
        await socket.raw(b"\x81\xfe\x01\x00\0\0\0\0{")
        assert await socket.closed() == 1008


# --- HTTP


async def raw_http(x: Exchange, head: str, body: bytes = b"") -> int:
    """A request as it stands: the answer's status, 0 when the connection was just closed."""
    host, _, port = x.url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(head.replace("\n", "\r\n").encode() + body)
        answer = await asyncio.wait_for(reader.read(100), 8)
        return int(answer.split()[1]) if answer else 0
    except ConnectionError:
        return 0
    finally:
        writer.close()


def posted(
    name: str,
    counted: str | tuple[str, ...],
    status: int,
    body: bytes,
    content_type: str = FORM,
    signed: bytes = b"",
    **headers: str,
) -> None:
    """`signed`: the names and values that are signed, as bytes."""

    async def run(x: Exchange) -> None:
        digest = hmac.new(b"auth-token-canary", f"{PUBLIC}/twilio/voice".encode() + signed, hashlib.sha1).digest()
        lines = {"X-Twilio-Signature": base64.b64encode(digest).decode(), "Content-Type": content_type}
        lines |= {"Content-Length": str(len(body)), **headers}
        head = "POST /twilio/voice HTTP/1.1\nHost: x\n" + "".join(f"{k}: {v}\n" for k, v in lines.items()) + "\n"
        assert await raw_http(x, head, body) == status

    CASES[name] = (counted,) if isinstance(counted, str) else counted, run


posted("another content type", http("bad_format"), 415, b'{"CallSid":"CA1"}', "application/json")
posted("multipart", http("bad_format"), 415, b"--x\r\n\r\n", "multipart/form-data; boundary=x")
posted("an unknown charset", http("bad_format"), 415, b"CallSid=CA1", f"{FORM}; charset=klingon")
posted("UTF-16", http("bad_format"), 415, "CallSid=CA1".encode("utf-16"), f"{FORM}; charset=utf-16")
posted("base64 as a charset", http("bad_format"), 415, b"CallSid=CA1", f"{FORM}; charset=base64")
NO_SID = http("not_utf8"), http("bad_field")
posted("a call's SID that is not UTF-8", NO_SID, 400, b"CallSid=%FF%FE", signed=b"CallSid\xff\xfe")
posted("a call's SID of raw bytes", NO_SID, 400, b"CallSid=\xff\xfe", signed=b"CallSid\xff\xfe")
posted("bytes that were not signed", auth("webhook_signature"), 403, b"CallSid=%FF%FE")
posted("10,000 fields", http("too_many"), 400, b"&".join(b"a%d=1" % n for n in range(7_000)))
posted("a giant form", http("too_large"), 413, b"CallSid=" + b"1" * 70_000)
posted("a compressed form", http("bad_format"), 415, b"\x1f\x8b\x08" + b"0" * 30, **{"Content-Encoding": "gzip"})
posted("a body that breaks off", http("timeout"), 408, b"CallSid=CA1", **{"Content-Length": "500"})


def answered(name: str, counted: tuple[str, ...], value: bytes, text: str, content_type: str = FORM) -> None:
    """A call is answered in spite of this CallerName. `value`: as it is sent; `text`: as it is signed, in UTF-8."""

    async def run(x: Exchange) -> None:
        call_sid, to = "CA" + secrets.token_hex(16), x.numbers["silent"]
        body = f"CallSid={call_sid}&To={quote(to)}&CallerName=".encode() + value
        fields = f"CallSid{call_sid}", "CallerName" + text, f"To{to}"
        signed = "".join((f"{PUBLIC}/twilio/voice", *fields)).encode("utf-8", "surrogateescape")
        digest = hmac.new(b"auth-token-canary", signed, hashlib.sha1).digest()
        lines = {"X-Twilio-Signature": base64.b64encode(digest).decode(), "Content-Type": content_type}
        lines["Content-Length"] = str(len(body))
        head = "POST /twilio/voice HTTP/1.1\nHost: x\n" + "".join(f"{k}: {v}\n" for k, v in lines.items()) + "\n"
        assert await raw_http(x, head, body) == 200
        x.gateway.calls[call_sid].feed(messages_end(x, call_sid))

    CASES[name] = counted, run


answered("a name in Latin-1", (http("not_utf8"),), b"Jos%E9", "Jos\udce9")
answered("a name cut in a letter", (http("not_utf8"),), b"Jos%C3", "Jos\udcc3")
answered("a name of raw UTF-8", (), "José".encode(), "José")
answered("a declared charset", (), b"Jos%E9", "José", f"{FORM}; charset=ISO-8859-1")
answered("utf8 in quotes", (), b"Jos%C3%A9", "José", f'{FORM}; CharSet="utf8"')


@case(http("too_large"))
async def a_giant_form_in_chunks(x: Exchange) -> None:
    lines = ("Host: x", f"Content-Type: {FORM}", "X-Twilio-Signature: x", "Transfer-Encoding: chunked")
    head = "POST /twilio/voice HTTP/1.1\n" + "\n".join(lines) + "\n\n"
    body = b"".join(b"1000\r\n" + b"a" * 0x1000 + b"\r\n" for _ in range(20)) + b"0\r\n\r\n"
    assert await raw_http(x, head, body) == 413


@case(http("bad_field"))
async def a_form_without_its_call(x: Exchange) -> None:
    for form in ({}, {"CallSid": ""}, {"CallSid": "../../etc"}, {"CallSid": "CA1\x00"}, {"CallSid": "C" * 65}):
        status, _ = await x.webhook("/twilio/voice", {"To": "+15550100", **form})
        assert status == 400


@case()
async def odd_letters_in_every_field(x: Exchange) -> None:
    call_sid = "CA" + secrets.token_hex(16)
    odd = '"><Hangup/>&amp;\u2028\x1b\x07]]>\ufffe'
    form = [("CallSid", call_sid), ("From", odd), ("To", x.numbers["silent"]), ("From", "twice"), ("Caller" + odd, odd)]
    status, text = await x.webhook("/twilio/voice", form)
    assert status == 200
    assert "Hangup" not in text
    x.gateway.calls[call_sid].feed(messages_end(x, call_sid))


@case(http("timeout"))
async def headers_that_take_for_ever(x: Exchange) -> None:
    head = "POST /twilio/voice HTTP/1.1\nHost: x\nX-A: 1\n"
    assert await asyncio.gather(*(raw_http(x, head) for _ in range(20))) == [0] * 20


@case(http("timeout"))
async def a_connection_that_says_nothing(x: Exchange) -> None:
    assert await raw_http(x, "") == 0


@case(http("too_large"))
async def headers_without_end(x: Exchange) -> None:
    assert await raw_http(x, "GET / HTTP/1.1\n" + "X-A: 1234567890\n" * 6_000) == 0


@case(http("too_many"))
async def a_thousand_idle_connections(x: Exchange) -> None:
    host, _, port = x.url.removeprefix("http://").rpartition(":")
    hour_s = 3_600.0  # of the quick clock: none is closed for its age meanwhile
    with mock.patch.multiple(connections, HEAD_S=hour_s, PRESSED_KEEP_ALIVE_S=hour_s):
        refused = 'peer="http",reason="too_many"'
        before = x.counted("input_errors_total").get(refused, 0)
        opened = []
        for _ in range(11):  # a hundred at a time: the kernel's backlog holds 256
            opened += await asyncio.gather(*(asyncio.open_connection(host, int(port)) for _ in range(100)))
        await x.until(lambda: x.counted("input_errors_total").get(refused, 0) > before)
    assert (await x.http.get(x.url + "/livez")).status == 200
    for _, writer in opened:
        writer.close()


@case(auth("webhook_signature"))
async def wrong_signatures(x: Exchange) -> None:
    form = {"CallSid": "CA" + "3" * 32, "To": x.numbers["silent"]}
    assert (await x.webhook("/twilio/voice", form, signature=None))[0] == 403
    assert (await x.webhook("/twilio/voice", form, token="another account's"))[0] == 403
    assert (await x.webhook("/twilio/voice", form, public="https://other.example.com"))[0] == 403
    assert (
        await x.webhook("/twilio/after", form, signature=sign("auth-token-canary", PUBLIC + "/twilio/voice", form))
    )[0] == 403
    assert "CA" + "3" * 32 not in x.gateway.calls


@pytest.fixture(scope="module")
def outcome() -> dict[str, Any]:
    """All cases, one behind the other, while ten callers talk with their agent."""

    async def everything() -> dict[str, Any]:
        found: dict[str, Any] = {}
        with ExitStack() as stack:
            for where, name, value in (
                (messages, "START_DEADLINE_S", 0.4),
                (connections, "HEAD_S", 0.4),
                (limits, "BODY_S", 0.4),
            ):
                stack.enter_context(mock.patch.object(where, name, value))
            async with exchange(AGENTS) as x:
                steps = (
                    WaitForAgent("end"),
                    Say(str(sound("hello_i_would"))),
                    WaitForAgent("end"),
                    Pause(100),
                    HangUp(),
                )
                healthy = [asyncio.create_task(x.placed("healthy", *steps)) for _ in range(HEALTHY)]
                await x.until(lambda: len(x.gateway.calls) == HEALTHY)

                def count() -> dict[str, float]:
                    return {
                        f"{metric} {labels}": value
                        for metric in ("input_errors_total", "auth_failures_total")
                        for labels, value in x.counted(metric).items()
                    }

                for name, (_, run) in CASES.items():
                    before = count()
                    try:
                        async with asyncio.timeout(10):
                            await run(x)
                    except Exception as error:
                        found[name] = error
                        continue
                    await asyncio.sleep(0)
                    found[name] = {k: v - before.get(k, 0) for k, v in count().items() if v != before.get(k, 0)}
                found["healthy"] = await asyncio.gather(*healthy)
                await x.until(lambda: not x.gateway.calls)
                found["own ends"] = {name: (await x.record(sid)).end_reason for name, sid in ENDINGS.items()}
                found["metrics"] = x.gateway.metrics.render().decode()
                found["endings"] = x.counted("calls_total")
        return found

    return run_quickly(lambda _: everything())


@pytest.mark.parametrize("name", list(CASES))
def test_counted_under_its_reason(outcome: dict[str, Any], name: str) -> None:
    if isinstance(outcome[name], Exception):
        raise outcome[name]
    assert set(outcome[name]) == set(CASES[name][0])


def test_each_such_call_lived_to_its_own_end(outcome: dict[str, Any]) -> None:
    assert len(outcome["own ends"]) > 35
    assert set(outcome["own ends"].values()) == {"caller_hung_up"}


def test_ten_healthy_calls_noticed_nothing(outcome: dict[str, Any]) -> None:
    assert len(outcome["healthy"]) == HEALTHY
    for truth, record in outcome["healthy"]:
        assert record.end_reason == "caller_hung_up"
        assert truth.violations == []
        assert truth.frames_dropped == 0
        assert [t.reply_text for t in record.turns] == ["Thank you for calling.", "Saturday for two is no problem."]
        assert all(t.heard_ms == t.received_ms and t.longest_gap_ms <= 0 for t in record.turns)
        assert record.audio_in_ms == 20 * truth.streams[0].frames
        assert len(truth.streams) == 1
        assert record.errors == []


def test_no_internal_error_and_no_secret_shown(outcome: dict[str, Any]) -> None:
    assert not [labels for labels in outcome["endings"] if "internal_error" in labels]
    assert "canary" not in outcome["metrics"]
    assert API_TOKEN not in outcome["metrics"]
