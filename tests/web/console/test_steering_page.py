"""Steering on the console in real Chromium: each button, what it does to the call, and its entry in the record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from offhook.gateway.rehearsal.model.script import Reply, Script
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.phone.steps import Pause, WaitForEnd
from offhook.gateway.rehearsal.phone.twilio_account import Callee
from tests.carriers.twilio.telephone_rig import Exchange, exchange
from tests.rig.chromium import Chromium
from tests.web.console.console_rig import Watch, faults

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

pytestmark = pytest.mark.wall_clock

FULL, READ = "a token that may act", "a token that reads only"
WHO = "ann (127.0.0.1)"
TARGET, CALLEE = "+15550100077", "+15550100088"
STAYS = (WaitForEnd(60_000),)
SCRIPT = Script(
    (Reply("text", (Speak("Hello.", length_ms=400),)),), default=Reply("text", (Speak("Yes.", length_ms=200),))
)


@asynccontextmanager
async def console(chromium: Chromium, *tokens: str) -> AsyncIterator[tuple[Exchange, list[Page], Watch]]:
    """A page for each of these tokens, on the console of a gateway with a simulated account."""
    environ = {"OFFHOOK_CONSOLE_TOKEN": FULL, "OFFHOOK_CONSOLE_READ_TOKEN": READ, "OFFHOOK_ADMIN_PORT": "0"}
    watch = Watch()
    agents = {"desk": ("greeting: {text: Greet.}", SCRIPT)}
    async with (
        exchange(agents, callees=lambda _: Callee(STAYS), environ={**environ, "OFFHOOK_LISTENERS": "1"}) as x,
        chromium() as browser,
    ):
        yield x, [await signed_in(browser, x, token, watch) for token in tokens], watch


async def signed_in(browser: Browser, x: Exchange, token: str, watch: Watch) -> Page:
    context = await browser.new_context(http_credentials={"username": "ann", "password": token})
    page = await context.new_page()
    watch.page(page, x.url)
    await page.goto(f"{x.url}/console")
    await page.get_by_text("Nobody is on the line.").wait_for()
    return page


async def press(page: Page, button: str, said: str = "Done.") -> None:
    """Press it, and wait for the outcome beside it."""
    found = page.get_by_role("button", name=button, exact=True)
    await found.click()
    await found.locator("xpath=..").get_by_role("status").filter(has_text=said).wait_for()


async def test_each_action_is_done_and_recorded_with_who(chromium: Chromium) -> None:
    async with console(chromium, FULL) as (x, (page,), watch):
        call = x.call("desk", *STAYS)
        running = asyncio.create_task(call.run())
        await page.get_by_role("row", name="desk").get_by_role("link").click()
        await page.get_by_text("Steer this call").click()
        await page.get_by_label("Words").fill("We close at five.")
        await press(page, "Have the agent say it")
        await page.get_by_label("Words").fill("Be brief.")
        await press(page, "Note it to the model")
        await press(page, "Hold")
        await press(page, "Hold", "That cannot be done now.")  # it is held already
        await press(page, "Resume")
        await x.until(lambda: len(x.gateway.calls[call.call_sid].record.streams) == 2)
        await page.get_by_label("Number or SIP address").fill("no number")
        await press(page, "Transfer", "cannot call")
        await page.get_by_label("Number or SIP address").fill(TARGET)
        assert await faults(page) == []
        await press(page, "Transfer")
        truth = await running
        record = await x.record(call.call_sid)
        await page.get_by_role("heading", name="over").wait_for()
        assert await page.get_by_text("Steer this call").is_hidden()
        shown = await page.get_by_role("listitem").filter(has_text=f"by {WHO}").all_inner_texts()
        texts = " ".join(text.text for session in x.model.sessions for text in session.texts)
    assert [(one.what, one.detail, one.done, one.who) for one in record.actions] == [
        ("say", "We close at five.", True, WHO),
        ("note", "Be brief.", True, WHO),
        ("hold", "", True, WHO),
        ("hold", "", False, WHO),
        ("resume", "", True, WHO),
        ("transfer", TARGET, True, WHO),
    ]
    assert record.end_reason == "transferred"
    assert TARGET in str(truth)
    assert len(shown) == 6
    assert "word for word: We close at five." in texts
    assert "Be brief." in texts
    refused = [text for text in watch.complaints if "400" not in text and "409" not in text]  # Chromium's own notes
    assert refused == []


async def test_placed_call_is_recorded_and_hung_up(chromium: Chromium) -> None:
    async with console(chromium, FULL) as (x, (page,), _):
        await page.get_by_text("Place a call").click()
        await page.get_by_label("Number or SIP address").fill(CALLEE)
        await press(page, "Place the call", "The call is queued.")
        await page.get_by_role("row", name="desk").get_by_role("link").click()
        await page.get_by_text("Steer this call").click()
        await press(page, "Hang up")
        async with asyncio.timeout(20):
            while not x.gateway.records.recent(1):
                await asyncio.sleep(0.02)
        (record,) = x.gateway.records.recent(1)
    assert (record.direction, record.dialled, record.end_reason) == ("outbound", CALLEE, "agent_hung_up")
    assert [(one.what, one.who) for one in record.actions] == [("place", WHO), ("hang_up", WHO)]


# What the page could send, sent by it: as a script of its own would, and as one of another site.
ACT = """async ([path, mode]) => {
  const headers = mode === "cors" ? { "Content-Type": "application/json" } : {};
  try {
    return (await fetch(path, { method: "POST", mode, credentials: "include", headers, body: "{}" })).status;
  } catch {
    return "blocked";
  }
}"""


async def test_read_only_token_sees_no_button_and_is_refused(chromium: Chromium) -> None:
    async with console(chromium, READ) as (x, (page,), _):
        call = x.call("desk", Pause(4_000))
        running = asyncio.create_task(call.run())
        link = page.get_by_role("row", name="desk").get_by_role("link")
        await link.wait_for()
        assert not await page.get_by_text("Place a call").is_visible()
        assert await page.get_by_role("link", name="Talk to").count() == 0
        await link.click()
        await page.get_by_role("heading", name="on the line").wait_for()
        await page.get_by_text("Hello.").wait_for()
        assert [await page.get_by_text(text).is_visible() for text in ("Steer this call", "Listen in")] == [False] * 2
        for path in (f"steer/{call.call_sid}/hang_up", "steer", f"listen/{call.call_sid}"):
            assert await page.evaluate(ACT, [f"/console/api/{path}", "cors"]) == 403, path
        await running
        record = await x.record(call.call_sid)
    assert record.end_reason == "caller_hung_up"
    assert (record.actions, record.listened) == ([], [])


async def test_page_of_another_site_steers_nothing(chromium: Chromium) -> None:
    async with console(chromium, FULL) as (x, (page,), _):
        call = x.call("desk", Pause(4_000))
        running = asyncio.create_task(call.run())
        await page.get_by_role("row", name="desk").wait_for()
        # Another origin in the same browser, whose password for the gateway is stored.
        await page.context.route("http://evil.example/*", lambda route: route.fulfill(body="<p>evil</p>"))
        evil = await page.context.new_page()
        await evil.goto("http://evil.example/")
        target = f"{x.url}/console/api/steer/{call.call_sid}/hang_up"
        for mode in ("cors", "no-cors"):
            await evil.evaluate(ACT, [target, mode])
        truth = await running
        record = await x.record(call.call_sid)
    assert truth.ended_by == "caller"
    assert record.actions == []
