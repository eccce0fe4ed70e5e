"""WAV files in and out, as 16-bit mono or stereo. Not for the call path.

Sources: the RIFF specification of 1991 with Microsoft's WAVEFORMATEXTENSIBLE, and EBU Tech 3306 for RF64.
"""

from __future__ import annotations

import struct
import wave
from io import BytesIO
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["read_wav", "wav_bytes", "write_wav"]

_PCM, _EXTENSIBLE = 0x0001, 0xFFFE
_KINDS = {0x0003: "IEEE float", 0x0006: "A-law", 0x0007: "mu-law", 0x0055: "MP3"}


def read_wav(path: str | PathLike[str]) -> tuple[NDArray[np.int16], int]:
    """`(samples, rate_hz)` of any PCM WAV file: 8, 16, 24 or 32 bits, channels averaged to mono.

    Headers that were written before the length was known (sizes 0, 0x7FFFFFFF, 0xFFFFFFFF) are read to the end of
    the file. Raises ValueError, naming the file, when it is not a WAV file, does not hold PCM, or holds no sound
    (`sox in.wav -e signed -b 16 out.wav` makes PCM of anything).
    """
    try:
        raw, channels, width, rate_hz = _parsed(memoryview(Path(path).read_bytes()))
    except ValueError as error:
        raise ValueError(
            f"{path} is not a PCM WAV file ({error}); convert it: sox {path} -e signed -b 16 out.wav"
        ) from error
    raw = raw[: len(raw) - len(raw) % (width * channels)]
    if not raw:
        raise ValueError(f"{path} holds no sound")
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


def _parsed(file: memoryview) -> tuple[memoryview, int, int, int]:
    """The samples' bytes, channels, bytes per sample and rate in hertz. Raises ValueError."""
    if len(file) < 12 or bytes(file[:4]) not in (b"RIFF", b"RF64", b"BW64") or bytes(file[8:12]) != b"WAVE":
        raise ValueError("it does not begin with RIFF and WAVE")
    whole = struct.unpack_from("<I", file, 4)[0] == len(file) - 8  # then the header was written knowing the length
    layout: tuple[int, int, int] | None = None
    long_size = None
    at = 12
    while at + 8 <= len(file):
        name, size = bytes(file[at : at + 4]), struct.unpack_from("<I", file, at + 4)[0]
        body = file[at + 8 :]
        if name == b"ds64" and len(body) >= 16:
            long_size = struct.unpack_from("<Q", body, 8)[0]
        elif name == b"fmt ":
            layout = _layout(body[:size])
        elif name == b"data":
            if layout is None:
                raise ValueError("its samples come before their format")
            if size == 0xFFFFFFFF and long_size:
                size = long_size
            if size == 0 and not whole:
                size = len(body)
            return (body[:size], *layout)
        at += 8 + size + size % 2
    raise ValueError("it has no samples" if layout else "it has no format")


def _layout(fmt: memoryview) -> tuple[int, int, int]:
    """Channels, bytes per sample and rate in hertz of a `fmt ` chunk. Raises ValueError."""
    if len(fmt) < 16:
        raise ValueError("its format is cut short")
    kind, channels, rate_hz, _, block, bits = struct.unpack_from("<HHIIHH", fmt)
    if kind == _EXTENSIBLE and len(fmt) >= 26:
        kind = struct.unpack_from("<H", fmt, 24)[0]  # the first two bytes of the sub-format's GUID
    if kind != _PCM:
        raise ValueError(f"it holds {_KINDS.get(kind, f'format {kind}')}")
    width = (bits + 7) // 8
    if channels == 0 or rate_hz == 0 or width not in (1, 2, 3, 4) or block != width * channels:
        raise ValueError(f"{channels} channels of {bits} bits at {rate_hz} Hz in {block} bytes cannot be read")
    return channels, width, rate_hz


def wav_bytes(samples: NDArray[np.int16], rate_hz: int, right: NDArray[np.int16] | None = None) -> bytes:
    """A WAV file: mono from `samples`; stereo when `right` is given, the shorter channel padded with silence."""
    channels = [samples] if right is None else [samples, right]
    length = max(len(channel) for channel in channels)
    frames = np.zeros((length, len(channels)), dtype="<i2")
    for column, channel in enumerate(channels):
        frames[: len(channel), column] = channel
    out = BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(len(channels))
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(frames.tobytes())
    return out.getvalue()


def write_wav(
    path: str | PathLike[str],
    samples: NDArray[np.int16],
    rate_hz: int,
    right: NDArray[np.int16] | None = None,
) -> None:
    """As `wav_bytes`, into a file."""
    Path(path).write_bytes(wav_bytes(samples, rate_hz, right))
