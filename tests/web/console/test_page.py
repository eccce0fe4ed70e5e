"""The console in real Chromium, while simulated calls go through a real gateway."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.rig.chromium import Chromium
from tests.web.console.console_rig import HOSTILE, SHORT, Stage, Watch, faults, staged

pytestmark = pytest.mark.clock_speed(3.0)  # Chromium keeps the wall's


@asynccontextmanager
async def opened(chromium: Chromium, stage: Stage, watch: Watch, **options: Any) -> AsyncIterator[Any]:
    async with chromium() as browser:
        context = await browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        page = await context.new_page()
        watch.page(page, stage.url)
        yield page


async def test_call_is_shown_from_ringing_to_its_record(chromium: Chromium) -> None:
    watch = Watch()
    async with staged(hostile=True) as stage, opened(chromium, stage, watch) as page:
        await page.goto(f"{stage.url}/console")
        await page.get_by_text("Nobody is on the line.").wait_for()
        await page.get_by_role("status").filter(has_text="Live").wait_for()

        call = asyncio.create_task(stage.call().run())
        row = page.get_by_role("row", name="receptionist").first
        await row.wait_for(timeout=15_000)
        assert "+15•••87" in await row.inner_text()
        assert "5550187" not in await page.content()
        for phase in ("Speaking", "Listening"):  # values change by themselves
            await row.get_by_text(phase, exact=True).wait_for(timeout=20_000)

        # Its timeline, opened with the keyboard while it goes on.
        link = page.get_by_role("link", name="+15•••87")
        await link.focus()
        await page.keyboard.press("Enter")
        await page.get_by_role("heading", name="Call from +15•••87 on the line").wait_for()
        assert await page.evaluate("document.activeElement.tagName") == "H1"
        said = page.get_by_role("listitem")
        await said.filter(has_text="Thank you for calling the Blue Door.").wait_for()
        await said.filter(has_text=HOSTILE).wait_for(timeout=20_000)  # as text
        assert await page.evaluate("window.broken") is None
        assert await faults(page) == []
        await said.filter(has_text="confirmed by the model, silent").wait_for(timeout=20_000)
        audio = page.locator(".facts div", has_text="Audio in, out").locator("dd")
        live_in, live_out = (await audio.inner_text()).split(", ")  # both are counted while the call goes on
        assert live_in.endswith(" s"), live_in
        assert live_out.endswith(" s"), live_out
        await page.locator(".facts div", has_text="Cost, about").wait_for()

        await call
        await page.get_by_role("heading", name="Call from +15•••87 over").wait_for(timeout=20_000)
        assert await page.evaluate("window.broken") is None
        text = await page.locator("main").inner_text()
        assert "Agent hung up" in text
        assert "find_table done after" in text
        cut = page.get_by_role("listitem").filter(has_text="Let me look for a table").locator("s")
        assert "not heard" in await cut.inner_text()
        (record,) = stage.gateway.records.recent(2)
        (barge_in,) = record.barge_ins
        silence = f"silent {barge_in.segments['bargein_silence']:.0f} ms after the caller's first sound"
        assert silence in text
        row = page.get_by_role("region", name="Barge-ins").get_by_role("row", name="confirmed by the model")
        assert f"{barge_in.segments['bargein_silence']:.0f} ms" in await row.inner_text()
        gap_ms = record.turns[1].segments["turn_gap"]
        shown = await page.get_by_role("row", name="Turn 2").get_by_role("cell").first.inner_text()
        assert shown in (f"{gap_ms:.0f} ms", f"{gap_ms / 1000:.2f} s")

        await page.get_by_role("link", name="All calls").click()
        ended = page.get_by_role("region", name="Calls that ended").get_by_role("row", name="receptionist")
        assert "Agent hung up" in await ended.inner_text()
        turns = page.get_by_role("region", name="Last turns").get_by_role("listitem").filter(has_text="turn 2")
        await turns.wait_for()
        tile = page.get_by_role("listitem").filter(has_text="Barge-in to silence")
        assert "P50 of its parts: detection" in await tile.inner_text()
    assert watch.complaints == []
    assert watch.elsewhere == []


async def test_page_is_accessible_in_every_theme_and_width(chromium: Chromium) -> None:
    watch = Watch()
    async with staged() as stage, opened(chromium, stage, watch, reduced_motion="reduce") as page:

        async def look() -> None:
            for width, colours in [(1280, "light"), (1280, "dark"), (390, "dark"), (390, "light")]:
                await page.set_viewport_size({"width": width, "height": 844})
                await page.emulate_media(color_scheme=colours)
                assert await faults(page) == [], (width, colours)
                assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (width, colours)

        await page.goto(f"{stage.url}/console")
        calls = [asyncio.create_task(stage.call(SHORT, agent=1, caller=f"+1555010{i}").run()) for i in range(2)]
        turns = page.get_by_role("region", name="Last turns").get_by_role("listitem")
        await turns.filter(has_text="turn 2, waiting list").first.wait_for(timeout=30_000)
        await look()
        await asyncio.gather(*calls)
        await page.get_by_role("region", name="Calls that ended").get_by_role("link").first.click()
        await page.get_by_role("heading", name="What was said").wait_for()
        await look()
    assert watch.complaints == []


async def test_keyboard_reaches_everything_with_a_focus_ring(chromium: Chromium) -> None:
    watch = Watch()
    async with staged() as stage, opened(chromium, stage, watch) as page:
        await page.goto(f"{stage.url}/console")
        await page.get_by_text("Nobody is on the line.").wait_for()
        seen = []
        focused = "document.activeElement"
        ringed = f"({focused}.type === 'radio' ? {focused}.nextSibling : {focused})"
        for _ in range(8):
            await page.keyboard.press("Tab")
            seen.append(await page.evaluate(f"{focused}.textContent.trim() || {focused}.value"))
            assert await page.evaluate(f"getComputedStyle({ringed}).outlineStyle") != "none", seen[-1]
            if seen[-1] == "Percentiles and definitions":
                break
        talk = ["Talk to receptionist", "Talk to waiting list"]
        head, tail = ["Skip to the calls", "Offhook console", "Live", "History"], ["5m", "Percentiles and definitions"]
        assert seen == [*head, *talk, *tail]
        await page.get_by_role("radio", name="5 minutes").focus()
        async with page.expect_request(lambda r: "window=1h" in r.url):
            await page.keyboard.press("ArrowRight")
    assert watch.complaints == []


async def test_browser_logs_in_and_reconnects_after_restart(chromium: Chromium) -> None:
    watch = Watch()
    credentials = {"username": "anyone", "password": "let me in, please"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = {"OFFHOOK_CONSOLE_TOKEN": "let me in, please", "OFFHOOK_PORT": str(port)}
    async with chromium() as browser:
        async with staged(environ) as stage:
            refused = await (await browser.new_context()).request.get(f"{stage.url}/console")
            assert refused.status == 401
            page = await (await browser.new_context(http_credentials=credentials)).new_page()
            watch.page(page, stage.url)
            await page.goto(f"{stage.url}/console")
            await page.get_by_text("Nobody is on the line.").wait_for()
            await page.get_by_role("status").filter(has_text="Live").wait_for()
            assert watch.complaints == []
        await page.get_by_text("Not connected").wait_for(timeout=15_000)
        async with staged(environ):
            await page.get_by_role("status").filter(has_text="Live").wait_for(timeout=30_000)
