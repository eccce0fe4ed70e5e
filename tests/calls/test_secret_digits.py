"""What a caller enters in secret reaches the tool that needs it, and nobody who listens meanwhile."""

from __future__ import annotations

import asyncio
import logging
import re
import wave
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest

from offhook.gateway.app import Gateway
from offhook.gateway.rehearsal.model.script import CallTool, Reply, Script
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.phone.steps import Digit, HangUp, Pause, Say, WaitForAgent
from offhook.media import mulaw
from tests.calls import phone_tools
from tests.calls.lines import GREETING, HELLO, SATURDAY, YES, agent
from tests.rig.calls import Plan, place_calls

PIN = "51947306"
LOUD = 200  # of 32,768: less is the line's own noise


class Listens:
    """An operator who listens in from the call's beginning to its end."""

    def __init__(self) -> None:
        self.codes = b""
        self.muted: list[bool] = []

    def __call__(self, gateway: Gateway, _: SimulatedCall) -> None:
        self.task = asyncio.create_task(self._listen(gateway))

    async def _listen(self, gateway: Gateway) -> None:
        while not gateway.calls:
            await asyncio.sleep(0.01)
        (call,) = gateway.calls.values()
        listening = call.tap.open("ann")
        while not listening.over:
            self.codes += listening.take()
            self.muted += [listening.muted] if [listening.muted] != self.muted[-1:] else []
            await asyncio.sleep(0.05)


def test_secret_digits_are_neither_written_nor_heard(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    plan = Plan(
        # They read the second half out while they press it.
        (
            *(WaitForAgent("end"), Say(HELLO), Pause(1_500), Digit(PIN[:4]), Say(YES), Digit(PIN[4:])),
            *(WaitForAgent("end"), Say(HELLO), WaitForAgent("end"), HangUp()),
        ),
        Script(
            (
                GREETING,
                Reply("caller", (CallTool("enter_pin"),)),
                Reply("tool:enter_pin", (CallTool("check_pin", {"pin": "secret-1"}),)),
                Reply("tool:check_pin", (SATURDAY,)),
                Reply("caller", (SATURDAY,)),
            )
        ),
        agent=agent(
            "builtin: collect_digits, name: enter_pin, options: {length: 8, secret: true}",
            "function: 'tests.calls.phone_tools:check_pin'",
        )
        + f"\nrecording: {{enabled: true, directory: {tmp_path}}}",
        during=(listens := Listens()),
    )
    metrics: list[str] = []
    outcome = place_calls({"pin": plan}, metrics=metrics)["pin"]
    assert outcome.violations == []
    assert [(t.name, t.outcome) for t in outcome.record.tool_calls] == [("enter_pin", "done"), ("check_pin", "done")]
    assert f"pin {PIN}" in phone_tools.DONE
    (session,) = outcome.sessions
    told = str([answer.response for answer in session.tool_answers]) + str(session.texts)
    record = msgspec.json.encode(outcome.record).decode()
    for where in (told, record, metrics[0], "\n".join(caplog.messages)):
        numbers = re.findall(r"(?<![\d.])\d{6,}", where)  # not the decimals of some time, which are any digits
        assert not [number for number in numbers if PIN[:6] in number or PIN[2:] in number]
    before, secretly, after = outcome.truth.spoken
    heard = np.abs(np.frombuffer(bytes(session.audio), "<i2"))
    (path,) = tmp_path.glob("*.wav")
    with wave.open(str(path)) as file:
        kept = np.abs(np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)[:, 0])
    pairs = np.abs(mulaw.decode(listens.codes).reshape(-1, 2, 160))
    overheard, agent_overheard = (pairs[:, side].ravel() for side in (0, 1))
    assert listens.muted == [False, True, False]
    secret_ms = outcome.record.tool_calls[0].finished_ms - outcome.record.tool_calls[0].requested_ms
    both = np.flatnonzero(np.maximum(overheard, agent_overheard) > 0) / 8
    assert max(later - earlier for earlier, later in pairwise(both)) > secret_ms - 100
    for samples, rate_hz in ((heard, 16_000), (kept, 8_000), (overheard, 8_000)):
        loud = np.flatnonzero(samples > LOUD) / rate_hz
        # Silence from the end of one utterance to the beginning of the next but one, theirs in between and unheard.
        gap_s = max(later - earlier for earlier, later in pairwise(loud))
        assert gap_s > after.onset_s - before.end_s - 1.0
        assert secretly.end_s - secretly.onset_s > 1.0
        assert loud[-1] - loud[0] > after.end_s - before.onset_s - 1.0


def test_a_hash_after_a_pin_of_fixed_length_is_dropped() -> None:
    plan = Plan(
        (
            *(WaitForAgent("end"), Say(HELLO), Pause(1_500), Digit("1234"), Pause(400), Digit("#"), Pause(400)),
            *(Digit("77#"), WaitForAgent("end"), Digit("#"), Pause(400), HangUp()),
        ),
        Script(
            (
                GREETING,
                Reply("caller", (CallTool("pin"),)),
                Reply("tool:pin", (CallTool("code"),)),
                Reply("tool:code", (SATURDAY,)),
            )
        ),
        agent=agent(
            "builtin: collect_digits, name: pin, options: {length: 4}",
            "builtin: collect_digits, name: code",
        ),
    )
    outcome = place_calls({"pins": plan})["pins"]
    (session,) = outcome.sessions
    results = [answer.response["result"] for answer in session.tool_answers]
    assert [(one["digits"], one["complete"]) for one in results] == [("1234", True), ("77", True)]
    assert [text.text for text in session.texts if "#" in text.text] != []  # a later # is the model's to hear of
    assert len([text for text in session.texts if "#" in text.text]) == 1
