"""WAV files in and out, as 16-bit mono or stereo. Not for the call path."""

from __future__ import annotations

import wave
from os import PathLike

import numpy as np
from numpy.typing import NDArray

__all__ = ["read_wav", "write_wav"]


def read_wav(path: str | PathLike[str]) -> tuple[NDArray[np.int16], int]:
    """`(samples, rate_hz)` of any PCM WAV file: 8, 16, 24 or 32 bits, channels averaged to mono.

    Raises ValueError, naming the file, when it is no WAV file or holds something else than PCM
    (`sox in.wav -e signed -b 16 out.wav` makes PCM of anything).
    """
    try:
        with wave.open(str(path), "rb") as file:
            channels, width, rate_hz = file.getnchannels(), file.getsampwidth(), file.getframerate()
            raw = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise ValueError(
            f"{path} is not a PCM WAV file ({error}); convert it: sox {path} -e signed -b 16 out.wav"
        ) from error
    if width not in (1, 2, 3, 4):
        raise ValueError(f"{path} has {8 * width} bits per sample; 8, 16, 24 or 32 can be read")
    raw = raw[: len(raw) - len(raw) % (width * channels)]
    if width == 1:  # 8-bit WAV is unsigned, all others are signed
        samples = (np.frombuffer(raw, dtype=np.uint8).astype(np.int16) - 128) << 8
    elif width == 2:
        samples = np.frombuffer(raw, dtype="<i2").astype(np.int16)
    else:  # the two most significant bytes of each sample
        most = np.frombuffer(raw, dtype=np.uint8).reshape(-1, width)[:, -2:]
        samples = np.ascontiguousarray(most).view("<i2").reshape(-1).astype(np.int16)
    if channels > 1:
        samples = np.rint(samples.reshape(-1, channels).mean(axis=1)).astype(np.int16)
    return samples, rate_hz


def write_wav(
    path: str | PathLike[str],
    samples: NDArray[np.int16],
    rate_hz: int,
    right: NDArray[np.int16] | None = None,
) -> None:
    """Mono from `samples`; stereo when `right` is given, the shorter channel padded with silence."""
    channels = [samples] if right is None else [samples, right]
    length = max(len(channel) for channel in channels)
    frames = np.zeros((length, len(channels)), dtype="<i2")
    for column, channel in enumerate(channels):
        frames[: len(channel), column] = channel
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(channels))
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(frames.tobytes())
