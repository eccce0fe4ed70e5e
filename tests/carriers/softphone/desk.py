"""A desk that answers a real Chromium, whose microphone plays a file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from offhook.gateway.app import Gateway
from offhook.gateway.rehearsal.model.script import Reply, Script
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.media.resample import resample
from offhook.media.wav import read_wav, write_wav
from tests.rig.gateway import numbered_agents, serving
from tests.rig.sounds import sound

__all__ = ["desk", "microphone"]

MIC_HZ = 16_000


def microphone(path: Path, *spoken: tuple[float, str]) -> Path:
    """A file in which lines begin at these seconds; silence at its end, or Chromium repeats its last bit."""
    samples = np.zeros(int(30 + max((s for s, _ in spoken), default=0.0)) * MIC_HZ, np.int16)
    for begins_s, part in spoken:
        line, rate_hz = read_wav(sound(part))
        line, at = resample(line, rate_hz, MIC_HZ), int(begins_s * MIC_HZ)
        samples[at : at + len(line)] = line
    write_wav(path, samples, MIC_HZ)
    return path


@asynccontextmanager
async def desk(
    *replies: Reply, fields: str = "", default: Reply | None = None, environ: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[Gateway, str, ModelServer]]:
    _, agents = numbered_agents({"desk": f"greeting: {{text: Greet.}}\n{fields}"})
    async with (
        ModelServer(Script(replies, default=default)) as model,
        serving(agents, {"OFFHOOK_INSECURE": "1", **(environ or {})}, model=model) as (gateway, url),
    ):
        yield gateway, url, model
