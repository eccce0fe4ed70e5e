"""Messages both ways: a list of values or `Malformed`, nothing else, whatever the frame holds."""

import base64
import json
import random

import pytest

from offhook.gateway.errors import Malformed
from offhook.gateway.models import Usage
from offhook.gateway.models.gemini import messages as wire
from offhook.gateway.models.gemini.messages import encode, parse, usage_of
from tests.models.gemini.wire_cases import AUDIO, CASES, PCM, content


def frame(message: object) -> bytes:
    return json.dumps(message, indent=2).encode()


@pytest.mark.parametrize("name", CASES)
def test_each_message(name):
    message, values = CASES[name]
    assert parse(frame(message)) == values
    assert parse(frame(message).decode()) == values, "a text frame says the same"


def test_one_frame_with_everything_is_read_in_order():
    message = {
        "goAway": {"timeLeft": "50s"},
        "sessionResumptionUpdate": {"newHandle": "h", "resumable": True},
        "usageMetadata": {"totalTokenCount": 1},
        "toolCall": {"functionCalls": [{"id": "1", "name": "f"}]},
        "serverContent": {
            "turnComplete": True,
            "interrupted": True,
            "generationComplete": True,
            "modelTurn": {"parts": [AUDIO]},
            "outputTranscription": {"text": "a"},
            "inputTranscription": {"text": "c"},
        },
    }
    assert [type(value) for value in parse(frame(message))] == [
        wire.CallerText,
        wire.ModelText,
        wire.Audio,
        wire.FunctionCall,
        wire.GenerationComplete,
        wire.Interrupted,
        wire.TokenCounts,
        wire.TurnEnd,
        wire.Handle,
        wire.ClosingSoon,
    ]


@pytest.mark.parametrize("raw", [b"", b" ", b"\n\n", "", b"{}", b"{ }\n"])
def test_an_empty_frame_is_nothing(raw):
    assert parse(raw) == []


@pytest.mark.parametrize("raw", [b"x", b"{", b"[]", b"7", b"null", b"\xff\xfe{}", b'"text"', b"[" * 100_000])
def test_what_is_no_object_is_malformed(raw):
    with pytest.raises(Malformed) as caught:
        parse(raw)
    assert caught.value.peer == "model"


