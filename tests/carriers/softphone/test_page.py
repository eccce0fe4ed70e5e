"""The softphone in real Chromium, whose microphone plays a file and whose loudspeaker is captured sample by sample."""

from __future__ import annotations

import asyncio
import json
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from offhook.gateway.app import Gateway
from offhook.gateway.carriers.softphone.messages import TELEPHONE, WIDE
from offhook.gateway.rehearsal.model.script import Reply
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.store.record import CallRecord
from offhook.media.wav import write_wav
from tests.carriers.softphone.desk import desk, microphone
from tests.rig.chromium import Chromium
from tests.web.console.console_rig import Watch, faults

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = pytest.mark.wall_clock(calm=True)

SPEAKS_S, SPEAKS_AGAIN_S = 1.6, 5.0  # the caller, after the microphone was opened
HEARD_WITHIN_MS = 40.0
GREETING, ANSWER = "Thank you for calling the Blue Door.", "Of course. One moment."

# Every sample that reaches a loudspeaker, with the time at which it is played. A script processor, because the page's
# policy lets no worklet of the test in.
CAPTURE = """
window.played = [];
const connect = AudioNode.prototype.connect;
AudioNode.prototype.connect = function (to, ...rest) {
  if (to instanceof AudioDestinationNode && !(this instanceof ScriptProcessorNode)) {
    const tape = this.context.createScriptProcessor(256, 1, 1);
    tape.onaudioprocess = (event) => played.push([event.playbackTime, [...event.inputBuffer.getChannelData(0)]]);
    connect.call(this, tape);
    connect.call(tape, to);
  }
  return connect.call(this, to, ...rest);
};
const WS = window.WebSocket;
window.sockets = [];
window.WebSocket = class extends WS { constructor(...given) { super(...given); sockets.push(this); } };
"""


def tone(path: Path, seconds: float) -> Path:
    """A voice without a pause: what was heard of it can be counted."""
    samples = (9_000 * np.sin(2 * np.pi * 440 * np.arange(int(24_000 * seconds)) / 24_000)).astype(np.int16)
    write_wav(path, samples, 24_000)
    return path


async def record_of_last(gateway: Gateway) -> CallRecord:
    async with asyncio.timeout(10):
        while gateway.calls or not len(gateway.records):
            await asyncio.sleep(0.02)
    return gateway.records.recent(1)[0]


async def on_the_line(page: Page) -> None:
    await page.get_by_role("button", name="Call", exact=True).click()
    await page.get_by_role("status").filter(has_text="On the line").wait_for(timeout=10_000)


async def played(page: Page, rate_hz: int = 8_000) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """The times and the samples of everything that was played."""
    blocks = json.loads(await page.evaluate("JSON.stringify(played)"))
    times = np.concatenate([begins_s + np.arange(len(block)) / rate_hz for begins_s, block in blocks])
    return times, np.concatenate([np.asarray(block, np.float32) for _, block in blocks])


def stretches_ms(times: NDArray[np.float64], samples: NDArray[np.float32], pause_s: float = 0.2) -> list[float]:
    """The lengths of what was played without a pause of `pause_s`."""
    sounding = times[np.abs(samples) > 1e-3]
    edges = np.flatnonzero(np.diff(sounding) > pause_s)
    begins, ends = sounding[np.r_[0, edges + 1]], sounding[np.r_[edges, len(sounding) - 1]]
    return [float(ms) for ms in 1000 * (ends - begins)]


