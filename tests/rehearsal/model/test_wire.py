"""The rehearsal model's reading of the wire, without a socket."""

import base64
import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offhook.gateway.rehearsal.model.wire import (
    MODELS,
    BadMessage,
    RealtimeInput,
    SessionRefused,
    audio_frame,
    base64_decoded,
    camel_keys,
    checked_setup,
    client_message,
    pcm_rate_hz,
)


def read(message):
    return client_message(json.dumps(message))


@pytest.mark.parametrize(
    "message",
    [
        {"realtimeInput": {"audio": {"data": "AAA=", "mimeType": "audio/pcm;rate=16000"}}},
        {"realtime_input": {"audio": {"data": "AAA=", "mime_type": "audio/pcm;rate=16000"}}},
        {"realtimeInput": {"audio": {"data": "AAA=", "mime_type": "audio/pcm;rate=16000"}}},
        {
            "realtime_input": {"audio": {"mime_type": "audio/pcm;rate=16000"}},
            "realtimeInput": {"audio": {"data": "AAA="}},
        },
    ],
)  # fmt: skip
def test_both_spellings_at_every_level(message):
    got = read(message)
    assert isinstance(got, RealtimeInput)
    assert got.audio is not None
    assert (got.audio.data, got.audio.mime_type) == ("AAA=", "audio/pcm;rate=16000")


def test_media_chunks_are_still_heard_of():
    got = read({"realtime_input": {"media_chunks": [{"data": "AAA=", "mime_type": "audio/pcm"}] * 2}})
    assert isinstance(got, RealtimeInput)
    assert len(got.media_chunks) == 2


def test_keys_of_the_user_are_unchanged():
    message = {"tool_response": {"function_responses": [{"id": "1", "name": "f", "response": {"table_no": 1}}]}}
    assert read(message).function_responses[0].response == {"table_no": 1}
    declared = {"function_declarations": [{"name": "f", "parameters": {"properties": {"party_size": {}}}}]}
    [function] = camel_keys(declared)["functionDeclarations"]
    assert function["parameters"] == {"properties": {"party_size": {}}}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("{", "Invalid JSON payload"),
        ("[]", "A message is an object"),
        ('{"hello":{}}', 'Unknown name "hello"'),
        ('{"setup":{},"clientContent":{}}', "exactly one of its kinds, not 2"),
        ("{}", "exactly one of its kinds, not 0"),
        ('{"realtimeInput":5}', "realtimeInput: Expected `object`"),
        ('{"realtimeInput":{"audio":{"data":5,"mimeType":"audio/pcm"}}}', "Expected `str`"),
        ('{"realtimeInput":{"sound":{}}}', "unknown field `sound`"),
        ('{"toolResponse":{"functionResponses":[{"id":"1","response":[]}]}}', "Expected `object`, got `array`"),
    ],
)
def test_a_message_outside_the_protocol_is_refused(message, expected):
    with pytest.raises(BadMessage) as bad:
        client_message(message)
    assert expected in str(bad.value)


KEYS = st.sampled_from(
    """
    setup realtimeInput realtime_input audio data mimeType text turns parts role clientContent
    toolResponse functionResponses id name response scheduling tools functionDeclarations
    generationConfig model sessionResumption handle realtimeInputConfig contextUpdate
    """.split()  # noqa: SIM905
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | KEYS, inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEYS, JSON, max_size=2) | JSON | st.binary(max_size=40))
def test_any_frame_is_a_message_or_bad(frame):
    data = frame if isinstance(frame, bytes) else json.dumps(frame)
    with contextlib.suppress(BadMessage):
        client_message(data)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEYS, JSON, max_size=4), st.sampled_from([*MODELS, "gpt"]), st.booleans())
def test_any_setup_is_checked_or_refused(setup, model, vertex):
    with contextlib.suppress(SessionRefused):
        checked_setup(camel_keys({**setup, "model": f"models/{model}"}), "v1beta", vertex)


@given(st.binary(max_size=50), st.booleans(), st.booleans())
def test_base64_of_either_alphabet_padded_or_not(data, url_safe, padded):
    text = (base64.urlsafe_b64encode if url_safe else base64.b64encode)(data).decode()
    assert base64_decoded(text if padded else text.rstrip("=")) == data


@pytest.mark.parametrize("text", ["A", "!!!!", "AAAA AAAA"])
def test_invalid_base64_is_refused(text):
    with pytest.raises(BadMessage):
        base64_decoded(text)


def test_rates():
    assert pcm_rate_hz("audio/pcm") == 16_000
    assert pcm_rate_hz("audio/pcm; rate=8000") == 8_000
    for wrong in ("audio/wav", "audio/pcm;rate=1", "video/mp4"):
        with pytest.raises(BadMessage):
            pcm_rate_hz(wrong)