@pytest.mark.parametrize("length", [1, 2, 3, 4, 240, 7681])
@pytest.mark.parametrize("urlsafe", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_both_alphabets_padded_or_not(length, urlsafe, padded):
    pcm = random.Random(length).randbytes(length)
    data = (base64.urlsafe_b64encode if urlsafe else base64.b64encode)(pcm).decode()
    part = {"inlineData": {"mimeType": "audio/pcm", "data": data if padded else data.rstrip("=")}}
    assert parse(frame(content(modelTurn={"parts": [part]}))) == [wire.Audio(pcm)]


def test_a_part_that_cannot_be_read_costs_that_part():
    parts = [
        {"inlineData": {"mimeType": "audio/pcm;rate=24000", "data": "!!!"}},
        {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
        {"inlineData": {"mimeType": "audio/pcm;rate=48000", "data": "AAAA"}},
        {"inlineData": 7},
        "x",
        AUDIO,
    ]
    values = parse(frame(content(modelTurn={"parts": parts}, turnComplete=True)))
    assert values[-2:] == [wire.Audio(PCM), wire.TurnEnd(more=False, reason="")]
    assert [v.unknown for v in values[:-2]] == [False] * 5


@pytest.mark.parametrize(
    ("media_type", "heard"),
    [
        ("audio/pcm", True),
        ("audio/pcm;rate=24000", True),
        ("audio/pcm; rate=24000", True),
        ("Audio/PCM ;RATE=24000 ; ", True),
        ('audio/pcm;rate="24000"', True),
        ('audio/pcm;rate="240\\00"', True),
        ("audio/pcm;rate=24000;channels=1", True),
        ("audio/pcm;channels=1;rate=24000;x=rate", True),
        ("audio/L16;codec=pcm;rate=24000", True),
        ("audio/l16; rate=24000; codec=PCM", True),
        ("audio/L16;rate=24000", False),  # big-endian
        ("audio/pcm;rate=16000", False),
        ("audio/pcm;rate=240000", False),
        ("audio/pcm;xrate=24000;rate=8000", False),
        ("audio/pcm;rate=24000;channels=2", False),
        ("audio/pcm;codec=opus", False),
        ("audio/pcmu;rate=8000", False),
        ("audio/wav", False),
        ('audio/pcm;rate="24000', False),
        ("", False),
    ],
)
def test_a_media_type_is_read_by_rfc_9110(media_type, heard):
    part = {"inlineData": {**AUDIO["inlineData"], "mimeType": media_type}}
    refused = wire.Skipped("inlineData.mimeType", unknown=False, value=media_type)
    assert parse(frame(content(modelTurn={"parts": [part]}))) == [wire.Audio(PCM) if heard else refused]


TOLD = b'{"serverContent": {"outputTranscription": {"text": "%s"}}}'


@pytest.mark.parametrize(
    ("sent", "values"),
    [
        (b"\xef\xbb\xbf" + TOLD % b"Hi", [wire.ModelText("Hi")]),
        ("\ufeff" + (TOLD % b"Hi").decode(), [wire.ModelText("Hi")]),
        (TOLD % rb"\ud83dHi", [wire.Skipped("frame", unknown=False), wire.ModelText("\ufffdHi")]),
        (TOLD.decode() % "\ud83dHi", [wire.Skipped("frame", unknown=False), wire.ModelText("\ufffdHi")]),
        (TOLD % b"Caf\xe9", [wire.Skipped("frame", unknown=False), wire.ModelText("Caf\ufffd")]),
        (
            b'{"toolCall": {"functionCalls": [{"name": "f", "args": {"a": NaN, "b": Infinity, "c": -1e999}}]}}',
            [
                wire.Skipped("frame", unknown=False),
                wire.FunctionCall("", "f", {"a": None, "b": None, "c": None}),
            ],
        ),
        (
            b'{"usageMetadata": {"totalTokenCount": 1e999}, "serverContent": {"interrupted": true}}',
            [wire.Skipped("frame", unknown=False), wire.Interrupted()],
        ),
    ],
)
def test_odd_text_costs_that_text_alone(sent, values):
    assert parse(sent) == values


@pytest.mark.parametrize("time_left", [None, "", "soon", 50, "-1s", "nans", "infs", [], "1e99s"])
def test_a_goaway_without_a_time_is_a_goaway(time_left):
    values = parse(frame({"goAway": {"timeLeft": time_left}}))
    assert wire.ClosingSoon(10.0) in values


def test_a_handle_does_not_show():
    assert "secret" not in repr(wire.Handle("secret-handle", True))


def test_caller_audio_is_a_text_frame_of_base64():
    message = json.loads(encode(PCM))
    assert message == {
        "realtimeInput": {
            "audio": {"data": base64.b64encode(PCM).decode(), "mimeType": "audio/pcm;rate=16000"},
        }
    }


def test_a_result_for_a_call_without_id_has_none():
    answer = json.loads(encode(wire.FunctionResponse(f"{wire.UNNAMED}1", "f", {"ok": True})))
    assert answer == {"toolResponse": {"functionResponses": [{"name": "f", "response": {"ok": True}}]}}


def test_tokens_without_a_modality_are_text():
    counts = {
        "promptTokenCount": 1000,
        "promptTokensDetails.AUDIO": 600,
        "promptTokensDetails.IMAGE": 70,
        "promptTokensDetails.VIDEO": 30,
        "toolUsePromptTokenCount": 100,
        "responseTokenCount": 200,
        "responseTokensDetails.AUDIO": 100,
        "thoughtsTokenCount": 10,
        "totalTokenCount": 1310,
    }
    assert usage_of(counts) == Usage(
        text_in=400,
        audio_in=600,
        image_in=100,
        text_out=110,
        audio_out=100,
        input_total=1000,
        output_total=200,
        by_name=counts,
    )


def test_usage_details_above_the_total_are_no_refund():
    assert usage_of({"promptTokenCount": 5, "promptTokensDetails.AUDIO": 10}).text_in == 0
    assert usage_of({}) == Usage()
