"""A desk that answers a real Chromium, whose microphone plays a file."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from offhook.gateway.app import Gateway
from offhook.gateway.rehearsal.model.script import Reply, Script
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.media.resample import resample
from offhook.media.wav import read_wav, write_wav
from tests.needs import require
from tests.rig.gateway import numbered_agents, serving
from tests.rig.sounds import sound

if TYPE_CHECKING:
    from playwright.async_api import Browser

__all__ = ["chromium", "desk", "microphone"]

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
async def chromium(file: Path) -> AsyncIterator[Browser]:
    require("chromium", "playwright")
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=[
                *("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
                *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
                f"--use-file-for-fake-audio-capture={file}%noloop",
            ],
        )
        try:
            yield browser
        finally:
            await browser.close()


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
