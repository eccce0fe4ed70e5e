"""Formats and conversion between any two: exact however the input is cut, and what the call path did before."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offhook.media import alaw, mulaw
from offhook.media.formats import (
    ALAW_8K,
    MULAW_8K,
    PCM16_8K,
    PCM16_16K,
    PCM16_24K,
    AudioFormat,
    Converter,
    Encoding,
    converter,
)
from offhook.media.resample import Down24To8, Up8To16
from tests.media.cuts import NOISE, SIZES, amplitude, cut

FORMATS = [MULAW_8K, ALAW_8K, PCM16_8K, PCM16_16K, PCM16_24K]
PCM = NOISE.astype("<i2").tobytes()
PAIRS = list(permutations(FORMATS, 2))


def name(format: AudioFormat) -> str:
    return f"{format.encoding.value}@{format.rate_hz}"


@given(SIZES, st.integers(0, 40_001))
@settings(max_examples=40, deadline=None)
def test_24k_pcm_to_mulaw_is_down24to8_bit_for_bit(sizes: list[int], count: int) -> None:
    ours, before = converter(PCM16_24K, MULAW_8K), Down24To8()
    assert ours is not None
    pieces = cut(PCM[:count], sizes)
    assert [ours.push(piece) for piece in pieces] == [before.push(piece) for piece in pieces]
    assert ours.flush() == before.flush()


@given(SIZES, st.integers(0, 9000))
@settings(max_examples=40, deadline=None)
def test_mulaw_to_16k_pcm_is_up8to16_bit_for_bit(sizes: list[int], count: int) -> None:
    ours, before = converter(MULAW_8K, PCM16_16K), Up8To16()
    assert ours is not None
    pieces = cut(PCM[:count], sizes)
    assert [ours.push(piece) for piece in pieces] == [before.push(mulaw.decode(piece)) for piece in pieces]


@pytest.mark.parametrize(("source", "target"), PAIRS, ids=lambda value: name(value))
def test_any_pair_does_not_depend_on_the_cut(source: AudioFormat, target: AudioFormat) -> None:
    data = source.encode(NOISE[:6000]) + b"\x01" * (source.bytes_per_sample - 1)
    whole = converter(source, target)
    assert whole is not None
    expected = whole.push(data) + whole.flush()
    for sizes in ([1], [3, 160, 7], [1921, 640], [len(data)]):
        made = b"".join(whole.push(piece) for piece in cut(data, sizes)) + whole.flush()
        assert made == expected  # and a flushed converter is as new
    assert whole.flush() == b""


@pytest.mark.parametrize(("source", "target"), PAIRS, ids=lambda value: name(value))
def test_a_tone_keeps_its_pitch_and_level(source: AudioFormat, target: AudioFormat) -> None:
    tone = 12000 * np.sin(2 * np.pi * 1000 / source.rate_hz * np.arange(source.rate_hz))
    made = converter(source, target)
    assert made is not None
    samples = target.decode(made.push(source.encode(np.rint(tone).astype(np.int16))))
    assert len(samples) == pytest.approx(target.rate_hz, abs=1)
    middle = samples[target.rate_hz // 10 :]
    companded = Encoding.PCM16 is not source.encoding or Encoding.PCM16 is not target.encoding
    off_db = 0.2 if companded else 0.05  # a tone that repeats every 8 samples meets few of G.711's steps
    assert 20 * np.log10(amplitude(middle, 1000.0, target.rate_hz) / 12000) == pytest.approx(0, abs=off_db)


@pytest.mark.parametrize(
    ("source", "target", "hz", "alias_hz"),
    [
        (PCM16_16K, PCM16_8K, 5000, 3000),
        (PCM16_16K, ALAW_8K, 4400, 3600),
        (PCM16_24K, PCM16_16K, 9000, 7000),
        (PCM16_8K, PCM16_24K, 3400, 4600),
        (PCM16_16K, PCM16_24K, 6800, 9200),
    ],
    ids=lambda value: name(value) if isinstance(value, AudioFormat) else None,
)
def test_aliases_and_images_stay_60_db_below(
    source: AudioFormat, target: AudioFormat, hz: float, alias_hz: float
) -> None:
    tone = 16000 * np.sin(2 * np.pi * hz / source.rate_hz * np.arange(source.rate_hz))
    made = converter(source, target)
    assert made is not None
    samples = target.decode(made.push(source.encode(np.rint(tone).astype(np.int16))))[target.rate_hz // 10 :]
    bound_db = -60 if target.encoding is Encoding.PCM16 else -50  # A-law's own steps
    assert 20 * np.log10(amplitude(samples, alias_hz, target.rate_hz) / 16000 + 1e-9) <= bound_db


@pytest.mark.parametrize("format", FORMATS, ids=name)
def test_a_loud_signal_saturates_and_does_not_wrap(format: AudioFormat) -> None:
    made = converter(PCM16_24K if format != PCM16_24K else PCM16_16K, format)
    assert made is not None
    square = np.where(np.arange(4800) // 400 % 2, 32767, -32768).astype(np.int16)
    signs = np.sign(format.decode(made.push(square.astype("<i2").tobytes())).astype(int)[200:])
    assert np.diff(np.flatnonzero(np.diff(signs))).min() >= 5  # a wrapped sample sits alone beyond zero


@pytest.mark.parametrize("format", FORMATS, ids=name)
def test_a_frame_is_20_ms(format: AudioFormat) -> None:
    assert format.frame_samples * 50 == format.rate_hz
    assert format.frame_bytes == format.frame_samples * format.bytes_per_sample
    assert len(format.decode(format.silence * format.frame_samples)) == format.frame_samples


def test_silence_decodes_to_the_least_sample() -> None:
    assert [f.silence for f in FORMATS] == [b"\xff", b"\xd5", b"\0\0", b"\0\0", b"\0\0"]
    assert [int(f.decode(f.silence)[0]) for f in FORMATS] == [0, 8, 0, 0, 0]


@pytest.mark.parametrize("format", FORMATS, ids=name)
def test_a_decoded_sample_encodes_to_itself(format: AudioFormat) -> None:
    once = format.decode(format.encode(NOISE))
    assert np.array_equal(format.decode(format.encode(once)), once)


@pytest.mark.parametrize("format", FORMATS, ids=name)
@pytest.mark.parametrize("frames", [0, 0.5, 1, 2.25])
def test_levels_are_those_of_each_frame(format: AudioFormat, frames: float) -> None:
    size = format.frame_samples
    codes = format.encode(NOISE[: int(frames * size)])
    samples = format.decode(codes)
    expected = [10 * np.log10(np.mean((samples[at : at + size] / 32768.0) ** 2)) for at in range(0, len(samples), size)]
    levels = format.levels_dbov(codes)
    assert levels.dtype == np.float32
    assert levels.tolist() == pytest.approx(expected, abs=1e-4)


def test_levels_of_silence_and_of_mulaw_are_as_before() -> None:
    codes = mulaw.encode(NOISE[:5000])
    assert np.array_equal(MULAW_8K.levels_dbov(codes), mulaw.levels_dbov(codes))
    assert PCM16_16K.levels_dbov(bytes(640)).tolist() == [-100.0]
    assert ALAW_8K.levels_dbov(bytes([alaw.SILENCE]) * 160)[0] == pytest.approx(-72.2, abs=0.1)


def test_the_same_format_needs_no_converter() -> None:
    assert converter(MULAW_8K, AudioFormat(Encoding.MULAW, 8000)) is None


@pytest.mark.parametrize("format", FORMATS, ids=name)
def test_the_same_format_only_joins_split_samples(format: AudioFormat) -> None:
    codes = format.encode(NOISE[:500])
    same = Converter(format, format)
    pieces = [same.push(piece) for piece in cut(codes, [1, 7, 160])]
    assert all(len(piece) % format.bytes_per_sample == 0 for piece in pieces)
    assert b"".join(pieces) == codes
    same.push(b"\x01")
    assert same.flush() == b""
    assert same.push(codes) == codes


@pytest.mark.parametrize(("encoding", "rate_hz"), [(Encoding.MULAW, 16000), (Encoding.PCM16, 11025)])
def test_a_format_that_cannot_be_is_refused(encoding: Encoding, rate_hz: int) -> None:
    with pytest.raises(ValueError, match=str(rate_hz)):
        AudioFormat(encoding, rate_hz)
