"""SIGTERM ends a served process, whatever its tools do; and what blocks its loop is named in its log."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from offhook.gateway.rehearsal.model.reached import model_environ
from offhook.gateway.rehearsal.model.script import CallTool, Reply, Script
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.phone.steps import WaitForEnd
from tests.rig.process import python_path

pytestmark = [pytest.mark.wall_clock(calm=True), pytest.mark.usefixtures("forked")]

DRAIN_S, END_S, SLACK_S = 1.0, 5.0, 4.0


@asynccontextmanager
async def served(model: ModelServer, folder: Path, fields: str = "") -> AsyncIterator[tuple[Process, str, Path]]:
    """`offhook serve` with one agent: the process, its URL and its log."""
    agent, log = folder / "desk.agent.yaml", folder / "log"
    agent.write_text("name: desk\ninstructions: Be kind.\ngreeting: {text: Greet.}\n" + fields)
    own = {"OFFHOOK_PORT": "0", "OFFHOOK_INSECURE": "1", "OFFHOOK_DRAIN_S": str(DRAIN_S)}
    with log.open("wb") as log_file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "offhook", "serve", "--agent", str(agent)),
            env={**os.environ, **model_environ(model), **own, "PYTHONPATH": python_path()},
            stdout=asyncio.subprocess.PIPE,
            stderr=log_file,
        )
    try:
        assert process.stdout is not None
        yield process, (await process.stdout.readline()).decode().split()[-1], log
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def ended(process: Process, within_s: float) -> tuple[int, float]:
    """The exit code after a SIGTERM, and how long it took."""
    began_s = time.monotonic()
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(within_s):
        code = await process.wait()
    return code, time.monotonic() - began_s


@pytest.mark.parametrize("tool", ["stubborn", "blocks", "hangs"])
async def test_sigterm_ends_the_process(tool: str, tmp_path: Path) -> None:
    fields = f"tools: [{{function: 'tests.cli.hanging_tools:{tool}', name: {tool}, timeout_s: 300}}]\n"
    script = Script((Reply("text", (CallTool(tool),)),))
    async with ModelServer(script) as model, served(model, tmp_path, fields) as (process, url, log):
        calling = asyncio.create_task(SimulatedCall(url, (WaitForEnd(60_000),), dialled="+15550100").run())
        try:
            async with asyncio.timeout(30):
                while not (model.sessions and model.sessions[0].tool_calls):
                    await asyncio.sleep(0.05)
            await asyncio.sleep(1.5)  # the loop is blocked by then, and sampled
            code, took_s = await ended(process, DRAIN_S + END_S + SLACK_S)
        finally:
            calling.cancel()
            await asyncio.gather(calling, return_exceptions=True)
    text = log.read_text()
    if tool == "hangs":  # a thread holds nothing up
        assert code == 0
        assert took_s < DRAIN_S + END_S
    else:
        assert code == 1
        assert "the process did not end by itself within 5 s" in text
    if tool == "blocks":
        assert "the event loop is blocked for 250 ms by tool blocks of call CA" in text
        assert "time.sleep(3600)" in text


def masked(text: str) -> bytes:
    """A client's text frame, its mask all zeros."""
    data = text.encode()
    return struct.pack("!BBH4x", 0x81, 0xFE, len(data)) + data


async def test_call_that_ends_unread_frees_its_place(tmp_path: Path) -> None:
    """The carrier does not read 31 s of speech, and then sends `stop`."""
    call_sid = "CA" + "5" * 32
    speech = Script((Reply("text", (Speak("A long story.", length_ms=31_000, speed=100.0),)),))
    async with (
        ModelServer(speech) as model,
        served(model, tmp_path) as (process, url, log),
        aiohttp.ClientSession() as http,
    ):
        form = {"CallSid": call_sid, "AccountSid": "AC" + "1" * 32, "To": "+15550100", "From": "+15550101"}
        async with http.post(f"{url}/twilio/voice", data=form) as response:
            token = (await response.text()).partition('value="')[2].partition('"')[0]
        where = urlsplit(url)
        with socket.socket() as carrier:
            carrier.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            carrier.connect((where.hostname, where.port))
            carrier.sendall(
                f"GET /twilio/media HTTP/1.1\r\nHost: {where.netloc}\r\nUpgrade: websocket\r\n"
                "Connection: Upgrade\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
                "Sec-WebSocket-Version: 13\r\n\r\n".encode()
            )
            start = {
                "accountSid": form["AccountSid"],
                "streamSid": "MZ1",
                "callSid": call_sid,
                "tracks": ["inbound"],
                "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
                "customParameters": {"token": token},
            }
            for message in (
                {"event": "connected", "protocol": "Call", "version": "1.0.0"},
                {"event": "start", "sequenceNumber": "1", "start": start, "streamSid": "MZ1"},
            ):
                carrier.sendall(masked(json.dumps(message)))
            await asyncio.sleep(4.0)  # the speech is sent at a hundred times its speed, and not read
            stop = {"accountSid": form["AccountSid"], "callSid": call_sid}
            carrier.sendall(
                masked(json.dumps({"event": "stop", "sequenceNumber": "2", "stop": stop, "streamSid": "MZ1"}))
            )
            async with asyncio.timeout(5):
                while True:
                    async with http.get(f"{url}/console/api/calls/{call_sid}") as response:
                        record = await response.json() if response.status == 200 else {}
                    if record.get("end_reason"):
                        break
                    await asyncio.sleep(0.1)
            assert record["end_reason"] == "caller_hung_up"
            async with http.get(f"{url}/metrics") as response:
                metrics = await response.text()
            assert "offhook_calls_active 0" in metrics
            assert "offhook_stuck_calls_total 0" in metrics
            code, took_s = await ended(process, DRAIN_S + END_S + SLACK_S)
    assert code == 0, log.read_text()
    assert took_s < 5.0
