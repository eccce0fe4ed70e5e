"""Signals with a known truth, for tests and benches of `media`: speech by espeak-ng, noises, echoes.

All at 8 kHz, int16, as they are on a telephone line before mu-law. Deterministic: random ones take a seed.
"""

from __future__ import annotations

import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offhook.media import mulaw
from offhook.media.resample import resample
from offhook.media.wav import read_wav
from tests.media.measure import active_level_dbov, level_dbov, to_level

RATE_HZ = 8000
FRAME = 160

Samples = NDArray[np.int16]

# Tuned on the first set of voices and phrases, checked on the second, which tuning never saw.
TUNING = {
    "en-us": ("Yes", "No, wait", "Hello, I would like to book a table", "Stop, that is wrong"),
    "en-gb+f2": ("Actually, can we do Friday?", "Hang on a second", "Four people, please"),
    "de+m3": ("Nein, das stimmt nicht", "Ich brauche einen Termin", "Entschuldigung"),
    "fr-fr+f4": ("Oui, bonjour", "Attendez une seconde", "Non, pas demain"),
    "es+m2": ("Hola, buenos días", "Espere un momento", "Quiero hablar con una persona"),
    "pl+f1": ("Dzień dobry", "Proszę poczekać", "To nie tak"),
    "it+m5": ("Pronto, mi sente?", "Scusi, ho una domanda", "Va bene"),
    "cmn-latn-pinyin+f5": ("ni3 hao3", "deng3 yi2 xia4", "bu2 dui4"),
}
HELD_OUT = {
    "en-gb-scotland+m4": ("Excuse me", "What time do you close?", "Sorry, I meant Tuesday", "Oh no"),
    "en-us+f3": ("Please hold on", "That one is fine", "Can I speak to a human?"),
    "nl+m1": ("Goedemorgen", "Wacht even", "Dat klopt niet"),
    "sv+f1": ("Hej, jag vill boka", "Vänta lite", "Tack så mycket"),
    "pt-br+m6": ("Bom dia", "Espera um pouco", "Quanto custa?"),
    "ru+f2": ("Здравствуйте", "Подождите", "Нет, не так"),
    "tr+m7": ("Merhaba", "Bir dakika", "Hayır, yarın olmaz"),
    "hi+f4": ("नमस्ते", "एक मिनट रुकिए", "यह गलत है"),
}
AGENT_TEXT = (
    "Thank you for calling. I can help you with bookings, changes and questions about your order. "
    "We have a table by the window at half past seven, and another one on the terrace a little later. "
    "If you would rather come at the weekend, Saturday is still open, but Sunday is nearly full. "
    "Before I book anything, may I have your name and a number where we can reach you?"
)


@lru_cache(maxsize=512)
def _espeak(text: str, voice: str, words_per_minute: int) -> Samples:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        subprocess.run(
            ["espeak-ng", "-v", voice, "-s", str(words_per_minute), "-w", str(path), text],
            check=True,
            capture_output=True,
        )
        samples, rate_hz = read_wav(path)
    line = telephone_band(resample(samples, rate_hz, RATE_HZ))
    line.setflags(write=False)
    return line


@lru_cache(maxsize=512)
def speak(text: str, voice: str, dbov: float = -26.0, words_per_minute: int = 170) -> Samples:
    """Speech at the active level `dbov`, in the telephone band; not to be written to. Needs espeak-ng."""
    said = to_level(_espeak(text, voice, words_per_minute), RATE_HZ, dbov)
    said.setflags(write=False)
    return said


def agent_speech(seconds: float, voice: str = "en-us+f5", dbov: float = -20.0) -> Samples:
    """The agent talking for a given time, on and on."""
    once = speak(AGENT_TEXT, voice, dbov)
    return np.resize(once, int(seconds * RATE_HZ))


def telephone_band(samples: Samples) -> Samples:
    """200 to 3500 Hz, as an analogue line or a handset leaves it."""
    n = np.arange(-200, 201)
    window = np.kaiser(401, 6.0)
    low, high = 200 / (RATE_HZ / 2), 3500 / (RATE_HZ / 2)
    taps = (high * np.sinc(high * n) - low * np.sinc(low * n)) * window
    return _int16(np.convolve(samples.astype(np.float64), taps, mode="same"))


