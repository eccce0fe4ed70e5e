"""Mu-law and A-law against the ITU rule, computed here one value at a time, and against other programs."""

from __future__ import annotations

import subprocess
import warnings

import numpy as np
import pytest
from numpy.typing import NDArray

from offhook.media import alaw, mulaw
from tests.needs import require

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

EVERY_CODE = bytes(range(256))
EVERY_VALUE = np.arange(-32768, 32768).astype(np.int16)


def mulaw_code(value: int) -> int:
    """ITU-T G.191 ulaw_compress, in words: 14 bits, one's complement, bias 33, count the segment."""
    magnitude = min(((~value if value < 0 else value) >> 2) + 33, 8191)
    segment = magnitude.bit_length() - 5  # 33..63 is the first
    code = (8 - segment) * 16 + 15 - (magnitude >> segment) % 16
    return code + 128 if value >= 0 else code


def mulaw_value(code: int) -> int:
    """G.711 table 2: segment s has 16 steps of 2^(s+3), starting at 33 * (2^(s+2)) - 132 in 16-bit units."""
    inverted = ~code & 0x7F
    segment, step = inverted >> 4, inverted & 15
    magnitude = ((2 * step + 33) << (segment + 2)) - 132
    return magnitude if code >= 128 else -magnitude


def alaw_code(value: int) -> int:
    """G.191 alaw_compress: 12 bits, one's complement; the first two segments share a step."""
    magnitude = (~value if value < 0 else value) >> 4
    segment = 0
    while magnitude > 31:
        magnitude >>= 1
        segment += 1
    return (segment * 16 + magnitude + (128 if value >= 0 else 0)) ^ 0x55


def alaw_value(code: int) -> int:
    code ^= 0x55
    segment, step = (code & 0x7F) >> 4, code & 15
    magnitude = 2 * step + 1 if segment == 0 else (2 * step + 33) << (segment - 1)
    return magnitude * 8 if code >= 128 else -magnitude * 8


def test_every_mulaw_code_decodes_by_the_rule() -> None:
    assert mulaw.decode(EVERY_CODE).tolist() == [mulaw_value(code) for code in range(256)]


def test_every_value_encodes_to_mulaw_by_the_rule() -> None:
    assert list(mulaw.encode(EVERY_VALUE)) == [mulaw_code(int(value)) for value in EVERY_VALUE]


def test_every_alaw_code_decodes_by_the_rule() -> None:
    assert alaw.decode(EVERY_CODE).tolist() == [alaw_value(code) for code in range(256)]


def test_every_value_encodes_to_alaw_by_the_rule() -> None:
    assert list(alaw.encode(EVERY_VALUE)) == [alaw_code(int(value)) for value in EVERY_VALUE]


def test_a_decoded_code_encodes_to_itself() -> None:
    back = mulaw.encode(mulaw.decode(EVERY_CODE))
    # Both zeros are 0; the positive one is silence.
    assert [code for code in range(256) if back[code] != code] == [0x7F]
    assert back[0x7F] == mulaw.SILENCE
    assert alaw.encode(alaw.decode(EVERY_CODE)) == EVERY_CODE


def test_silence_is_the_code_of_zero() -> None:
    assert mulaw.encode(np.zeros(1, dtype=np.int16)) == bytes([mulaw.SILENCE]) == b"\xff"
    assert alaw.encode(np.zeros(1, dtype=np.int16)) == bytes([alaw.SILENCE])


def test_a_line_one_step_below_zero_stays_silent() -> None:
    """Where audioop and sox make an idle hiss of -8 out of an offset of -1."""
    assert mulaw.decode(mulaw.encode(np.full(160, -1, dtype=np.int16))).tolist() == [0] * 160


def test_audioop_encodes_508_negative_values_otherwise() -> None:
    assert audioop.ulaw2lin(EVERY_CODE, 2) == mulaw.decode(EVERY_CODE).tobytes()
    ours, theirs = codes(mulaw.encode(EVERY_VALUE)), codes(audioop.lin2ulaw(EVERY_VALUE.tobytes(), 2))
    # Two's complement before two bits are dropped: its negative decision values all lie 4 nearer to zero. So the
    # four values above each of the 127 decision values differ: -1 to -4, -9 to -12, ... -31609 to -31612.
    assert np.array_equal(theirs, np.where(EVERY_VALUE < 0, shifted(ours, 4), ours))
    other = EVERY_VALUE[ours != theirs].astype(int)
    assert len(other) == 4 * 127
    assert (other.min(), other.max()) == (-31612, -1)
    assert audioop.alaw2lin(EVERY_CODE, 2) == alaw.decode(EVERY_CODE).tobytes()
    assert audioop.lin2alaw(EVERY_VALUE.tobytes(), 2) == alaw.encode(EVERY_VALUE)


def test_sox_decodes_alike_encodes_510_values_apart() -> None:
    require("sox")
    decoded = sox(EVERY_CODE, "-t ul -r 8000 -c 1", "-t s16 -L")
    assert decoded == mulaw.decode(EVERY_CODE).astype("<i2").tobytes()
    ours = codes(mulaw.encode(EVERY_VALUE))
    theirs = codes(sox(EVERY_VALUE.astype("<i2").tobytes(), "-t s16 -L -r 8000 -c 1", "-t ul"))
    # It rounds to 14 bits where the rule cuts off: all decision values lie 2 nearer to zero, on both sides. And it
    # makes the positive zero of -1 and -2.
    expected = shifted(ours, 2)
    expected[[32768 - 1, 32768 - 2]] = mulaw.SILENCE
    assert np.array_equal(theirs, expected)
    assert int((ours != theirs).sum()) == 510
    assert sox(EVERY_CODE, "-t al -r 8000 -c 1", "-t s16 -L") == alaw.decode(EVERY_CODE).astype("<i2").tobytes()


@pytest.mark.parametrize("count", [0, 1, 159, 160, 161, 400])
def test_levels_are_those_of_each_frame(count: int) -> None:
    samples = np.random.default_rng(count).integers(-20000, 20000, count).astype(np.int16)
    encoded = mulaw.encode(samples)
    frames = [mulaw.decode(encoded)[at : at + 160] for at in range(0, count, 160)]
    expected = [10 * np.log10(np.mean((frame / 32768.0) ** 2)) for frame in frames]
    levels = mulaw.levels_dbov(encoded)
    assert levels.dtype == np.float32
    assert levels.tolist() == pytest.approx(expected, abs=1e-4)


def test_levels_know_their_ends() -> None:
    assert mulaw.levels_dbov(b"\xff" * 200).tolist() == [-100.0, -100.0]
    full_square = mulaw.encode(np.array([32767, -32768] * 80, dtype=np.int16))
    assert mulaw.levels_dbov(full_square)[0] == pytest.approx(0.0, abs=0.2)


def shifted(table: NDArray[np.uint8], by: int) -> NDArray[np.uint8]:
    """For each value the code of the one `by` further from zero."""
    values = EVERY_VALUE.astype(int)
    return table[np.clip(values + np.where(values < 0, -by, by), -32768, 32767) + 32768]


def codes(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, dtype=np.uint8)


def sox(data: bytes, from_: str, to: str) -> bytes:
    run = subprocess.run(
        ["sox", "-D", *from_.split(), "-", *to.split(), "-"], input=data, capture_output=True, check=True
    )
    return run.stdout
