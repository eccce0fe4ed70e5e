"""An agent's lists on the console: live, checked, cut, and no hindrance when its function misbehaves."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import msgspec
import pytest

from offhook.gateway.agent.load import load_agent
from offhook.gateway.rehearsal import examples
from offhook.gateway.rehearsal.model.script import CallTool, Reply, Script
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.phone.steps import HangUp, Say, WaitForAgent
from offhook.gateway.web.console.boards import MAX_ITEMS, Boards
from tests.rig.chromium import Chromium
from tests.rig.gateway import serving
from tests.rig.sounds import sound
from tests.web.console.console_rig import HOSTILE, Watch, faults


def shown(answer: Any, **more: Any) -> dict[str, Any]:
    """A board whose function answers this (or raises it), after one look."""

    async def ask() -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def look() -> dict[str, Any]:
        boards = Boards({"lists": ask})
        (board,) = await boards.now()
        await boards.close()
        return msgspec.to_builtins(board)

    return asyncio.run(look())


def test_lists_are_shown_as_they_are() -> None:
    items = [{"text": "milk", "done": True, "person": "Ada"}, {"text": "bread"}]
    board = shown([{"name": "shopping", "kind": "shopping", "items": items}])
    assert board["error"] == ""
    assert [item["text"] for item in board["lists"][0]["items"]] == ["milk", "bread"]


def test_a_board_without_bounds_is_cut() -> None:
    board = shown([{"name": "n" * 5_000, "items": [{"text": "t" * 5_000}] * 1_000}] * 500)
    assert len(board["lists"]) <= 50
    assert len(board["lists"][0]["name"]) <= 200
    assert len(board["lists"][0]["items"]) == MAX_ITEMS
    assert board["lists"][0]["more"] == 1_000 - MAX_ITEMS
    assert len(board["lists"][0]["items"][0]["text"]) <= 200


def test_a_board_that_fails_says_so_and_nothing_secret() -> None:
    board = shown(RuntimeError("password=hunter2"))
    assert board["error"] == "cannot be shown: RuntimeError"
    assert shown({"not": "a list"})["error"] == "cannot be shown: the result is not a list of lists"
    assert shown([{"items": 3}])["error"] == "cannot be shown: the result is not a list of lists"


def test_slow_board_blocks_nothing_and_is_read_once() -> None:
    asked = []

    async def ask() -> Any:
        asked.append(1)
        await asyncio.sleep(60)

    async def look() -> float:
        boards = Boards({"lists": ask})
        began_s = time.monotonic()
        await boards.now()
        (board,) = await boards.now()
        assert board.lists == []
        await boards.close()
        return time.monotonic() - began_s

    assert asyncio.run(look()) < 10
    assert len(asked) == 1


@pytest.mark.clock_speed(3.0)  # Chromium keeps the wall's
async def test_lists_made_by_voice_appear_during_the_call(chromium: Chromium) -> None:
    agent = load_agent(os.path.join(os.path.dirname(examples.__file__), "lists.agent.yaml"))
    done = Reply("tool:add_to_list", (Speak("Done.", length_ms=600),))
    script = Script(
        (
            Reply("text", (Speak("I am listening.", length_ms=700),)),
            Reply("caller", (CallTool("create_list", {"name": "groceries", "items": ["milk", HOSTILE]}),)),
            Reply("tool:create_list", (Speak("It is there.", length_ms=600),)),
            Reply("caller", (CallTool("add_to_list", {"name": "groceries", "items": ["bread"]}),)),
            done,
        )
    )
    yes = Say(str(sound("yes_please")))
    steps = (WaitForAgent("end"), yes, WaitForAgent("end"), yes, WaitForAgent("end"), HangUp())
    async with (
        ModelServer(script) as model,
        chromium() as browser,
        serving([agent], {"OFFHOOK_INSECURE": "1"}, model=model) as (_, url),
    ):
        watch = Watch()
        page = await browser.new_page()
        watch.page(page, url)
        await page.goto(f"{url}/console")
        region = page.get_by_role("region", name="Boards")
        await region.get_by_text("No lists yet.").wait_for()
        call = asyncio.create_task(SimulatedCall(url, steps, caller="+15550187").run())
        await region.get_by_role("heading", name="groceries").wait_for(timeout=20_000)
        await region.get_by_text("milk", exact=True).wait_for()
        await region.get_by_text(HOSTILE).wait_for()  # as text
        assert await faults(page) == []
        await region.get_by_text("bread", exact=True).wait_for(timeout=20_000)
        assert await page.evaluate("window.broken") is None
        await call
        assert watch.complaints == []
        assert watch.elsewhere == []
        if picture := os.environ.get("OFFHOOK_PICTURES"):
            await region.screenshot(path=os.path.join(picture, "console-board.png"))
