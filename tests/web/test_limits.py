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
from offhook.gateway.web.limits import Limits
from offhook.metrics.catalogue import Metrics


class Clock:
    """A clock that stands where it is set."""

    now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limits(clock: Clock) -> Limits:
    return Limits(Metrics(CollectorRegistry(), LABELS), max_calls=10, clock=clock)


def request(remote: str) -> Any:
    return SimpleNamespace(remote=remote)


def accepted(limits: Limits, remote: str, times: int) -> int:
    """How many of `times` requests of one source are accepted."""
    count = 0
    for _ in range(times):
        try:
            limits.check_rate(request(remote))
        except web.HTTPTooManyRequests:
            continue
        count += 1
    return count


def test_one_source_has_a_rate_limit(limits: Limits, clock: Clock) -> None:
    assert accepted(limits, "52.0.113.9", 1_000) == module.SOURCE_BURST
    assert accepted(limits, "52.0.113.10", 10) == 10
    clock.now_s += 1.0
    assert accepted(limits, "52.0.113.9", 1_000) == module.SOURCE_PER_S


def test_an_ipv4_source_on_a_dual_socket_has_a_limit(limits: Limits) -> None:
    assert accepted(limits, "::ffff:52.0.113.9", 1_000) == module.SOURCE_BURST


@pytest.mark.parametrize("proxy", ["127.0.0.1", "10.1.2.3", "192.168.0.7", "::1", "fd00::1%eth0", "::ffff:10.1.2.3"])
def test_a_proxy_has_the_total_limit_only(limits: Limits, proxy: str) -> None:
    assert accepted(limits, proxy, 1_500) == 1_500
    assert accepted(limits, proxy, 1_000) == module.ALL_BURST - 1_500


def test_remembered_sources_are_bounded(limits: Limits) -> None:
    with mock.patch.object(module, "MAX_SOURCES", 100):
        for n in range(1_000):
            accepted(limits, f"52.0.{n // 250 + 113}.{n % 250}", 1)
    assert len(limits._sources) <= 100


def test_a_repeated_warning_is_throttled(limits: Limits, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    for _ in range(1_000):
        limits.warn_throttled("wrong signature")
    clock.now_s += 11.0
    limits.warn_throttled("wrong signature")
    assert [r.getMessage() for r in caplog.records] == ["wrong signature", "wrong signature (999 more suppressed)"]


async def test_closed_connections_free_their_place() -> None:
    metrics = Metrics(CollectorRegistry(), LABELS)
    limits = Limits(metrics, max_calls=0, clock=Clock())

    async def handler(_: web.BaseRequest) -> web.Response:
        return web.Response(text="in")

    server = web.Server(handler)
    loop = asyncio.get_running_loop()
    with mock.patch.object(limits, "_max_connections", 3):
        listener = await loop.create_server(limits.guard(server), "127.0.0.1", 0)
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
    assert not limits._waiting
