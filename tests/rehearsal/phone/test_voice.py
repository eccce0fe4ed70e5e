"""The lines of a rehearsal are real speech, at one loudness, and found without espeak-ng when bundled."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from offhook.gateway.rehearsal.phone import voice
from offhook.gateway.rehearsal.sounds.make_sounds import LINES
from offhook.media.wav import read_wav, write_wav
from tests.needs import require


@pytest.fixture
def no_espeak(monkeypatch, tmp_path):
    monkeypatch.setattr(voice, "espeak_command", list)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize(("who", "text"), [(who, text) for who, texts in LINES.items() for text in texts])
def test_every_line_of_the_table_is_bundled(no_espeak, who, text):
    samples, rate_hz = read_wav(voice.wav_for(text, who))
    assert rate_hz == voice.VOICES[who][3]
    first, last = voice.audible_span(samples, rate_hz)
    assert first <= 0.06 * rate_hz, "speech begins at once"
    assert (last - first) / rate_hz > 0.05 * len(text), "about as long as the words take"
    assert 3000 < np.abs(samples.astype(int)).max() <= 0.86 * 32767


def test_bundled_texts_match_despite_punctuation(no_espeak):
    assert voice.wav_for("uh huh", "caller") == voice.wav_for("  Uh-huh. ", "caller")


def test_the_two_voices_differ_in_pitch():
    def pitch_hz(who: str) -> float:
        samples = voice.line(LINES[who][0], 8000, who).astype(float)
        frames = samples[: len(samples) // 400 * 400].reshape(-1, 400)
        found = []
        for frame in frames[np.mean(frames**2, axis=1) > 1e6]:
            spectrum = np.fft.rfft(frame - frame.mean(), 1024)
            correlation = np.fft.irfft(np.abs(spectrum) ** 2)
            lag = 25 + int(np.argmax(correlation[25:110]))
            if correlation[lag] > 0.5 * correlation[0]:
                found.append(8000 / lag)
        return float(np.median(found))

    assert pitch_hz("agent") > 1.3 * pitch_hz("caller")


def test_without_espeak_a_new_line_reports_the_fix(no_espeak):
    with pytest.raises(voice.VoiceError, match="install espeak-ng"):
        voice.line("Nobody has ever said this.", 8000)


def test_the_package_speaks_where_no_program_does(monkeypatch):
    require("espeakng_loader")
    monkeypatch.setattr(voice.shutil, "which", lambda name: None)
    spoken = {who: voice.speak("Where is the green lamp, please?", who) for who in voice.VOICES}
    for who, samples in spoken.items():
        assert 1.0 < len(samples) / voice.VOICES[who][3] < 3.0, "about as long as the words take"
    assert "espeakng_loader" not in sys.modules, "its library is GPL-3"
    with pytest.raises(voice.VoiceError, match="no sound of"):
        voice.speak("...")


def test_neither_program_nor_package_is_no_command(monkeypatch):
    monkeypatch.setattr(voice.shutil, "which", lambda name: None)
    monkeypatch.setattr(voice.importlib.util, "find_spec", lambda name: None)
    assert voice.espeak_command() == []


def test_new_line_is_synthesised_once_and_cached(monkeypatch, tmp_path):
    require("espeak-ng")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = voice.wav_for("A green lamp.", "caller")
    assert path.is_relative_to(tmp_path)
    assert voice.wav_for("A green lamp.", "agent") != path
    monkeypatch.setattr(voice, "espeak_command", list)
    assert voice.wav_for("a green lamp", "caller") == path
    assert len(voice.line("A green lamp.", 8000)) > 4000


def test_a_wav_file_is_resampled_on_load(tmp_path):
    t = np.arange(44_100) / 44_100
    tone = np.rint(8000 * np.sin(2 * np.pi * 440 * t)).astype(np.int16)
    write_wav(tmp_path / "tone.wav", tone, 44_100)
    samples = voice.line(tmp_path / "tone.wav", 8000)
    assert len(samples) == 8000
    assert np.argmax(np.abs(np.fft.rfft(samples))) == 440
    assert not samples.flags.writeable


def test_files_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(voice.VoiceError, match=r"no sound file at .*gone\.wav"):
        voice.line(tmp_path / "gone.wav", 8000)
    (tmp_path / "bad.wav").write_bytes(b"ID3 not a wave")
    with pytest.raises(voice.VoiceError, match=r"bad\.wav is not a PCM WAV file"):
        voice.line(str(tmp_path / "bad.wav"), 8000)


def test_an_unknown_voice_is_refused():
    with pytest.raises(voice.VoiceError, match="there are caller, agent"):
        voice.wav_for("Hello", "ghost")


def test_a_cough_is_short_and_loud_and_always_the_same():
    cough = voice.cough(8000)
    assert len(cough) / 8000 < 0.5
    assert np.abs(cough.astype(int)).max() == round(0.35 * 32767)
    assert np.array_equal(cough, voice.cough(8000))
    assert not np.array_equal(cough, voice.cough(8000, seed=1))


def test_noise_has_the_given_level():
    bed = voice.noise(8000, 2.0, -50.0).astype(float)
    assert 20 * np.log10(np.sqrt(np.mean(bed**2)) / 32768) == pytest.approx(-50.0, abs=0.2)


def test_keyboard_peaks_are_far_above_its_mean_level():
    keys = voice.keyboard(8000).astype(float)
    assert np.abs(keys).max() > 8 * np.sqrt(np.mean(keys**2))
