"""The parsers of what comes from outside, each with its invariant, sound inputs, and a way to bend them.

`TARGETS[name].check(data)` raises `AssertionError`, or whatever escapes, for a finding. `python -m tests.bench.fuzz`
runs them for long, guided by coverage; the suite runs some hundred inputs of each, the same every time.
"""

# ruff: noqa: PT017 (an invariant holds of the error, too)

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock
from urllib.parse import parse_qsl, urlencode

import msgspec
import yaml
from aiohttp import web
from multidict import CIMultiDict

from offhook.gateway.agent.load import parse_agent
from offhook.gateway.agent.spec import Fallback
from offhook.gateway.carriers.twilio import messages as carrier
from offhook.gateway.carriers.twilio import signature, twiml
from offhook.gateway.errors import AgentFileError, FileError, Malformed
from offhook.gateway.models.gemini import messages as model
from offhook.gateway.numbers import read_address
from offhook.gateway.rehearsal.phone import voice
from offhook.gateway.rehearsal.scenario.load import SCENARIOS, ScenarioError, parse_scenario
from offhook.gateway.rehearsal.thinking.judge import REASON_MAX, NotJudged, statements_from
from offhook.gateway.web.frames import Frames
from offhook.gateway.web.limits import FORM, MAX_FIELDS, Limits
from offhook.gateway.yamlfile import YamlFile, parse_yaml, write_yaml
from offhook.media.jpeg import jpeg_size
from tests.bench.bending import bent, bent_bytes, bent_text
from tests.rig.computing import computing_within
from tests.rig.pictures import jpeg_of

__all__ = ["TARGETS", "Target", "mutate", "run"]

ROOT = Path(__file__).parents[2]
MAX_INPUT = 16_384
EXAMPLES = ROOT / "gateway" / "rehearsal" / "examples"
CALL, STREAM, ACCOUNT = "CA" + "1" * 32, "MZ" + "2" * 32, "AC" + "3" * 32


@dataclass(frozen=True)
class Target:
    """A parser. `invariant`: what `check` holds, for people; `seconds`: CPU time that one input may take."""

    invariant: str
    check: Callable[[bytes], None]
    seeds: Sequence[bytes]
    bend: Callable[[random.Random, bytes], bytes]
    seconds: float

    def timed(self, data: bytes) -> None:
        """`check`, which must end within `seconds` of this thread's time."""
        with computing_within(self.seconds, f"{len(data)} bytes"):
            self.check(data)


def mutate(target: Target, rng: random.Random, data: bytes, limit: int = MAX_INPUT) -> bytes:
    """`data` bent by its structure, its text or its bytes."""
    how = rng.random()
    if how < 0.6:
        data = target.bend(rng, data)
    elif how < 0.8:
        data = bent_text(rng, data.decode("utf-8", "replace")).encode("utf-8", "surrogatepass")
    elif data:
        data = bent_bytes(rng, data)
    return data[:limit]


def run(target: Target, inputs: int, seed: int) -> None:
    """So many bent inputs, the same for the same seed; an input that breaks the invariant is named in the error."""
    rng = random.Random(seed)
    for seed_input in target.seeds:
        target.timed(seed_input)
    for _ in range(inputs):
        data = rng.choice(target.seeds)
        for _ in range(rng.randrange(1, 4)):
            data = mutate(target, rng, data)
        try:
            target.timed(data)
        except BaseException as error:
            error.add_note(f"input: {data[:2_000]!r}")
            raise


