"""The seam to a model is true: one with other abilities carries a call, and nothing but itself was written for it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass

import aiohttp
import pytest

from offhook.gateway import app
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.phone.steps import HangUp, Pause, SayOver, WaitForAgent
from offhook.gateway.rehearsal.phone.truth import CallTruth
from offhook.gateway.rehearsal.quick_clock import run_quickly
from offhook.gateway.store.record import CallRecord
from offhook.media.formats import MULAW_8K
from offhook.media.resample import resample
from offhook.media.wav import read_wav
from tests.calls.lines import WAIT
from tests.models.second_model import RealtimeModel
from tests.models.second_service import Answer, RealtimeService, serving_realtime
from tests.rig.gateway import numbered_agents, serving
from tests.rig.sounds import sound

AGENT = """greeting: {text: Greet.}
tools: [{function: 'tests.calls.slow_tools:quick', name: quick}]"""


@dataclass(frozen=True)
class Seen:
    record: CallRecord
    truth: CallTruth
    service: RealtimeService


def codes_of(part: str) -> bytes:
    samples, rate_hz = read_wav(sound(part))
    return MULAW_8K.encode(resample(samples, rate_hz, 8_000))


async def call_the_desk() -> Seen:
    """A call that interrupts the greeting, is answered by way of a tool, hears the answer and hangs up."""
    answers = (
        Answer("Of course. Let me look for a table on Friday evening.", codes_of("of_course"), speed=1.2),
        Answer(tool="quick"),
        Answer("Saturday for two is no problem.", codes_of("saturday")),
    )
    numbers, agents = numbered_agents({"desk": AGENT})
    async with serving_realtime(answers, MULAW_8K) as (service, model_url):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(app, "model_for", lambda provider, environ: RealtimeModel(model_url))
            async with serving(agents, {"OFFHOOK_INSECURE": "1"}) as (gateway, url):
                steps = (SayOver(WAIT, 1_500), WaitForAgent("end"), Pause(200), HangUp())
                call = SimulatedCall(url, steps, dialled=numbers["desk"])
                truth = await call.run()
                async with asyncio.timeout(20):
                    while (record := await gateway.records.get(call.call_sid)) is None:
                        await asyncio.sleep(0.01)
    return Seen(record, truth, service)


@pytest.fixture(scope="module")
def seen() -> Seen:
    return run_quickly(lambda _: call_the_desk())


def test_barge_in_tool_and_hang_up(seen: Seen) -> None:
    record = seen.record
    assert record.end_reason == "caller_hung_up"
    assert [(tool.name, tool.outcome) for tool in record.tool_calls] == [("quick", "done")]
    greeting, answer = record.turns
    assert greeting.interrupted
    assert answer.heard_ms == answer.received_ms > 6_000
    (barge_in,) = record.barge_ins
    assert barge_in.verdict == "confirmed_locally"
    assert record.samples_after_clear == 0
    assert record.errors == []
    assert seen.service.faults == []


def test_codes_pass_unconverted_both_ways(seen: Seen) -> None:
    audio = seen.service.sessions[0]["audio"]
    assert audio["input"]["format"] == audio["output"]["format"] == {"type": "audio/pcmu"}
    # Up: every frame of the stream, in order, until it was closed.
    heard, said = bytes(seen.service.heard), seen.truth.left
    assert heard in said
    frames = seen.truth.streams[0].frames
    assert 160 * (frames - 10) <= len(heard) <= 160 * frames
    # Down: the interrupted reply as far as it was heard, and the whole of the last.
    begun = seen.truth.clears[0].position
    assert bytes(seen.service.sent[0][:begun]) in seen.truth.right
    assert bytes(seen.service.sent[2]) == codes_of("saturday")
    assert codes_of("saturday") in seen.truth.right


def test_barge_in_cancels_and_truncates(seen: Seen) -> None:
    (cancelled,) = seen.service.of("response.cancel")
    assert cancelled["response_id"] == "resp_0"
    assert len(seen.service.sent[0]) < len(codes_of("of_course"))  # its generation ended there
    (truncated,) = seen.service.of("conversation.item.truncate")
    assert truncated["item_id"] == "item_0"
    heard_ms = seen.truth.clears[0].position / 8
    assert truncated["audio_end_ms"] == pytest.approx(heard_ms, abs=20)


def test_tool_result_reaches_the_model(seen: Seen) -> None:
    item = seen.service.of("conversation.item.create")[-1]["item"]
    assert (item["type"], item["call_id"]) == ("function_call_output", "call_1")
    assert json.loads(item["output"])["result"] == "done"


async def test_browser_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "model_for", lambda provider, environ: RealtimeModel("http://127.0.0.1:9"))
    _, agents = numbered_agents({"desk": AGENT})
    async with (
        serving(agents, {"OFFHOOK_INSECURE": "1", "OFFHOOK_BROWSER_TOKENS": "1"}) as (_, url),
        aiohttp.ClientSession() as http,
        http.post(f"{url}/console/token", json={}) as answer,
    ):
        assert answer.status == 400
        assert "unset OFFHOOK_BROWSER_TOKENS" in await answer.text()
