"""The rehearsal model's voice detection and speech, in audio time."""

import base64
import wave

import numpy as np
import pytest

from offhook.gateway.rehearsal.model.script import Say, ScriptError
from offhook.gateway.rehearsal.model.voice import SpeechEnd, SpeechStart, VoiceActivity, chunks_of
from offhook.gateway.rehearsal.model.wire import AutomaticDetection
from tests.rehearsal.model.model_client import silence, voice


def detector(**settings) -> VoiceActivity:
    return VoiceActivity(AutomaticDetection(**settings), vertex=False, above_dbfs=None)


def heard(listener: VoiceActivity, pcm: bytes, rate_hz: int = 16_000, step_bytes: int = 640) -> list:
    return [d for i in range(0, len(pcm), step_bytes) for d in listener.push(pcm[i : i + step_bytes], rate_hz)]


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 24_000, 48_000])
def test_a_turn_is_where_it_is(rate_hz):
    pcm = silence(400, rate_hz) + voice(600, rate_hz) + silence(700, rate_hz)
    assert heard(detector(), pcm, rate_hz) == [SpeechStart(400.0), SpeechEnd(600.0, 500.0)]


@pytest.mark.parametrize("step_bytes", [2, 320, 334, 1600, 100_000])
def test_it_does_not_matter_how_the_audio_is_cut(step_bytes):
    pcm = silence(400) + voice(600) + silence(700)
    assert heard(detector(), pcm, step_bytes=step_bytes) == [SpeechStart(400.0), SpeechEnd(600.0, 500.0)]


def test_prefix_is_the_speech_needed_before_a_start():
    cough = silence(300) + voice(120) + silence(700)
    assert heard(detector(prefix_padding_ms=200), cough) == []
    assert heard(detector(prefix_padding_ms=60), cough)[0] == SpeechStart(300.0)


def test_silence_setting_is_the_longest_pause_in_turn():
    pauses = voice(400) + silence(400) + voice(400) + silence(1000)
    assert len(heard(detector(silence_duration_ms=300), pauses)) == 4
    assert heard(detector(silence_duration_ms=800), pauses) == [SpeechStart(0.0), SpeechEnd(800.0, 800.0)]


def test_sensitivity_low_does_not_hear_the_quiet():
    quiet = silence(200) + voice(500, dbfs=-34)
    assert heard(detector(start_of_speech_sensitivity="START_SENSITIVITY_HIGH"), quiet)
    assert not heard(detector(start_of_speech_sensitivity="START_SENSITIVITY_LOW"), quiet)
    assert not heard(
        VoiceActivity(AutomaticDetection(), vertex=True, above_dbfs=None), quiet
    )  # LOW is the default there
    assert not heard(VoiceActivity(AutomaticDetection(), vertex=False, above_dbfs=-25), quiet)


def test_speech_is_found_over_steady_noise_only():
    rng = np.random.default_rng(5)
    noise = (rng.standard_normal(16_000 * 4) * 32768 * 10 ** (-40 / 20)).astype("<i2")
    assert heard(detector(), noise.tobytes()) == []
    speech = noise.copy()
    speech[24_000:36_000] += np.frombuffer(voice(750), "<i2")
    started, ended = heard(detector(), speech.tobytes())
    assert isinstance(started, SpeechStart)
    assert abs(started.onset_ms - 1500) <= 20
    assert abs(ended.speech_ms - 750) <= 40


def test_an_offset_of_the_line_is_not_a_voice():
    assert heard(detector(), np.full(16_000, 8000, "<i2").tobytes()) == []


def test_a_stream_that_pauses_ends_the_turn():
    listener = detector()
    heard(listener, voice(400))
    assert listener.flush() == SpeechEnd(400.0, 0.0)
    assert listener.flush() is None


def pcm_of(chunks) -> np.ndarray:
    return np.frombuffer(b"".join(base64.b64decode(chunk.data) for chunk in chunks), "<i2")


def test_chunks_follow_the_pattern_and_lose_nothing():
    chunks = chunks_of(Say("x", length_ms=500, chunk_ms=(100, 0, 50)))
    assert [round(chunk.length_ms, 2) for chunk in chunks] == [100, 0.04, 50, 100, 0.04, 50, 100, 0.04, 50, 49.88]
    assert len(pcm_of(chunks)) == 12_000
    whole = chunks_of(Say("x", length_ms=500, chunk_ms=(500,)))
    assert np.array_equal(pcm_of(chunks), pcm_of(whole))


def test_the_made_up_voice_is_heard_as_one():
    hum = pcm_of(chunks_of(Say("x", length_ms=800)))
    assert heard(detector(), hum.tobytes(), 24_000)[0] == SpeechStart(0.0)
    assert -26 < 20 * np.log10(np.sqrt(np.mean(hum.astype(float) ** 2)) / 32768) < -14
    assert len(pcm_of(chunks_of(Say("a rather longer text than that")))) > len(pcm_of(chunks_of(Say("short"))))


def written(path, pcm, rate_hz, width=2):
    with wave.open(str(path), "wb") as file:
        file.setparams((1, width, rate_hz, 0, "NONE", ""))
        file.writeframes(pcm)
    return path


def test_a_sound_is_sent_as_it_is_or_at_24_khz(tmp_path):
    pcm = voice(300, 24_000)
    assert pcm_of(chunks_of(Say("x", written(tmp_path / "a.wav", pcm, 24_000)))).tobytes() == pcm
    other = written(tmp_path / "b.wav", voice(300, 16_000), 16_000)
    assert len(pcm_of(chunks_of(Say("x", other)))) == 7_200
    assert len(pcm_of(chunks_of(Say("x", other, cut_ms=100)))) == 2_400


def test_a_sound_that_is_none(tmp_path):
    (tmp_path / "c.wav").write_bytes(b"RIFF")
    with pytest.raises(ScriptError, match="is not a WAV file"):
        chunks_of(Say("x", tmp_path / "c.wav"))
    with pytest.raises(ScriptError, match="8 bits a sample"):
        chunks_of(Say("x", written(tmp_path / "d.wav", bytes(100), 8_000, width=1)))


def test_chunks_are_encoded_once():
    assert chunks_of(Say("one", length_ms=700)) is chunks_of(Say("other", length_ms=700, delay_ms=5))
