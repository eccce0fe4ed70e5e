"""Takes the documentation's picture of the softphone: a real Chromium in a call with a real gateway.

python -m tests.figures_talking [DIRECTORY] [--all]
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from offhook.gateway.rehearsal.model.script import CallTool, Reply
from offhook.gateway.rehearsal.model.script import Say as Speak
from tests.carriers.softphone.desk import chromium, desk, microphone
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
TOOL = "tools: [{function: 'tests.web.console.console_tools:find_table', name: find_table}]"


async def take(directory: Path) -> None:
    """talking.png; with --all talking-dark and talking-phone, too, to look at."""
    with tempfile.TemporaryDirectory() as folder:
        mic = microphone(Path(folder) / "mic.wav", *SAID)
        async with desk(*REPLIES, fields=TOOL) as (_, url, _), chromium(mic) as browser:
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


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    asyncio.run(take(Path(given[0]) if given else Path(__file__).parents[1] / "docs"))
