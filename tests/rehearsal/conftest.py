"""What tests of several rooms of the rehearsal share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from offhook.gateway.rehearsal.phone import prompts
from offhook.media.wav import write_wav

RATE_HZ = 8_000


@pytest.fixture
def two_prompts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Installed is only an Italian set: a hum of 1 s amid silence, one with a pause of 0.5 s, and a digit."""
    folder = tmp_path / "sounds" / prompts.SETS["it"].folder
    (folder / "digits").mkdir(parents=True)
    hum = np.rint(2_000 * np.sin(np.arange(RATE_HZ) * 0.3)).astype(np.int16)
    silence = np.zeros(RATE_HZ, np.int16)
    write_wav(folder / "hello.wav", np.concatenate([silence, hum, silence]), RATE_HZ)
    write_wav(folder / "long.wav", np.concatenate([hum, silence[: RATE_HZ // 2], hum]), RATE_HZ)
    write_wav(folder / "digits" / "7.wav", hum, RATE_HZ)
    monkeypatch.setattr(prompts, "SOUNDS_DIR", tmp_path / "sounds")
    prompts._speech.cache_clear()
    yield
    prompts._speech.cache_clear()
