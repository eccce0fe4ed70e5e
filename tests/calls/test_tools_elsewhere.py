"""Tools that live elsewhere, in whole calls: services and MCP servers answer, fail, are interrupted, talk too much.

All calls are placed at once; the service and the MCP server are real, and repeat every secret they are given.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from offhook.gateway.rehearsal.model.script import CallTool, Reply, Script
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.phone.steps import HangUp, Pause, Say, SayOver, WaitForAgent
from tests.needs import require
from tests.rig.calls import Outcome, Plan, place_calls
from tests.rig.sounds import sound

require("mcp")

SECRET = "planted-canary-4711"
MCP_SERVER = str(Path(__file__).parents[1] / "tools" / "mcp" / "mcp_server.py")
GREETING = Reply("text", (Speak("Hello.", length_ms=400),))
ANSWER = Reply("any", (Speak("So be it.", length_ms=400),))
STEPS = (WaitForAgent("end"), Say(str(sound("uh_huh"))), WaitForAgent("end"), Pause(300), HangUp())
OVER = (
    WaitForAgent("end"),
    Say(str(sound("uh_huh"))),
    SayOver(str(sound("saturday")), after_ms=1_500),
    WaitForAgent("end"),
    HangUp(),
)


# A port each: a service that fails five times in a row is left alone, whoever asks.
SERVICES = ("OK", "ORDER", "SLOW", "BROKEN", "BIG", "ELSEWHERE")


class Service(threading.Thread):
    """HTTP services in a thread of their own."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: list[str] = []
        self.left: list[str] = []
        self._ready = threading.Event()
        self.urls: dict[str, str] = {}

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request.path)
        told = {"you_sent": {**request.headers, "query": request.query_string}}
        try:
            match request.path:
                case "/slow":
                    await asyncio.sleep(30)
                case "/big":
                    return web.json_response({"much": "x" * 10_000_000})
                case "/broken":
                    return web.json_response(told, status=500)
                case "/elsewhere":
                    return web.Response(status=302, headers={"Location": f"http://10.0.0.1/?key={SECRET}"})
        except asyncio.CancelledError:
            self.left.append(request.path)
            raise
        return web.json_response(told)

    def run(self) -> None:
        async def serve() -> None:
            app = web.Application()
            app.router.add_get("/{path}", self._answer)
            runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            for _ in SERVICES:
                await web.TCPSite(runner, "127.0.0.1", 0).start()
            ports = [address[1] for address in runner.addresses]
            self.urls = {name: f"http://127.0.0.1:{port}" for name, port in zip(SERVICES, ports, strict=True)}
            self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
            self._ready.set()
            await self._end.wait()
            await runner.cleanup()

        asyncio.run(serve())

    def __enter__(self) -> Service:
        self.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self.join(10)


def http(path: str, **more: Any) -> str:
    tool = {
        "name": "ask",
        "description": "Asks.",
        "http": {
            "url": f"${{{path.strip('{}').upper()}}}/{path}",
            "headers": {"Authorization": "Bearer ${KEY}"},
            "query": {"key": "${KEY}"},
        },
    }
    tool["http"] = {**tool["http"], "allow_private": True, **more}  # type: ignore[dict-item]
    return f"greeting: {{text: Greet.}}\ntools: {json.dumps([tool])}"


