"""DTMF made by ITU-T Q.23, recognised within the tolerances of Q.24, and not heard in speech."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from numpy.typing import NDArray

from offhook.media import mulaw
from offhook.media.measure import largest_step, level_dbov
from offhook.media.tones import DTMF_KEYS, DtmfDetector, comfort_tone, dtmf, thinking_sound
from tests.media import signals
from tests.needs import require


def keys(
    low: float = 1.0,
    high: float = 1.0,
    twist_db: float = 0.0,
    dbov: float = -14.0,
    on_ms: float = 40.0,
    off_ms: float = 40.0,
    lead: int = 0,
    noise_dbov: float | None = None,
) -> NDArray[np.int16]:
    """All 16 keys, made here from the frequencies: off frequency by factors, twisted (high over low), at a level."""
    rng = np.random.default_rng(lead)
    t = np.arange(round(on_ms * 8)) / 8000
    peak = 32768 * np.sqrt(2) * 10 ** (dbov / 20)
    parts = [np.zeros(lead)]
    for key in DTMF_KEYS:
        hz_low, hz_high = signals.DTMF_HZ[key]
        parts.append(
            peak * 10 ** (min(-twist_db, 0) / 20) * np.sin(2 * np.pi * hz_low * low * t + rng.uniform(0, 6))
            + peak * 10 ** (min(twist_db, 0) / 20) * np.sin(2 * np.pi * hz_high * high * t + rng.uniform(0, 6))
        )
        parts.append(np.zeros(round(off_ms * 8)))
    x = np.concatenate(parts)
    if noise_dbov is not None:
        x = x + rng.normal(size=len(x)) * 32768 * 10 ** (noise_dbov / 20)
    return signals.line(np.clip(np.rint(x), -32768, 32767).astype(np.int16))


def heard(samples: NDArray[np.int16], chunk: int = 160) -> str:
    detector = DtmfDetector()
    return "".join(detector.push(samples[at : at + chunk]) for at in range(0, len(samples), chunk))


def test_the_pad_is_q23() -> None:
    assert sorted(DTMF_KEYS) == sorted("0123456789*#ABCD")
    for key in DTMF_KEYS:
        tone = dtmf(key, tone_ms=500, gap_ms=40)[:4000]
        spectrum = np.abs(np.fft.rfft(tone * np.hanning(4000)))
        hz = [2 * int(np.argmax(spectrum[:550])), 2 * (550 + int(np.argmax(spectrum[550:])))]
        assert hz == pytest.approx(signals.DTMF_HZ[key], abs=2)


def test_keys_are_sent_at_their_level() -> None:
    """-8 and -6 dBm0, that is -14.2 and -12.2 dBov: -10.1 together."""
    assert level_dbov(dtmf("5", tone_ms=1000, gap_ms=40)[80:7920]) == pytest.approx(-10.06, abs=0.05)
    assert np.abs(dtmf(DTMF_KEYS)).max() < 32767


def test_our_own_keys_are_recognised() -> None:
    for tone_ms, gap_ms in ((40, 40), (100, 100), (2000, 60)):
        assert heard(signals.line(dtmf("0123456789*#ABCD", tone_ms, gap_ms))) == "0123456789*#ABCD"
    assert heard(signals.line(dtmf("11w22"))) == "1122"


def test_no_cut_changes_what_is_recognised() -> None:
    samples = keys()
    for chunk in (1, 7, 40, 160, 333, 100_000):
        assert heard(samples, chunk) == DTMF_KEYS


@pytest.mark.parametrize("twist_db", [-8.0, 0.0, 4.0])
@pytest.mark.parametrize("low_sign", [-1, 0, 1])
@pytest.mark.parametrize("high_sign", [-1, 0, 1])
def test_40_ms_are_taken_within_all_tolerances(twist_db: float, low_sign: int, high_sign: int) -> None:
    """1.5 % + 2 Hz off (of the lowest and highest tone, the worst of each group), twisted -8 to +4 dB."""
    low, high = 1 + low_sign * (0.015 + 2 / 941), 1 + high_sign * (0.015 + 2 / 1633)
    for lead in (0, 7, 13, 22, 31, 39):
        assert heard(keys(low, high, twist_db, lead=lead)) == DTMF_KEYS


@pytest.mark.parametrize("dbov", [-9.5, -20.0, -31.0])
def test_levels_from_loud_to_minus_25_dbm0(dbov: float) -> None:
    assert heard(keys(dbov=dbov, lead=5)) == DTMF_KEYS


def test_noise_15_db_below_does_no_harm() -> None:
    assert heard(keys(noise_dbov=-29.0, on_ms=50, off_ms=50)) == DTMF_KEYS


@pytest.mark.parametrize("factor", [0.965, 1.035])
def test_what_is_3_5_percent_off_is_no_key(factor: float) -> None:
    assert heard(keys(low=factor, on_ms=100)) == ""
    assert heard(keys(high=factor, on_ms=100)) == ""


def test_23_ms_are_no_key() -> None:
    for lead in range(0, 40, 3):
        assert heard(keys(on_ms=23, lead=lead)) == ""


def test_too_much_twist_is_no_key() -> None:
    assert heard(keys(twist_db=-12)) == heard(keys(twist_db=8)) == ""


def test_a_dropout_of_10_ms_does_not_double_a_key() -> None:
    tone = dtmf("7", tone_ms=200, gap_ms=40)
    tone[800:880] = 0
    assert heard(tone) == "7"


@lru_cache(maxsize=1)
def half_an_hour_of_speech() -> NDArray[np.int16]:
    voices = [
        f"{voice}{variant}"
        for voice in ("en-us", "de", "fr-fr", "es", "it", "ru")
        for variant in ("", "+f2", "+m3", "+f5", "+m7")
    ]
    return np.concatenate([signals.agent_speech(60.0, voice, -18.0) for voice in voices])


def test_half_an_hour_of_speech_presses_no_key() -> None:
    require("espeak-ng")
    speech = half_an_hour_of_speech()
    assert len(speech) >= 30 * 60 * 8000
    assert heard(signals.line(speech), chunk=8000) == ""


def test_other_sounds_press_no_key() -> None:
    for sound in (signals.white(5, -15.0), signals.hum(5, -15.0), signals.keyboard(10), signals.coughs(10)):
        assert heard(sound) == ""
    t = np.arange(16000) / 8000
    for hz in ((350, 440), (440, 480), (480, 620), (1000,), (697,), (1400, 2060)):  # what exchanges send
        assert heard(np.rint(sum(6000 * np.sin(2 * np.pi * f * t) for f in hz)).astype(np.int16)) == ""


def test_impossible_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="'E' is no DTMF key"):
        dtmf("12E")
    with pytest.raises(ValueError, match="at least 40"):
        dtmf("1", tone_ms=30)
    assert len(dtmf("")) == 0


@pytest.mark.parametrize("sound", [comfort_tone, thinking_sound])
def test_waiting_sounds_are_soft_and_without_clicks(sound: object) -> None:
    samples = sound(4.8)  # type: ignore[operator]
    assert samples.dtype == np.int16
    assert len(samples) == 38400
    assert -55 < level_dbov(samples) < -35
    assert largest_step(samples) < 400  # a soft 600 Hz has no more
    assert largest_step(np.tile(samples, 2)) == largest_step(samples)  # nor does the loop's seam
    assert mulaw.encode(samples)[-1] == mulaw.SILENCE
