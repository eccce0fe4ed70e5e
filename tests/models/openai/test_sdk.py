"""The rehearsal model, judged by the official SDK: a client that was not written here goes through a conversation."""

from __future__ import annotations

import asyncio
import base64
import json
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, get_args

import pytest
from websockets.exceptions import ConnectionClosedError

from offhook.gateway.models.openai.messages import picture_item
from offhook.gateway.rehearsal.model.script import CallTool, FailResponse, Reply, Say, Script
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.media.formats import MULAW_8K
from offhook.media.resample import resample
from tests.rig.sounds import sound

TOOL = {"type": "function", "name": "look", "description": "Look.", "parameters": {"type": "object", "properties": {}}}
SCRIPT = Script(
    (
        Reply("text", (Say("Good morning.", length_ms=700),)),
        Reply("caller", (Say("One moment.", length_ms=300), CallTool("look", {"day": "Friday", "people": 4}))),
        Reply("tool:look", (Say("There is one at eight, and one at nine.", length_ms=4_000, speed=1.5),)),
        Reply("caller", (FailResponse("rate_limit_exceeded", reset_s=2.0),)),
    )
)


@cache
def known() -> dict[str, Any]:
    """The SDK's own model of each event, by type."""
    from openai.types.realtime import RealtimeServerEvent  # half a second: only the worker that runs this file

    arms = get_args(get_args(RealtimeServerEvent)[0])
    return {arm.model_fields["type"].annotation.__args__[0]: arm for arm in arms}


def session(**detection: Any) -> dict[str, Any]:
    form = {"type": "audio/pcmu"}
    heard = {
        "format": form,
        "turn_detection": {"type": "server_vad", **detection},
        "transcription": {"model": "gpt-transcribe"},
    }
    return {"type": "realtime", "audio": {"input": heard, "output": {"format": form}}, "tools": [TOOL]}