def test_audio_frame_is_indented_json_with_base64():
    frame = audio_frame(b"+/8=", ' caf\u00e9 "quoted"')
    assert frame.count(b"\n") > 5
    assert json.loads(frame) == {
        "serverContent": {
            "modelTurn": {"parts": [{"inlineData": {"mimeType": "audio/pcm;rate=24000", "data": "+/8="}}]},
            "outputTranscription": {"text": ' caf\u00e9 "quoted"'},
        }
    }
    assert "outputTranscription" not in json.loads(audio_frame(b"AAA="))["serverContent"]


NEW, THINKING, OLD = "gemini-3.8-live", "gemini-3.8-live-extended-thinking", "gemini-3.1-flash-live-preview"
OLDER = "gemini-2.5-flash-native-audio-preview-12-2025"


def functions(behavior):
    return {"tools": [{"functionDeclarations": [{"name": "f", "behavior": behavior}]}]}


def voiced(name):
    return {"generationConfig": {"speechConfig": {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": name}}}}}


@pytest.mark.parametrize(
    ("model", "setup", "code"),
    [
        (NEW, {}, None),
        (NEW, {"generationConfig": {"responseModalities": ["AUDIO"]}}, None),
        (NEW, {"generationConfig": {"responseModalities": ["TEXT"]}}, 1007),
        (NEW, {"generationConfig": {"thinkingConfig": {"thinkingLevel": "LOW"}}}, 1007),
        (THINKING, {"generationConfig": {"thinkingConfig": {"thinkingLevel": "LOW"}}}, None),
        (THINKING, {"generationConfig": {"thinkingConfig": {"thinkingBudget": 5}}}, 1007),
        (OLD, {"generationConfig": {"thinkingConfig": {"thinkingLevel": "MINIMAL"}}}, None),
        (OLDER, {"generationConfig": {"thinkingConfig": {"thinkingBudget": 0}}}, None),
        (OLDER, {"generationConfig": {"thinkingConfig": {"thinkingLevel": "LOW"}}}, 1007),
        (NEW, {"generationConfig": {"enableAffectiveDialog": True}}, 1007),
        (NEW, {"proactivity": {"proactiveAudio": False}}, 1007),
        (NEW, {"proactivity": {"proactiveAudio": True}}, None),
        (OLD, {"proactivity": {"proactiveAudio": True}}, 1007),
        (OLDER, {"proactivity": {"proactiveAudio": True}}, 1007),  # needs v1alpha
        (NEW, functions("BLOCKING"), None),
        (THINKING, functions("BLOCKING"), 1007),
        (OLD, functions("NON_BLOCKING"), 1007),
        (OLDER, functions("NON_BLOCKING"), None),
        (NEW, functions("SOMETIMES"), 1007),
        (NEW, {"sessionResumption": {"transparent": True}}, 1007),
        (NEW, {"explicitVadSignal": True}, 1007),
        (NEW, {"sessionResumption": {}}, None),
        (NEW, {"systemInstruction": {"parts": [{"text": "no role"}]}}, None),
        (NEW, {"systemInstruction": "text"}, 1007),
        (NEW, {"colour": "red"}, 1007),
        (NEW, {"realtimeInputConfig": {"automaticActivityDetection": {"silence": 3}}}, 1007),
        (NEW, {"contextWindowCompression": {"triggerTokens": "32000"}}, None),  # int64 may be a string
        (NEW, {"contextWindowCompression": {"triggerTokens": "many"}}, 1007),
        (NEW, voiced("Bob"), 1007),
        (NEW, voiced("Kore"), None),
        (NEW, {"generationConfig": {"candidateCount": 1}}, None),
        ("gemini-9-live", {}, 1008),
        ("gemini-2.0-flash", {}, 1008),
    ],
)  # fmt: skip
def test_fields_that_each_model_accepts_in_a_setup(model, setup, code):
    if code is None:
        checked_setup({"model": f"models/{model}", **setup}, "v1beta", vertex=False)
        return
    with pytest.raises(SessionRefused) as refused:
        checked_setup({"model": f"models/{model}", **setup}, "v1beta", vertex=False)
    assert refused.value.code == code
    assert len(refused.value.reason.encode()) < 400


def test_vertex_accepts_other_fields_and_names():
    model = f"projects/p/locations/l/publishers/google/models/{NEW}"
    raw = {"model": model, "explicitVadSignal": True, "sessionResumption": {"transparent": True}}
    setup, _ = checked_setup(raw, "v1beta1", vertex=True)
    assert setup.explicit_vad_signal
    with pytest.raises(SessionRefused):
        checked_setup({"model": NEW}, "v1beta", vertex=False)  # models/ is missing
