"""The clock that stops while the process computes."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from offhook.gateway.rehearsal.quick_clock import Clock, run_quickly, running_clock

_wall_s = time.monotonic


def taken(work: object, speed: float = 20.0, **options: object) -> tuple[float, float]:
    """How long a coroutine function takes: by the quick clock, by the wall's."""

    async def measured(clock: Clock) -> float:
        began_s = clock()
        assert began_s == asyncio.get_running_loop().time() == running_clock()()
        await work()  # type: ignore[operator]
        return clock() - began_s

    began_s = _wall_s()
    by_clock_s = run_quickly(measured, speed, **options)  # type: ignore[arg-type]
    return by_clock_s, _wall_s() - began_s


def test_a_wait_is_shorter_by_the_speed():
    async def waits() -> None:
        await asyncio.sleep(6.0)

    by_clock_s, by_wall_s = taken(waits)
    assert by_clock_s == pytest.approx(6.0, abs=0.001)
    assert 0.25 < by_wall_s < 3.0


def test_many_short_waits_are_as_long_as_one():
    async def waits() -> None:
        for _ in range(3_000):
            await asyncio.sleep(0.002)

    by_clock_s, by_wall_s = taken(waits)
    assert by_clock_s == pytest.approx(6.0, abs=0.01)
    assert 0.2 < by_wall_s < 3.0


def test_the_clock_stops_while_the_process_computes():
    async def works() -> None:
        until_s = _wall_s() + 0.2
        while _wall_s() < until_s:
            await asyncio.sleep(0)

    assert taken(works) == (0.0, pytest.approx(0.25, abs=0.2))


def test_the_wall_s_pace_while_a_thread_works():
    async def threaded() -> None:
        await asyncio.gather(asyncio.to_thread(time.sleep, 0.3), asyncio.sleep(0.2))

    by_clock_s, by_wall_s = taken(threaded)
    assert 0.2 <= by_clock_s <= by_wall_s < 3.0


def test_threads_that_the_loop_does_not_know_of():
    done = threading.Event()

    async def waits() -> None:
        threading.Timer(0.2, done.set).start()
        while not done.is_set():
            await asyncio.sleep(0.02)

    by_clock_s, by_wall_s = taken(waits, others_work=lambda: not done.is_set())
    assert by_clock_s <= by_wall_s < 3.0


def test_received_data_ends_a_wait():
    async def talks() -> None:
        server = await asyncio.start_server(lambda reader, writer: echo(reader, writer), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello\n")
        async with asyncio.timeout(30):
            assert await reader.readline() == b"hello\n"
        writer.close()
        server.close()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    by_clock_s, _ = taken(talks)
    assert by_clock_s < 1.0


def test_the_wall_s_clock_is_not_replaced():
    async def looks(clock: Clock) -> None:
        assert time.monotonic is _wall_s
        before_s = time.monotonic()
        await asyncio.sleep(6.0)
        assert time.monotonic() - before_s < 3.0

    run_quickly(looks)


def test_an_ordinary_loop_has_the_wall_s_clock():
    async def looks() -> None:
        assert running_clock() is time.monotonic

    asyncio.run(looks())


def test_an_error_is_raised():
    async def fails(clock: Clock) -> None:
        raise ValueError

    with pytest.raises(ValueError):
        run_quickly(fails)
