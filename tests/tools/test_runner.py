"""Conduct: what a run of a tool may take, what the model and the operator are told of it, and what is kept secret."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import logging
import sys
import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from offhook.gateway.conversation.events import Outcome
from offhook.gateway.tools import LateOutcome, Secret, Tool, ToolContext, ToolError, tool
from offhook.gateway.tools.answer import ANSWER_LIMIT
from offhook.gateway.tools.function import function_tool
from offhook.gateway.tools.threads import Threads
from tests.tools.hosts import Desk

pytestmark = pytest.mark.wall_clock(calm=True)  # threads keep it

KEY = "sk-planted-7f3a9c"


def made(function: Any, **settings: Any) -> Tool:
    from dataclasses import replace

    return replace(function_tool(function), **settings)


# --- whatever it returns


def logged(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


@logged
async def find_customer(name: str) -> dict[str, Any]:
    return {"name": name, "balance": 12}


def in_a_future(name: str) -> Any:
    async def outer() -> Any:
        return find_customer(name)  # an awaitable that comes to an awaitable

    return outer()


async def rows(name: str) -> Any:
    yield {"name": name, "balance": np.int64(12)}


def lazily(name: str) -> Any:
    for _ in range(1):
        assert threading.current_thread() is not threading.main_thread()
        yield {"name": name, "balance": 12}


@pytest.mark.parametrize("function", [find_customer, in_a_future, rows, lazily])
async def test_an_awaitable_result_is_awaited(function: Any) -> None:
    desk = Desk(made(function))
    result = await desk.ask(function.__name__, name="Ann")
    found = result.response["result"]
    assert (found[0] if isinstance(found, list) else found) == {"name": "Ann", "balance": 12}


class Unshowable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def raises_unshowable() -> None:
    raise Unshowable


async def raises_unshowable_async() -> None:
    raise Unshowable


def returns_unshowable() -> Any:
    return {"error": Unshowable()}


async def returns_a_coroutine_inside() -> Any:
    return [find_customer("Ann")]


def raises_a_tool_error_without_text() -> None:
    raise ToolError(Unshowable())  # type: ignore[arg-type]


async def raises_a_group() -> None:
    raise BaseExceptionGroup("several", [SystemExit(1)])


async def fails_late() -> Any:
    yield 1
    raise Unshowable


@pytest.mark.parametrize(
    "function",
    [
        raises_unshowable,
        raises_unshowable_async,
        returns_unshowable,
        returns_a_coroutine_inside,
        raises_a_tool_error_without_text,
        raises_a_group,
        fails_late,
    ],
)
async def test_no_value_and_no_error_keeps_a_call_unanswered(function: Any) -> None:
    desk = Desk(made(function))
    began_s = time.perf_counter()
    result = await desk.ask(function.__name__)
    assert time.perf_counter() - began_s < 0.5
    assert result.outcome is Outcome.FAILED
    assert result.response["status"] == "error"
    assert result.record


@pytest.mark.parametrize("is_async", [False, True])
async def test_an_endless_generator_is_cut(is_async: bool) -> None:
    async def count() -> Any:
        for n in itertools.count():
            yield n

    def count_in_a_thread() -> Any:
        yield from itertools.count()

    function = count if is_async else count_in_a_thread
    result = await Desk(made(function)).ask(function.__name__)
    assert result.response["result"][:3] == [0, 1, 2]
    assert "too long" in result.response["note"]


# --- what goes wrong


async def test_a_hanging_tool_is_cancelled_at_its_limit() -> None:
    ended = []

    async def hang() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    desk = Desk(made(hang, timeout_s=0.05))
    result = await desk.ask("hang")
    assert result.outcome is Outcome.TIMED_OUT
    assert result.response == {"status": "error", "message": "This takes too long just now.", "retryable": False}
    assert result.record == "no answer within 0.05 s"
    assert ended == ["cancelled"]


async def test_a_hanging_thread_is_abandoned_and_recorded() -> None:
    go, seen = threading.Event(), []

    def hang(context: ToolContext) -> str:
        go.wait(10)
        seen.append(context.cancelled.is_set())
        context.say("Still here.")
        return "booked after all"

    desk = Desk(made(hang, timeout_s=0.05))
    assert (await desk.ask("hang")).outcome is Outcome.TIMED_OUT
    assert desk.host.after == [("call-1", LateOutcome.RUNNING, None)]
    go.set()
    await desk.until(lambda: len(desk.host.after) == 2)
    assert desk.host.after[1] == ("call-1", LateOutcome.FINISHED, "booked after all")
    assert seen == [True]
    assert desk.host.said == []  # it has no say any more


def fails() -> None:
    raise LookupError(f"no row for {KEY}")


async def fails_async() -> None:
    raise LookupError(f"no row for {KEY}")


def stops() -> None:
    raise StopIteration("end")


def quits() -> None:
    sys.exit("enough")


async def quits_async() -> None:
    sys.exit("enough")


async def cancels_itself() -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("function", [fails, fails_async, stops, quits, quits_async, cancels_itself])
async def test_the_model_gets_no_traceback_the_log_does(function: Any, caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(made(function), secrets={"KEY": KEY})
    result = await desk.ask(function.__name__)
    assert result.outcome is Outcome.FAILED
    assert result.response == {"status": "error", "message": "This did not work.", "retryable": False}
    assert result.record
    if function in (fails, fails_async):
        assert result.record == "LookupError: no row for [secret]"
        assert "Traceback" in caplog.text
        assert "raise LookupError" in caplog.text
        assert KEY not in caplog.text


async def test_a_tool_that_does_not_exist_is_answered() -> None:
    result = await Desk().ask("dance")
    assert result.response["message"] == "There is no tool named dance."


# --- answers


async def test_a_10_mb_result_is_cut_off_the_loop() -> None:
    rows = [{"name": "x" * 90, "number": i} for i in range(100_000)]
    text = "é" * 5_000_000

    async def find() -> Any:
        return rows

    async def read() -> Any:
        return text

    desk = Desk(made(find), made(read))
    for name in ("find", "read"):
        began_s = time.perf_counter()
        result = await desk.ask(name)
        took_ms = (time.perf_counter() - began_s) * 1000
        print(f"{name}: {took_ms:.1f} ms")
        assert result.outcome is Outcome.DONE
        size = len(json.dumps(result.response, ensure_ascii=False).encode())
        assert 0.5 * ANSWER_LIMIT < size < 1.5 * ANSWER_LIMIT
        assert result.response["note"].startswith("This answer was too long")
        assert took_ms < 1_000
    assert desk.results["call-1"].response["result"][0] == rows[0]


@pytest.mark.parametrize(
    ("value", "message"), [(None, "Done."), ([], "Nothing was found."), ({}, "Nothing was found.")]
)
async def test_an_empty_result_is_explained(value: Any, message: str) -> None:
    async def find() -> Any:
        return value

    result = await Desk(made(find)).ask("find")
    assert result.response == {"status": "ok", "result": value, "message": message}


# --- many at once, cancelling, repeats


async def test_parallel_runs_are_limited() -> None:
    running, most, go = 0, 0, asyncio.Event()

    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await go.wait()
        running -= 1

    desk = Desk(made(work), limit=2)
    ids = [desk.start("work") for _ in range(5)]
    await desk.until(lambda: running == 2)
    go.set()
    for call_id in ids:
        assert (await desk.result(call_id)).outcome is Outcome.DONE
    assert most == 2


async def test_a_cancelled_run_sends_nothing_and_ends() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    desk = Desk(made(work))
    call_id = desk.start("work")
    await asyncio.sleep(0)
    desk.runner.cancel(call_id)
    await asyncio.wait_for(ended.wait(), 5)
    await desk.runner.close()
    assert desk.results == {}
    assert desk.host.after == []


async def test_a_run_finished_after_its_cancel_is_recorded() -> None:
    async def stubborn() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return "booked"

    desk = Desk(made(stubborn))
    call_id = desk.start("stubborn")
    await asyncio.sleep(0.01)
    desk.runner.cancel(call_id)
    await desk.runner.close()
    assert desk.results == {}
    assert desk.host.after == [(call_id, LateOutcome.FINISHED, "booked")]


async def test_a_repeated_call_gets_the_first_result() -> None:
    runs = []

    async def book(day: str) -> str:
        runs.append(day)
        await asyncio.sleep(0.02)
        return f"number {len(runs)}"

    desk = Desk(made(book))
    at_once = [desk.start("book", {"day": "Friday"}, key="k") for _ in range(3)]
    results = [await desk.result(call_id) for call_id in at_once]
    results.append(await desk.result(desk.start("book", {"day": "Friday"}, key="k")))
    assert [r.response["result"] for r in results] == ["number 1"] * 4
    assert runs == ["Friday"]
    other = await desk.result(desk.start("book", {"day": "Friday"}, key="k2"))
    assert other.response["result"] == "number 2"


async def test_a_repeat_of_an_interrupted_run_does_not_run() -> None:
    runs = []

    async def book() -> None:
        runs.append(1)
        await asyncio.sleep(60)

    desk = Desk(made(book))
    first = desk.start("book", key="k")
    await desk.until(lambda: runs)
    desk.runner.cancel(first)
    again = await desk.result(desk.start("book", key="k"))
    assert again.outcome is Outcome.FAILED
    assert again.response["message"].startswith("This was begun before and then interrupted.")
    assert runs == [1]


# --- rehearsals


@pytest.mark.parametrize(
    ("facts", "runs"),
    [
        ({"simulated": True}, False),
        ({"simulated": True, "effects": frozenset({"other"})}, False),
        ({"simulated": True, "effects": frozenset({"charge"})}, True),
        ({"simulated": True, "effects": frozenset({"*"})}, True),
        ({"simulated": False}, True),
    ],
)
async def test_an_outside_effect_is_only_simulated(facts: dict[str, Any], runs: bool) -> None:
    ran = []

    @tool(outside_effects=True)
    async def charge(cents: int) -> None:
        ran.append(cents)

    desk = Desk(function_tool(charge))
    result = await desk.result(desk.start("charge", {"cents": 500}, facts=facts))
    assert result.outcome is Outcome.DONE
    assert ran == ([500] if runs else [])
    assert result.response.get("rehearsed", False) is not runs
    wrong = await desk.result(desk.start("charge", {"cents": "five"}, facts=facts))
    assert wrong.outcome is Outcome.FAILED  # arguments are checked all the same


# --- secrets


async def test_a_secret_appears_in_no_record_log_or_error(caplog: pytest.LogCaptureFixture) -> None:
    async def echo(text: str) -> Any:
        return {
            "said": text,
            text: [text, f"https://api.example/?key={KEY}"],
            "far": "x" * (ANSWER_LIMIT - 200) + KEY * 20,
        }

    async def broken(text: int) -> None: ...

    desk = Desk(made(echo), made(broken), made(fails), secrets={"KEY": KEY})
    with caplog.at_level(logging.DEBUG):
        told = [await desk.ask("echo", text=KEY), await desk.ask("broken", text=KEY), await desk.ask("fails")]
    assert told[0].outcome is Outcome.DONE
    for part in (str(told), caplog.text, str(desk.host.after)):
        assert KEY not in part
        assert KEY[:12] not in part  # nor a part of it, where an answer was cut
    assert told[0].response["result"]["said"] == "[secret]"


async def test_the_model_hands_on_a_secret_it_never_sees() -> None:
    got = []

    async def ask_pin() -> dict[str, Any]:
        return {"digits": Secret("4711"), "count": 4}

    async def check(pin: int) -> str:
        got.append(pin)
        return f"{pin} is right"

    desk = Desk(made(ask_pin), made(check))
    asked = await desk.ask("ask_pin")
    assert asked.response["result"] == {"digits": "secret-1", "count": 4}
    checked = await desk.ask("check", pin="secret-1")
    assert got == [4711]
    assert checked.response["result"] == "[secret] is right"
    wrong = await desk.ask("check", pin="secret-2")
    assert wrong.response["message"] == "pin must be a whole number, not 'secret-2'."


# --- threads


async def test_threads_are_bounded_cancelled_runs_not_begun() -> None:
    go, ran, threads = threading.Event(), [], Threads(limit=2)

    lock, at_once, most = threading.Lock(), 0, 0

    def work(number: int) -> int:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        go.wait(10)
        with lock:
            at_once -= 1
            ran.append(number)
        return number

    tasks = [asyncio.create_task(threads.run(lambda n=n: work(n))) for n in range(5)]  # type: ignore[misc]
    await asyncio.sleep(0.02)
    tasks[4].cancel()
    await asyncio.sleep(0)
    go.set()
    assert await asyncio.gather(*tasks[:4]) == [0, 1, 2, 3]
    assert most == 2
    assert await threads.run(lambda: "again") == "again"
    assert sorted(ran) == [0, 1, 2, 3]


async def test_functions_that_hang_cost_no_other_a_thread() -> None:
    go, threads = threading.Event(), Threads(limit=2)

    def hangs() -> None:
        go.wait(20)

    def answers() -> str:
        return "here"

    stuck = replace(function_tool(hangs, threads), timeout_s=0.1, breaker=None)
    desk = Desk(stuck, function_tool(answers, threads), limit=10)
    try:
        late = [await desk.ask("hangs") for _ in range(2)]
        assert [result.failure for result in late] == ["timeout", "timeout"]
        assert threads.abandoned == 2
        began_s = time.perf_counter()
        refused = await desk.ask("hangs")
        assert time.perf_counter() - began_s < 0.09
        assert (refused.failure, refused.response["status"]) == ("no_thread", "error")
        assert (await desk.ask("answers")).response["result"] == "here"
    finally:
        go.set()
    await desk.until(lambda: threads.abandoned == 0)
    assert (await desk.ask("hangs")).outcome is Outcome.DONE


async def test_function_that_keeps_failing_is_left_alone() -> None:
    ran = []

    async def unreachable() -> None:
        ran.append(1)
        raise ConnectionRefusedError

    async def wrong() -> None:
        ran.append(1)
        raise KeyError("day")

    desk = Desk(made(unreachable), made(wrong))
    failures = [(await desk.ask("unreachable")).failure for _ in range(7)]
    assert failures == ["exception"] * 5 + ["left_alone"] * 2
    assert [(await desk.ask("wrong")).failure for _ in range(7)] == ["exception"] * 7  # its arguments may be at fault
    assert len(ran) == 12


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError, asyncio.CancelledError])
@pytest.mark.parametrize("in_thread", [False, True])
async def test_whatever_it_raises_is_the_tools_failure(error: type[BaseException], in_thread: bool) -> None:
    async def fails() -> None:
        raise error

    def fails_in_a_thread() -> None:
        raise error

    function = fails_in_a_thread if in_thread else fails
    began_s = time.perf_counter()
    result = await Desk(made(function)).ask(function.__name__)
    assert time.perf_counter() - began_s < 0.5
    assert result.outcome is Outcome.FAILED
    assert result.response["status"] == "error"


async def test_a_result_that_cannot_be_reported_is_an_error() -> None:
    async def fine() -> str:
        return "fine"

    desk = Desk(made(fine))
    finished = desk.runner._on_finished

    def once(call: Any, result: Any) -> None:
        desk.runner._on_finished = finished
        raise ZeroDivisionError

    desk.runner._on_finished = once
    result = await desk.ask("fine")
    assert result.outcome is Outcome.FAILED
    assert [type(error) for error in desk.faults] == [ZeroDivisionError]


async def test_a_blocked_thread_does_not_hold_the_loop() -> None:
    begun = threading.Event()

    def block() -> None:
        begun.set()
        time.sleep(1.0)

    desk = Desk(made(block))
    call_id = desk.start("block")
    turns = 0
    while call_id not in desk.results:
        await asyncio.sleep(0.01)
        turns += 1
    assert begun.is_set()
    assert turns > 20  # of a hundred, on a busy machine
