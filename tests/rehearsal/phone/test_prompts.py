"""Recorded prompts: found by name, at the level of all lines; speech of people in place of a line.

Where a test reads prompts, they are Debian's: Allison Smith (CC BY-SA 3.0) and Carlo Flora (CC BY 3.0).
"""

from __future__ import annotations

import pytest

from offhook.gateway.rehearsal.phone import prompts, voice
from offhook.gateway.rehearsal.phone.prompts import prompt, stand_in
from offhook.media.wav import read_wav
from tests.needs import require_prompts

RATE_HZ = 8_000


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_prompt_is_as_loud_as_a_line(two_prompts):
    samples, rate_hz = read_wav(prompt("it/hello"))
    first, last = voice.audible_span(samples, rate_hz)
    assert first <= 0.05 * rate_hz, "without the silence in front"
    assert (last - first) / rate_hz == pytest.approx(1.0, abs=0.02)
    line, _ = read_wav(voice.wav_for("Hello?", "caller"))
    assert voice.levels_dbfs(samples, rate_hz).max() == pytest.approx(voice.levels_dbfs(line, RATE_HZ).max(), abs=6)
    assert prompt("it/digits/7").is_file()


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("it/helo", r"did you mean hello\? `offhook voices list it` shows all 3"),
        ("it/../it_IT_m_Carlo/hello", "no prompt"),
        ("hello", "write LANGUAGE/NAME"),
        ("xx/hello", "the languages are en, es, fr, it, ru"),
        ("ru/hello", "run `offhook voices install ru`"),
    ],
)
def test_a_prompt_that_is_not_there_has_a_cure(two_prompts, name, what):
    with pytest.raises(voice.VoiceError, match=what):
        prompt(name)


def test_a_prompt_with_a_long_pause_stands_in_for_none(two_prompts):
    samples, _ = read_wav(stand_in("it", "Anything at all.", 2_500))
    assert len(samples) / RATE_HZ < 1.2, "the one without a pause, though the other is nearer"


@pytest.mark.parametrize("length_ms", [500, 1_500, 4_000, 12_000])
def test_people_speak_as_long_as_the_line_would(length_ms):
    require_prompts("it")
    samples, rate_hz = read_wav(stand_in("it", f"A line of {length_ms}.", length_ms))
    first, last = voice.audible_span(samples, rate_hz)
    assert 1000 * (last - first) / rate_hz == pytest.approx(length_ms, abs=max(120, 0.05 * length_ms))
    assert prompts._longest_pause_ms(samples[first:last]) <= 320


def test_other_words_are_other_speech():
    require_prompts("en")
    assert stand_in("en", "Hello!", 1_500) == stand_in("en", "hello", 1_500)
    sounds = [read_wav(stand_in("en", text, 1_500))[0].tobytes() for text in ("One thing.", "Two things.", "Three.")]
    assert len(set(sounds)) > 1
