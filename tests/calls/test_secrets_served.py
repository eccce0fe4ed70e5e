"""The gateway as operators run it, a process that logs all it can: what tools know of secrets comes out nowhere."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from offhook.gateway.rehearsal.account import CONSOLE_TOKEN
from offhook.gateway.rehearsal.model.script import CallTool, Reply, Script
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.phone.steps import HangUp, Pause, Say, WaitForAgent
from offhook.gateway.rehearsal.run import PUBLIC_URL, fetch_record, gateway_process
from tests.rig.process import python_path
from tests.rig.sounds import sound

pytestmark = [pytest.mark.wall_clock(calm=True), pytest.mark.usefixtures("forked")]

PLANTED = {
    "SHOP_API_KEY": "sk-planted-51c08d77e2",  # named like a secret; a Python tool reads it
    "ORDERS": "planted/orders+canary=4711",  # a secret because the agent file names it
    "STAFF": 'planted-staff "quoted" é',  # looks different in JSON and in a URL
}
TOOLS = [
    {"function": "tests.calls.served_tools:leak"},
    {
        "name": "ask",
        "description": "Ask.",
        "parameters": {"type": "object", "properties": {"what": {"type": "string"}, "path": {"type": "string"}}},
        "http": {
            "method": "POST",
            "url": "${BASE}/{path}",
            "headers": {"Authorization": "Bearer ${ORDERS}"},
            "query": {"key": "${SHOP_API_KEY}"},
            "body": {"staff": "${STAFF}", "what": "{what}"},
            "allow_private": True,
        },
    },
]
GREETING = Reply("text", (Speak("Hello.", length_ms=300),))
END = Speak("So be it.", length_ms=300)


def script() -> Script:
    """One tool call after the other, the secrets among the arguments."""
    every = tuple(PLANTED.values())
    asked = [
        *(CallTool("leak", {"what": what}) for what in (*every, "raise", "tell")),
        CallTool("leak", {"what": [*every]}),  # refused
        CallTool(every[0], {every[1]: every[2]}),  # no such tool
        *(CallTool("ask", {"path": path, "what": every[0]}) for path in ("ok", "broken", "refused", every[0])),
        CallTool("ask", {"path": "..", "what": every[1]}),  # refused
    ]
    on = ["caller", *(f"tool:{call.name}" for call in asked)]
    return Script((GREETING, *(Reply(after, (do,)) for after, do in zip(on, [*asked, END], strict=True))))


async def echo(request: web.Request) -> web.Response:
    """Repeats all it was sent, in several ways."""
    sent = {**request.headers, "url": str(request.url), "raw": request.raw_path, "body": await request.text()}
    sent |= {"query": dict(request.query), "json": json.loads(sent["body"])}  # type: ignore[dict-item]
    status = {"/broken": 500, "/refused": 422}.get(request.path, 200)
    return web.json_response(sent, status=status)


async def test_served_process_writes_no_secret_of_its_tools(tmp_path: Path) -> None:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", echo)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    agent = {"name": "desk", "greeting": {"text": "Greet."}, "tools": TOOLS, "variables": {"note": "none"}}
    (tmp_path / "desk.yaml").write_text(json.dumps(agent))
    log, token = tmp_path / "gateway.log", secrets.token_hex(16)
    environment = {
        **PLANTED,
        "BASE": f"http://127.0.0.1:{runner.addresses[0][1]}",
        "OFFHOOK_LOG_LEVEL": "debug",
        "OFFHOOK_API_TOKEN": "planted-api-token-9931",
        "PYTHONPATH": python_path(),
    }
    pages: dict[str, str] = {}
    async with (
        ModelServer(script()) as model,
        gateway_process(tmp_path / "desk.yaml", model, auth_token=token, log=log, environment=environment) as url,
        aiohttp.ClientSession(base_url=url, headers={"Authorization": f"Bearer {CONSOLE_TOKEN}"}) as http,
    ):
        steps = (WaitForAgent("end"), Say(str(sound("uh_huh"))), WaitForAgent("end"), Pause(300), HangUp())
        call = SimulatedCall(url, steps, public_url=PUBLIC_URL, auth_token=token)

        async def fetch(path: str, **request: object) -> None:
            async with http.request(request.pop("method", "GET"), path, **request) as answer:  # type: ignore[arg-type]
                pages[f"{path} {answer.status}"] = await answer.text() + str(dict(answer.headers))

        running = asyncio.create_task(call.run())
        async with asyncio.timeout(60):
            while not model.sessions or not model.sessions[0].tool_answers:
                await asyncio.sleep(0.02)
        live = f"/console/api/calls/{call.call_sid}"
        await fetch(live)
        events = await http.get("/console/events")
        pages["/console/events"] = (await events.content.read(20_000)).decode("utf-8", "replace")
        events.close()
        truth = await running
        record = await fetch_record(url, truth)
        assert record is not None
        for path in ("/metrics", "/console", "/console/api/calls", f"/console/api/view/{call.call_sid}", live):
            await fetch(path)
        bearer = {"Authorization": f"Bearer {environment['OFFHOOK_API_TOKEN']}"}
        await fetch("/calls", method="POST", headers=bearer, json={"to": PLANTED["SHOP_API_KEY"], "agent": "desk"})
        await fetch("/calls", method="POST", headers={"Authorization": "Bearer wrong"}, json={})
        await fetch("/console/token", method="POST", json={"agent": "nobody"})
    await runner.cleanup()
    outcomes = [tool.outcome for tool in record.tool_calls]
    assert outcomes == [*["done"] * 3, *["failed"] * 4, "done", *["failed"] * 2, "done", "failed"], record.tool_calls
    assert model.failures == []
    assert truth.violations == []
    told = str([answer.response for session in model.sessions for answer in session.tool_answers])
    assert "[secret]" in told
    pages["told to the model"] = told
    pages["log"] = log.read_text()
    assert " DEBUG " in pages["log"]
    assert "RuntimeError: 401 for key [secret]" in pages["log"]
    known = {**PLANTED, "OFFHOOK_CONSOLE_TOKEN": CONSOLE_TOKEN, "OFFHOOK_API_TOKEN": environment["OFFHOOK_API_TOKEN"]}
    # Half a secret is one, too: long lines are cut, in the middle or at an end.
    parts = re.compile("|".join(re.escape(part) for secret in known.values() for part in (secret[:11], secret[-9:])))
    found = [
        (where, text[max(0, m.start() - 150) : m.end() + 50])
        for where, text in pages.items()
        for m in parts.finditer(text)
    ]
    assert not found, "\n".join(map(str, found))