def line(samples: Samples) -> Samples:
    """Through the mu-law of the line."""
    return mulaw.decode(mulaw.encode(samples))


def _int16(x: NDArray[np.float64]) -> Samples:
    return np.clip(np.rint(x), -32768, 32767).astype(np.int16)


def add(*signals: Samples) -> Samples:
    """Their sum, as long as the longest, saturating."""
    total = np.zeros(max(len(s) for s in signals))
    for s in signals:
        total[: len(s)] += s
    return _int16(total)


def at_level(samples: Samples, dbov: float) -> Samples:
    """At the RMS level `dbov` (not the active speech level)."""
    return _int16(samples * 10.0 ** ((dbov - level_dbov(samples)) / 20.0))


def silence(seconds: float) -> Samples:
    return np.zeros(int(seconds * RATE_HZ), dtype=np.int16)


@lru_cache(maxsize=128)
def _coloured_line(seconds: float, seed: int, slope_db_per_octave: float, scale: float) -> Samples:
    """In the telephone band, at no level yet: the same noise is asked for at many."""
    made = telephone_band(_int16(scale * _coloured(seconds, seed, slope_db_per_octave)))
    made.setflags(write=False)
    return made


def _coloured(seconds: float, seed: int, slope_db_per_octave: float) -> NDArray[np.float64]:
    count = int(seconds * RATE_HZ)
    spectrum = np.fft.rfft(np.random.default_rng(seed).normal(size=count))
    hz = np.maximum(np.fft.rfftfreq(count, 1 / RATE_HZ), 20.0)
    return np.fft.irfft(spectrum * (hz / 1000.0) ** (slope_db_per_octave / 6.02), count)


def white(seconds: float, dbov: float, seed: int = 1) -> Samples:
    return at_level(_coloured_line(seconds, seed, 0.0, 3000), dbov)


def pink(seconds: float, dbov: float, seed: int = 2) -> Samples:
    return at_level(_coloured_line(seconds, seed, -3.0, 1500), dbov)


