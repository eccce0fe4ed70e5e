"""The pages of past calls in a real browser: found, listened to in step, on a phone, by everybody."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offhook.media.wav import write_wav
from tests.rig.chromium import Chromium
from tests.store.made import record
from tests.web.console.console_rig import HOSTILE, Watch, faults, staged


@pytest.mark.clock_speed(3.0)
async def test_past_calls_are_found_and_listened_to(chromium: Chromium, tmp_path: Path) -> None:
    wav = tmp_path / "CA1.wav"
    write_wav(wav, np.zeros(8_000 * 20, np.int16), 8_000)
    async with staged({"OFFHOOK_DATA_DIR": str(tmp_path)}) as stage, chromium() as browser:
        store = stage.gateway.records
        store.keep(record("CA1", said=HOSTILE, recording=str(wav), tool="book", answer="For which day, please?"))
        for i in range(2, 60):
            store.keep(record(f"CA{i}", at_ms=1_795_780_800_000 - i * 60_000, agent="night", gap_ms=300.0 + 50 * i))
        assert stage.gateway._keeping.store is not None
        while await stage.gateway._keeping.store.waiting():
            pass
        watch = Watch()
        page = await (await browser.new_context(viewport={"width": 390, "height": 844})).new_page()
        watch.page(page, stage.url)
        await page.goto(f"{stage.url}/console#/history?since=2026-11-20T00:00&until=2026-11-28T00:00&before=1")
        await page.get_by_role("row", name="Turn gap").wait_for()
        await page.get_by_text("50 calls shown").wait_for()
        table = page.get_by_role("table", name="Past calls")
        assert await table.get_by_role("row").count() == 51
        await page.get_by_role("button", name="Show more").click()
        await page.get_by_text("59 calls shown, newest first").wait_for()
        assert await page.evaluate("document.documentElement.scrollWidth") == 390
        assert await faults(page) == []
        await page.get_by_label("Slow").select_option("turn gap over 3 s")
        await page.get_by_role("button", name="Search").click()
        await page.get_by_text("5 calls shown").wait_for()
        await page.get_by_label("Slow").select_option("any speed")
        await page.get_by_label("Words said").fill("day PLEASE")
        await page.keyboard.press("Enter")
        await page.get_by_text("1 call shown").wait_for()
        assert "words=day" in page.url
        await table.get_by_role("link").click()
        await page.get_by_role("button", name="Listen from").nth(1).click()
        await page.locator(".talk .now").wait_for()
        audio = page.locator("audio")
        assert await audio.evaluate("a => a.duration") == 20
        assert await page.locator(".head-line").evaluate("line => Number(line.getAttribute('x1')) >= 0")
        assert await faults(page) == []
        async with page.expect_download() as downloading:
            await page.get_by_role("link", name="Transcript (WebVTT)").click()
        await (await downloading.value).save_as(tmp_path / "CA1.vtt")
        vtt = (tmp_path / "CA1.vtt").read_text()
        assert "<v agent>For which day, please?" in vtt
        assert await page.evaluate("window.broken") is None
        assert (watch.complaints, watch.elsewhere) == ([], [])


@pytest.mark.clock_speed(3.0)
async def test_without_a_store_the_page_says_what_to_set(chromium: Chromium) -> None:
    async with staged() as stage, chromium() as browser:
        page = await browser.new_page()
        await page.goto(f"{stage.url}/console#/history")
        await page.get_by_role("alert").get_by_text("set OFFHOOK_DATA_DIR").wait_for()
