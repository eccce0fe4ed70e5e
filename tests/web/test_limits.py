"""Rates by source, connections, the log under attack, each in its parts; on a served process: `attacks`; forms:
`tests/carriers/twilio/test_bad_input.py`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from aiohttp import web
from aiohttp.streams import StreamReader
from prometheus_client import CollectorRegistry

from offhook.gateway.labels import LABELS
from offhook.gateway.web import connections as module_connections
from offhook.gateway.web import limits as module
from offhook.gateway.web.connections import Connections
from offhook.gateway.web.limits import Limits
from offhook.metrics.catalogue import Metrics
from tests.rig.process import python_path


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
    return Limits(Metrics(CollectorRegistry(), LABELS), clock=clock)


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


async def test_health_has_an_allowance_of_its_own(limits: Limits) -> None:
    accepted(limits, "127.0.0.1", 5_000)
    limits.check_health_rate(request("127.0.0.1"))


def test_one_source_does_not_spend_the_total(limits: Limits) -> None:
    accepted(limits, "52.0.113.9", 10_000)
    assert accepted(limits, "52.0.113.10", 100) == 100


def test_an_ipv6_network_is_one_source(limits: Limits) -> None:
    assert sum(accepted(limits, f"2a01:db8::{n:x}", 1) for n in range(1_000)) == module.SOURCE_BURST


def opened(bounds: Connections, source: str, number: int) -> list[Any]:
    """As `Connections.admit` gives them; `transport.aborted` when it was closed."""
    made = []
    for _ in range(number):
        transport = mock.Mock(spec=asyncio.Transport)
        transport.get_extra_info.return_value = (source, 1)
        transport.is_closing.return_value = False
        made.append(bounds.admit(transport))
    return made


def closed(made: list[Any]) -> list[bool]:
    return [one.transport.abort.called for one in made]


@pytest.fixture
def bounds(limits: Limits, clock: Clock) -> Connections:
    return Connections(limits, limits._metrics, max_calls=1, spare=8, clock=clock)


def test_the_longest_idle_makes_room(bounds: Connections) -> None:
    made = opened(bounds, "127.0.0.1", 8)
    bounds.begin(made[0])
    bounds.end(made[0])
    opened(bounds, "10.0.0.1", 2)
    assert closed(made) == [False, True, True, *[False] * 5]
    assert len(bounds) == 8


def test_a_proven_connection_keeps_its_place(bounds: Connections) -> None:
    made = opened(bounds, "127.0.0.1", 2)
    bounds.begin(made[0])
    bounds.prove(made[0])
    bounds.end(made[0])
    opened(bounds, "127.0.0.1", 100)
    assert closed(made) == [False, True]
    bounds.begin(made[0])  # nothing is proven of the next request
    opened(bounds, "127.0.0.1", 8)
    assert closed(made) == [True, True]


def test_one_source_closes_its_own_only(limits: Limits, clock: Clock) -> None:
    bounds = Connections(limits, limits._metrics, max_calls=1, spare=1_000, clock=clock)
    other = opened(bounds, "52.0.113.10", 1)
    made = opened(bounds, "52.0.113.9", module_connections.SOURCE_CONNECTIONS + 3)
    assert closed(other) == [False]
    assert closed(made) == [True] * 3 + [False] * module_connections.SOURCE_CONNECTIONS


def test_under_pressure_idle_ones_close_sooner(bounds: Connections, clock: Clock) -> None:
    made = opened(bounds, "127.0.0.1", 4)
    clock.now_s += module_connections.PRESSED_KEEP_ALIVE_S + 1
    assert not any(closed(made))
    opened(bounds, "127.0.0.1", 1)
    assert all(closed(made))


def test_proven_idle_ones_are_bounded(bounds: Connections) -> None:
    made = []
    for _ in range(300):
        made += opened(bounds, "127.0.0.1", 1)
        bounds.begin(made[-1])
        bounds.prove(made[-1])
        bounds.end(made[-1])
    assert len(bounds) == 2 + module_connections.PROVEN_SPARE
    assert not closed(made)[-1]


async def served(bounds: Connections) -> tuple[web.AppRunner, asyncio.Server, int]:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(text="in")

    app = web.Application(middlewares=[bounds.middleware()])
    app.router.add_get("/", handler)
    app.on_response_prepare.append(module_connections.hide_server)
    runner = web.AppRunner(app)
    await runner.setup()
    assert runner.server is not None
    listener = await asyncio.get_running_loop().create_server(
        bounds.guard(runner.server), "127.0.0.1", 0, backlog=bounds.backlog
    )
    return runner, listener, listener.sockets[0].getsockname()[1]


async def test_a_crowd_does_not_close_who_was_not_read(limits: Limits, clock: Clock) -> None:
    bounds = Connections(limits, limits._metrics, max_calls=1, spare=32, clock=clock)
    runner, listener, port = await served(bounds)
    carrier = socket.create_connection(("127.0.0.1", port))
    carrier.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    crowd = []
    for _ in range(200):  # as many as the kernel takes before the loop has a turn
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex(("127.0.0.1", port))
        crowd.append(one)
    assert (await asyncio.to_thread(carrier.recv, 4096)).startswith(b"HTTP/1.1 200")
    for one in (carrier, *crowd):
        one.close()
    listener.close()
    await runner.cleanup()


async def test_a_client_that_left_is_no_fault(limits: Limits) -> None:
    protocol = mock.Mock(connected=False)
    body = StreamReader(protocol, 2**16, loop=asyncio.get_running_loop())
    gone = SimpleNamespace(content=body, content_length=9, transport=None)
    with pytest.raises(web.HTTPBadRequest, match="Bad Request"):
        await limits._body(gone)  # type: ignore[arg-type]


async def answered(port: int, *parts: bytes) -> bytes:
    """All that the server sends for these parts, up to its end or a second of silence."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
        await asyncio.sleep(0.01)
    whole = b""
    with suppress(TimeoutError, ConnectionError):
        while data := await asyncio.wait_for(reader.read(4096), 1):
            whole += data
    writer.close()
    return whole


