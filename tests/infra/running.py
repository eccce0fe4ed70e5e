"""A gateway process under simulated calls, scraped by a real Prometheus; all three run on until the block is left.

Beside the calls with known delays (tests/truth.py) a few go wrong on purpose, so that every metric has something to
say: a model connection that is lost, a tool, turns decided by the gateway, a slow model, requests that are refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import uvloop

from offhook.gateway.rehearsal.account import CONSOLE_TOKEN
from offhook.gateway.rehearsal.model.script import Abort, CallTool, Fault, Reply, Script
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.phone.steps import HangUp, Pause, Say, SayOver, WaitForAgent
from offhook.gateway.rehearsal.phone.twilio_wire import sign
from offhook.gateway.rehearsal.results.measured import call_report
from offhook.gateway.rehearsal.results.report import report_of, write_report
from offhook.gateway.rehearsal.run import PUBLIC_URL, fetch_record, gateway_process
from offhook.gateway.store.record import CallRecord
from tests.infra.live_prometheus import LivePrometheus, prometheus
from tests.rig.process import in_thread, python_path
from tests.truth import AGENT, Truth, buzz, place, sid_of, words

__all__ = ["Running", "running"]

EVALUATION_S = 3  # all rules each second for two minutes cost as much as the calls
LOCAL, TOOLS = "+15550301", "+15550302"
MORE_AGENTS = {
    "local.yaml": f"""
name: local
numbers: ['{LOCAL}']
instructions: 'call {{{{call_sid}}}}.'
turn_detection: {{mode: local, end_silence_ms: 300}}
""",
    "tools.yaml": f"""
name: tools
numbers: ['{TOOLS}']
instructions: 'call {{{{call_sid}}}}.'
greeting: {{text: Greet the caller.}}
tools: [{{function: 'tests.calls.slow_tools:a_while', name: a_while}}]
""",
}


@dataclass
class Running:
    """What is known once the calls are over.

    Wall-clock times: `during_s` in the midst of the calls, `at_s` when Prometheus knew all of those with known
    delays and no others, `end_s` after those that go wrong. `truth`: of the former.
    `late_s`: how late this process ran its timers, every 5 ms: what it says of times is no better than that.
    """

    url: str
    prometheus: LivePrometheus
    during_s: float
    at_s: float
    end_s: float
    truth: Truth
    first: str  # /metrics before the first call
    last: str
    percentiles: dict[str, dict[str, Any]]  # by segment, of the console's JSON
    report: dict[str, Any]  # report.json
    took_s: float
    records: list[CallRecord] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


@contextlib.contextmanager
def running(folder: Path, *, calls: int, turns: int, faults: bool = True) -> Iterator[Running]:
    """Place the calls; the gateway and Prometheus stay for as long as the block."""
    with in_thread(_running(folder, calls, turns, faults), uvloop.run) as result:
        yield result


@contextlib.asynccontextmanager
async def _running(folder: Path, calls: int, turns: int, faults: bool) -> AsyncIterator[Running]:
    scripts: dict[str, Script] = {}
    agents = {"truth.yaml": AGENT, **(MORE_AGENTS if faults else {})}
    for name, text in agents.items():
        (folder / name).write_text(text)
    auth_token = secrets.token_hex(16)
    environment = {
        "OFFHOOK_AGENT": ",".join(str(folder / name) for name in agents),
        "OFFHOOK_MAX_CALLS": "200",
        "OFFHOOK_LOG_LEVEL": "error",
        "PYTHONPATH": python_path(),
    }
    async with (
        ModelServer(lambda setup: scripts[sid_of(setup)]) as model,
        gateway_process(
            folder / "truth.yaml",
            model,
            auth_token=auth_token,
            log=folder / "gateway.log",
            environment=environment,
        ) as url,
    ):
        named = {"public_url": PUBLIC_URL, "auth_token": auth_token}
        port = urlsplit(url).port
        assert port is not None
        scraping = prometheus(port, folder, CONSOLE_TOKEN, EVALUATION_S)
        server = await asyncio.to_thread(scraping.__enter__)
        try:
            await asyncio.to_thread(server.wait_for, "offhook_turn_gap_seconds_count == 0")
            first = await _get(url, "/metrics")
            late_s: list[float] = []
            probe = asyncio.create_task(_probe(late_s))
            began_s = time.monotonic()
            lived = await place(url, model, scripts, folder, calls=calls, turns=turns, named=named)
            probe.cancel()
            took_s = time.monotonic() - began_s
            truth = Truth()
            reports, records = [], []
            for one in lived:
                truth.add_call(one)
                record = await fetch_record(url, one.truth)
                assert record is not None
                records.append(record)
                reports.append(call_report(one.truth, record, None))
            await asyncio.to_thread(write_report, report_of(reports), folder / "report.json")
            page = json.loads(await _get(url, "/console/api/percentiles?window=5m"))
            await _scraped(server, url)
            at_s = await _evaluated(server)
            if faults:
                await _go_wrong(url, scripts, folder, named)
                await _refused(url, auth_token, lived[0].truth.call_sid)
                await _scraped(server, url)
            end_s = await _evaluated(server)
            last = await _get(url, "/metrics")
            yield Running(
                url,
                server,
                at_s - 10,
                at_s,
                end_s,
                truth,
                first,
                last,
                {segment["name"]: segment for segment in page["segments"]},
                json.loads((folder / "report.json").read_text()),
                took_s,
                records,
                late_s,
                [step.failed for one in lived for step in one.truth.steps if step.failed],
            )
        finally:
            await asyncio.to_thread(scraping.__exit__, None, None, None)


async def _evaluated(server: LivePrometheus) -> float:
    """Once every rule has been evaluated on what is known now: the time by Prometheus' clock."""
    known_s = time.time()
    async with asyncio.timeout(60):
        while True:
            rules = await asyncio.to_thread(server.last_evaluations)
            if min(rules) > known_s + EVALUATION_S:  # a group begins with rules that the next ones read
                return time.time()
            await asyncio.sleep(0.2)


