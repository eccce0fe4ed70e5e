"""SIGTERM ends a served process, whatever its tools do; and what blocks its loop is named in its log."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from offhook.gateway.rehearsal.model.script import CallTool, Reply, Script
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.phone.steps import WaitForEnd
from tests.rig.model import model_environ
from tests.rig.process import python_path

pytestmark = pytest.mark.wall_clock(calm=True)

DRAIN_S, END_S, SLACK_S = 1.0, 5.0, 4.0
AGENT = """name: desk
instructions: Be kind.
greeting: {{text: Greet.}}
tools: [{{function: 'tests.cli.hanging_tools:{tool}', name: {tool}, timeout_s: 300}}]
"""


@pytest.mark.parametrize("tool", ["stubborn", "blocks", "hangs"])
async def test_sigterm_ends_the_process(tool: str, tmp_path: Path) -> None:
    agent, log = tmp_path / "desk.agent.yaml", tmp_path / "log"
    agent.write_text(AGENT.format(tool=tool))
    async with ModelServer(Script((Reply("text", (CallTool(tool),)),))) as model:
        own = {"OFFHOOK_PORT": "0", "OFFHOOK_INSECURE": "1", "OFFHOOK_DRAIN_S": str(DRAIN_S)}
        with log.open("wb") as log_file:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "offhook", "serve", "--agent", str(agent)),
                env={**os.environ, **model_environ(model), **own, "PYTHONPATH": python_path()},
                stdout=asyncio.subprocess.PIPE,
                stderr=log_file,
            )
        calling = None
        try:
            assert process.stdout is not None
            url = (await process.stdout.readline()).decode().split()[-1]
            calling = asyncio.create_task(SimulatedCall(url, (WaitForEnd(60_000),), dialled="+15550100").run())
            async with asyncio.timeout(30):
                while not (model.sessions and model.sessions[0].tool_calls):
                    await asyncio.sleep(0.05)
            await asyncio.sleep(1.5)
            began_s = time.monotonic()
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(DRAIN_S + END_S + SLACK_S):
                code = await process.wait()
            took_s = time.monotonic() - began_s
        finally:
            if process.returncode is None:
                process.kill()
            if calling is not None:
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
    assert "ERROR" not in text or tool != "hangs"