@pytest.mark.parametrize("wide", [False, True])
async def test_whole_call_with_barge_in_keys_and_mute(chromium: Chromium, tmp_path: Path, wide: bool) -> None:
    watch = Watch()
    replies = (
        Reply("text", (Speak(GREETING, tone(tmp_path / "greeting.wav", 5.0)),)),
        Reply("caller", (Speak(ANSWER, tone(tmp_path / "answer.wav", 2.5)),)),
    )
    mic = microphone(tmp_path / "mic.wav", (SPEAKS_S, "wait_stop"), (SPEAKS_AGAIN_S, "wait_stop"))
    async with desk(*replies) as (gateway, url, model), chromium(mic) as browser:
        page = await browser.new_page()
        await page.add_init_script(CAPTURE)
        watch.page(page, url)
        await page.goto(f"{url}/console")
        await page.get_by_role("link", name="Talk to desk").click()
        await page.get_by_label("Wide sound").set_checked(wide)
        await on_the_line(page)
        (call,) = gateway.calls.values()
        assert call.facts.formats == (WIDE if wide else TELEPHONE)
        said = page.get_by_role("listitem")
        await said.filter(has_text="Barge-in").wait_for(timeout=10_000)  # live, beside the phone
        await page.get_by_role("button", name="Mute").click()
        await page.get_by_role("button", name="5", exact=True).click()
        await said.filter(has_text=ANSWER).wait_for(timeout=10_000)
        async with asyncio.timeout(10):
            while not (len(call.record.turns) > 1 and call.record.turns[-1].reply_ended_ms):
                await asyncio.sleep(0.05)
        await page.wait_for_timeout(300)  # until the capture has what was played
        # A page that is held up captures nothing meanwhile, and plays the rest later; between the replies is more.
        everything = await played(page, 24_000 if wide else 8_000)
        heard, sounding = stretches_ms(*everything, pause_s=0.8), stretches_ms(*everything, pause_s=0.05)
        await page.get_by_role("button", name="Hang up").click()
        record = await record_of_last(gateway)
        await page.get_by_role("heading", name="over").wait_for()
        for width, colours in product((1280, 390), ("light", "dark")):
            await page.set_viewport_size({"width": width, "height": 844})
            await page.emulate_media(color_scheme=colours, reduced_motion="reduce")
            assert await faults(page) == [], (width, colours)
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (width, colours)
        texts = [text.text for session in model.sessions for text in session.texts]
    greeting, answer = record.turns
    (barge_in,) = record.barge_ins  # the second line was said while muted
    assert record.end_reason == "caller_hung_up"
    assert greeting.interrupted
    assert not answer.interrupted
    assert any("pressed the key 5" in text for text in texts)
    assert heard[0] == pytest.approx(greeting.heard_ms, abs=HEARD_WITHIN_MS)
    assert heard[1] > answer.heard_ms - HEARD_WITHIN_MS
    assert sum(sounding) < greeting.heard_ms + answer.heard_ms + 2 * HEARD_WITHIN_MS
    assert barge_in.stopped_ms is not None
    assert record.samples_after_clear == 0
    assert [text for text in watch.complaints if "ScriptProcessorNode" not in text] == []  # the capture's own
    assert watch.elsewhere == []


async def test_cut_socket_returns_and_reload_hangs_up(chromium: Chromium, tmp_path: Path) -> None:
    replies = (Reply("text", (Speak(GREETING, tone(tmp_path / "greeting.wav", 3.0)),)),)
    mic = microphone(tmp_path / "mic.wav")
    async with desk(*replies) as (gateway, url, _), chromium(mic) as browser:
        page = await browser.new_page()
        await page.add_init_script(CAPTURE)
        await page.goto(f"{url}/console/talk?agent=desk")
        await on_the_line(page)
        (call,) = gateway.calls.values()
        async with asyncio.timeout(10):
            while not call.record.audio_out_ms:
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.8)  # of the greeting
        call.line.abort()
        async with asyncio.timeout(10):
            while len(call.record.streams) < 2:
                await asyncio.sleep(0.02)
        await page.get_by_role("status").filter(has_text="On the line").wait_for()
        async with asyncio.timeout(10):
            while not call.record.turns[0].reply_ended_ms:
                await asyncio.sleep(0.05)
        await page.get_by_text("Steer this call").click()
        await page.get_by_label("Words").fill("We close at five.")
        await page.get_by_role("button", name="Note it to the model").click()
        await page.get_by_role("listitem").filter(has_text="We close at five., by console (127.0.0.1)").wait_for()
        heard_ms = sum(stretches_ms(*await played(page)))
        await page.reload()
        record = await record_of_last(gateway)
        await page.get_by_role("status").filter(has_text="Not on the line").wait_for()
    assert record.end_reason == "caller_hung_up"
    assert len(record.streams) == 2
    assert [(one.what, one.detail, one.done) for one in record.actions] == [("note", "We close at five.", True)]
    assert record.turns[0].heard_ms == record.turns[0].received_ms
    assert heard_ms == pytest.approx(record.turns[0].heard_ms, abs=200)  # the seam: what was on its way is said again


REFUSING = "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', '%s'); };"
SUSPENDED = """
Object.defineProperty(AudioContext.prototype, "state", { get: () => "suspended" });
AudioContext.prototype.resume = () => new Promise(() => {});
"""
TROUBLE = {
    REFUSING % "NotAllowedError": "The microphone was refused.",
    REFUSING % "NotFoundError": "No microphone was found.",
    "Object.defineProperty(window, 'isSecureContext', { value: false });": "open the console over https",
    SUSPENDED: "The browser holds the sound back",
}


async def test_each_trouble_is_a_sentence_on_the_page(chromium: Chromium, tmp_path: Path) -> None:
    async with desk() as (gateway, url, _), chromium(microphone(tmp_path / "mic.wav")) as browser:
        for script, sentence in TROUBLE.items():
            page = await browser.new_page()
            await page.add_init_script(script)
            await page.goto(f"{url}/console/talk?agent=desk")
            button = page.get_by_role("button", name="Call", exact=True)
            if await button.is_enabled():
                await button.click()
            await page.get_by_role("alert").filter(has_text=sentence).wait_for(timeout=10_000)
            await page.close()
        await record_of_last(gateway)
