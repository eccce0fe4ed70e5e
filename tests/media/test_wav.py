"""WAV files of every PCM width and channel count."""

from __future__ import annotations

import subprocess
import wave
from pathlib import Path

import numpy as np
import pytest

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


def test_what_is_no_wav_is_named_with_the_cure(tmp_path: Path) -> None:
    for content in (b"", b"RIFF", b"hello, I am text", b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00"):
        (tmp_path / "bad.wav").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.wav is not a PCM WAV file .*sox"):
            read_wav(tmp_path / "bad.wav")


def test_a_truncated_file_gives_what_is_there(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", TONE, 8000)
    whole = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(whole[: 44 + 201])
    assert np.array_equal(read_wav(tmp_path / "a.wav")[0], TONE[:100])
