"""Measures of a recording: level, noise, delay and clicks. For tests and benches.

Levels are in dBov (ITU-T G.100.1): 0 is the power of a full-scale square wave, so a full-scale sine is -3.01.
Digital silence is -100.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offhook.media.mulaw import SILENCE_DBOV

__all__ = [
    "active_level_dbov",
    "delay_samples",
    "largest_step",
    "level_dbov",
    "snr_db",
    "to_level",
]

_FULL_SCALE = 32768.0


def level_dbov(samples: NDArray[np.int16]) -> float:
    """RMS level of the whole; -100 for silence and for nothing."""
    if len(samples) == 0:
        return SILENCE_DBOV
    x = samples.astype(np.float64) / _FULL_SCALE
    return float(10.0 * np.log10(max(float(np.dot(x, x)) / len(x), 1e-10)))


# ITU-T P.56, method B.
_P56_SMOOTHING_S = 0.03
_P56_HANGOVER_S = 0.2
_P56_MARGIN_DB = 15.9


def active_level_dbov(samples: NDArray[np.int16], rate_hz: int) -> float:
    """Active speech level by ITU-T P.56, method B: the level while there is speech, pauses left out.

    -100 when nothing is ever active. Pauses shorter than 200 ms count as speech.
    """
    if level_dbov(samples) <= SILENCE_DBOV:
        return SILENCE_DBOV
    x = np.abs(samples.astype(np.float64)) / _FULL_SCALE
    envelope = _smooth_twice(x, np.exp(-1.0 / (rate_hz * _P56_SMOOTHING_S)))
    hangover = round(rate_hz * _P56_HANGOVER_S)
    energy = float(np.dot(x, x))
    index = np.arange(len(x))
    before: tuple[float, float] | None = None
    for exponent in range(-15, 1):
        threshold = 2.0**exponent
        last_above = np.maximum.accumulate(np.where(envelope >= threshold, index, -hangover - 1))
        active = int(np.count_nonzero(index - last_above <= hangover))
        if active == 0:
            break
        level = 10.0 * np.log10(energy / active)
        margin = level - 20.0 * np.log10(threshold)
        if margin <= _P56_MARGIN_DB:
            if before is None:
                return float(level)
            # Linear between the last two thresholds, where the margin crosses 15.9 dB.
            share = (before[1] - _P56_MARGIN_DB) / (before[1] - margin)
            return float(before[0] + share * (level - before[0]))
        before = (level, margin)
    return SILENCE_DBOV if before is None else float(before[0])


def _smooth_twice(x: NDArray[np.float64], pole: float) -> NDArray[np.float64]:
    """Two first-order low passes in series, by their impulse response (cut where it is below 1e-6)."""
    n = np.arange(int(np.ceil(-20.0 / np.log(pole))))
    response = (1.0 - pole) ** 2 * (n + 1) * pole**n
    size = 1 << int(len(x) + len(n) - 1).bit_length()
    product = np.fft.rfft(x, size) * np.fft.rfft(response, size)
    smoothed: NDArray[np.float64] = np.fft.irfft(product, size)[: len(x)]
    return smoothed


def to_level(samples: NDArray[np.int16], rate_hz: int, target_dbov: float) -> NDArray[np.int16]:
    """The same speech at another active level; saturates. Silence stays silence."""
    now = active_level_dbov(samples, rate_hz)
    if now <= SILENCE_DBOV:
        return samples.copy()
    scaled = np.rint(samples * 10.0 ** ((target_dbov - now) / 20.0))
    louder: NDArray[np.int16] = np.clip(scaled, -32768, 32767).astype(np.int16)
    return louder


def delay_samples(
    reference: NDArray[np.int16], observed: NDArray[np.int16], longest: int | None = None
) -> tuple[int, float]:
    """How many samples `observed` lags behind `reference`, and how sure that is.

    The second value is the normalised cross-correlation there: 1 for a scaled copy, near 0 for nothing in
    common, negative for an inverted copy. Negative lags (observed leads) are found too. `longest` bounds
    the lag on both sides. (0, 0.0) when either is silent or empty.
    """
    a, b = reference.astype(np.float64), observed.astype(np.float64)
    norm = float(np.sqrt(np.dot(a, a) * np.dot(b, b)))
    if norm == 0.0:
        return 0, 0.0
    size = 1 << int(len(a) + len(b) - 1).bit_length()
    products = np.fft.irfft(np.fft.rfft(b, size) * np.conj(np.fft.rfft(a, size)), size)
    most_ahead, most_behind = len(a) - 1, len(b) - 1
    if longest is not None:
        most_ahead, most_behind = min(most_ahead, longest), min(most_behind, longest)
    lags = np.concatenate([np.arange(most_behind + 1), np.arange(-most_ahead, 0)])
    found = products[lags]
    best = int(np.argmax(np.abs(found)))
    return int(lags[best]), float(found[best] / norm)


def snr_db(reference: NDArray[np.int16], observed: NDArray[np.int16]) -> float:
    """Power of what `observed` has of `reference` over the power of all else in it, in dB.

    Both aligned and of equal length; a plain gain between them is not counted as noise.
    """
    if len(reference) != len(observed):
        raise ValueError(f"lengths differ: {len(reference)} and {len(observed)}; align them by delay_samples first")
    a, b = reference.astype(np.float64), observed.astype(np.float64)
    power = float(np.dot(a, a))
    if power == 0.0:
        raise ValueError("the reference is silent: there is no signal to measure noise against")
    wanted = a * (float(np.dot(a, b)) / power)
    noise = b - wanted
    return float(10.0 * np.log10(max(float(np.dot(wanted, wanted)), 1e-10) / max(float(np.dot(noise, noise)), 1e-10)))


def largest_step(samples: NDArray[np.int16]) -> int:
    """The largest jump between neighbouring samples: a click at a joint shows here."""
    if len(samples) < 2:
        return 0
    return int(np.abs(np.diff(samples.astype(np.int32))).max())
