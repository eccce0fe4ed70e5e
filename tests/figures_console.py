"""Takes the documentation's pictures of the console: a real Chromium looks at a real gateway in simulated calls.

python -m tests.figures_console [DIRECTORY]
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from playwright.async_api import ViewportSize

from tests.rig.chromium import own_chromium
from tests.web.console.console_rig import SHORT, TALK, Stage, staged

TESTS = Path(__file__).parent


PHONE: ViewportSize = {"width": 390, "height": 844}


async def some_calls(stage: Stage) -> None:
    """What has happened already: enough turns for a P95."""
    early = [stage.call(SHORT, agent=1, caller=f"+1555{7010 + 37 * i}{i}{i}").run() for i in range(10)]

    async def a_little_later() -> None:
        await asyncio.sleep(9)
        await stage.call(caller="+15557031987").run()

    await asyncio.gather(a_little_later(), *early)


async def take(directory: Path) -> None:
    """console-desktop, -dark, -phone, -call, each a PNG."""

    async def shoot(page: Any, name: str, height: int | None = None) -> None:
        width = page.viewport_size["width"]
        box = {"x": 0, "y": 0, "width": width, "height": height} if height else None
        await page.wait_for_timeout(1_600)
        await page.screenshot(path=directory / f"console-{name}.png", full_page=True, clip=box)

    async with staged() as stage, own_chromium() as browser:
        page = await (await browser.new_context(viewport={"width": 1200, "height": 900})).new_page()
        await page.goto(f"{stage.url}/console")
        await some_calls(stage)
        now = [asyncio.create_task(stage.call(caller="+15557220150").run())]
        for caller, agent in [("+15557166341", 1), ("+15557269151", 0)]:
            await asyncio.sleep(5)
            now.append(asyncio.create_task(stage.call((TALK, SHORT)[agent], agent=agent, caller=caller).run()))
        await asyncio.sleep(7)
        turns = await page.get_by_role("region", name="Last turns").bounding_box()
        assert turns is not None
        height = int(turns["y"] + turns["height"] + 16)
        await shoot(page, "desktop", height)
        await page.emulate_media(color_scheme="dark")
        await shoot(page, "dark", height)
        await page.set_viewport_size(PHONE)
        await page.emulate_media(color_scheme="light")
        await shoot(page, "phone", 1_500)
        await page.set_viewport_size({"width": 1200, "height": 900})
        await asyncio.gather(*now)
        ended = page.get_by_role("region", name="Calls that ended")
        await ended.get_by_role("row", name="receptionist").first.get_by_role("link").click()
        await page.get_by_role("heading", name="What was said").wait_for()
        await shoot(page, "call")
        if "--all" in sys.argv:  # not for the documentation: to look at
            await page.set_viewport_size(PHONE)
            await shoot(page, "call-phone")
            await page.emulate_media(color_scheme="dark")
            await shoot(page, "call-phone-dark")


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    asyncio.run(take(Path(given[0]) if given else TESTS.parent / "docs"))
