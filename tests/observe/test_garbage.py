"""Full collections wait for a moment with few calls; an ended call is freed without any."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from offhook.gateway.call import teardown
from offhook.gateway.call.call import Call
from offhook.gateway.carriers.stream_line import StreamLine
from offhook.gateway.models.gemini.wire import SessionSocket
from offhook.gateway.observe import garbage
from offhook.gateway.observe.garbage import collecting, is_due
from offhook.gateway.rehearsal.model.script import CallTool, Reply, Script
from offhook.gateway.rehearsal.phone.steps import HangUp, Pause, Say, WaitForAgent
from tests.calls.lines import GREETING, HELLO, SATURDAY, agent
from tests.rig.calls import Plan, place_calls


@pytest.mark.parametrize(
    ("middle_ones", "calls", "due"),
    [
        (0, 0, False),
        (garbage.DUE - 1, 0, False),
        (garbage.DUE, garbage.FEW_CALLS, True),
        (garbage.DUE, garbage.FEW_CALLS + 1, False),
        (garbage.OVERDUE - 1, 1000, False),
        (garbage.OVERDUE, 1000, True),
    ],
)
def test_full_collections_wait_for_few_calls(middle_ones, calls, due):
    assert is_due(middle_ones, calls) is due


async def test_the_collector_is_given_back_as_it_was():
    before = gc.get_threshold()
    with collecting({}):
        assert gc.get_threshold()[2] == garbage.NEVER
        await asyncio.sleep(0)
    assert gc.get_threshold() == before


TOOLS = "function: 'tests.calls.slow_tools:quick', name: quick", "function: 'tests.calls.slow_tools:slow', name: slow"


@pytest.mark.parametrize("tool", ["quick", "slow"])
def test_an_ended_call_is_freed_without_collection(monkeypatch, tool):
    """The caller hangs up after the tool, or while it runs; sockets of both sides included."""
    monkeypatch.setattr(teardown, "RELEASE_AFTER_S", 0.0)
    monkeypatch.setattr(gc, "collect", lambda *_: 0)
    parts: list[weakref.ref] = []
    made, attach, dialled = Call.__init__, StreamLine.__init__, SessionSocket.__init__

    def making(call, *args, **options):
        made(call, *args, **options)
        for part in (
            call,
            call.hearing,
            call.hearing.detector,
            call.model,
            call.model.link,
            call.tools,
            call.speaking,
            call.tap,
        ):
            parts.append(weakref.ref(part))

    def attaching(line, socket, *args, **options):
        parts.append(weakref.ref(socket))
        attach(line, socket, *args, **options)

    def dialling(session_socket, ws):
        parts.append(weakref.ref(ws.protocol))
        dialled(session_socket, ws)

    monkeypatch.setattr(Call, "__init__", making)
    monkeypatch.setattr(StreamLine, "__init__", attaching)
    monkeypatch.setattr(SessionSocket, "__init__", dialling)
    end = WaitForAgent("end") if tool == "quick" else Pause(500)
    steps = (WaitForAgent("end"), Say(HELLO), end, Pause(200), HangUp())
    script = Script((GREETING, Reply("caller", (CallTool(tool),)), Reply("any", (SATURDAY,))))
    plan = Plan(steps, script, agent(*TOOLS))
    gc.disable()
    try:
        place_calls({"one": plan})
        left = [type(part()).__name__ for part in parts if part() is not None]
    finally:
        gc.enable()
    assert len(parts) == 10
    assert left == []
