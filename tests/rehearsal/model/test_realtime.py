"""The rehearsal model on the Realtime protocol: what `tests/models/openai/test_sdk.py` does not show."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from offhook.gateway.rehearsal.model.script import CallTool, Reply, Say, Script
from offhook.gateway.rehearsal.model.server import ModelServer

KEY = {"Authorization": "Bearer rehearsal"}
HELLO = Reply("text", (Say("Good morning.", length_ms=3_000, speed=1.0),))
LOUD, QUIET = 0.5, 1.0  # seconds


@asynccontextmanager
async def dialled(
    script: Script, *, headers: Mapping[str, str] = KEY, model: str = "gpt-realtime-2.1", **more: Any
) -> AsyncIterator[tuple[ModelServer, ClientConnection]]:
    async with ModelServer(script, tls=False) as server:
        url = f"{server.url.replace('http', 'ws')}/v1/realtime?model={model}"
        async with connect(url, additional_headers=headers, compression=None, **more) as ws:
            yield server, ws
        assert not server.failures


async def send(ws: ClientConnection, kind: str, **fields: Any) -> None:
    await ws.send(json.dumps({"type": kind, **fields}))


async def until(ws: ClientConnection, kind: str) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while (event := json.loads(await ws.recv()))["type"] != kind:
            assert event["type"] != "error", event
    return event


async def read_out(ws: ClientConnection) -> None:
    """Until it is closed."""
    while True:
        await asyncio.wait_for(ws.recv(), 10)


async def set_up(ws: ClientConnection, detection: dict[str, Any] | None = None) -> None:
    heard = {"format": {"type": "audio/pcmu"}, "turn_detection": detection}
    await send(ws, "session.update", session={"type": "realtime", "audio": {"input": heard}})
    await until(ws, "session.updated")


async def prompt(ws: ClientConnection, text: str = "Greet.") -> None:
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
    await send(ws, "conversation.item.create", item=item)
    await send(ws, "response.create")


async def speak(ws: ClientConnection, seconds: float, loud: bool) -> None:
    codes = (b"\x10\x90" if loud else b"\xff\xff") * 80
    for _ in range(round(seconds * 50)):
        await send(ws, "input_audio_buffer.append", audio=base64.b64encode(codes).decode())


async def test_no_key_is_refused_at_the_handshake() -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with dialled(Script(), headers={}):
            pass
    assert refused.value.response.status_code == 401


@pytest.mark.parametrize(
    ("headers", "model", "code"),
    [({**KEY, "OpenAI-Beta": "realtime=v1"}, "gpt-realtime-2.1", 4000), (KEY, "gpt-4o-realtime-preview", 4000)],
)
async def test_what_is_no_longer_spoken_is_closed(headers: dict[str, str], model: str, code: int) -> None:
    async with dialled(Script(), headers=headers, model=model) as (_, ws):
        with pytest.raises(ConnectionClosed) as lost:
            await read_out(ws)
    assert lost.value.rcvd is not None
    assert lost.value.rcvd.code == code


async def test_browser_shows_its_key_as_a_subprotocol() -> None:
    offered = ["realtime", "openai-insecure-api-key.ek_1"]
    async with dialled(Script(), headers={}, subprotocols=offered) as (_, ws):
        assert ws.subprotocol == "realtime"
        assert (await until(ws, "session.created"))["session"]["audio"]["input"]["format"]["rate"] == 24_000


async def test_life_ends_with_the_text_of_the_service() -> None:
    async with dialled(Script(lifetime_s=1.0)) as (_, ws):
        await set_up(ws)
        with pytest.raises(ConnectionClosed) as lost:
            await read_out(ws)
    assert lost.value.rcvd is not None
    assert (lost.value.rcvd.code, lost.value.rcvd.reason) == (
        1001,
        "Your session hit the maximum duration of 60 minutes.",
    )


@pytest.mark.parametrize("eagerness", ["high", "low"])
async def test_semantic_detection_waits_by_its_eagerness(eagerness: str) -> None:
    async with dialled(Script()) as (_, ws):
        await set_up(ws, {"type": "semantic_vad", "eagerness": eagerness, "create_response": False})
        await speak(ws, LOUD, True)
        await speak(ws, 2.0, False)
        stopped = await until(ws, "input_audio_buffer.speech_stopped")
        assert stopped["audio_end_ms"] == pytest.approx({"high": 1_000, "low": 2_000}[eagerness], abs=60)


async def test_silence_counts_as_a_turn_after_the_timeout() -> None:
    script = Script(default=Reply("caller", (Say("Still there?", length_ms=300),)))
    async with dialled(script) as (_, ws):
        await set_up(ws, {"type": "server_vad", "idle_timeout_ms": 5_000})
        await speak(ws, LOUD, True)
        await speak(ws, QUIET, False)
        await until(ws, "response.done")
        await until(ws, "input_audio_buffer.timeout_triggered")
        await until(ws, "response.created")


async def test_out_of_band_runs_beside_a_response() -> None:
    script = Script((HELLO, Reply("text:out of band", (Say("A summary."),))))
    async with dialled(script) as (_, ws):
        await set_up(ws)
        await prompt(ws)
        active = (await until(ws, "response.created"))["response"]["id"]
        await send(ws, "response.create", response={"conversation": "none", "metadata": {"for": "transfer"}})
        beside = (await until(ws, "response.done"))["response"]
        assert beside["id"] != active
        assert beside["metadata"] == {"for": "transfer"}
        assert (await until(ws, "response.done"))["response"]["id"] == active


@pytest.mark.parametrize(
    ("kind", "fields", "code"),
    [
        (
            "conversation.item.create",
            {"item": {"type": "function_call_output", "call_id": "x", "output": ""}},
            "invalid_tool_call_id",
        ),
        (
            "conversation.item.create",
            {"item": {"type": "message", "role": "user", "content": [{"type": "output_text"}]}},
            "invalid_value",
        ),
        ("conversation.item.truncate", {"item_id": "x", "content_index": 0, "audio_end_ms": 0}, "item_not_found"),
        ("conversation.item.delete", {"item_id": "x"}, "item_not_found"),
        ("input_audio_buffer.append", {"audio": "!"}, "invalid_value"),
        ("input_audio_buffer.commit", {}, "input_audio_buffer_commit_empty"),
        ("response.cancel", {}, "response_cancel_not_active"),
        ("session.begin", {}, "invalid_value"),
    ],
)
async def test_wrong_events_are_answered_with_an_error(kind: str, fields: dict[str, Any], code: str) -> None:
    async with dialled(Script((HELLO,))) as (server, ws):
        await set_up(ws)
        await send(ws, kind, event_id="mine", **fields)
        async with asyncio.timeout(10):
            error = json.loads(await ws.recv())["error"]
        assert (error["code"], error["event_id"]) == (code, "mine")
        await prompt(ws)
        await until(ws, "response.created")  # the session lives
    races = {"input_audio_buffer_commit_empty", "response_cancel_not_active"}
    assert bool(server.violations) is (code not in races)


async def test_cancelled_response_is_incomplete() -> None:
    script = Script((Reply("text", (Say("Wait.", length_ms=2_000, speed=1.0), CallTool("look", {"day": "Friday"}))),))
    async with dialled(script) as (_, ws):
        await set_up(ws)
        await prompt(ws)
        await until(ws, "response.output_audio.delta")
        await send(ws, "response.cancel")
        done = (await until(ws, "response.done"))["response"]
        assert (done["status"], done["status_details"]["reason"]) == ("cancelled", "client_cancelled")
        assert [item["status"] for item in done["output"]] == ["incomplete"]
