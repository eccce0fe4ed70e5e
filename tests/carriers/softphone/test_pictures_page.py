"""Pictures from a real Chromium: its (fake) camera, a moment of it, and a file of the user's."""

from __future__ import annotations

import asyncio
import base64
from itertools import pairwise
from pathlib import Path

import pytest

from offhook.gateway.rehearsal.model.script import Reply
from offhook.gateway.rehearsal.model.script import Say as Speak
from tests.carriers.softphone.desk import desk, microphone
from tests.rig.chromium import Chromium
from tests.web.console.console_rig import Watch, faults

pytestmark = pytest.mark.wall_clock(calm=True)

DRAWN = """() => {
  const canvas = document.createElement("canvas");
  canvas.width = 1600;
  canvas.height = 400;
  canvas.getContext("2d").fillRect(100, 100, 800, 200);
  return canvas.toDataURL("image/png").split(",")[1];
}"""


async def test_camera_and_file_reach_the_model_in_its_size(chromium: Chromium, tmp_path: Path) -> None:
    replies = (Reply("text", (Speak("Show me.", length_ms=400),)),)
    watch = Watch()
    async with (
        desk(*replies, fields="pictures: true") as (gateway, url, model),
        chromium(microphone(tmp_path / "mic.wav")) as browser,
    ):
        page = await browser.new_page(viewport={"width": 390, "height": 844})
        watch.page(page, url)
        await page.goto(f"{url}/console/talk?agent=desk")
        assert await page.get_by_role("group", name="Pictures for the model").count() == 0
        await page.get_by_role("button", name="Call", exact=True).click()
        pictures = page.get_by_role("group", name="Pictures for the model")
        await pictures.get_by_role("button", name="Show the camera").click()
        async with asyncio.timeout(15):
            while not model.sessions or len(model.sessions[0].pictures) < 3:
                await asyncio.sleep(0.05)
        seen = model.sessions[0].pictures
        gaps_s = [after.at_s - before.at_s for before, after in pairwise(seen)]
        for colours in ("light", "dark"):
            await page.emulate_media(color_scheme=colours, reduced_motion="reduce")
            assert await faults(page) == [], colours
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await pictures.get_by_role("button", name="Stop showing").click()
        drawing = tmp_path / "drawing.png"
        drawing.write_bytes(base64.b64decode(await page.evaluate(DRAWN)))
        before = len(seen)
        await page.wait_for_timeout(1_500)  # one that was on its way
        assert len(seen) <= before + 1
        await page.get_by_label("A picture of yours").set_input_files(drawing)
        await pictures.get_by_text("the last one chosen by you").wait_for()
        async with asyncio.timeout(5):
            while seen[-1].height != 192:
                await asyncio.sleep(0.05)
        await page.get_by_role("button", name="Hang up").click()
        async with asyncio.timeout(10):
            while gateway.calls or not len(gateway.records):
                await asyncio.sleep(0.02)
        (record,) = gateway.records.recent(1)
        await pictures.wait_for(state="hidden")
    assert seen[0].width <= 768
    assert all(0.8 <= gap_s <= 2.5 for gap_s in gaps_s), gaps_s
    assert (seen[-1].width, seen[-1].height) == (768, 192)
    assert record.pictures == len(seen)
    assert record.pictures_refused == 0
    assert watch.complaints == []
    assert watch.elsewhere == []