def mcp(diary: Path) -> str:
    env = {"DIARY": str(diary), "LIBRARY_KEY": "${KEY}", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    server = {"mcp": {"command": sys.executable, "args": [MCP_SERVER], "env": env}}
    return f"greeting: {{text: Greet.}}\ntools: {json.dumps([server])}"


def asks(tool: str, **arguments: Any) -> Script:
    return Script((GREETING, Reply("caller", (CallTool(tool, arguments),)), Reply(f"tool:{tool}", ANSWER.do)))


def asks_and_talks(tool: str) -> Script:
    talk = Speak("Of course.", sound=sound("of_course"))
    return Script((GREETING, Reply("caller", (CallTool(tool, {}), talk)), Reply("caller", ANSWER.do)))


Lived = tuple[dict[str, Outcome], Service, Path, str]


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Lived:
    """What came of the calls, the service, the MCP server's diary, and all that was written down."""
    diary = tmp_path_factory.mktemp("mcp") / "diary"
    diary.touch()
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    keep = Keep(logging.DEBUG)
    loggers = {logging.getLogger(name): logging.getLogger(name).level for name in ("gateway", "offhook", "aiohttp")}
    for logger in loggers:
        logger.addHandler(keep)
        logger.setLevel(logging.DEBUG)
    logging.getLogger().addHandler(keep)
    plans = {
        "http ok": Plan(STEPS, asks("ask"), agent=http("ok")),
        "http wrong": Plan(STEPS, asks("ask", made_up=1), agent=http("{order}")),
        "http slow": Plan(STEPS, asks("ask"), agent=http("slow", attempt_s=0.3)),
        "http broken": Plan(STEPS, asks("ask"), agent=http("broken")),
        "http big": Plan(STEPS, asks("ask"), agent=http("big")),
        "http elsewhere": Plan(STEPS, asks("ask"), agent=http("elsewhere")),
        "http barge-in": Plan(OVER, asks_and_talks("ask"), agent=http("slow", attempt_s=30)),
        "mcp ok": Plan(STEPS, asks("find_books", about="tea", at_most="2"), agent=mcp(diary)),
        "mcp wrong": Plan(STEPS, asks("find_books", at_most="many"), agent=mcp(diary)),
        "mcp broken": Plan(STEPS, asks("tell_secrets"), agent=mcp(diary)),
        "mcp big": Plan(STEPS, asks("everything"), agent=mcp(diary)),
        "mcp barge-in": Plan(OVER, asks_and_talks("hang"), agent=mcp(diary)),
    }
    metrics: list[str] = []
    with Service() as service:
        outcomes = place_calls(plans, environ={"KEY": SECRET, **service.urls}, metrics=metrics, speed=1.0)
    logging.getLogger().removeHandler(keep)
    for logger, level in loggers.items():
        logger.removeHandler(keep)
        logger.setLevel(level)
    records = [msgspec.json.encode(outcome.record).decode() for outcome in outcomes.values()]
    return outcomes, service, diary, "\n".join([*lines, *metrics, *records])


@pytest.mark.parametrize(
    ("plan", "outcome", "told"),
    [
        ("http ok", "done", "Bearer [secret]"),
        ("http wrong", "failed", "There is no parameter 'made_up'"),
        ("http slow", "failed", "The service did not answer in time."),
        ("http broken", "failed", "The service had an error (500)."),
        ("http big", "failed", "The service's answer was too long"),
        ("http elsewhere", "failed", "The service has moved."),
        ("http barge-in", "cancelled", "whether any of it was done is not known"),
        ("mcp ok", "done", "tea, volume 2"),
        ("mcp wrong", "failed", "at_most"),
        ("mcp broken", "failed", "This did not work: "),
        ("mcp big", "failed", "too long or could not be read"),
        ("mcp barge-in", "cancelled", "whether any of it was done is not known"),
    ],
)
def test_tool_outcome_and_answer_sent_to_the_model(lived: Lived, plan: str, outcome: str, told: str) -> None:
    made = lived[0][plan]
    (call,) = made.record.tool_calls
    assert call.outcome == outcome, call
    answers = [json.dumps(answer.response) for session in made.sessions for answer in session.tool_answers]
    (answer,) = answers
    assert told in answer
    assert made.violations == []
    assert made.record.end_reason == "caller_hung_up"


def test_an_interruption_reaches_whoever_was_asked(lived: Lived) -> None:
    _, service, diary, _ = lived
    assert "/slow" in service.left
    assert "cancelled" in diary.read_text()


def test_the_operator_is_told_more_than_the_model(lived: Lived) -> None:
    outcomes = lived[0]
    (broken,) = outcomes["http broken"].record.tool_calls
    assert broken.error.startswith("GET ${BROKEN}/broken: answered 500: ")
    assert broken.error.endswith("(3 attempts)")
    (moved,) = outcomes["http elsewhere"].record.tool_calls
    assert "a redirect to http://10.0.0.1/?key=[secret]: redirects are not followed" in moved.error


def test_each_failure_is_counted_by_why(lived: Lived) -> None:
    counted = dict(re.findall(r'offhook_tool_failures_total\{reason="(\w+)"\} (\S+)', lived[3]))
    found = {reason: float(count) for reason, count in counted.items() if float(count)}
    assert found == {"arguments": 2, "timeout": 1, "status": 2, "bad_answer": 2, "tool_error": 1}


def test_no_secret_is_in_a_record_a_metric_or_a_log(lived: Lived) -> None:
    outcomes, service, _, written = lived
    assert "/ok" in service.seen
    assert "says: secret on stderr" in written
    assert SECRET not in written
    told = [str(answer.response) for o in outcomes.values() for s in o.sessions for answer in s.tool_answers]
    assert not [text for text in told if SECRET in text]