@pytest.mark.parametrize(
    "line", [b"GET /<script> HTTP/9.9", b"G@T / HTTP/1.1", b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2"]
)
async def test_unreadable_requests_get_a_plain_400(bounds: Connections, line: bytes) -> None:
    runner, listener, port = await served(bounds)
    answer = await answered(port, line + b"\r\nHost: x\r\n\r\n")
    assert answer == module_connections.BAD_REQUEST
    listener.close()
    await runner.cleanup()


async def test_no_answer_names_its_server(bounds: Connections) -> None:
    runner, listener, port = await served(bounds)
    for path in (b"/", b"/unknown"):
        answer = await answered(port, b"GET " + path + b" HT", b"TP/1.1\r\nHost: x\r\n\r", b"\n")  # in three pieces
        assert answer.startswith(b"HTTP/1.1 ")
        assert b"\r\nServer:" not in answer
    listener.close()
    await runner.cleanup()
    assert len(bounds) == 0


async def test_slow_headers_of_a_second_request_end(bounds: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_connections, "HEAD_S", 0.2)
    runner, listener, port = await served(bounds)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.read(4096)).startswith(b"HTTP/1.1 200")
    await asyncio.sleep(0.4)  # idle is not slow
    writer.write(b"GET / HT")
    with suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(1), 2) == b""
    assert len(bounds) == 0
    listener.close()
    await runner.cleanup()


def test_too_few_descriptors_are_refused_at_start() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, {hard}))\n"
        "from offhook.gateway.web.connections import reserve_descriptors\n"
        "reserve_descriptors(100)\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    run = partial(subprocess.run, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": python_path()})
    refused = run([sys.executable, "-c", code.format(hard=300)])
    assert "OFFHOOK_MAX_CALLS=100 needs 496 file descriptors and the limit is 300" in refused.stderr
    raised = run([sys.executable, "-c", code.format(hard=3_000)])
    assert raised.stdout == "1696\n"
