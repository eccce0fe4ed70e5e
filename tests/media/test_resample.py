"""Rate conversion: exact, however the input is cut; clean in the band; clipping, never wrapping."""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from offhook.media import mulaw
from offhook.media.resample import DOWN_TAPS, TAP_SCALE, UP_TAPS, Down24To8, StreamingFir, Up8To16, resample
from tests.media import signals
from tests.media.cuts import NOISE, SIZES, amplitude, cut
from tests.media.measure import delay_samples
from tests.needs import require

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop


def by_integers(samples: NDArray[np.int16], taps: tuple[int, ...], up: int, down: int) -> NDArray[np.int64]:
    """The whole convolution in integers, rounded half up and clipped; nothing can be more exact."""
    stuffed = np.zeros(len(samples) * up, dtype=np.int64)
    stuffed[::up] = samples
    sums = np.convolve(stuffed, np.array(taps, dtype=np.int64))[::down]
    return np.clip((2 * sums + TAP_SCALE) // (2 * TAP_SCALE), -32768, 32767)


@given(SIZES, st.integers(0, 9000))
@settings(max_examples=60, deadline=None)
def test_up_does_not_depend_on_the_cut(sizes: list[int], count: int) -> None:
    samples = NOISE[:count]
    up, whole = Up8To16(), Up8To16().push(samples)
    pieces = [up.push(piece) for piece in cut(samples, sizes)]
    assert b"".join(pieces) == whole
    assert len(whole) == 4 * count  # exactly twice as many: nothing is held back


@given(st.lists(st.tuples(st.sampled_from([160, 160, 160, 0, 7, 333]), st.lists(st.integers(0, 5), min_size=1))))
@settings(max_examples=60, deadline=None)
def test_up_does_not_depend_on_the_grouping(groups: list[tuple[int, list[int]]]) -> None:
    """Pieces of six streams converted together, some streams twice in a group: each stream's bytes are as if alone."""
    together, alone, ends = [Up8To16() for _ in range(6)], [Up8To16() for _ in range(6)], [1500 * n for n in range(6)]
    for size, streams in groups:
        pieces = []
        for stream in streams:
            pieces.append(NOISE[ends[stream] % 3000 :][:size])
            ends[stream] += size
        expected = [alone[stream].push(piece) for stream, piece in zip(streams, pieces, strict=True)]
        assert Up8To16.push_all([together[stream] for stream in streams], pieces) == expected


@given(SIZES, st.integers(0, 40_001))
@settings(max_examples=60, deadline=None)
def test_down_does_not_depend_on_the_cut(sizes: list[int], count: int) -> None:
    """Cut anywhere, in the middle of samples and of groups of three too."""
    pcm = NOISE.astype("<i2").tobytes()[:count]
    one = Down24To8()
    whole, end = one.push(pcm), one.flush()
    assert len(whole) == count // 6
    down = Down24To8()
    assert b"".join(down.push(piece) for piece in cut(pcm, sizes)) == whole
    assert down.flush() == end
    samples = count // 2
    assert len(whole) + len(end) == (-(-(samples + 96) // 3) if samples else 0)


@given(
    st.integers(1, 5),
    st.integers(1, 5),
    st.lists(st.integers(-9000, 9000), min_size=1, max_size=60).map(tuple),
    SIZES,
)
@settings(max_examples=60, deadline=None)
def test_any_small_ratio_is_the_integer_convolution(
    up: int, down: int, taps: tuple[int, ...], sizes: list[int]
) -> None:
    samples = NOISE[:3000]
    fir = StreamingFir(taps, up, down)
    out = b"".join(fir.push(piece) for piece in cut(samples, sizes)) + fir.flush()
    expected = by_integers(samples, taps, up, down)
    # What the definition counts as owed includes the stuffed zeros behind the last sample.
    padded = np.zeros(-(-(len(samples) * up + len(taps) - 1) // down), dtype=np.int64)
    padded[: len(expected)] = expected[: len(padded)]
    assert np.array_equal(np.frombuffer(out, dtype="<i2"), padded)


def test_up_is_the_integer_convolution() -> None:
    expected = by_integers(NOISE, UP_TAPS, 2, 1)[: 2 * len(NOISE)]
    assert np.array_equal(np.frombuffer(Up8To16().push(NOISE), dtype="<i2"), expected)


def test_down_is_the_integer_convolution_encoded() -> None:
    down = Down24To8()
    out = down.push(NOISE.astype("<i2").tobytes()) + down.flush()
    assert out == mulaw.encode(by_integers(NOISE, DOWN_TAPS, 1, 3).astype(np.int16))


def test_a_flushed_converter_is_as_new() -> None:
    pcm = NOISE[:4800].astype("<i2").tobytes()
    new, used = Down24To8(), Down24To8()
    used.push(NOISE[5000:7001].astype("<i2").tobytes() + b"\x7f")
    used.flush()
    assert used.push(pcm) == new.push(pcm)
    assert used.flush() == new.flush()
    assert used.flush() == b""
    odd = Down24To8()
    assert (odd.push(b"\x7f"), odd.flush()) == (b"", b"")  # half a sample is no reply
    assert odd.push(pcm) == Down24To8().push(pcm)


def test_a_reply_that_ends_loud_rings_out() -> None:
    """Cut off at the last sample it would end in a click; with the filter's tail it comes to rest."""
    down = Down24To8()
    tone = (20000 * np.sin(2 * np.pi * 440 / 24000 * np.arange(2400))).astype("<i2")
    reply = mulaw.decode(down.push(tone.tobytes()) + down.flush())
    assert len(reply) == 832
    assert abs(int(reply[-1])) <= 100
    assert np.abs(reply[780:800]).max() > 15000


@pytest.mark.parametrize("value", [32767, -32768])
def test_full_scale_clips_and_never_wraps(value: int) -> None:
    step = np.concatenate([np.zeros(200), np.full(400, value), np.zeros(200)]).astype(np.int16)
    up = np.frombuffer(Up8To16().push(step), dtype="<i2").astype(int)
    down = mulaw.decode(Down24To8().push(np.repeat(step, 3).astype("<i2").tobytes())).astype(int)
    assert np.abs(up).max() >= 32767  # the overshoot is cut off
    assert np.abs(down).max() == 32124  # the loudest code
    for out in (up, down):
        loud = out[np.abs(out) > 20000]
        assert np.all(np.sign(loud) == np.sign(value))
    square = np.where(np.arange(4800) // 40 % 2, 32767, -32768).astype(np.int16)
    for out in (np.frombuffer(Up8To16().push(square), dtype="<i2"), mulaw.decode(Down24To8().push(square.tobytes()))):
        # Wrapped, a sample would sit alone on the other side of zero.
        signs = np.sign(out[200:].astype(int))
        runs = np.diff(np.flatnonzero(np.diff(signs)))
        assert runs.min() >= 5


def response_db(taps: tuple[int, ...], rate_hz: int, gain: int, hz: NDArray[np.float64]) -> NDArray[np.float64]:
    n = np.arange(len(taps))
    sums = np.exp(-2j * np.pi * np.outer(hz, n) / rate_hz) @ np.array(taps)
    return np.asarray(20 * np.log10(np.abs(sums) / (gain * TAP_SCALE) + 1e-12))


def test_the_pass_band_is_flat() -> None:
    band = np.linspace(300, 3400, 2000)
    assert np.abs(response_db(UP_TAPS, 16000, 2, band)).max() <= 0.02
    assert np.abs(response_db(DOWN_TAPS, 24000, 1, band)).max() <= 0.1


def test_images_and_aliases_are_suppressed() -> None:
    # 300 to 3400 Hz at 8 kHz have their images at 4600 to 7700 Hz; what lies above 4200 Hz folds below 3800.
    assert response_db(UP_TAPS, 16000, 2, np.linspace(4600, 7700, 3000)).max() <= -70
    assert response_db(UP_TAPS, 16000, 2, np.linspace(4200, 8000, 3000)).max() <= -60
    assert response_db(DOWN_TAPS, 24000, 1, np.linspace(4200, 12000, 4000)).max() <= -60


def test_tones_are_attenuated_as_the_response() -> None:
    """The same, measured on the converter's output rather than computed from its taps."""
    t = np.arange(16000) / 8000
    for hz in (300.0, 1000.0, 2000.0, 3400.0):
        tone = np.rint(16000 * np.sin(2 * np.pi * hz * t)).astype(np.int16)
        out = np.frombuffer(Up8To16().push(tone), dtype="<i2")[2000:30000]
        assert 20 * np.log10(amplitude(out, hz, 16000) / 16000) == pytest.approx(0, abs=0.1)
        assert 20 * np.log10(amplitude(out, 8000 - hz, 16000) / 16000) <= -60  # the image
    t = np.arange(48000) / 24000
    for hz in (4200.0, 5000.0, 7000.0, 9000.0, 11000.0):
        tone = np.rint(16000 * np.sin(2 * np.pi * hz * t)).astype(np.int16)
        linear = StreamingFir(DOWN_TAPS, up=1, down=3)
        out = np.frombuffer(linear.push(tone), dtype="<i2")[200:]
        alias = abs((hz + 4000) % 8000 - 4000)
        assert 20 * np.log10(amplitude(out, alias, 8000) / 16000 + 1e-9) <= -60


def test_the_delay_is_under_3_ms_each_way() -> None:
    click = np.zeros(800, dtype=np.int16)
    click[400] = 30000
    up = np.frombuffer(Up8To16().push(click), dtype="<i2")
    assert int(np.argmax(up)) == 840  # 40 samples at 16 kHz: 2.5 ms
    click24 = np.zeros(2400, dtype="<i2")
    click24[1200] = 30000
    down = mulaw.decode(Down24To8().push(click24.tobytes()))
    assert int(np.argmax(down)) == 416  # 16 samples at 8 kHz: 2.0 ms


def test_chunks_join_without_a_click() -> None:
    """The largest step of a chunked 300 Hz tone is the tone's own."""
    tone = (12000 * np.sin(2 * np.pi * 300 / 24000 * np.arange(24000))).astype("<i2").tobytes()
    down, sizes = Down24To8(), [1, 7, 640, 1921, 333]
    out = mulaw.decode(b"".join(down.push(piece) for piece in cut(tone, sizes)))[100:]
    steps = np.abs(np.diff(out.astype(int)))
    assert steps.max() <= 2 * np.pi * 300 / 8000 * 12000 + 1024  # and one quantizing step of mu-law


def test_speech_sounds_as_good_as_mulaw_alone() -> None:
    """PESQ through both conversions, against speech that only went through mu-law.

    8 kHz speech -> 24 kHz (the model's rate) -> our way down, and mu-law -> our way up -> 8 kHz again.
    """
    require("espeak-ng", "pesq")
    from pesq import pesq

    losses = []
    for voice, text in (("en-us", "The table by the window is free at half past seven."), ("de+f3", "Guten Tag.")):
        speech = signals.speak(text, voice, -26.0)
        model = resample(speech, 8000, 24000)
        down = Down24To8()
        heard = mulaw.decode(down.push(model.astype("<i2").tobytes()) + down.flush())[16:]
        both = np.frombuffer(Up8To16().push(heard), dtype="<i2")[40:]
        again = resample(both, 16000, 8000)
        alone = mulaw.decode(mulaw.encode(speech))
        size = min(len(again), len(speech))
        full = pesq(8000, speech[:size], again[:size], "nb")
        ceiling = pesq(8000, speech[:size], alone[:size], "nb")
        losses.append(ceiling - full)
    assert max(losses) <= 0.05


def test_audioop_lets_7_khz_through_and_we_do_not() -> None:
    """Why this module exists: the standard library's converter has no filter at all."""
    t = np.arange(24000) / 24000
    hiss = np.rint(12000 * np.sin(2 * np.pi * 7000 * t)).astype("<i2").tobytes()
    theirs = np.frombuffer(audioop.ratecv(hiss, 2, 1, 24000, 8000, None)[0], dtype=np.int16)
    ours = mulaw.decode(Down24To8().push(hiss))
    assert amplitude(theirs, 1000, 8000) > 11000
    assert amplitude(ours[100:], 1000, 8000) < 12


@pytest.mark.parametrize(("from_hz", "to_hz"), list(pairwise([22050, 8000, 24000, 44100, 16000, 48000, 11025])))
def test_files_of_any_rate_keep_their_time_and_band(from_hz: int, to_hz: int) -> None:
    lower = min(from_hz, to_hz)
    t = np.arange(from_hz) / from_hz
    inside = np.rint(12000 * np.sin(2 * np.pi * 0.2 * lower * t)).astype(np.int16)
    out = resample(inside, from_hz, to_hz)
    assert len(out) == -(-len(inside) * to_hz // from_hz)
    middle = slice(to_hz // 10, -to_hz // 10)
    expected = 12000 * np.sin(2 * np.pi * 0.2 * lower * np.arange(len(out)) / to_hz)
    assert np.abs(out[middle] - expected[middle]).max() <= 6
    if to_hz < from_hz:
        above = np.rint(12000 * np.sin(2 * np.pi * 0.55 * to_hz * t)).astype(np.int16)
        assert np.abs(resample(above, from_hz, to_hz)[middle]).max() <= 12  # -60 dB


def test_one_shot_edges() -> None:
    assert len(resample(np.zeros(0, dtype=np.int16), 8000, 24000)) == 0
    same = NOISE[:100]
    assert np.array_equal(resample(same, 8000, 8000), same)
    loud = np.where(np.arange(400) // 20 % 2, 32767, -32768).astype(np.int16)
    assert np.abs(resample(loud, 8000, 24000).astype(int)).max() >= 32767  # clipped, not wrapped
    with pytest.raises(ValueError, match="positive"):
        resample(same, 0, 8000)
    there_and_back = resample(resample(signals.pink(1.0, -20.0), 8000, 24000), 24000, 8000)
    assert delay_samples(signals.pink(1.0, -20.0), there_and_back)[0] == 0


def test_a_fir_needs_taps_and_a_ratio() -> None:
    for taps, up, down in (((), 1, 1), ((1,), 0, 1), ((1,), 1, 0)):
        with pytest.raises(ValueError, match="StreamingFir needs"):
            StreamingFir(taps, up, down)
