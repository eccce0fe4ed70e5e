"""Takes the documentation's pictures of past calls: a real Chromium looks at a real gateway.

python -m tests.figures_history [DIRECTORY]
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.rig.chromium import own_chromium
from tests.store.made import record
from tests.web.console.console_rig import staged

DOCS = Path(__file__).parents[1] / "docs"
ENDS = ("caller_hung_up", "caller_hung_up", "agent_hung_up", "transferred")
SAID = ("I would like a pizza.", "A table for two, please.", "When do you open?", "Can I speak to somebody?")


def box(height: int) -> Any:
    """The upper part of a page."""
    return {"x": 0, "y": 0, "width": 1200, "height": height}


async def take(directory: Path) -> None:
    """console-history and console-recording, each a PNG."""
    with tempfile.TemporaryDirectory() as folder:
        environ = {"OFFHOOK_DATA_DIR": folder}
        async with staged(environ, recording=Path(folder) / "wav") as stage, own_chromium() as browser:
            rng = random.Random(4)
            now_ms = int(time.time() * 1000)
            for i in range(400):
                at_ms = now_ms - int(rng.random() * 14 * 86_400_000)
                slower = 1.0 if at_ms > now_ms - 7 * 86_400_000 else 1.15
                stage.gateway.records.keep(
                    record(
                        f"CA{i:032x}",
                        at_ms=at_ms,
                        agent=rng.choice(["receptionist", "waiting list"]),
                        caller=f"+1555{rng.randrange(10**7):07}",
                        said=rng.choice(SAID),
                        gap_ms=rng.lognormvariate(6.7, 0.25) * slower,
                        tool=rng.choice(["", "find_table"]),
                        end=rng.choice(ENDS),
                    )
                )
            await stage.call(caller="+15557031987").run()
            await asyncio.sleep(2)
            page = await (await browser.new_context(viewport={"width": 1200, "height": 900})).new_page()
            await page.goto(f"{stage.url}/console#/history?words=table&before=1")
            await page.get_by_role("row", name="Turn gap").wait_for()
            await page.screenshot(
                path=directory / "console-history.png", clip={"x": 0, "y": 0, "width": 1200, "height": 900}
            )
            await page.get_by_role("region", name="Latency of the span").screenshot(
                path=directory / "console-spans.png"
            )
            newest = stage.gateway.records.recent(500)
            sid = next(one.call_sid for one in newest if one.recording is not None)
            await page.goto(f"{stage.url}/console#/call/{sid}")
            await page.get_by_role("heading", name="Recording and downloads").wait_for()
            await page.get_by_role("button", name="Listen from").nth(2).click()
            await page.wait_for_timeout(1_500)
            await page.screenshot(path=directory / "console-recording.png", clip=box(1_000), full_page=True)
            if "--all" in sys.argv:  # not for the documentation: to look at
                await page.set_viewport_size({"width": 390, "height": 844})
                await page.screenshot(path=directory / "recording-phone.png", full_page=True)
                await page.emulate_media(color_scheme="dark")
                await page.goto(f"{stage.url}/console#/history?before=1")
                await page.get_by_role("row", name="Turn gap").wait_for()
                await page.screenshot(path=directory / "history-phone-dark.png", full_page=True)


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    asyncio.run(take(Path(given[0]) if given else DOCS))
