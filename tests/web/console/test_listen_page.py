"""Listening in with real Chromium: what its two loudspeakers play of a call, and how late."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from itertools import product
from pathlib import Path

import aiohttp
import numpy as np
import pytest

from offhook.gateway.rehearsal.model.script import Reply
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.media import mulaw
from offhook.media.resample import resample
from offhook.media.wav import read_wav, write_wav
from tests.carriers.softphone.desk import desk
from tests.rig.chromium import Chromium
from tests.rig.page import Page, streaming
from tests.rig.sounds import sound
from tests.web.console.console_rig import Watch, faults

pytestmark = pytest.mark.wall_clock(calm=True)

LATE_MS = (250.0, 900.0)  # half a second, and what a busy machine adds
HEARD_WITHIN_MS = 40.0

# What each side's panner gives to the loudspeakers, by the wall clock: [Date.now(), left samples, right samples].
CAPTURE = """
window.played = [];
const connect = AudioNode.prototype.connect;
AudioNode.prototype.connect = function (to, ...rest) {
  if (to instanceof AudioDestinationNode && this instanceof StereoPannerNode) {
    const tape = this.context.createScriptProcessor(256, 2, 1), side = played.push([]) - 1;
    tape.onaudioprocess = ({ inputBuffer, playbackTime }) => played[side].push(
      [Date.now(), playbackTime, [...inputBuffer.getChannelData(0)], [...inputBuffer.getChannelData(1)]]);
    connect.call(this, tape);
    connect.call(tape, to);
  }
  return connect.call(this, to, ...rest);
};
"""
LEVEL = "parseFloat(document.querySelector('.level.agent .meter span').style.width) || 0"


def spoken() -> list[bytes]:
    """A line of the caller's, in frames."""
    line, rate_hz = read_wav(sound("hello_i_would"))
    codes = mulaw.encode(resample(line, rate_hz, 8_000))
    return [codes[at : at + 160] for at in range(0, len(codes) - 159, 160)]


def heard_by_side(played: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of caller and agent: the wall clock (s), left and right at every sample."""
    sides = []
    for blocks in json.loads(played):
        offset_s = min(now_ms / 1000 - at_s for now_ms, at_s, _, _ in blocks)
        times = np.concatenate([at_s + np.arange(len(left)) / 8_000 for _, at_s, left, _ in blocks]) + offset_s
        left, right = (np.concatenate([np.asarray(block[n], np.float32) for block in blocks]) for n in (2, 3))
        sides.append((times, left, right))
    return sides


async def test_listener_hears_both_sides_half_a_second_late(chromium: Chromium, tmp_path: Path) -> None:
    watch = Watch()
    tone = (9_000 * np.sin(2 * np.pi * 440 * np.arange(24_000 * 3) / 24_000)).astype(np.int16)
    write_wav(tmp_path / "tone.wav", tone, 24_000)
    replies = (
        Reply("text", (Speak("Hello.", length_ms=300),)),
        Reply("caller", (Speak("One moment.", str(tmp_path / "tone.wav")),)),
    )
    environ = {"OFFHOOK_LISTENERS": "1"}
    async with (
        desk(*replies, fields="listen_in: true", environ=environ) as (gateway, url, _),
        aiohttp.ClientSession() as http,
        chromium() as browser,
    ):
        rig = Page(http, url)
        async with streaming(rig, await rig.begin()) as talking:
            (call,) = gateway.calls.values()
            page = await browser.new_page()
            await page.add_init_script(CAPTURE)
            watch.page(page, url)
            await page.goto(f"{url}/console#/call/{rig.call_id}")
            await page.get_by_role("button", name="Listen in").click()
            outcome = page.get_by_role("region", name="Listen in").get_by_role("status")
            await outcome.filter(has_text="You hear the call").wait_for()
            await page.get_by_role("listitem").filter(has_text="listens in, now, console (127.0.0.1)").wait_for()
            zero_s = time.time() - call.timeline.ms(call.clock()) / 1000
            rig.saying = spoken()
            async with asyncio.timeout(20):
                while await page.evaluate(LEVEL) < 20:
                    await asyncio.sleep(0.05)
            async with asyncio.timeout(20):
                while not (len(call.record.turns) > 1 and call.record.turns[1].reply_ended_ms):
                    await asyncio.sleep(0.05)
            await page.wait_for_timeout(1_000)
            caller, agent = heard_by_side(await page.evaluate("JSON.stringify(played)"))
            for width, colours in product((1280, 390), ("light", "dark")):
                await page.set_viewport_size({"width": width, "height": 844})
                await page.emulate_media(color_scheme=colours, reduced_motion="reduce")
                assert await faults(page) == [], (width, colours)
                assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (width, colours)
            await page.get_by_role("button", name="Stop listening").click()
            await page.get_by_role("listitem").filter(has_text="listens in, until").wait_for()
            await talking.send_json({"type": "hang_up"})
            await page.get_by_role("heading", name="over").wait_for()
            assert await page.get_by_role("button", name="Listen in").is_hidden()
            record = call.record
    (entry,) = record.listened
    answer = record.turns[1]
    times, left, right = agent
    tones = np.flatnonzero(np.abs(right) > 0.05)
    began_ms = 1000 * (times[tones[0]] - zero_s)
    assert np.abs(left).max() < 1e-3  # the agent is on the right, the caller on the left
    assert np.abs(caller[1]).max() > 0.05
    assert np.abs(caller[2]).max() < 1e-3
    assert 1000 * (times[tones[-1]] - times[tones[0]]) == pytest.approx(answer.heard_ms, abs=HEARD_WITHIN_MS)
    assert LATE_MS[0] < began_ms - answer.reply_started_ms < LATE_MS[1]
    assert entry.to_ms is not None
    assert [text for text in watch.complaints if "ScriptProcessorNode" not in text] == []  # the capture's own
    assert watch.elsewhere == []
    print(f"a listener is {began_ms - answer.reply_started_ms:.0f} ms late", file=sys.stderr)
