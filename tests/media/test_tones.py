"""The waiting sound is soft and loops without a click."""

from __future__ import annotations

import numpy as np

from offhook.media import mulaw
from offhook.media.tones import thinking_sound
from tests.media.measure import largest_step, level_dbov


def test_the_waiting_sound_is_soft_without_clicks() -> None:
    samples = thinking_sound(4.8)
    assert samples.dtype == np.int16
    assert len(samples) == 38400
    assert -55 < level_dbov(samples) < -35
    assert largest_step(samples) < 900  # a soft 600 Hz has no more
    assert largest_step(np.tile(samples, 2)) == largest_step(samples)  # nor does the loop's seam
    assert mulaw.encode(samples)[-1] == mulaw.SILENCE
