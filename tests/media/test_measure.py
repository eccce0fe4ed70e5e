"""Measures against signals whose measure is known."""

from __future__ import annotations

import numpy as np
import pytest

from tests.media import signals
from tests.media.measure import active_level_dbov, delay_samples, largest_step, level_dbov, snr_db, to_level
from tests.needs import require

SINE = np.rint(32767 * np.sin(2 * np.pi * 1000 / 8000 * np.arange(8000))).astype(np.int16)
NOISE = signals.white(2.0, -30.0)


def test_levels_are_in_dbov() -> None:
    assert level_dbov(SINE) == pytest.approx(-3.01, abs=0.01)
    assert level_dbov(np.full(100, -32768, dtype=np.int16)) == pytest.approx(0.0, abs=0.001)
    assert level_dbov(np.zeros(100, dtype=np.int16)) == -100.0
    assert level_dbov(np.zeros(0, dtype=np.int16)) == -100.0


def test_the_active_level_leaves_pauses_out() -> None:
    steady = active_level_dbov(SINE, 8000)
    assert steady == pytest.approx(-3.01, abs=0.15)  # the envelope's rise does not count as active
    # One second of tone, three of silence: 6 dB less on the whole, the same while active, but for what P.56 adds
    # to the tone: the envelope's fall and 200 ms of hangover, 1.1 dB on so short a sound.
    spoken = np.concatenate([SINE, np.zeros(24000, dtype=np.int16)])
    assert level_dbov(spoken) == pytest.approx(-9.03, abs=0.01)
    assert -1.2 <= active_level_dbov(spoken, 8000) - steady <= 0.0
    assert active_level_dbov(np.zeros(8000, dtype=np.int16), 8000) == -100.0


def test_active_level_of_speech_leaves_out_the_pauses() -> None:
    require("espeak-ng")
    words = signals.speak("Good morning, this is a longer sentence for the level.", "en-us", -26.0)
    padded = np.concatenate([np.zeros(40000, dtype=np.int16), words, np.zeros(40000, dtype=np.int16)])
    assert active_level_dbov(padded, 8000) == pytest.approx(active_level_dbov(words, 8000), abs=0.3)


def test_to_level_scales_and_saturates() -> None:
    assert active_level_dbov(to_level(NOISE, 8000, -20.0), 8000) == pytest.approx(-20.0, abs=0.1)
    assert np.abs(to_level(NOISE, 8000, 0.0).astype(int)).max() >= 32767
    silence = np.zeros(10, dtype=np.int16)
    assert np.array_equal(to_level(silence, 8000, -20.0), silence)


@pytest.mark.parametrize("lag", [0, 1, 37, 799, -1, -250])
def test_a_delay_is_found_to_the_sample(lag: int) -> None:
    late = np.concatenate([np.zeros(max(lag, 0), dtype=np.int16), NOISE[max(-lag, 0) :]])
    found, sure = delay_samples(NOISE, late)
    assert found == lag
    assert sure > 0.9
    assert delay_samples(NOISE, (-(late // 2)).astype(np.int16))[0] == lag
    assert delay_samples(NOISE, late // 2)[1] > 0.9
    assert delay_samples(NOISE, -late)[1] < -0.9
    assert abs(delay_samples(NOISE, late, longest=20)[0]) <= 20


def test_nothing_in_common_is_not_sure() -> None:
    assert abs(delay_samples(NOISE, signals.white(2.0, -30.0, seed=99))[1]) < 0.1
    assert delay_samples(NOISE, np.zeros(100, dtype=np.int16)) == (0, 0.0)
    assert delay_samples(np.zeros(0, dtype=np.int16), NOISE) == (0, 0.0)


def test_snr_ignores_gain_and_counts_the_rest() -> None:
    noisy = signals.add(SINE // 4, signals.at_level(signals.white(1.0, -30.0), level_dbov(SINE // 4) - 20.0))
    assert snr_db(SINE, noisy) == pytest.approx(20.0, abs=0.3)
    assert snr_db(SINE, SINE // 2) > 75.0  # the rounding alone
    with pytest.raises(ValueError, match="delay_samples"):
        snr_db(SINE, SINE[1:])
    with pytest.raises(ValueError, match="silent"):
        snr_db(np.zeros(5, dtype=np.int16), SINE[:5])


def test_the_largest_step_shows_a_click() -> None:
    assert largest_step(np.array([0, 5, -32768, 32767], dtype=np.int16)) == 65535
    assert largest_step(np.array([7], dtype=np.int16)) == 0
