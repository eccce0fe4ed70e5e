"""Outgoing audio by generation and sample: ready frames, levels, the first voice, the faded seam."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from offhook.gateway.call.playout import FRAME, Playout, fade_in
from offhook.media import mulaw
from offhook.media.resample import Down24To8

RNG = np.random.default_rng(1)
SPEECH = (RNG.standard_normal(24_000) * 3000).astype("<i2").tobytes()  # 1 s at 24 kHz


@given(st.lists(st.integers(0, 9_000), max_size=12))
def test_any_chunks_give_the_same_frames(cuts: list[int]) -> None:
    whole, parts = Playout(), Playout()
    total = whole.push_pcm(1, SPEECH)[0] + whole.finish(1)[0]
    got, at = 0, 0
    for cut in [*cuts, len(SPEECH)]:
        got += parts.push_pcm(1, SPEECH[at : at + cut])[0]
        at += cut
    if at < len(SPEECH):
        got += parts.push_pcm(1, SPEECH[at:])[0]
    got += parts.finish(1)[0]
    assert got == total
    assert total % FRAME == 0
    assert parts.span(1, 0, total) == whole.span(1, 0, total)


def test_played_audio_is_converted_and_padded() -> None:
    playout = Playout()
    samples = playout.push_pcm(1, SPEECH)[0] + playout.finish(1)[0]
    converter = Down24To8()
    expected = converter.push(SPEECH) + converter.flush()
    codes = playout.span(1, 0, samples)
    assert codes[: len(expected)] == expected
    assert set(codes[len(expected) :]) <= {mulaw.SILENCE}


def test_the_first_voice_is_told_once() -> None:
    playout = Playout()
    assert playout.push_codes(1, bytes([mulaw.SILENCE]) * 320) == (320, None)
    loud = mulaw.encode((RNG.standard_normal(480) * 4000).astype(np.int16))
    assert playout.push_codes(1, loud) == (480, 480)
    assert playout.push_codes(1, loud) == (480, None)
    assert playout.level_dbov(1, 0) < -90
    assert playout.level_dbov(1, 330) > -30
    assert playout.level_dbov(1, 10_000) == playout.level_dbov(2, 0) == -100


def test_dropping_forgets_and_is_harmless_twice() -> None:
    playout = Playout()
    playout.push_codes(3, bytes(160))
    playout.drop(3)
    playout.drop(3)
    assert playout.span(3, 0, 160) == b""
    assert len(playout) == 0
    assert playout.finish(3) == (0, None)


def test_the_seam_rises_from_silence_without_a_step() -> None:
    tone = (np.full(480, 12_000)).astype(np.int16)
    codes = fade_in(mulaw.encode(tone))
    assert len(codes) == 480
    heard = mulaw.decode(codes).astype(int)
    assert abs(heard[0]) < 500
    assert np.abs(np.diff(heard)).max() < 1_100  # quantised ramp of 12,000 over 40 samples
    assert (mulaw.decode(codes[40:]) == mulaw.decode(mulaw.encode(tone))[40:]).all()
