"""Pictures from the page to the model: what arrives, what is refused, what is counted, charged and not kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import aiohttp
import msgspec
import pybase64
import pytest

from offhook.gateway.app import Gateway
from offhook.gateway.call.pictures import PICTURE_MAX_BYTES
from offhook.gateway.models.gemini import messages as gemini
from offhook.gateway.models.gemini.outbox import Outbox as GeminiOutbox
from offhook.gateway.models.openai.outbox import Outbox as OpenAIOutbox
from offhook.gateway.rehearsal.model.script import Reply, Script
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.store.record import CallRecord
from tests.rig.gateway import numbered_agents, serving
from tests.rig.page import Page, streaming
from tests.rig.pictures import jpeg_of

SCRIPT = Script(
    (Reply("text", (Speak("Show me.", length_ms=500),)), Reply("text", (Speak("I see it.", length_ms=500),)))
)
PICTURE = jpeg_of(768, 432, size_bytes=60_000)


@asynccontextmanager
async def on_the_line(fields: str) -> AsyncIterator[tuple[Gateway, Page, ModelServer, Any]]:
    """A call whose greeting was heard; `show(jpeg)` sends a picture: (status, text)."""
    _, agents = numbered_agents({"desk": f"greeting: {{text: Greet.}}\n{fields}"})
    async with (
        ModelServer(SCRIPT) as model,
        aiohttp.ClientSession() as http,
        serving(agents, {"OFFHOOK_INSECURE": "1"}, model=model) as (gateway, url),
    ):
        page = Page(http, url)

        async def show(jpeg: bytes, key: str = "", kind: str = "image/jpeg") -> tuple[int, str]:
            headers = {**page.headers, "Content-Type": kind, "X-Call-Key": key or page.key}
            path = f"{url}/console/talk/{page.call_id}/picture"
            async with http.post(path, data=jpeg, headers=headers) as answer:
                return answer.status, await answer.text()

        async with streaming(page, await page.begin()):
            await page.until_heard(0.5)
            yield gateway, page, model, show


async def record_after(gateway: Gateway, page: Page) -> CallRecord:
    """The call's record, after another reply to a prompt: it is charged for the pictures."""
    call = gateway.calls[page.call_id]
    call.operator_says("I see it.")
    await page.until_heard(1.0)
    async with asyncio.timeout(10):
        while len(call.record.turns) < 2 or call.phase.value != "listening":
            await asyncio.sleep(0.01)
    call.hung_up()
    async with asyncio.timeout(10):
        while (record := await gateway.records.get(page.call_id)) is None:
            await asyncio.sleep(0.01)
    return record


def counted(gateway: Gateway) -> dict[str, float]:
    head = 'offhook_pictures_total{result="'
    lines = [line for line in gateway.metrics.render().decode().splitlines() if line.startswith(head)]
    return {line[len(head) :].partition('"')[0]: n for line in lines if (n := float(line.rpartition(" ")[2]))}


@pytest.mark.parametrize(
    ("fields", "kind", "price"),
    [("", "promptTokensDetails.IMAGE", 1.0), ("model: gpt-realtime-2.1", "input_token_details.image_tokens", 5.0)],
)
async def test_picture_arrives_is_counted_and_charged(
    fields: str, kind: str, price: float, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    async with on_the_line(f"pictures: true\n{fields}") as (gateway, page, model, show):
        assert (await show(PICTURE))[0] == 202
        session = model.sessions[-1]
        async with asyncio.timeout(5):
            while not session.pictures:
                await asyncio.sleep(0.01)
        record = await record_after(gateway, page)
        (seen,) = session.pictures
        assert model.violations == []
        assert counted(gateway) == {"queued": 1}
    assert (seen.width, seen.height, seen.digest) == (768, 432, sha256(PICTURE).hexdigest())
    assert (record.pictures, record.pictures_refused) == (1, 0)
    assert record.usage[kind] >= 258
    assert record.usage["cost_usd.image_in"] == pytest.approx(record.usage[kind] * price / 1e6)
    written = msgspec.json.encode(record).decode() + caplog.text
    assert pybase64.b64encode(PICTURE)[1000:1100].decode() not in written
    assert repr(PICTURE)[1000:1100] not in written
    assert record.errors == []


async def test_refused_picture_says_why_and_ends_no_call() -> None:
    async with on_the_line("pictures: true") as (gateway, page, model, show):
        refused = [
            await show(b"GIF89a" + PICTURE),
            await show(jpeg_of(769, 10)),
            await show(jpeg_of(768, 768, size_bytes=PICTURE_MAX_BYTES + 1)),
            await show(bytes(3 * PICTURE_MAX_BYTES)),
            await show(PICTURE, kind="image/png"),
            await show(PICTURE, key="another page's"),
        ]
        assert [status for status, _ in refused] == [415, 413, 413, 413, 415, 404]
        assert "768 pixels a side" in refused[1][1]
        shown = await asyncio.gather(*(show(jpeg_of(10 + n, 10)) for n in range(6)))
        assert {status for status, _ in shown} == {202, 429}
        record = await record_after(gateway, page)
        results = counted(gateway)
    many = results.pop("too_many")
    assert results.pop("not_jpeg") == 1
    assert results.pop("too_large") == 2
    assert (record.pictures, record.pictures_refused) == (results["queued"], 3 + many)
    assert record.end_reason == "caller_hung_up"
    assert len(model.sessions[-1].pictures) == results["queued"] - results.get("replaced", 0)


async def test_agent_without_the_switch_takes_none() -> None:
    async with on_the_line("") as (gateway, page, model, show):
        status, text = await show(PICTURE)
        assert (status, "`pictures: true`" in text) == (403, True)
        record = await record_after(gateway, page)
        assert counted(gateway) == {"not_allowed": 1}
    assert model.sessions[-1].pictures == []
    assert (record.pictures, record.pictures_refused) == (0, 1)


@pytest.mark.parametrize("kind", ["gemini", "openai"])
async def test_newest_picture_waits_behind_audio(kind: str) -> None:
    """While the connection takes nothing at once: audio first, and of two pictures the later one."""
    counts: list[str] = []
    sink = SimpleNamespace(count=lambda what, by=1, reason="": counts.append(what.value), segment=lambda *_: None)
    if kind == "gemini":
        outbox: Any = GeminiOutbox(sink, lambda: 0.0, wanted=lambda _: True, sent=lambda _: None, stalled=lambda: None)
        first, second = gemini.Picture(b"1"), gemini.Picture(b"2")
    else:
        outbox, first, second = OpenAIOutbox(sink, lambda: 0.0, stalled=lambda: None), b"1", b"2"
    outbox.picture(first)
    outbox.audio(b"\1\0" * 160, 0.0)
    outbox.picture(second)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    writing = asyncio.create_task(outbox.write(SimpleNamespace(send=send, send_now=lambda *_: False)))
    async with asyncio.timeout(5):
        while len(sent) < 2:
            await asyncio.sleep(0)
    writing.cancel()
    assert sent[1] is second
    assert counts == ["picture_replaced"]