def _bend_json(rng: random.Random, data: bytes) -> bytes:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return bent_bytes(rng, data) if data else b"{}"
    return json.dumps(bent(rng, value), ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def _bend_yaml(rng: random.Random, data: bytes) -> bytes:
    try:
        value = yaml.load(data, yaml.CSafeLoader)
        return write_yaml(bent(rng, value)).encode("utf-8", "surrogatepass")
    except (yaml.YAMLError, ValueError, RecursionError, TypeError):
        return bent_bytes(rng, data) if data else b"a: 1"


def _bend_form(rng: random.Random, data: bytes) -> bytes:
    content_type, _, body = data.partition(b"\n")
    fields = dict(parse_qsl(body.decode("latin-1"), keep_blank_values=True))
    changed = bent(rng, fields)
    text = urlencode(changed, errors="surrogatepass") if isinstance(changed, dict) else str(changed)
    if rng.random() < 0.2:
        content_type = rng.choice((FORM, f"{FORM}; charset=latin-1", f"{FORM}; charset=utf-16", "text/html")).encode()
    return content_type + b"\n" + text.encode("utf-8", "surrogatepass")


# --- what a carrier sends on a stream

CARRIER_REASONS = frozenset(
    ("not_utf8", "not_json", "too_deep", "not_an_object", "missing_field", "bad_base64", "empty_payload", "bad_field")
)


def check_carrier(data: bytes) -> None:
    for wire in (data, data.decode("utf-8", "surrogateescape")):
        try:
            message = carrier.parse(wire)
        except Malformed as error:
            assert error.peer == "carrier"
            assert error.reason in CARRIER_REASONS, error.reason
            assert len(error.what) <= 200
            continue
        if message is None:
            continue
        if isinstance(message, carrier.Media):
            assert 0 < len(message.payload) <= len(data)
        assert carrier.parse(json.dumps(_as_sent(message))) == message


def _as_sent(message: carrier.Message) -> dict[str, Any]:
    """The message as the carrier's JSON, counters as strings."""
    event = type(message).__name__.lower()
    common = {"event": event, "streamSid": getattr(message, "stream_sid", "")}
    common["sequenceNumber"] = str(getattr(message, "sequence", 0))
    match message:
        case carrier.Media(payload, timestamp_ms, chunk):
            body: dict[str, Any] = {"payload": base64.b64encode(payload).decode(), "timestamp": str(timestamp_ms)}
            return {**common, "media": {**body, "chunk": str(chunk), "track": "inbound"}}
        case carrier.Start():
            form = message.media_format
            audio = {"encoding": form.encoding, "sampleRate": form.rate_hz, "channels": form.channels}
            body = {"callSid": message.call_sid, "accountSid": message.account_sid, "tracks": list(message.tracks)}
            return {**common, "start": {**body, "mediaFormat": audio, "customParameters": message.parameters}}
        case carrier.Mark(name):
            return {**common, "mark": {"name": name}}
        case carrier.Dtmf(digit):
            return {**common, "dtmf": {"digit": digit}}
        case carrier.Stop(call_sid):
            return {**common, "stop": {"callSid": call_sid}}
        case carrier.Connected(protocol, version):
            return {"event": event, "protocol": protocol, "version": version}


CARRIER_SEEDS: list[dict[str, Any]] = [
    {"event": "connected", "protocol": "Call", "version": "1.0.0"},
    {
        "event": "start", "sequenceNumber": "1", "streamSid": STREAM,
        "start": {
            "accountSid": ACCOUNT, "streamSid": STREAM, "callSid": CALL, "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
            "customParameters": {"token": "s", "caller": "+15550001111"},
        },
    },
    {
        "event": "media", "sequenceNumber": "4", "streamSid": STREAM,
        "media": {"track": "inbound", "chunk": "2", "timestamp": "18553", "payload": "/39/f38="},
    },
    {"event": "dtmf", "streamSid": STREAM, "sequenceNumber": "5", "dtmf": {"track": "inbound_track", "digit": "#"}},
    {"event": "mark", "sequenceNumber": "4", "streamSid": STREAM, "mark": {"name": "r1.3200.0"}},
    {"event": "stop", "sequenceNumber": "9", "streamSid": STREAM, "stop": {"accountSid": ACCOUNT, "callSid": CALL}},
]  # fmt: skip


# --- what a model sends


def check_model(data: bytes) -> None:
    for frame in (data, data.decode("utf-8", "surrogateescape")):
        try:
            values = model.parse(frame)
        except Malformed as error:
            assert (error.peer, error.reason) in {("model", "not_json"), ("model", "not_an_object")}
            assert len(error.what) <= 200
            continue
        assert len(values) <= len(data) + 1
        assert sum(len(value.pcm) for value in values if isinstance(value, model.Audio)) <= len(data)
        for value in values:
            _check_value(value)


def _check_value(value: model.Incoming) -> None:
    match value:
        case model.TokenCounts(counts):
            usage = model.usage_of(counts)
            assert all(n >= 0 for n in counts.values())
            assert min(usage.text_in, usage.audio_in, usage.image_in, usage.text_out, usage.audio_out) >= 0
        case model.ClosingSoon(time_left_s):
            assert 0 <= time_left_s <= 1e6
        case model.FunctionCall(call_id, name, arguments):
            assert name
            # Arguments are checked, logged and passed to tools as JSON.
            assert json.loads(json.dumps(arguments, allow_nan=False)) == arguments
            answer = model.FunctionResponse(call_id, name, arguments)
            sent = json.loads(model.encode(answer))["toolResponse"]["functionResponses"][0]
            assert sent["response"] == arguments
        case model.Skipped(where, _, given):
            assert isinstance(where, str)
            assert len(given) <= 60
    msgspec.json.encode(value)  # all its text is Unicode


MODEL_SEEDS: list[dict[str, Any]] = [
    {"setupComplete": {"sessionId": "s"}},
    {
        "serverContent": {
            "modelTurn": {"parts": [{"inlineData": {"mimeType": "audio/pcm;rate=24000", "data": "AAD/fwCA"}}]},
            "outputTranscription": {"text": " Hello"}, "inputTranscription": {"text": " hi", "finished": True},
            "turnComplete": True, "interactionStatus": "IN_PROGRESS", "turnCompleteReason": "OK", "interrupted": True,
        },
        "usageMetadata": {
            "promptTokenCount": 7, "responseTokenCount": 9, "totalTokenCount": 16, "thoughtsTokenCount": 2,
            "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 5}, {"modality": "IMAGE", "tokenCount": 1}],
        },
    },
    {"toolCall": {"functionCalls": [{"id": "1", "name": "f", "args": {"x": 1, "y": [1.5, None, "z"]}}, {"name": "g"}]}},
    {"toolCallCancellation": {"ids": ["1", "2"]}, "goAway": {"timeLeft": "9.5s"}},
    {"sessionResumptionUpdate": {"newHandle": "h", "resumable": True}},
    {"serverContent": {"modelTurn": {"parts": [{"text": "hm", "thought": True}]}, "generationComplete": True}},
]  # fmt: skip


# --- a webhook's form, its signature, and the documents that quote it


class _Body:
    """A request's body, all there."""

    def __init__(self, data: bytes) -> None:
        self._parts = [data] if data else []

    async def readany(self) -> bytes:
        return self._parts.pop() if self._parts else b""


def check_form(data: bytes) -> None:
    content_type, _, body = data.partition(b"\n")
    try:
        fields = _loop().run_until_complete(_form(content_type.decode("utf-8", "surrogateescape"), body))
    except web.HTTPException as refusal:
        assert 400 <= refusal.status < 500
        return
    assert len(fields) <= MAX_FIELDS
    url, path = "https://voice.example.com", "/twilio/voice"
    given = signature.sign("t" * 32, url + path, fields)
    assert signature.webhook_signed(given, tokens=["t" * 32], public_url=url, path_qs=path, form=fields[::-1])
    assert not signature.webhook_signed(given, tokens=["u" * 32], public_url=url, path_qs=path, form=fields)
    for text in [text for pair in fields[:8] for text in pair]:
        address = read_address(text)
        assert read_address(address.text).text == address.text, f"{text!r} has no normal form"
        _check_documents(text, url)


async def _form(content_type: str, body: bytes) -> list[tuple[str, str]]:
    kind, _, parameters = content_type.partition(";")
    charset = parameters.strip().removeprefix("charset=") or None
    request = SimpleNamespace(
        content_type=kind.strip().lower(), charset=charset, headers=CIMultiDict(), content_length=len(body),
        content=_Body(body),
    )  # fmt: skip
    return await _limits().form(request)  # type: ignore[arg-type]


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


@cache
def _limits() -> Limits:
    return Limits(mock.MagicMock(), time.monotonic)


def _check_documents(text: str, url: str) -> None:
    """Whatever a field holds is text in the document, never a verb or an attribute."""
    quoted = twiml._clean(text)
    said = _tree(twiml.say(text))
    assert [verb.tag for verb in said] == (["Say", "Hangup"] if text else ["Hangup"])
    assert not text or (said[0].text or "") == _as_read(quoted)
    dialled = _tree(twiml.fallback(Fallback(say="Hold.", dial="+15550100"), caller_id=text))
    assert [verb.tag for verb in dialled.iter()] == ["Response", "Say", "Dial", "Number", "Hangup"]
    assert set(dialled[1].attrib) <= {"callerId"}
    if len(text) < 400:
        (stream,) = _tree(twiml.connect_stream("wss://voice.example.com/m", url, {"caller": text})).iter("Stream")
        assert [set(parameter.attrib) for parameter in stream] == [{"name", "value"}]


def _tree(document: str) -> ElementTree.Element:
    return ElementTree.fromstring(document.encode())


def _as_read(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")  # XML 1.0, 2.11


FORM_SEEDS: list[dict[str, str]] = [
    {
        "CallSid": CALL, "AccountSid": ACCOUNT, "From": "+15550001111", "To": "+15550002222", "Direction": "inbound",
        "CallStatus": "ringing", "CallerName": "Zoë & <Söhne>",
    },
    {"CallSid": CALL, "StreamEvent": "stream-error", "StreamError": "x", "StreamSid": STREAM},
    {"CallSid": CALL, "From": "sip:ann@example.com;user=phone", "To": "client:desk", "DialCallStatus": "no-answer"},
    {"CallSid": CALL, "AnsweredBy": "machine_end_beep", "From": "+266696687", "To": "whatsapp:+15551234567"},
]  # fmt: skip


# --- files that people write


def check_agent(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        agent = parse_agent(text)
    except AgentFileError as error:
        assert error.line is None or 1 <= error.line <= text.count("\n") + text.count("\r") + 1
        assert str(error)
        return
    again = write_yaml(_plain(text).value)
    assert _plain(again).value == _plain(text).value
    assert parse_agent(again) == agent


def check_scenario(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    with mock.patch.object(voice, "wav_for", _bundled):  # no speech is synthesised for a line
        try:
            scenario = parse_scenario(text, directory=SCENARIOS)
        except (ScenarioError, AgentFileError):
            return
        again = parse_scenario(write_yaml(_plain(text).value), directory=SCENARIOS)
    assert [type(step) for step in again.steps] == [type(step) for step in scenario.steps]
    assert (again.agent, again.model, again.carrier) == (scenario.agent, scenario.model, scenario.carrier)


def _plain(text: str) -> YamlFile:
    return parse_yaml(text, error=FileError)


def _bundled(text: str, who: str = "agent") -> Path:
    return next(iter(sorted(Path(voice.__file__).parents[1].joinpath("sounds").rglob("*.wav"))))


def _files(*paths: Path) -> list[bytes]:
    return [path.read_bytes() for path in paths]


FRAMES_MAX = 200
FRAME_SEEDS = [
    b"\x81\x85keyz" + b"hello" + b"\x89\x80keyz" + b"\x81\xfe\x00\x80keyz" + b"m" * 128,
    b"\x01\x82keyzfr" + b"\x80\x83keyzagm" + b"\x81\xff" + bytes(7) + b"\x09keyz" + b"too long?",
]


def check_frames(data: bytes) -> None:
    whole, cut = _pushed([data]), _pushed([data[at : at + 1] for at in range(len(data))])
    assert whole == cut
    took, passed = whole
    assert sum(map(len, took)) + len(passed) <= len(data)
    assert all(len(text) <= FRAMES_MAX and text.isascii() for text in took)


def _pushed(pieces: Sequence[bytes]) -> tuple[list[bytes], bytes]:
    took: list[bytes] = []
    frames = Frames(FRAMES_MAX)

    def offered(text: bytes) -> bool:
        took.append(text)
        return True

    frames.offer(offered)
    return took, b"".join([frames.push(piece) for piece in pieces])


def check_jpeg(data: bytes) -> None:
    size = jpeg_size(data)
    assert size is None or (len(size) == 2 and all(0 < side < 2**16 for side in size)), size
    assert size is None or jpeg_size(data + b"\xff\xd8 behind") == size, "what follows the header was looked at"


def check_verdict(data: bytes) -> None:
    """A judge's answer about two statements."""
    statements = ("It was polite.", "It ended.")
    with contextlib.suppress(NotJudged):
        found = statements_from(data.decode(errors="replace"), statements)
        assert tuple(one.text for one in found) == statements
        assert all(isinstance(one.met, bool) and 0 < len(one.reason) <= REASON_MAX for one in found), found


VERDICT = {"statements": [{"number": number, "met": number == 1, "reason": "It said so."} for number in (1, 2)]}

TARGETS = {
    "carrier": Target(
        "a message, None or Malformed with a known reason; what it holds is no larger than the input and reads the "
        "same when it is sent again",
        check_carrier, [json.dumps(seed).encode() for seed in CARRIER_SEEDS], _bend_json, 0.1,
    ),
    "model": Target(
        "values or Malformed; no more values and audio than bytes, counts and times in range, arguments that are JSON",
        check_model, [json.dumps(seed).encode() for seed in MODEL_SEEDS], _bend_json, 0.1,
    ),
    "jpeg": Target(
        "a size with both sides from 1 to 65535, or None; the same with anything behind it",
        check_jpeg, [jpeg_of(768, 432), jpeg_of(1, 1, head=b"")],
        lambda rng, data: bent_bytes(rng, data or b"\xff"), 0.05,
    ),
    "form": Target(
        "fields or a 4xx; what is signed is recognised in any order and with no other key; a number's normal form is "
        "stable; in TwiML a field is text and nothing else",
        check_form, [FORM.encode() + b"\n" + urlencode(seed).encode() for seed in FORM_SEEDS], _bend_form, 0.5,
    ),
    "agent": Target(
        "an agent or AgentFileError on a line of the file; written again it is the same agent",
        check_agent, _files(*sorted(EXAMPLES.glob("*.agent.yaml")), *sorted(SCENARIOS.glob("*.agent.yaml"))),
        _bend_yaml, 2.0,
    ),
    "scenario": Target(
        "a scenario, ScenarioError or AgentFileError; written again it has the same steps, agent, model and carrier",
        check_scenario, _files(*sorted(SCENARIOS.glob("*.call.yaml"))), _bend_yaml, 2.0,
    ),
    "verdict": Target(
        "one verdict with a reason for each statement, in order, or NotJudged",
        check_verdict, [json.dumps(VERDICT).encode()], _bend_json, 0.1,
    ),
    "frames": Target(
        "the same texts taken, and the same bytes passed, however the stream is cut; each text is ASCII and in bounds",
        check_frames, FRAME_SEEDS, bent_bytes, 0.1,
    ),
}  # fmt: skip
