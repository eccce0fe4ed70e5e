"""The caller's microphone: what they say, the room's noise, and the agent's voice that leaks into it, in frames."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pybase64
from numpy.typing import NDArray

from offhook.gateway.rehearsal.phone import voice
from offhook.gateway.rehearsal.phone.carrier import Carrier
from offhook.gateway.rehearsal.phone.playback import SILENT_FRAME
from offhook.media.mulaw import FRAME_BYTES, RATE_HZ, decode, encode

__all__ = ["Microphone", "Sound", "cut_up", "sound_of"]

_SILENT = SILENT_FRAME, pybase64.b64encode(SILENT_FRAME).decode()


@dataclass(frozen=True, slots=True)
class Sound:
    """A sound cut into frames, each as mu-law and as base64; `[first, last)` is what is audible of it."""

    frames: tuple[tuple[bytes, str], ...]
    first: int
    last: int


@lru_cache(maxsize=256)
def sound_of(line: str | Path) -> Sound:
    """A line spoken by the caller's voice, or of a WAV file."""
    return cut_up(voice.line(line, RATE_HZ, "caller"))


def cut_up(samples: NDArray[np.int16]) -> Sound:
    """Samples at 8 kHz as frames, the last one filled up with silence."""
    codes = encode(samples)
    codes += SILENT_FRAME[: -len(codes) % FRAME_BYTES]
    frames = [codes[at : at + FRAME_BYTES] for at in range(0, len(codes), FRAME_BYTES)]
    first, last = voice.audible_span(samples, RATE_HZ)
    return Sound(tuple((frame, pybase64.b64encode(frame).decode()) for frame in frames), first, last)


class Microphone:
    """The channel that the gateway receives, 20 ms at a time. `recorded`: all of it so far, as mu-law."""

    def __init__(self, carrier: Carrier) -> None:
        self.recorded = bytearray()
        self._to_say: deque[tuple[bytes, str]] = deque()
        self._echo_gain_db, self._echo_delay = carrier.echo_gain_db, round(carrier.echo_delay_ms * RATE_HZ / 1000.0)
        self._noise = np.zeros(0)
        if carrier.noise_dbfs is not None:
            self._noise = voice.noise(RATE_HZ, 5.0, carrier.noise_dbfs, carrier.seed).astype(np.float64)

    @property
    def silent(self) -> bool:
        """All that was to be said has been."""
        return not self._to_say

    def say(self, sound: Sound) -> int:
        """Say this after what is being said; returns the place of its first sample."""
        place = len(self.recorded) + len(self._to_say) * FRAME_BYTES
        self._to_say.extend(sound.frames)
        return place

    def record(self, heard: bytes | bytearray, live: bytes | None = None) -> str:
        """The next 20 ms, as base64. `heard`: the agent's voice so far, mu-law; `live`: what a live caller says."""
        frame, text = self._to_say.popleft() if self._to_say else _SILENT
        if live is not None:
            frame, text = live, pybase64.b64encode(live).decode()
        if self._echo_gain_db is not None or len(self._noise):
            frame = self._with_noise_and_echo(frame, heard)
            text = pybase64.b64encode(frame).decode()
        self.recorded += frame
        return text

    def _with_noise_and_echo(self, frame: bytes, heard: bytes | bytearray) -> bytes:
        mixed, now = decode(frame).astype(np.float64), len(self.recorded)
        if len(self._noise):
            at = now % (len(self._noise) - FRAME_BYTES)
            mixed += self._noise[at : at + FRAME_BYTES]
        if self._echo_gain_db is not None and (start := now - self._echo_delay) >= 0:
            leaked = decode(bytes(heard[start : start + FRAME_BYTES]))
            mixed[: len(leaked)] += 10.0 ** (self._echo_gain_db / 20.0) * leaked
        return encode(np.clip(np.rint(mixed), -32768, 32767).astype(np.int16))
