"""WAV files of every PCM width and channel count."""

from __future__ import annotations

import struct
import subprocess
import tempfile
import tracemalloc
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhook.media.wav import read_wav, write_wav
from tests.needs import require

TONE = np.rint(12000 * np.sin(2 * np.pi * 440 / 8000 * np.arange(801))).astype(np.int16)


def test_mono_comes_back(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", TONE, 22050)
    samples, rate_hz = read_wav(tmp_path / "a.wav")
    assert rate_hz == 22050
    assert samples.dtype == np.int16
    assert np.array_equal(samples, TONE)


def test_stereo_is_padded_and_averaged_when_read(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", TONE, 8000, right=TONE[:400])
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getnframes()) == (2, 2, 801)
        frames = np.frombuffer(file.readframes(801), dtype="<i2").reshape(-1, 2)
    assert np.array_equal(frames[:, 0], TONE)
    assert np.array_equal(frames[:400, 1], TONE[:400])
    assert not frames[400:, 1].any()
    mixed = read_wav(tmp_path / "a.wav")[0]
    assert np.abs(mixed[:400].astype(int) - TONE[:400]).max() == 0
    assert np.abs(mixed[400:] - TONE[400:] / 2).max() <= 0.5


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_every_width_as_sox_writes_it(tmp_path: Path, bits: int) -> None:
    require("sox")
    write_wav(tmp_path / "in.wav", TONE, 8000)
    encoding = "unsigned-integer" if bits == 8 else "signed-integer"
    # wavpcm: the plain header; from 24 bits up sox would write an extensible one.
    out = ["-t", "wavpcm", "-e", encoding, "-b", str(bits), tmp_path / "out.wav"]
    subprocess.run(["sox", "-D", tmp_path / "in.wav", *out], check=True)
    samples, rate_hz = read_wav(tmp_path / "out.wav")
    assert rate_hz == 8000
    assert np.abs(samples.astype(int) - TONE).max() <= (128 if bits == 8 else 0)


def test_a_file_that_is_no_wav_is_named_with_the_fix(tmp_path: Path) -> None:
    for content in (b"", b"RIFF", b"hello, I am text", b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00"):
        (tmp_path / "bad.wav").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.wav is not a PCM WAV file .*sox"):
            read_wav(tmp_path / "bad.wav")


def test_a_truncated_file_has_its_remaining_samples(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", TONE, 8000)
    whole = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(whole[: 44 + 201])
    assert np.array_equal(read_wav(tmp_path / "a.wav")[0], TONE[:100])


# --- headers of the field (tests/test_cases.py: wav-extensible, wav-streamed-header)


def made(
    bits: int = 16,
    *,
    extensible: bool = False,
    riff: int | None = None,
    size: int | None = None,
    samples: bytes | None = None,
    before: bytes = b"",
    after: bytes = b"",
    name: bytes = b"RIFF",
) -> bytes:
    """A mono WAV file at 24 kHz, by hand; `riff` and `size` replace the two lengths in its header."""
    width = bits // 8
    data = samples
    if data is None:
        data = b"".join((int(v) << (bits - 16)).to_bytes(width, "little", signed=True) for v in TONE)
    kind = 0xFFFE if extensible else 1
    layout = struct.pack("<HHIIHH", kind, 1, 24_000, 24_000 * width, width, bits)
    if extensible:
        layout += struct.pack("<HHI", 22, bits, 4) + bytes.fromhex("0100000000001000800000aa00389b71")
    body = b"WAVE" + before + b"fmt " + struct.pack("<I", len(layout)) + layout
    body += b"data" + struct.pack("<I", len(data) if size is None else size) + data + after
    return name + struct.pack("<I", len(body) if riff is None else riff) + body


LIST = b"LIST" + struct.pack("<I", 5) + b"INFOx\0"  # of odd length, so padded
DS64 = b"ds64" + struct.pack("<IQQQI", 28, 0, 2 * len(TONE), 0, 0)


@pytest.mark.parametrize(
    "file",
    [
        made(24, extensible=True),
        made(16, extensible=True),
        made(32, extensible=True),
        made(size=0xFFFFFFFF, riff=0xFFFFFFFF),
        made(size=0x7FFFFFFF, riff=0x7FFFFFFF),
        made(size=0x7FFFF000, riff=0x7FFFF024),
        made(size=0, riff=0),
        made(size=0, riff=36),
        made(before=LIST),
        made(after=LIST),
        made(before=DS64, size=0xFFFFFFFF, after=LIST, name=b"RF64"),
    ],
    ids=["24", "16", "32", "ffffffff", "7fffffff", "sox", "zero", "zero36", "list before", "list after", "rf64"],
)  # fmt: skip
def test_a_header_of_the_field_is_read(tmp_path: Path, file: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(file)
    samples, rate_hz = read_wav(tmp_path / "a.wav")
    assert rate_hz == 24_000
    assert np.array_equal(samples, TONE)


@pytest.mark.parametrize(
    "file",
    [made(samples=b""), made(samples=b"", after=LIST), made(samples=b"x"), made(samples=b"", size=0xFFFFFFFF)],
    ids=["empty", "empty and a list", "half a sample", "streamed, cut before its first sample"],
)
def test_a_file_without_samples_is_refused(tmp_path: Path, file: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(file)
    with pytest.raises(ValueError, match="holds no sound"):
        read_wav(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("at", "value", "says"),
    [(20, 3, "IEEE float"), (20, 7, "mu-law"), (22, 0, "0 channels"), (24, 0, "at 0 Hz"), (34, 64, "64 bits")],
)
def test_a_format_that_cannot_be_read_is_named(tmp_path: Path, at: int, value: int, says: str) -> None:
    file = bytearray(made())
    file[at : at + (4 if at == 24 else 2)] = value.to_bytes(4 if at == 24 else 2, "little")
    (tmp_path / "a.wav").write_bytes(file)
    with pytest.raises(ValueError, match=rf"a\.wav is not a PCM WAV file \(.*{says}.*sox"):
        read_wav(tmp_path / "a.wav")


def test_a_false_length_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(made(size=0xFFFFFFFF, riff=0xFFFFFFFF))
    tracemalloc.start()
    read_wav(tmp_path / "a.wav")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@given(st.binary(max_size=200), st.integers(0, 60))
def test_any_bytes_are_read_or_refused(junk: bytes, at: int) -> None:
    file = made()[:at] + junk
    with tempfile.NamedTemporaryFile(suffix=".wav") as out:
        out.write(file)
        out.flush()
        try:
            samples, _ = read_wav(out.name)
        except ValueError:
            return
        assert len(samples)