class Client:
    """Reads until an event of a type comes; every event is checked against the SDK's own model of it."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.seen: list[Any] = []

    async def until(self, kind: str) -> Any:
        async with asyncio.timeout(10):
            while True:
                event = await self.connection.recv()
                assert event.type in known(), event.type
                known()[event.type].model_validate(event.model_dump(warnings=False))
                self.seen.append(event)
                if event.type == kind:
                    return event

    async def say(self, codes: bytes) -> None:
        for start in range(0, len(codes), 160):
            await self.connection.input_audio_buffer.append(audio=base64.b64encode(codes[start : start + 160]).decode())

    def kinds(self) -> list[str]:
        return [event.type for event in self.seen]


@asynccontextmanager
async def connected(script: Script = SCRIPT, key: str = "rehearsal") -> AsyncIterator[tuple[ModelServer, Client]]:
    from openai import AsyncOpenAI

    known()
    async with ModelServer(script, tls=False, api_keys=frozenset({"rehearsal"})) as server:
        ws = server.url.replace("http", "ws") + "/v1"
        async with (
            AsyncOpenAI(api_key=key, websocket_base_url=ws) as sdk,
            sdk.realtime.connect(model="gpt-realtime-2.1") as connection,
        ):
            yield server, Client(connection)
        assert not server.failures


def spoken() -> bytes:
    with wave.open(str(sound("caller_hello_i_would"))) as file:
        import numpy as np

        pcm, rate_hz = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2"), file.getframerate()
    return MULAW_8K.encode(resample(pcm, rate_hz, 8_000)) + b"\xff" * 8_000


async def test_conversation_with_the_official_sdk() -> None:
    async with connected() as (server, client):
        api = client.connection
        await client.until("session.created")
        await api.session.update(session=session())
        await client.until("session.updated")
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Greet the caller."}]}
        await api.conversation.item.create(item=item)
        await api.response.create()
        done = await client.until("response.done")
        assert done.response.status == "completed"
        assert client.kinds()[client.kinds().index("response.created") :] == [
            "response.created",
            "rate_limits.updated",
            "response.output_item.added",
            "conversation.item.added",
            "response.content_part.added",
            *[k for k in client.kinds() if k.endswith(".delta")],
            "response.output_audio.done",
            "response.output_audio_transcript.done",
            "response.content_part.done",
            "response.output_item.done",
            "conversation.item.done",
            "response.done",
        ]
        # The caller's turn is answered by the server itself: a preamble, then a call.
        await client.say(spoken())
        started = await client.until("input_audio_buffer.speech_started")
        committed = await client.until("input_audio_buffer.committed")
        assert started.item_id == committed.item_id
        call = await client.until("response.function_call_arguments.done")
        assert call.name == "look"
        assert call.arguments == '{"day": "Friday", "people": 4}'
        done = await client.until("response.done")
        assert [output.type for output in done.response.output] == ["message", "function_call"]
        output = {"type": "function_call_output", "call_id": call.call_id, "output": '{"result": "eight"}'}
        await api.conversation.item.create(item=output)
        await api.response.create()
        # It is interrupted by the caller, and truncated at what was heard.
        delta = await client.until("response.output_audio.delta")
        await client.say(spoken())
        done = await client.until("response.done")
        assert (done.response.status, done.response.status_details.reason) == ("cancelled", "turn_detected")
        for end_ms in (99_000, 20):
            await api.conversation.item.truncate(item_id=delta.item_id, content_index=0, audio_end_ms=end_ms)
        assert "is already shorter than 99000ms" in (await client.until("error")).error.message
        assert (await client.until("conversation.item.truncated")).audio_end_ms == 20
        await api.conversation.item.retrieve(item_id=delta.item_id)
        assert (await client.until("conversation.item.retrieved")).item.content[0].transcript in (None, "")
        usages = [event.response.usage for event in client.seen if event.type == "response.done"]
        assert usages[-1].input_tokens > usages[0].input_tokens
        assert usages[-1].input_token_details.cached_tokens > 0
    assert [record.errors for record in server.sessions] == [["invalid_value"]]


async def test_detection_may_leave_everything_to_the_client() -> None:
    async with connected() as (_, client):
        api = client.connection
        await api.session.update(session=session(create_response=False, interrupt_response=False))
        await client.say(spoken())
        await client.until("input_audio_buffer.committed")
        assert "response.created" not in client.kinds()
        await api.response.create()
        await client.until("response.output_audio.delta")
        await api.response.create(event_id="mine")
        refused = await client.until("error")
        assert refused.error.code == "conversation_already_has_active_response"
        assert refused.error.event_id == "mine"
        await client.say(spoken())
        assert (await client.until("response.done")).response.status == "completed", "not interrupted"
        await api.response.cancel()
        assert (await client.until("error")).error.code == "response_cancel_not_active"


@pytest.mark.parametrize(
    ("update", "code", "param"),
    [
        ({"audio": {}}, "missing_required_parameter", "session.type"),
        ({"type": "realtime", "temperature": 1}, "unknown_parameter", "session.temperature"),
        (
            {"type": "realtime", "audio": {"input": {"format": {"type": "audio/pcmu", "rate": 8000}}}},
            "unknown_parameter",
            "session.audio.input.format.rate",
        ),
        ({"type": "realtime", "model": "gpt-realtime-2"}, "invalid_value", "session.model"),
    ],
)
async def test_wrong_setup_is_refused_by_name(update: dict[str, Any], code: str, param: str) -> None:
    async with connected() as (_, client):
        await client.connection.send({"type": "session.update", "event_id": "e1", "session": update})
        refused = (await client.until("error")).error
        assert (refused.code, refused.param, refused.event_id) == (code, param, "e1")


async def test_wrong_key_is_closed_with_3000() -> None:
    with pytest.raises(ConnectionClosedError) as lost:
        async with connected(key="another") as (_, client):
            await client.until("session.created")
    assert lost.value.rcvd is not None
    assert lost.value.rcvd.code == 3000
    assert "invalid_api_key" in lost.value.rcvd.reason


def test_picture_item_is_one_that_the_sdk_knows() -> None:
    from openai.types.realtime import RealtimeConversationItemUserMessage

    sent = json.loads(picture_item(b"\xff\xd8\xff"))
    item = RealtimeConversationItemUserMessage.model_validate(sent["item"])
    (content,) = item.content
    assert (content.type, content.model_extra) == ("input_image", {})
    assert content.image_url == f"data:image/jpeg;base64,{base64.b64encode(bytes((0xFF, 0xD8, 0xFF))).decode()}"
