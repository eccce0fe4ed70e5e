"""What a page of a direct session may ask the gateway for, without a browser and a model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from offhook.gateway.app import Gateway
from offhook.gateway.direct.routes import LIFE_S
from offhook.gateway.direct.session import RUNS_MAX
from offhook.gateway.rehearsal.model.script import Script
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.store.record import CallRecord
from tests.rig.gateway import numbered_agents, serving

TOOLS = """
tools:
  - {function: 'tests.direct.direct_tools'}
  - {builtin: end_call}
  - {builtin: take_message}
  - {builtin: collect_digits}
"""
TOKEN = {"OFFHOOK_BROWSER_TOKENS": "1"}


class Page:
    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http, self.url = http, url
        self.headers = {"Origin": url}
        self.begun: dict[str, Any] = {}

    async def post(self, path: str, **body: Any) -> tuple[int, Any]:
        async with self._http.post(f"{self.url}/console/{path}", json=body, headers=self.headers) as answer:
            is_json = answer.content_type == "application/json"
            return answer.status, await (answer.json() if is_json else answer.text())

    async def begin(self, agent: str = "desk") -> tuple[int, Any]:
        status, answer = await self.post("direct", agent=agent)
        if status == 201:
            self.begun = answer
        return status, answer

    async def ask(self, what: str, **body: Any) -> tuple[int, Any]:
        return await self.post(f"direct/{self.begun['session_id']}/{what}", **{"key": self.begun["key"], **body})

    async def tool(self, call_id: str, name: str, **arguments: Any) -> tuple[int, Any]:
        return await self.ask("tool", id=call_id, name=name, arguments=arguments)


@asynccontextmanager
async def paged(fields: str = TOOLS, **environ: str) -> AsyncIterator[tuple[Gateway, Page]]:
    _, agents = numbered_agents({"desk": f"greeting: {{text: Greet.}}\n{fields}", "other": "model: gpt-realtime-2.1"})
    async with (
        ModelServer(Script()) as model,
        aiohttp.ClientSession() as http,
        serving(agents, {"OFFHOOK_INSECURE": "1", **TOKEN, **environ}, model=model) as (gateway, url),
    ):
        yield gateway, Page(http, url)


async def record_of(gateway: Gateway, page: Page) -> CallRecord:
    async with asyncio.timeout(10):
        while (record := await gateway.records.get(page.begun["session_id"])) is None:
            await asyncio.sleep(0.01)
    return record


async def test_tools_run_as_in_a_call() -> None:
    async with paged() as (gateway, page):
        assert (await page.begin())[0] == 201
        assert page.begun["greeting"] == "Greet."
        _, done = await page.tool("c1", "free_tables", day="Friday")
        _, wrong = await page.tool("c2", "free_tables")
        _, unknown = await page.tool("c3", "dance")
        _, pinned = await page.tool("c4", "collect_digits")
        _, noted = await page.tool("c5", "take_message", recipient="Ada", message="Call back.")
        _, over = await page.tool("c6", "end_call", reason="done")
        assert (await page.ask("end"))[0] == 200
        assert (await page.tool("c7", "free_tables", day="Friday"))[0] == 404
        record = await record_of(gateway, page)
    (sent,) = done["message"]["toolResponse"]["functionResponses"]
    assert (sent["id"], sent["name"], sent["scheduling"]) == ("c1", "free_tables", "WHEN_IDLE")
    assert "two on Friday" in str(sent["response"])
    assert [answer["outcome"] for answer in (wrong, unknown, pinned, noted)] == ["failed", "failed", "failed", "done"]
    assert (done["ending"], over["ending"]) == ("", "agent_hung_up")
    assert "word for word" in done["prompts"][0]
    assert "One moment" in done["prompts"][0]
    assert [(tool.name, tool.outcome) for tool in record.tool_calls][:3] == [
        ("free_tables", "done"),
        ("free_tables", "failed"),
        ("dance", "failed"),
    ]
    assert (record.caller, record.end_reason, record.agent) == ("web:direct", "agent_hung_up", "desk")
    assert record.messages[0].recipient == "Ada"


async def test_cancelled_run_stops_and_sends_no_result() -> None:
    async with paged() as (gateway, page):
        await page.begin()
        running = asyncio.create_task(page.tool("c1", "hangs"))
        async with asyncio.timeout(5):
            while not any(session.record.tool_calls for _, session in gateway.direct._live.values()):
                await asyncio.sleep(0.01)
        again = await page.tool("c1", "hangs")
        await page.ask("cancel", id="c1")
        assert await running == again == (409, {"cancelled": True})
        await page.ask("cancel", id="nobody's")
        await page.ask("end")
        record = await record_of(gateway, page)
    (tool,) = record.tool_calls
    assert (tool.outcome, tool.answer) == ("cancelled", "")


async def test_only_its_own_page_is_answered() -> None:
    async with paged() as (gateway, page):
        await page.begin()
        begun = dict(page.begun)
        page.begun["key"] = "not its key"
        assert (await page.tool("c1", "free_tables", day="Friday"))[0] == 404
        page.begun = begun
        for origin in ({}, {"Origin": "https://evil.example"}):
            page.headers = origin
            assert (await page.tool("c1", "free_tables", day="Friday"))[0] == 403
            assert (await page.begin())[0] == 403
        page.headers = {"Origin": page.url}
        for body in ({"id": "", "name": "x"}, {"id": 1, "name": "x"}, {"id": "c", "name": "x", "arguments": []}):
            assert (await page.ask("tool", **body))[0] == 400
        (_, session), *_ = gateway.direct._live.values()
        assert session.record.tool_calls == []


async def test_sessions_and_their_tool_calls_are_bounded() -> None:
    async with paged(OFFHOOK_SOFTPHONE_CALLS="2") as (gateway, page):
        assert [(await page.begin())[0] for _ in range(3)] == [201, 201, 429]
        _, session = gateway.direct._live[page.begun["session_id"]]
        session._runs.update({str(n): None for n in range(RUNS_MAX)})
        assert (await page.tool("c1", "free_tables", day="Friday"))[0] == 429
        session._runs.clear()
        gateway.direct.tick(session.began_s + LIFE_S + 1)
        assert (await record_of(gateway, page)).end_reason == "stream_lost"
        assert [(await page.begin())[0] for _ in range(2)] == [201, 201]
        gateway.admission.draining = True
        assert (await page.begin())[0] == 503
        assert (await page.begin("other"))[0] == 400  # its model takes no page
    assert {record.end_reason for record in gateway.records.recent(9)} == {"stream_lost", "server_stopped"}


@pytest.mark.parametrize(
    ("fields", "environ"),
    [("limits: {cost: 1}", {}), ("limits: {cost_per_day: 1}", {}), ("", {"OFFHOOK_COST_PER_DAY": "5"})],
)
async def test_cost_limit_gives_no_token(fields: str, environ: dict[str, str]) -> None:
    prices = {} if not environ else {"OFFHOOK_PROVIDER": "gemini"}
    async with paged(fields, **environ, **prices) as (_, page):
        status, text = await page.post("token", agent="desk")
        assert (status, "cost limit" in text) == (400, True)


async def test_read_only_token_mints_and_begins_nothing() -> None:
    environ = {
        "OFFHOOK_INSECURE": "0",
        "TWILIO_AUTH_TOKEN": "x" * 32,
        "OFFHOOK_PUBLIC_URL": "https://voice.example",
        "OFFHOOK_ADMIN_PORT": "0",
        "OFFHOOK_CONSOLE_TOKEN": "a long console token",
        "OFFHOOK_CONSOLE_READ_TOKEN": "a token that only reads",
    }
    async with paged(**environ) as (_, page):
        for token, expected in (
            ("a token that only reads", [403, 403, 403]),
            ("a long console token", [201, 200, 200]),
        ):
            page.headers = {"Origin": page.url, "Authorization": f"Bearer {token}"}
            got = [(await page.begin())[0], (await page.post("token", agent="desk"))[0]]
            del page.headers["Origin"]  # a program
            got.append((await page.post("token", agent="desk"))[0])
            assert got == expected


async def test_page_is_off_without_browser_tokens() -> None:
    async with paged(OFFHOOK_BROWSER_TOKENS="0") as (_, page):
        assert (await page.begin())[0] in (404, 405)
