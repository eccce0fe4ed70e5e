"""Sounds a telephone makes: DTMF keys, made and recognised, and two soft sounds for a line that must not seem dead.

All makers give PCM16 samples at 8 kHz; `offhook.media.mulaw.encode` makes carrier audio of them.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from offhook.media.mulaw import RATE_HZ

__all__ = ["DTMF_KEYS", "DtmfDetector", "comfort_tone", "dtmf", "thinking_sound"]

# ITU-T Q.23.
_LOW_HZ = (697.0, 770.0, 852.0, 941.0)
_HIGH_HZ = (1209.0, 1336.0, 1477.0, 1633.0)
_PAD = ("123A", "456B", "789C", "*0#D")
_KEY_HZ = {key: (_LOW_HZ[row], _HIGH_HZ[column]) for row, keys in enumerate(_PAD) for column, key in enumerate(keys)}
DTMF_KEYS = "".join(_PAD)

# 0 dBm0 is -6.18 dBov in mu-law (ITU-T G.711 table 2b: a full sine is +3.17 dBm0 and -3.01 dBov). The high group
# is sent 2 dB stronger because lines lose more of it.
_DBM0_IN_DBOV = -6.18
_LOW_DBM0, _HIGH_DBM0 = -8.0, -6.0


def _sine(count: int, hz: float, dbov: float) -> NDArray[np.float64]:
    peak = 32768.0 * np.sqrt(2.0) * 10.0 ** (dbov / 20.0)
    return np.asarray(peak * np.sin(2.0 * np.pi * hz / RATE_HZ * np.arange(count)))


def _soft_edges(x: NDArray[np.float64], ms: float) -> NDArray[np.float64]:
    """Raised-cosine rise and fall: without them every start is a click over the whole band."""
    count = min(int(ms * RATE_HZ / 1000), len(x) // 2)
    rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(count) + 0.5) / max(count, 1))
    x[:count] *= rise
    x[len(x) - count :] *= rise[::-1]
    return x


def dtmf(keys: str, tone_ms: int = 100, gap_ms: int = 100) -> NDArray[np.int16]:
    """The keys one after another, a gap behind each. `w` is a pause of 500 ms, as in dial strings.

    Raises ValueError for a key that no telephone has, or times below the 40 ms that ITU-T Q.24 lets receivers miss.
    """
    if tone_ms < 40 or gap_ms < 40:
        raise ValueError(f"tone_ms and gap_ms must be at least 40 (ITU-T Q.24), not {tone_ms} and {gap_ms}")
    parts = [np.zeros(0)]
    for key in keys.upper():
        if key == "W":
            parts.append(np.zeros(RATE_HZ // 2))
            continue
        if key not in _KEY_HZ:
            raise ValueError(f"{key!r} is no DTMF key; there are {DTMF_KEYS} and w for a pause")
        low, high = _KEY_HZ[key]
        count = tone_ms * RATE_HZ // 1000
        both = _sine(count, low, _LOW_DBM0 + _DBM0_IN_DBOV) + _sine(count, high, _HIGH_DBM0 + _DBM0_IN_DBOV)
        parts += [_soft_edges(both, 1.0), np.zeros(gap_ms * RATE_HZ // 1000)]
    return np.rint(np.concatenate(parts)).astype(np.int16)


def comfort_tone(seconds: float, dbov: float = -36.0) -> NDArray[np.int16]:
    """A short low note every two seconds: the line lives, please wait. Begins with a note, ends in silence."""
    x = np.zeros(round(seconds * RATE_HZ))
    note = _soft_edges(_sine(int(0.25 * RATE_HZ), 425.0, dbov), 60.0)
    for start in range(0, len(x), 2 * RATE_HZ):
        x[start : start + len(note)] += note[: len(x) - start]
    return np.rint(x).astype(np.int16)


def thinking_sound(seconds: float, dbov: float = -38.0) -> NDArray[np.int16]:
    """Soft plucked notes, slow and low, as something busy in the next room. Loops without a seam at each 2.4 s.

    `dbov` is the level at which a note starts; it fades within 0.3 s.
    """
    x = np.zeros(round(seconds * RATE_HZ))
    count = int(0.35 * RATE_HZ)
    fade = np.exp(-np.arange(count) / (0.08 * RATE_HZ))
    notes = [
        _soft_edges((_sine(count, hz, dbov) + _sine(count, 2 * hz, dbov - 14.0)) * fade, 8.0)
        for hz in (392.0, 523.25, 440.0, 587.33)
    ]
    step = int(0.6 * RATE_HZ)
    for index, start in enumerate(range(0, len(x), step)):
        note = notes[index % len(notes)]
        x[start : start + count] += note[: len(x) - start]
    return np.rint(x).astype(np.int16)


# Windows of 20 ms every 5 ms: a 40 ms tone fills four of them whole and has its middle in eight.
_WINDOW, _HOP = 160, 40
_TAPER = np.hanning(_WINDOW + 2)[1:-1]
_STEP_HZ = 8.0
_GROUPS_HZ = tuple(np.arange(centres[0] * 0.94, centres[-1] * 1.06, _STEP_HZ) for centres in (_LOW_HZ, _HIGH_HZ))
_GRID_HZ = np.concatenate(_GROUPS_HZ)
_SPLIT = len(_GROUPS_HZ[0])
_ANGLES = 2.0 * np.pi * np.outer(np.arange(_WINDOW), _GRID_HZ) / RATE_HZ
_PROBES = np.hstack([np.cos(_ANGLES), np.sin(_ANGLES)]) * _TAPER[:, None]
# Of a sine of power 1 in the squared length of its probe, and of any signal of power 1 in the tapered sum of squares.
_SINE_GAIN = float(_TAPER.sum()) ** 2 / 2.0
_POWER_GAIN = float(_TAPER @ _TAPER)

_OFF = 0.026  # ITU-T Q.24: within 1.5 % + 2 Hz must be taken, beyond 3.5 % must not
_SHARE = 0.80  # of the window's power in the two tones: 6 dB above everything else
_TWIST_DB = (-9.5, 5.5)  # high over low: Q.24 asks for -8 to +4
_LEAST_POWER = 32768.0**2 * 10.0 ** (-38.0 / 10.0)  # the weaker tone: Q.24 asks for -25 dBm0
_STRONG = 10.0 ** (-3.0 / 10.0)  # of the strongest window: half of it or more lies in the tone
_ON_HOPS = 6  # 30 ms: between the 40 that must be taken and the 23 that must not
_OFF_HOPS = 5  # 25 ms: a 40 ms pause ends a key, a 10 ms dropout does not


class DtmfDetector:
    """Recognises pressed keys in caller audio, for carriers that send no event for them. One per call."""

    def __init__(self) -> None:
        self._rest = np.zeros(_WINDOW - _HOP, dtype=np.int16)
        self._key = ""
        self._powers: list[float] = []
        self._misses = 0
        self._told = False

    def push(self, samples: NDArray[np.int16]) -> str:
        """The next samples at 8 kHz, any number -> the keys recognised by now, usually none ("").

        A key is told once, some 35 to 45 ms after its start, however long it is held.
        """
        samples = np.concatenate([self._rest, samples])
        hops = (len(samples) - (_WINDOW - _HOP)) // _HOP
        if hops <= 0:
            self._rest = samples
            return ""
        self._rest = samples[hops * _HOP :]
        windows = sliding_window_view(samples.astype(np.float64), _WINDOW)[::_HOP][:hops]
        return "".join(self._follow(key, power) for key, power in _recognise(windows))

    def _follow(self, key: str, power: float) -> str:
        strongest = max(self._powers, default=0.0)
        if self._key and key == self._key and power >= strongest * _STRONG:
            self._powers.append(power)
            self._misses = 0
            strongest = max(strongest, power)
            strong = sum(power >= strongest * _STRONG for power in self._powers)
            if strong >= _ON_HOPS and not self._told:
                self._told = True
                return key
            if self._told:  # long keys need no memory
                self._powers = [strongest]
        elif self._key:
            self._misses += 1
            if self._misses >= _OFF_HOPS:
                self._key = ""
        if not self._key and key:
            self._key, self._powers, self._misses, self._told = key, [power], 0, False
        return ""


def _recognise(windows: NDArray[np.float64]) -> list[tuple[str, float]]:
    """For each window the key it may hold ("" for none) and its power."""
    total = np.einsum("ij,ij,j->i", windows, windows, _TAPER**2) / _POWER_GAIN
    found: list[tuple[str, float]] = [("", 0.0)] * len(windows)
    loud = np.flatnonzero(total > 2.0 * _LEAST_POWER)
    if len(loud) == 0:
        return found
    squares = (windows[loud] @ _PROBES) ** 2 / _SINE_GAIN
    power = squares[:, : len(_GRID_HZ)] + squares[:, len(_GRID_HZ) :]
    low, high = power[:, :_SPLIT].max(axis=1), power[:, _SPLIT:].max(axis=1)
    twist = 10.0 * np.log10(np.maximum(high, 1.0) / np.maximum(low, 1.0))
    likely = (np.minimum(low, high) > _LEAST_POWER) & (low + high > _SHARE * total[loud])
    likely &= (twist > _TWIST_DB[0]) & (twist < _TWIST_DB[1])
    for at in np.flatnonzero(likely):
        row = _nearest(_GROUPS_HZ[0][power[at, :_SPLIT].argmax()], _LOW_HZ)
        column = _nearest(_GROUPS_HZ[1][power[at, _SPLIT:].argmax()], _HIGH_HZ)
        if row is not None and column is not None:
            found[loud[at]] = (_PAD[row][column], float(low[at] + high[at]))
    return found


def _nearest(hz: float, nominal: tuple[float, ...]) -> int | None:
    """Which of the group's frequencies this is, or None when it is none of them."""
    index = min(range(len(nominal)), key=lambda i: abs(hz - nominal[i]))
    return index if abs(hz - nominal[index]) <= _OFF * nominal[index] else None