async def _scraped(server: LivePrometheus, url: str) -> None:
    """Until Prometheus knows all that the gateway knows now."""
    lines = (await _get(url, "/metrics")).splitlines()
    frames = sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("offhook_frames_total"))
    turns = sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("offhook_turn_gap_seconds_count"))
    await asyncio.to_thread(server.wait_for, f"sum(offhook_frames_total) >= {frames - 1:g}")
    await asyncio.to_thread(server.wait_for, f"sum(offhook_turn_gap_seconds_count) >= {turns:g}")


async def _probe(late_s: list[float]) -> None:
    while True:
        due_s = time.monotonic() + 0.005
        await asyncio.sleep(0.005)
        late_s.append(max(0.0, time.monotonic() - due_s))


async def _get(url: str, path: str) -> str:
    headers = {"Authorization": f"Bearer {CONSOLE_TOKEN}"}
    async with aiohttp.ClientSession(headers=headers) as session, session.get(url + path) as response:
        assert response.status == 200, (path, response.status)
        return await response.text()


async def _go_wrong(url: str, scripts: dict[str, Script], folder: Path, named: dict[str, Any]) -> None:
    """Calls that make the rest of the metrics move."""
    line = str(words(folder))
    yes = Speak("Yes.", buzz(folder, 0), delay_ms=300, transcript="none")
    again = (Say(line), WaitForAgent("end"), Say(line), WaitForAgent("end"), HangUp())
    plans = {
        "the model is lost, and resumed": (
            "",
            Script(default=Reply("caller", (yes,)), faults=(Fault(2.0, (Abort(),)),)),
        ),
        "the model is slow to begin": ("", Script(default=Reply("caller", (yes,)), setup_delay_ms=3_000)),
        "the gateway decides the turns": (LOCAL, Script(default=Reply("caller", (yes,)))),
        "a tool": (
            TOOLS,
            Script(
                (
                    Reply("text", (Speak("Hello.", buzz(folder, 0)),)),
                    Reply("caller", (CallTool("a_while"),)),
                    Reply("tool:a_while", (yes,)),
                ),
                default=Reply("caller", (yes,)),
            ),
        ),
        "interrupted, and the model still talks": (
            "",
            Script(default=Reply("caller", (Speak("Yes.", buzz(folder, 0), late_chunks=3, speed=1.0),))),
        ),
    }
    calls = []
    for name, (dialled, script) in plans.items():
        sid = "CA" + secrets.token_hex(16)
        scripts[sid] = script
        steps = (Say(line), SayOver(line, 400), Pause(1_500), HangUp()) if "interrupted" in name else again
        calls.append(SimulatedCall(url, (Pause(900), *steps), call_sid=sid, dialled=dialled or "+15550199", **named))
    await asyncio.gather(*(call.run() for call in calls))


async def _refused(url: str, auth_token: str, ended: str) -> None:
    """Requests that are not let in, and a socket that talks nonsense."""
    async with aiohttp.ClientSession() as session:
        form = {"CallSid": ended, "From": "+15550100", "To": "+15550199", "CallStatus": "ringing"}
        async with session.post(f"{url}/twilio/voice", data=form) as response:
            assert response.status == 403
        signed = {"X-Twilio-Signature": sign(f"{PUBLIC_URL}/twilio/voice", form, auth_token)}
        async with session.post(f"{url}/twilio/voice", data=form, headers=signed) as response:
            assert "Hangup" in await response.text()  # the call is over
        async with session.get(f"{url}/twilio/media", headers={"X-Twilio-Signature": "x"}) as response:
            assert response.status in (400, 403)
        nothing = {"X-Twilio-Signature": sign(f"{PUBLIC_URL}/twilio/voice", {}, auth_token)}
        async with session.post(f"{url}/twilio/voice", data={}, headers=nothing) as response:
            assert response.status == 400  # no CallSid
