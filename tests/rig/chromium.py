"""Debian's Chromium, without a screen and without its own calls home, for many tests: to start one takes more computing
than most of them. Each connection has contexts of its own, which end with it.

    with chromium_of(folder) as chromium:
        async with chromium(microphone) as browser:
            page = await browser.new_page()
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.async_api import Browser

__all__ = ["Chromium", "chromium_of", "own_chromium"]


class Chromium:
    """One that runs. `endpoint`: where Playwright connects to it."""

    def __init__(self, endpoint: str, microphone: Path) -> None:
        self.endpoint = endpoint
        self._microphone = microphone

    @contextlib.asynccontextmanager
    async def __call__(self, microphone: Path | None = None) -> AsyncIterator[Browser]:
        """A connection on the running loop. `microphone`: a file, played from its begin whenever a page opens it."""
        from playwright.async_api import async_playwright

        self._microphone.unlink(missing_ok=True)
        if microphone is not None:
            self._microphone.symlink_to(microphone)
        async with async_playwright() as playwright:
            browser = await playwright.chromium.connect(self.endpoint)
            try:
                yield browser
            finally:
                await browser.close()


@contextlib.contextmanager
def chromium_of(folder: Path) -> Iterator[Chromium]:
    """It runs meanwhile; `folder` is an empty one."""
    microphone, config = folder / "microphone.wav", folder / "config.json"
    arguments = [
        *("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
        f"--use-file-for-fake-audio-capture={microphone}%noloop",
    ]
    config.write_text(json.dumps({"executablePath": shutil.which("chromium"), "args": arguments}))
    launch = [sys.executable, "-m", "playwright", "launch-server", "--browser", "chromium", "--config", str(config)]
    command = ["sh", "-c", '"$@" & cat; kill 0', "sh", *launch]  # until standard input ends, as it does with us
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        endpoint = server.stdout.readline().strip()
        assert endpoint.startswith("ws://"), "Chromium did not start"
        yield Chromium(endpoint, microphone)
    finally:
        server.stdin.close()
        server.wait()
        server.stdout.close()


@contextlib.asynccontextmanager
async def own_chromium(microphone: Path | None = None) -> AsyncIterator[Browser]:
    """One for a single connection: for pictures and measurements."""
    with tempfile.TemporaryDirectory() as folder, chromium_of(Path(folder)) as chromium:
        async with chromium(microphone) as browser:
            yield browser
