"""One agent by both ways in a real Chromium: a whole conversation straight to the model, then a call."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from offhook.gateway.rehearsal.model.script import CallTool, Reply
from offhook.gateway.rehearsal.model.script import Say as Speak
from tests.carriers.softphone.desk import desk, microphone
from tests.rig.chromium import Chromium
from tests.rig.sounds import sound
from tests.web.console.console_rig import Watch, faults

pytestmark = pytest.mark.wall_clock(calm=True)

KEY = "AIza-the-key-that-stays-at-the-gateway"
SAID = (
    (3.0, "a_table_for_two"),
    (8.0, "wait_stop"),
)  # seconds after the microphone opened
DELAY_MS = 300  # what the model waits before each answer
REPLIES = (
    Reply("text", (Speak("Blue Door.", length_ms=800),)),
    Reply("caller", (Speak("Let me see.", sound("of_course")),), heard=("A table for two, please.",)),
    Reply("caller", (CallTool("find_table", {"day": "Saturday"}),)),
    Reply("tool:find_table", (Speak("Saturday is free.", length_ms=900),)),
)
FIELDS = "tools: [{function: 'tests.web.console.console_tools:find_table', name: find_table}]"
ENVIRON = {"OFFHOOK_BROWSER_TOKENS": "1", "GEMINI_API_KEY": KEY}


def figure(text: str) -> tuple[int, int]:
    """(milliseconds, how many) of a cell."""
    found = re.fullmatch(r"(-?\d+) ms \((\d+)\)", text)
    assert found is not None, text
    return int(found[1]), int(found[2])


async def test_both_ways_are_measured_on_one_page(chromium: Chromium, tmp_path: Path) -> None:
    watch, answers, sockets = Watch(), [], []
    mic = microphone(tmp_path / "mic.wav", *SAID)
    async with desk(*REPLIES, fields=FIELDS, environ=ENVIRON) as (gateway, url, model), chromium(mic) as browser:
        context = await browser.new_context(ignore_https_errors=True)
        page = await context.new_page()
        watch.page(page, url)
        page.on("response", lambda answer: answers.append(answer))
        page.on("websocket", lambda socket: sockets.append(socket.url))
        document = await page.goto(f"{url}/console/direct?agent=desk")
        assert document is not None
        policy = document.headers["content-security-policy"]
        rows = {}
        for button, way in (("Talk straight to the model", "direct"), ("Call through the gateway", "gateway")):
            await page.get_by_role("button", name=button).click()
            async with asyncio.timeout(40):
                while len(model.sessions) <= len(rows) or len(model.sessions[-1].replies) < 4:
                    await asyncio.sleep(0.05)
                while model.sessions[-1].replies[3].ended is None:
                    await asyncio.sleep(0.05)
            await page.wait_for_timeout(600)
            await page.get_by_role("button", name="Hang up").click()
            await page.get_by_role("status").filter(has_text="Not on the line").wait_for()
            name = "Straight to the model" if way == "direct" else "Through the gateway"
            cells = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name=name)).get_by_role("cell")
            rows[way] = [figure(text) for text in await cells.all_inner_texts()]
        async with asyncio.timeout(10):
            while len(gateway.records) < 2:
                await asyncio.sleep(0.05)
        records = {record.caller: record for record in gateway.records.recent(2)}
        for width, colours in ((1280, "light"), (390, "dark")):
            await page.set_viewport_size({"width": width, "height": 844})
            await page.emulate_media(color_scheme=colours, reduced_motion="reduce")
            assert await faults(page) == [], (width, colours)
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (width, colours)
        texts = [await answer.text() for answer in answers if answer.ok]
        (added,) = await page.get_by_role("row").filter(has_text="What the gateway adds").all()
        assert re.search(r"-?\d+ ms\s+[+-]?\d+ ms", await added.inner_text())
    straight, through = model.sessions
    host = model.url.removeprefix("https://")
    assert policy.count("connect-src") == 1
    assert f"connect-src 'self' wss://{host};" in policy
    assert sockets[0].startswith(f"wss://{host}/ws/google.ai.generativelanguage.v1beta.GenerativeService.")
    assert "BidiGenerateContentConstrained?access_token=auth_tokens%2F" in sockets[0]
    assert not any(KEY in text for text in (*texts, *sockets))
    assert (straight.auth, through.auth) == ("token", "key")
    assert straight.setup["systemInstruction"] == through.setup["systemInstruction"]
    assert model.violations == []
    for session in (straight, through):
        assert [reply.ended for reply in session.replies] == ["complete", "interrupted", "complete", "complete"]
        assert [answer.call for answer in session.tool_answers] == ["open"]
    direct, call = records["web:direct"], records["web:console"]
    for record in (direct, call):
        (tool,) = record.tool_calls
        assert (tool.name, tool.outcome, tool.arguments) == ("find_table", "done", {"day": "Saturday"})
    assert (direct.end_reason, direct.turns, direct.transcript) == ("caller_hung_up", [], [])
    assert straight.tool_answers[0].response == through.tool_answers[0].response
    for way, cells in rows.items():
        (gap_ms, gaps), (stop_ms, stops) = cells
        assert gaps >= 2, way
        assert stops == 1, way
        assert DELAY_MS < gap_ms < 3_000, way  # the model's own end of turn comes on top
        assert 40 < stop_ms < 2_000, way
    assert [text for text in watch.complaints if "certificate" not in text] == []
    assert watch.elsewhere == []
