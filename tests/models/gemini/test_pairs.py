"""A quiet caller's frames go two to a message; no audible one waits, and none is lost."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from offhook.gateway.models.gemini.pairs import QUIET_FRAMES, QUIET_PEAK, Pairs


def frame(peak: int) -> bytes:
    return np.full(320, peak, np.int16).tobytes()


QUIET, LOUD = frame(QUIET_PEAK - 1), frame(-QUIET_PEAK)


def after_a_silence() -> Pairs:
    pairs = Pairs()
    assert [pairs.push(QUIET) for _ in range(QUIET_FRAMES)] == [QUIET] * QUIET_FRAMES, "a turn's end is not delayed"
    return pairs


def test_a_long_silence_goes_in_pairs():
    pairs = after_a_silence()
    assert [pairs.push(QUIET) for _ in range(6)] == [b"", QUIET * 2] * 3


def test_pairs_begin_when_the_model_answers():
    """But not for what is audible, and not for the silence after it."""
    pairs = Pairs()
    pairs.push(QUIET)
    pairs.answered()
    assert [pairs.push(f) for f in (QUIET, QUIET, QUIET, LOUD)] == [b"", QUIET * 2, b"", QUIET + LOUD]
    pairs.answered()
    assert [pairs.push(f) for f in (QUIET, QUIET)] == [QUIET, QUIET]


def test_an_onset_goes_at_once():
    for held in (0, 1):
        pairs = after_a_silence()
        for _ in range(held):
            assert pairs.push(QUIET) == b""
        assert pairs.push(LOUD) == QUIET * held + LOUD
        assert [pairs.push(f) for f in (LOUD, QUIET, QUIET, LOUD)] == [LOUD, QUIET, QUIET, LOUD]


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 2 * QUIET_FRAMES)), max_size=8))
def test_every_frame_once_and_in_order(stretches):
    pairs, sent, given_ = Pairs(), b"", b""
    for n, (loud, count) in enumerate(stretches):
        for i in range(count):
            pcm = frame((QUIET_PEAK + n * 500 + i) if loud else i % QUIET_PEAK)
            given_ += pcm
            sent += pairs.push(pcm)
            assert not loud or sent == given_, "nothing audible is held"
            assert len(given_) - len(sent) <= len(pcm)
    assert sent + pairs.take() == given_
    assert pairs.take() == b""
