"""Sound files that an agent plays (greeting, fillers), converted once, before the first call."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offhook.gateway.agent.spec import Agent, filler_line
from offhook.gateway.errors import AgentFileError
from offhook.media import mulaw
from offhook.media.resample import resample
from offhook.media.tones import thinking_sound
from offhook.media.wav import read_wav

__all__ = ["load_sounds"]

TONE_S = 1.2  # of the filler "tone": an answer that has come meanwhile waits for its end
SILENCE_PEAK = 100  # of 32768: -50 dBFS


def load_sounds(agent: Agent) -> dict[str, bytes]:
    """G.711 mu-law, 8 kHz, by the name in the agent file. Raises `AgentFileError` for a file that cannot be played."""
    names = [("greeting.sound", agent.greeting.sound), ("model.filler", agent.model.filler)]
    names += [(f"tools[{i}].filler", tool.filler) for i, tool in enumerate(agent.tools)]
    sounds = {"tone": mulaw.encode(_audible(thinking_sound(TONE_S)))}
    for field, name in names:
        if not name or name == "tone" or filler_line(name):
            continue
        path = Path(agent.directory) / name
        try:
            samples, rate_hz = read_wav(path)
        except (OSError, ValueError) as error:
            raise AgentFileError(agent.file or agent.name, f"{name} cannot be played ({error})", field=field) from None
        sounds[name] = mulaw.encode(_audible(resample(samples, rate_hz, 8000)))
    return sounds


def _audible(samples: NDArray[np.int16]) -> NDArray[np.int16]:
    """Without the silence before and after: the caller waits through it."""
    loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > SILENCE_PEAK)
    return samples[loud[0] : loud[-1] + 1] if len(loud) else samples
