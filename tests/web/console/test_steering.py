"""Steering from the console: who may, what is done, and what the call's record keeps of it."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from offhook.gateway.app import Gateway
from offhook.gateway.rehearsal.model.script import Reply, Script
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.model.server import ModelServer
from tests.rig.gateway import numbered_agents, serving
from tests.rig.page import Page, streaming

FULL, READ = "a token that may act", "a token that reads only"
SIGNED = {"OFFHOOK_INSECURE": "0", "TWILIO_AUTH_TOKEN": "x" * 32, "OFFHOOK_PUBLIC_URL": "https://voice.example"}
TOKENS = {"OFFHOOK_CONSOLE_TOKEN": FULL, "OFFHOOK_CONSOLE_READ_TOKEN": READ, "OFFHOOK_ADMIN_PORT": "0"}
SCRIPT = Script(
    (Reply("text", (Speak("Hello.", length_ms=400),)),), default=Reply("text", (Speak("Yes.", length_ms=200),))
)


@asynccontextmanager
async def live_call() -> AsyncIterator[tuple[Gateway, Page, ModelServer]]:
    """A page's call that goes on, at a gateway whose console has both tokens."""
    _, agents = numbered_agents({"desk": "greeting: {text: Greet.}"})
    async with (
        ModelServer(SCRIPT) as model,
        aiohttp.ClientSession() as http,
        serving(agents, SIGNED | TOKENS, model=model) as (gateway, url),
    ):
        page = Page(http, url)
        page.headers["Authorization"] = f"Basic {b64encode(f'ann:{FULL}'.encode()).decode()}"
        async with streaming(page, await page.begin()):
            await page.until_heard(0.4)
            yield gateway, page, model


async def steer(page: Page, action: str, body: dict[str, Any], **headers: str | None) -> int:
    sent = {name: value for name, value in {**page.headers, **headers}.items() if value is not None}
    url = f"{page.url}/console/api/steer/{page.call_id}/{action}"
    async with page._http.post(url, json=body, headers=sent) as answer:
        return answer.status


async def test_actions_are_done_and_recorded_with_who() -> None:
    async with live_call() as (gateway, page, model):
        assert await steer(page, "say", {"text": "One moment."}) == 200
        assert await steer(page, "note", {"text": "Be brief."}) == 200
        assert await steer(page, "hold", {}) == 409  # this carrier has no hold
        assert await steer(page, "say", {"text": " "}) == 400
        assert await steer(page, "say", {"text": "x" * 501}) == 400
        assert await steer(page, "dance", {}) == 404
        assert await steer(page, "hang_up", {}) == 200
        async with asyncio.timeout(20):
            while (record := await gateway.records.get(page.call_id)) is None:
                await asyncio.sleep(0.01)
        texts = " ".join(text.text for session in model.sessions for text in session.texts)
    assert record.end_reason == "agent_hung_up"
    assert [(one.what, one.detail, one.done) for one in record.actions] == [
        ("say", "One moment.", True),
        ("note", "Be brief.", True),
        ("hold", "", False),
        ("hang_up", "", True),
    ]
    assert {one.who for one in record.actions} == {"ann (127.0.0.1)"}
    assert "word for word: One moment." in texts
    assert "Be brief." in texts


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": None}, 401),
        ({"Authorization": f"Bearer {READ}"}, 403),
        ({"Origin": None}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
async def test_others_steer_nothing(headers: dict[str, str | None], status: int) -> None:
    async with live_call() as (gateway, page, _):
        assert await steer(page, "hang_up", {}, **headers) == status
        (call,) = gateway.calls.values()
        assert call.ending is None
        assert call.record.actions == []


async def test_read_only_token_opens_the_console() -> None:
    async with live_call() as (_, page, _):
        page.headers["Authorization"] = f"Bearer {READ}"
        async with page._http.get(f"{page.url}/console", headers=page.headers) as answer:
            assert answer.status == 200
        assert (await page.post("", {"agent": "desk"}))[0] == 403
