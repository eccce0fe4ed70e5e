"""Takes the documentation's pictures of what the softphone shows the model, and of both ways to one agent.

python -m tests.figures_direct [DIRECTORY] [--all]
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from offhook.gateway.rehearsal.model.script import CallTool, Reply
from offhook.gateway.rehearsal.model.script import Say as Speak
from tests.carriers.softphone.desk import desk, microphone
from tests.rig.chromium import own_chromium
from tests.rig.sounds import sound

SAID = ((3.0, "a_table_for_two"), (8.0, "wait_stop"), (14.0, "yes_please"), (19.0, "wait_stop"))
LONG = Speak("Of course. Let me look for a table on Friday evening.", sound("of_course"))
REPLIES = (
    Reply("text", (Speak("Thank you for calling the Blue Door.", length_ms=1_200),)),
    Reply("caller", (LONG,), heard=("A table for two,", " please.")),
    Reply("caller", (CallTool("find_table", {"day": "Saturday"}),), heard=("Wait, stop.",)),
    Reply("tool:find_table", (Speak("Saturday for two is no problem.", sound("saturday")),)),
    Reply("caller", (replace(LONG, text="It is booked. You get a message with the time."),), heard=("Yes please!",)),
    Reply("caller", (Speak("All right.", length_ms=700),), heard=("Wait, stop.",)),
)
TOOL = "tools: [{function: 'tests.web.console.console_tools:find_table', name: find_table}]\npictures: true"


async def looks(page: Any, directory: Path, name: str) -> None:
    """NAME.png; with --all NAME-dark and NAME-phone, too, to look at."""
    await page.screenshot(path=directory / f"{name}.png")
    if "--all" in sys.argv:
        await page.emulate_media(color_scheme="dark")
        await page.screenshot(path=directory / f"{name}-dark.png")
        await page.set_viewport_size({"width": 390, "height": 844})
        await page.screenshot(path=directory / f"{name}-phone.png", full_page=True)


async def take(directory: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        mic = microphone(Path(folder) / "mic.wav", *SAID)
        environ = {"OFFHOOK_BROWSER_TOKENS": "1"}
        async with desk(*REPLIES, fields=TOOL, environ=environ) as (_, url, model), own_chromium(mic) as browser:
            context = await browser.new_context(viewport={"width": 1200, "height": 900}, ignore_https_errors=True)
            page = await context.new_page()
            await page.goto(f"{url}/console/direct?agent=desk")
            for n, button in enumerate(("Call through the gateway", "Talk straight to the model")):
                await page.get_by_role("button", name=button).click()
                async with asyncio.timeout(60):
                    while len(model.sessions) <= n or len(model.sessions[-1].replies) < len(REPLIES):
                        await asyncio.sleep(0.1)
                await page.wait_for_timeout(2_000)
                await page.get_by_role("button", name="Hang up").click()
                await page.get_by_role("status").filter(has_text="Not on the line").wait_for()
            print(await page.locator("table").first.inner_text())
            await looks(page, directory, "direct")
            page = await (await browser.new_context(viewport={"width": 1200, "height": 900})).new_page()
            await page.goto(f"{url}/console/talk?agent=desk")
            await page.get_by_role("button", name="Call", exact=True).click()
            await page.get_by_role("button", name="Show the camera").click()
            await page.get_by_text("3 shown").wait_for()
            await looks(page, directory, "pictures")


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    asyncio.run(take(Path(given[0]) if given else Path(__file__).parents[1] / "docs"))
