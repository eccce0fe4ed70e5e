"""The stream of snapshots: only while somebody watches, and at no call's cost."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import aiohttp
import msgspec
import pytest

from offhook.gateway.store.record import CallRecord, TurnRecord
from offhook.gateway.web.console import pages
from offhook.metrics.quantiles import exact
from offhook.metrics.segments import SEGMENTS
from tests.web.console.console_rig import staged


async def snapshot(lines: aiohttp.StreamReader) -> dict[str, Any]:
    while not (line := await lines.readline()).startswith(b"data: "):
        assert line, "the stream ended"
    return json.loads(line.removeprefix(b"data: "))


async def test_snapshot_is_made_only_while_it_is_watched() -> None:
    async with staged() as stage, aiohttp.ClientSession() as session:
        console = stage.gateway.console
        assert console._broadcaster is None
        async with session.get(f"{stage.url}/console/events?window=1h") as stream:
            assert stream.content_type == "text/event-stream"
            first, second = await snapshot(stream.content), await snapshot(stream.content)
            assert first["window"] == "1h"
            assert first["at"] < second["at"]
            assert {s["name"] for s in first["segments"]} == {s.name for s in SEGMENTS if not s.rig_only}
        async with asyncio.timeout(10):
            while not console._broadcaster.done():
                await asyncio.sleep(0.05)
        async with session.get(f"{stage.url}/console/events") as stream:  # and again
            assert (await snapshot(stream.content))["window"] == "5m"


async def test_slow_watcher_is_dropped_and_others_continue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "SEND_S", 0.3)
    monkeypatch.setattr(pages, "EVERY_S", 0.01)
    async with staged() as stage, aiohttp.ClientSession() as session:
        port = int(stage.url.rpartition(":")[2])
        words = "x" * 2_000
        for i in range(25):  # large snapshots
            sid = f"CA{i:032x}"
            stage.gateway.records.keep(CallRecord(call_sid=sid, agent=words, caller="+15550100"))
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", port))
        slow.sendall(f"GET /console/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        async with session.get(f"{stage.url}/console/events") as stream:
            watching = stage.gateway.console._clients
            async with asyncio.timeout(20):
                while watching.get("5m", 0) < 2:
                    await snapshot(stream.content)
                while watching["5m"] == 2:
                    await snapshot(stream.content)
            await snapshot(stream.content)
        slow.close()


async def test_watchers_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "MAX_CLIENTS", 1)
    async with staged() as stage, aiohttp.ClientSession() as session:
        stream = await session.get(f"{stage.url}/console/events")
        await snapshot(stream.content)
        for window, status in [("5m", 503), ("2d", 400)]:
            async with session.get(f"{stage.url}/console/events?window={window}") as refused:
                assert refused.status == status
        stream.close()


async def test_json_agrees_with_samples_to_two_percent() -> None:
    async with staged() as stage, aiohttp.ClientSession() as session:
        samples = [0.2 * 1.004**i for i in range(400)]
        for sample in samples:
            stage.gateway.metrics.observe("bargein_stop", sample / 10)
        for sample in samples[:19]:
            stage.gateway.metrics.observe("turn_gap", sample, "played")
        true = exact([sample / 10 for sample in samples])
        for window in ("1m", "5m", "1h"):
            async with session.get(f"{stage.url}/console/api/percentiles?window={window}") as answer:
                told = await answer.json()
            assert "carrier" in told["outside"]
            found = {segment["name"]: segment for segment in told["segments"]}
            stop = found["bargein_stop"]
            assert stop["count"] == 400
            for name in ("p50", "p95", "p99"):
                assert stop[f"{name}_ms"] == pytest.approx(1000 * getattr(true, name), rel=0.02), (window, name)
            gap = found["turn_gap"]
            assert gap["count"] == 19
            assert gap["p50_ms"] > 0
            assert "p95_ms" not in gap
            assert "p99_ms" not in gap


async def test_numbers_leave_the_process_masked_only() -> None:
    async with staged() as stage, aiohttp.ClientSession() as session:
        record = CallRecord(call_sid="CA1", caller="+15557654321", dialled="+15550142", turns=[])
        placed = CallRecord(call_sid="CA2", caller="+15550142", dialled="+15557654321", direction="outbound")
        stage.gateway.records.keep(record)
        stage.gateway.records.keep(placed)
        for path in ("calls", "calls/CA1", "calls/CA2", "view/CA1", "view/CA2"):
            async with session.get(f"{stage.url}/console/api/{path}") as answer:
                text = await answer.text()
            assert "5557654321" not in text, path
            assert "+15•••21" in text, path
        async with session.get(f"{stage.url}/console/events") as stream:
            assert "5557654321" not in json.dumps(await snapshot(stream.content))
        async with session.get(f"{stage.url}/console/api/calls/CA1") as answer:  # still a record to those who read it
            assert msgspec.json.decode(await answer.read(), type=CallRecord).call_sid == "CA1"


async def test_the_gateway_stops_though_somebody_watches() -> None:
    async with aiohttp.ClientSession() as session:
        async with staged() as stage:
            stream = await session.get(f"{stage.url}/console/events")
            await snapshot(stream.content)
        async with asyncio.timeout(5):
            await stream.content.read()  # to its end
        stream.close()


async def test_a_call_that_nobody_knows_is_not_found() -> None:
    async with staged() as stage, aiohttp.ClientSession() as session:
        turn = TurnRecord(number=1, generation=1, segments={"turn_gap": 900.0})
        stage.gateway.records.keep(CallRecord(call_sid="CA1", turns=[turn]))
        async with session.get(f"{stage.url}/console/api/view/CA1") as answer:
            shown = await answer.json()
        assert shown["live"] is False
        assert shown["bars"] == [[]]
        async with session.get(f"{stage.url}/console/api/view/CA9") as answer:
            assert answer.status == 404
