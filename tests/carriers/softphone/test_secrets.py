"""What a caller enters in secret on the page is in neither the recording nor what the model hears."""

from __future__ import annotations

import asyncio
import wave
from pathlib import Path

import aiohttp
import numpy as np
import pytest

from offhook.gateway.rehearsal.model.script import CallTool, Reply, Script
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.model.server import ModelServer
from tests.rig.gateway import numbered_agents, serving
from tests.rig.page import FRAME_S, Page, streaming

SCRIPT = Script((Reply("text", (CallTool("pin"),)), Reply("tool:pin", (Speak("Thank you.", length_ms=1_000),))))
TOOL = "{builtin: collect_digits, name: pin, options: {length: 4, secret: true}}"


@pytest.mark.parametrize("wide", [False, True])
async def test_what_is_said_beside_a_secret_is_silent(tmp_path: Path, wide: bool) -> None:
    fields = f"greeting: {{text: Greet.}}\ntools: [{TOOL}]\nrecording: {{enabled: true, directory: {tmp_path}}}"
    _, agents = numbered_agents({"desk": fields})
    async with (
        ModelServer(SCRIPT) as model,
        aiohttp.ClientSession() as http,
        serving(agents, {"OFFHOOK_INSECURE": "1"}, model=model) as (gateway, url),
    ):
        page = Page(http, url)
        async with streaming(page, await page.begin(wide=wide)) as socket:
            while not any(call.timeline.record.tool_calls for call in gateway.calls.values()):
                await asyncio.sleep(FRAME_S)
            gives = page.formats.gives
            tone = 8_000 * np.sin(np.arange(gives.rate_hz) * 2 * np.pi * 400 / gives.rate_hz)
            codes = gives.encode(tone.astype("<i2"))
            frames = [codes[at : at + gives.frame_bytes] for at in range(0, len(codes), gives.frame_bytes)]
            page.saying += frames  # a second of it while the digits are entered
            for key in "5194":
                await asyncio.sleep(0.2)
                await socket.send_json({"type": "key", "key": key})
            await page.until_heard(0.9)
            page.saying += frames  # and a second afterwards
            await asyncio.sleep(1.2)
            await socket.send_json({"type": "hang_up"})
            async with asyncio.timeout(20):
                while (record := await gateway.records.get(page.call_id)) is None:
                    await asyncio.sleep(FRAME_S)
    assert [(tool.name, tool.outcome) for tool in record.tool_calls] == [("pin", "done")]
    assert "5194" not in str(model.sessions[0].tool_answers)
    (path,) = tmp_path.glob("*.wav")
    with wave.open(str(path)) as file:
        kept = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)[:, 0]
    for samples, rate_hz in ((kept, 8_000), (np.frombuffer(bytes(model.sessions[0].audio), "<i2"), 16_000)):
        # A sine is above a quarter of its peak for arccos(1/4) of each quarter turn.
        loud_s = np.count_nonzero(np.abs(samples.astype(int)) > 2_000) / rate_hz / (2 / np.pi * np.arccos(0.25))
        assert loud_s == pytest.approx(1.0, abs=0.25)
