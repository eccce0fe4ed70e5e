"""Takes the documentation's pictures of the softphone and of listening in: a real Chromium and a real gateway.

python -m tests.figures_talking [DIRECTORY] [--all]
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Literal

from offhook.gateway.rehearsal.model.script import CallTool, Reply
from offhook.gateway.rehearsal.model.script import Say as Speak
from tests.carriers.softphone.desk import desk, microphone
from tests.rig.chromium import own_chromium
from tests.rig.sounds import sound

SAID = ((4.2, "hello_i_would"), (9.6, "oh_sorry"), (21.5, "yes_please"))
REPLIES = (
    Reply("text", (Speak("Thank you for calling the Blue Door. How can I help you?", sound("agent_thank_you")),)),
    Reply(
        "caller",
        (
            Speak(
                "Of course. Let me look for a table on Friday evening. We are nearly full that night.",
                sound("of_course"),
            ),
        ),
        heard=("Hello,", " I would like a table for two on Friday."),
    ),
    Reply(
        "caller",
        (CallTool("find_table", {"day": "Saturday"}),),
        heard=("Oh, sorry, wait.", " Could we make it Saturday?"),
    ),
    Reply("tool:find_table", (Speak("Saturday for two is no problem. Shall I book it?", sound("saturday")),)),
)
AGENT_LEVEL = "parseFloat(document.querySelector('.level.agent .meter span').style.width)"
TOOL = "tools: [{function: 'tests.web.console.console_tools:find_table', name: find_table}]"


async def take(directory: Path) -> None:
    """talking.png; with --all talking-dark and talking-phone, too, to look at."""
    with tempfile.TemporaryDirectory() as folder:
        mic = microphone(Path(folder) / "mic.wav", *SAID)
        async with desk(*REPLIES, fields=TOOL) as (_, url, _), own_chromium(mic) as browser:
            page = await (await browser.new_context(viewport={"width": 1200, "height": 1060})).new_page()
            await page.goto(f"{url}/console/talk?agent=desk")
            await page.get_by_role("button", name="Call", exact=True).click()
            await page.get_by_role("listitem").filter(has_text="Saturday for two").wait_for(timeout=60_000)
            await page.wait_for_timeout(2_500)
            await page.screenshot(path=directory / "talking.png")
            if "--all" in sys.argv:
                await page.emulate_media(color_scheme="dark")
                await page.screenshot(path=directory / "talking-dark.png")
                await page.set_viewport_size({"width": 390, "height": 844})
                await page.screenshot(path=directory / "talking-phone.png", full_page=True)


async def take_listening(directory: Path) -> None:
    """listen-in.png: an operator hears a call of the phone's; with --all three more to look at."""
    with tempfile.TemporaryDirectory() as folder:
        mic, allowed = microphone(Path(folder) / "mic.wav", *SAID), f"{TOOL}\nlisten_in: true"
        async with (
            desk(*REPLIES, fields=allowed, environ={"OFFHOOK_LISTENERS": "1"}) as (gateway, url, _),
            own_chromium(mic) as browser,
        ):
            phone = await browser.new_page()
            await phone.goto(f"{url}/console/talk?agent=desk")
            await phone.get_by_role("button", name="Call", exact=True).click()
            await phone.get_by_role("status").filter(has_text="On the line").wait_for()
            page = await (await browser.new_context(viewport={"width": 1200, "height": 800})).new_page()
            await page.goto(f"{url}/console#/call/{next(iter(gateway.calls))}")
            await page.get_by_role("button", name="Listen in").click()
            await page.get_by_text("Steer this call").click()
            await page.get_by_role("listitem").filter(has_text="I would like a table").wait_for(timeout=60_000)
            while await page.evaluate(AGENT_LEVEL) < 40:
                await page.wait_for_timeout(50)
            await page.screenshot(path=directory / "listen-in.png")
            looks: list[tuple[Literal["dark", "light"], int]] = [("dark", 1200), ("dark", 390), ("light", 390)]
            for colours, width in looks if "--all" in sys.argv else ():
                await page.emulate_media(color_scheme=colours)
                await page.set_viewport_size({"width": width, "height": 844})
                await page.screenshot(path=directory / f"listen-in-{colours}-{width}.png")


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    directory = Path(given[0]) if given else Path(__file__).parents[1] / "docs"
    asyncio.run(take(directory))
    asyncio.run(take_listening(directory))
