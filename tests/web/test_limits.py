"""The door: rates by source, connections, the log under attack. Forms: carriers/twilio/test_bad_input."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from offhook.gateway.labels import LABELS
from offhook.gateway.web import limits as module
from offhook.gateway.web.limits import Door
from offhook.metrics.catalogue import Metrics


@pytest.fixture
def door() -> Door:
    return Door(Metrics(CollectorRegistry(), LABELS), max_calls=10)


def request(remote: str) -> Any:
    return SimpleNamespace(remote=remote)


def knocks(door: Door, remote: str, times: int) -> int:
    """How many of so many requests are let in."""
    entered = 0
    for _ in range(times):
        try:
            door.knock(request(remote))
        except web.HTTPTooManyRequests:
            continue
        entered += 1
    return entered


def test_one_source_cannot_take_everything(door: Door) -> None:
    with mock.patch("time.monotonic", return_value=50.0):
        assert knocks(door, "52.0.113.9", 1_000) == module.SOURCE_BURST
        assert knocks(door, "52.0.113.10", 10) == 10
    with mock.patch("time.monotonic", return_value=51.0):
        assert knocks(door, "52.0.113.9", 1_000) == module.SOURCE_PER_S


@pytest.mark.parametrize("proxy", ["127.0.0.1", "10.1.2.3", "192.168.0.7", "::1", "fd00::1%eth0"])
def test_a_proxy_carries_everybody(door: Door, proxy: str) -> None:
    with mock.patch("time.monotonic", return_value=50.0):
        assert knocks(door, proxy, 1_500) == 1_500
        assert knocks(door, proxy, 1_000) == module.ALL_BURST - 1_500


def test_sources_are_not_remembered_without_end(door: Door) -> None:
    with mock.patch.object(module, "MAX_SOURCES", 100), mock.patch("time.monotonic", return_value=50.0):
        for n in range(1_000):
            knocks(door, f"52.0.{n // 250 + 113}.{n % 250}", 1)
    assert len(door._sources) <= 100


def test_a_warning_is_not_repeated_a_thousand_times(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with mock.patch("time.monotonic", return_value=50.0):
        for _ in range(1_000):
            door.complain("somebody knocks")
    with mock.patch("time.monotonic", return_value=61.0):
        door.complain("somebody knocks")
    assert [r.getMessage() for r in caplog.records] == ["somebody knocks", "somebody knocks (and 999 times before)"]


async def test_connections_have_a_limit_that_is_given_back() -> None:
    metrics = Metrics(CollectorRegistry(), LABELS)
    door = Door(metrics, max_calls=0)

    async def handler(_: web.BaseRequest) -> web.Response:
        return web.Response(text="in")

    server = web.Server(handler)
    loop = asyncio.get_running_loop()
    with mock.patch.object(door, "_max_connections", 3):
        listener = await loop.create_server(door.guard(server), "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]

        async def ask() -> tuple[bytes, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HT")
            await asyncio.sleep(0.01)
            writer.write(b"TP/1.1\r\nHost: x\r\n\r")
            await asyncio.sleep(0.01)
            writer.write(b"\n")  # headers in three pieces are headers
            try:
                return await asyncio.wait_for(reader.read(15), 2), writer
            except ConnectionError:
                return b"", writer

        asked = [await ask() for _ in range(5)]
        assert [bool(answer) for answer, _ in asked] == [True, True, True, False, False]
        for _, writer in asked:
            writer.close()
        await asyncio.sleep(0.05)
        answer, writer = await ask()
        assert answer.startswith(b"HTTP/1.1 200")
        writer.close()
    listener.close()
    await server.shutdown(1.0)
    assert 'offhook_input_errors_total{peer="http",reason="too_many"} 2' in metrics.render().decode()
    assert not door._waiting
