"""What a listener is sent of calls with barge-ins, stalls and wrong guesses, against what was heard on the line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from offhook.gateway.app import Gateway
from offhook.gateway.call.tap import PAIR_BYTES, QUEUE_FRAMES, Listening
from offhook.gateway.rehearsal.model.script import Reply, Script
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.phone.steps import HangUp, Say, SayOver, WaitForAgent
from offhook.media import mulaw
from tests.calls.lines import GREETING, HELLO, LONG, SATURDAY, WAIT
from tests.rig.calls import Plan, place_calls

LOUD = 200  # of 32,768
TALK = (WaitForAgent("end"), Say(HELLO), SayOver(WAIT, 1_500), WaitForAgent("end"), HangUp())
SCRIPT = Script((GREETING, Reply("caller", (LONG,)), Reply("caller", (SATURDAY,))))


class Listens:
    """`take(listening)` at every look; `codes`: what it has returned."""

    def __init__(self, take: Callable[[Listening], bytes]) -> None:
        self._take, self.codes = take, b""

    def __call__(self, gateway: Gateway, _: SimulatedCall) -> None:
        self.task = asyncio.create_task(self._listen(gateway))

    async def _listen(self, gateway: Gateway) -> None:
        while not gateway.calls:
            await asyncio.sleep(0.01)
        (self.call,) = gateway.calls.values()
        self.listening = self.call.tap.open("ann")
        while not self.listening.over:
            self.codes += self._take(self.listening)
            await asyncio.sleep(0.05)


def test_listener_hears_a_cut_reply_as_the_caller_did() -> None:
    listens, metrics = Listens(Listening.take), []
    outcome = place_calls({"cut": Plan(TALK, SCRIPT, during=listens)}, metrics=metrics)["cut"]
    pairs = mulaw.decode(listens.codes).reshape(-1, 2, PAIR_BYTES // 2)
    caller, agent = (np.flatnonzero(np.abs(pairs[:, side].ravel()) > LOUD) for side in (0, 1))
    edges = np.flatnonzero(np.diff(agent) > 8 * 700)  # samples: the pauses between replies
    begins, ends = agent[np.r_[0, edges + 1]], agent[np.r_[edges, len(agent) - 1]]
    greeting, cut, last = outcome.record.turns
    assert cut.interrupted
    assert len(begins) == 3
    # Files have some silence at their ends; the one that was cut ends in the middle of a word.
    assert (ends[1] - begins[1]) / 8 == pytest.approx(cut.heard_ms, abs=250)
    for turn, at in ((greeting, 0), (last, 2)):
        assert (ends[at] - begins[at]) / 8 <= turn.heard_ms
    hello, wait = outcome.truth.spoken
    assert (caller[-1] - caller[0]) / 8_000 == pytest.approx(wait.end_s - hello.onset_s, abs=0.2)
    # Both sides on one axis: the caller's second line begins while the agent is heard, and silences it.
    second = caller[np.flatnonzero(np.diff(caller) > 8 * 700)[-1] + 1]
    assert 0 < (ends[1] - second) / 8 < 800


def test_secret_mutes_what_the_agent_says_meanwhile() -> None:
    class Hides(Listens):
        """The secret begins in the middle of the first reply and lasts."""

        async def _listen(self, gateway: Gateway) -> None:
            asyncio.get_running_loop().call_later(1.5, lambda: self.call.hearing.hide(True))
            await super()._listen(gateway)

    listens = Hides(Listening.take)
    outcome = place_calls({"secret": Plan((WaitForAgent("end"), HangUp()), SCRIPT, during=listens)})["secret"]
    pairs = mulaw.decode(listens.codes).reshape(-1, 2, PAIR_BYTES // 2)
    (greeting,) = outcome.record.turns
    assert greeting.heard_ms > 2_000
    loud = np.flatnonzero(np.abs(pairs[:, 1].ravel()) > LOUD) / 8
    assert 300 < loud[-1] - loud[0] < 1_700
    assert not np.any(np.abs(pairs[:, 0]) > LOUD)
    assert listens.listening.muted


def test_slow_listener_loses_frames_and_the_call_none() -> None:
    def nothing(listening: Listening) -> bytes:
        return b""

    listens, metrics = Listens(nothing), []
    outcome = place_calls({"slow": Plan(TALK, SCRIPT, during=listens)}, metrics=metrics)["slow"]
    assert len(listens.listening.frames) == QUEUE_FRAMES
    frames = outcome.record.audio_in_ms / 20
    dropped = listens.listening.dropped
    assert dropped == pytest.approx(frames - QUEUE_FRAMES, abs=30)
    assert f'offhook_frames_dropped_total{{reason="slow_listener"}} {dropped}' in metrics[0]
    assert outcome.record.errors == []
    assert outcome.violations == []


def test_fault_in_the_tap_costs_the_listening_alone() -> None:
    class Broken(Listens):
        def __call__(self, gateway: Gateway, call: SimulatedCall) -> None:
            super().__call__(gateway, call)
            asyncio.get_running_loop().call_later(2.0, self._break)

        def _break(self) -> None:
            self.listening.frames = None  # type: ignore[assignment]

    listens = Broken(lambda listening: b"" if listening.frames is None else listening.take())
    metrics: list[str] = []
    outcome = place_calls({"broken": Plan(TALK, SCRIPT, during=listens)}, metrics=metrics)["broken"]
    assert listens.listening.over
    assert 'offhook_task_failures_total{part="listening"} 1' in metrics[0]
    assert [turn.interrupted for turn in outcome.record.turns] == [False, True, False]
    (entry,) = outcome.record.listened
    assert entry.to_ms is not None
    assert entry.to_ms < outcome.record.duration_ms - 1_000