def traffic(seconds: float, dbov: float, seed: int = 3) -> Samples:
    """Low-heavy noise that swells and fades as vehicles pass, engine harmonics in it."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    rumble = _coloured(seconds, seed, -5.0)
    swell = np.full(len(t), 0.4)
    for _ in range(max(1, int(seconds / 4))):
        swell += np.exp(-(((t - rng.uniform(0, seconds)) / rng.uniform(0.8, 2.0)) ** 2))
    engine = sum(np.sin(2 * np.pi * 45 * k * t + rng.uniform(0, 6)) / k for k in range(2, 10))
    mixed = (rumble / rumble.std() + 0.3 * engine) * swell
    return at_level(telephone_band(_int16(mixed * 1500)), dbov)


@lru_cache(maxsize=1)
def _crowd() -> Samples:
    rng = np.random.default_rng(4)
    total = np.zeros(60 * RATE_HZ)
    for voice in ("en-us+m1", "de+f3", "fr-fr+m7", "es+f1", "it+f2", "nl+m8"):
        for words_per_minute in (150, 190):
            talk = speak(AGENT_TEXT, voice, -26.0, words_per_minute)
            total += np.roll(np.resize(talk, len(total)), int(rng.integers(0, len(talk))))
    return _int16(total / 4)


def babble(seconds: float, dbov: float, seed: int = 4) -> Samples:
    """A dozen people talking at once, far away; the same minute, begun anywhere. Needs espeak-ng."""
    start = int(np.random.default_rng(seed).integers(0, 60 * RATE_HZ))
    return at_level(np.resize(np.roll(_crowd(), -start), int(seconds * RATE_HZ)), dbov)


def hum(seconds: float, dbov: float, hz: float = 50.0) -> Samples:
    """Mains hum with its harmonics up to 1 kHz, as a bad line has it; not cleaned by any band limit."""
    t = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    x = np.zeros(len(t))
    for k in range(1, int(1000 / hz) + 1):
        x += np.sin(2 * np.pi * hz * k * t + k) / k
    return at_level(_int16(x * 3000), dbov)


def keyboard(seconds: float, dbov: float = -22.0, seed: int = 5, per_s: float = 6.0) -> Samples:
    """Key strokes: short clicks with a body resonance, a softer release after each. Peak frame `dbov`."""
    rng = np.random.default_rng(seed)
    x = np.zeros(int(seconds * RATE_HZ))
    t = np.arange(160) / RATE_HZ
    at = 0.5
    while at < seconds - 0.2:
        for offset, gain in ((0.0, 1.0), (rng.uniform(0.06, 0.1), 0.4)):
            start = int((at + offset) * RATE_HZ)
            stroke = rng.normal(size=160) * np.exp(-t / rng.uniform(0.001, 0.003))
            stroke += 0.7 * np.sin(2 * np.pi * rng.uniform(900, 2200) * t) * np.exp(-t / 0.003)
            x[start : start + 160] += gain * rng.uniform(0.5, 1.0) * stroke[: len(x) - start]
        at += rng.exponential(1 / per_s) + 0.05
    return _peak_frame(telephone_band(_int16(x * 3000)), dbov)


def coughs(seconds: float, dbov: float = -18.0, seed: int = 6, per_min: float = 40.0) -> Samples:
    """Coughs: an explosive broad-band burst, a breathy decay. Peak frame level `dbov`."""
    rng = np.random.default_rng(seed)
    x = np.zeros(int(seconds * RATE_HZ))
    at = 1.5
    while at < seconds - 0.6:
        length = int(rng.uniform(0.15, 0.3) * RATE_HZ)
        t = np.arange(length) / RATE_HZ
        envelope = np.minimum(1.0, t / 0.008) * (np.exp(-t / 0.04) + 0.3 * np.exp(-t / 0.12))
        spectrum = np.fft.rfft(rng.normal(size=length))
        hz = np.fft.rfftfreq(length, 1 / RATE_HZ)
        shape = sum(g / (1 + ((hz - f) / w) ** 2) for f, w, g in ((500, 200, 1.0), (1400, 300, 0.8), (2600, 500, 0.5)))
        burst = np.fft.irfft(spectrum * (0.1 + shape), length) * envelope
        start = int(at * RATE_HZ)
        x[start : start + length] += burst * rng.uniform(0.6, 1.0)
        at += rng.uniform(0.5, 1.5) * 60.0 / per_min
    return _peak_frame(telephone_band(_int16(x * 4000)), dbov)


def _peak_frame(samples: Samples, dbov: float) -> Samples:
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    peak = max(level_dbov(frame) for frame in frames)
    return _int16(samples * 10.0 ** ((dbov - peak) / 20.0))


DTMF_HZ = {
    key: (low, high)
    for low, row in zip((697, 770, 852, 941), ("123A", "456B", "789C", "*0#D"), strict=True)
    for high, key in zip((1209, 1336, 1477, 1633), row, strict=True)
}


def dtmf_keys(seconds: float, dbov: float = -12.0, seed: int = 7, per_min: float = 29.0) -> Samples:
    """Someone pressing keys: 60 to 250 ms each."""
    rng = np.random.default_rng(seed)
    x = np.zeros(int(seconds * RATE_HZ))
    keys = list(DTMF_HZ.values())
    at = 1.0
    while at < seconds - 0.5:
        low, high = keys[rng.integers(0, len(keys))]
        t = np.arange(int(rng.uniform(0.06, 0.25) * RATE_HZ)) / RATE_HZ
        start = int(at * RATE_HZ)
        x[start : start + len(t)] = np.sin(2 * np.pi * low * t) + np.sin(2 * np.pi * high * t)
        at += rng.uniform(0.5, 1.5) * 60.0 / per_min
    return _int16(x * 32768.0 * 10.0 ** (dbov / 20.0))


def echo(played: Samples, coupling_db: float, delay_ms: float, tail_ms: float = 30.0, seed: int = 8) -> Samples:
    """What comes back of `played`: `coupling_db` (negative) of its power, late, through a small room."""
    rng = np.random.default_rng(seed)
    delay, tail = round(delay_ms * RATE_HZ / 1000), round(tail_ms * RATE_HZ / 1000)
    room = rng.normal(size=tail) * np.exp(-3.0 * np.arange(tail) / tail) * 0.4
    room[0] = 1.0
    returned = np.convolve(line(played).astype(np.float64), room)[: len(played)]
    returned *= np.sqrt(np.dot(played / 1.0, played / 1.0) / max(np.dot(returned, returned), 1.0))
    late = np.concatenate([np.zeros(delay), returned])[: len(played)]
    return telephone_band(_int16(late * 10.0 ** (coupling_db / 20.0)))


def saturated(samples: Samples, limit: float, hard: bool = False) -> Samples:
    """Through something that gives no more than `limit`: bending towards it, or clipping there."""
    x = samples / limit
    return telephone_band(_int16(limit * (np.clip(x, -1.0, 1.0) if hard else np.tanh(x))))


def from_small_speaker(played: Samples, coupling_db: float, delay_ms: float, over_db: float) -> Samples:
    """Echo of a loudspeaker that saturates `over_db` below the level of what is `played`, in a room of 200 ms."""
    bent = saturated(played, 32768.0 * 10.0 ** ((active_level_dbov(played, RATE_HZ) - over_db) / 20.0))
    back = echo(bent, 0.0, delay_ms, tail_ms=200.0)
    return _int16(back * 10.0 ** ((level_dbov(played) + coupling_db - level_dbov(bent)) / 20.0))


# How the agent (at -20 dBov) comes back. An echo of -35 dBov has an amplitude of 580: 250 and 100 are a loudspeaker, a
# codec or a canceller that lets little more through, whatever is played.
ECHO_PATHS = {
    "linear -20 dB, 180 ms": lambda played: echo(played, -20.0, 180),
    "linear -20 dB, 380 ms": lambda played: echo(played, -20.0, 380),
    "linear -15 dB, 180 ms": lambda played: echo(played, -15.0, 180),
    "linear -12 dB, 180 ms": lambda played: echo(played, -12.0, 180),
    "-15 dB, saturating (tanh 250), 180 ms": lambda played: saturated(echo(played, -15.0, 180), 250),
    "-15 dB, saturating (tanh 250), 380 ms": lambda played: saturated(echo(played, -15.0, 380), 250),
    "-15 dB, saturating (tanh 100), 180 ms": lambda played: saturated(echo(played, -15.0, 180), 100),
    "-15 dB, clipping at 250, 180 ms": lambda played: saturated(echo(played, -15.0, 180), 250, hard=True),
    "loudspeaker 6 dB over, -15 dB, room": lambda played: from_small_speaker(played, -15.0, 180, 6.0),
    "loudspeaker 12 dB over, -15 dB, room": lambda played: from_small_speaker(played, -15.0, 250, 12.0),
}


def onset_sample(clean: Samples, below_active_db: float = 20.0) -> int:
    """Where speech begins: the first 10 ms within 20 dB of the active level, to 1 ms."""
    active = active_level_dbov(clean, RATE_HZ)
    power = np.concatenate([[0.0], np.cumsum((clean / 32768.0) ** 2)])
    starts = np.arange(0, len(clean) - 80, 8)
    levels = 10 * np.log10(np.maximum((power[starts + 80] - power[starts]) / 80, 1e-12))
    return int(starts[np.argmax(levels >= active - below_active_db)])


def end_sample(clean: Samples, below_active_db: float = 20.0) -> int:
    """Where it ends, by the same rule."""
    return len(clean) - onset_sample(clean[::-1].copy(), below_active_db)


def buzz(seconds: float, dbov: float = -26.0, pitch_hz: float = 120.0) -> Samples:
    """A sung vowel without espeak-ng: a pulse train, its pitch wavering, through three formants."""
    t = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    phase = np.cumsum(pitch_hz * (1 + 0.03 * np.sin(2 * np.pi * 3 * t)) / RATE_HZ)
    pulses = np.diff(np.floor(phase), prepend=0.0)
    spectrum, hz = np.fft.rfft(pulses), np.fft.rfftfreq(len(pulses), 1 / RATE_HZ)
    formants = sum(1 / (1 + ((hz - f) / w) ** 2) for f, w in ((600, 80), (1100, 100), (2500, 150)))
    return at_level(_int16(np.fft.irfft(spectrum * formants, len(pulses)) * 20000), dbov)
