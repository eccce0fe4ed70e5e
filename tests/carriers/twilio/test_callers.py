"""Callers without a telephone number of their own: withheld ones, SIP phones, browsers. What the agent is told of them,
and how they are connected with a human.
"""

from __future__ import annotations

import asyncio
import secrets
import xml.etree.ElementTree as ET
from typing import Any
from unittest import mock

import pytest

from offhook import ToolContext
from offhook.gateway.agent.load import parse_agent
from offhook.gateway.carriers.twilio import twiml
from offhook.gateway.rehearsal.model.script import CallTool, Close, Reply, Script
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.phone.steps import HangUp, Pause, Say, WaitForAgent, WaitForEnd
from offhook.gateway.telephony.switchboard import _caller_id
from tests.calls.lines import HELLO
from tests.carriers.twilio.telephone_rig import GREETING, Exchange, exchange
from tests.rig.gateway import serving

ASKED: list[str] = []

OWN, HUMAN = "+15550200000", "+15557654321"
LINE = Speak("One moment.", length_ms=400)
TRANSFERS = Script((GREETING, Reply("caller", (CallTool("transfer_call"),)), Reply("tool:transfer_call", (LINE,))))
AGENTS = {
    "desk": (
        f"greeting: {{text: Greet.}}\ntools: [{{builtin: transfer_call, options: {{targets: {{s: '{HUMAN}'}}}}}}]",
        TRANSFERS,
    ),
    "broken": (f"fallback: {{say: '', dial: '{HUMAN}'}}", Script(refuse=Close(1008, "no"))),
}
WITHOUT_NUMBER = ["sip:200@pbx.example", "client:alice", "+266696687", "anonymous", "", "12345"]


async def who(context: ToolContext) -> str:
    """Look the caller up."""
    ASKED.append(context.caller)
    return "nobody"


def caller_ids(document: str) -> list[str | None]:
    return [dial.get("callerId") for dial in ET.fromstring(document).iter("Dial")]


async def transferred(x: Exchange, caller: str) -> tuple[Any, list[str | None]]:
    """A call that the model transfers: its truth, and the callerId of the document that dialled."""
    with mock.patch.object(twiml, "dial", wraps=twiml.dial) as dialled:
        truth, _ = await x.placed("desk", WaitForAgent("end"), Say(HELLO), WaitForEnd(20_000), caller=caller)
    return truth, [call.kwargs["caller_id"] for call in dialled.call_args_list]


@pytest.mark.parametrize("caller", ["sip:200@pbx.example", "client:alice", "+266696687"])
async def test_a_caller_without_a_number_is_transferred(caller: str) -> None:
    async with exchange(AGENTS) as x:
        truth, caller_id = await transferred(x, caller)
    assert [(a.verb, a.text) for a in truth.announced] == [("dial", HUMAN), ("hangup", "")]
    assert (truth.violations, caller_id) == ([], [OWN])


async def test_a_caller_with_a_number_is_shown_as_it() -> None:
    async with exchange(AGENTS) as x:
        truth, caller_id = await transferred(x, "+15550100")
    assert (truth.violations, caller_id) == ([], [""])


async def fallback_of(x: Exchange, caller: str, dialled: str, path: str = "/twilio/fallback") -> list[str | None]:
    form = {"CallSid": "CA" + secrets.token_hex(16), "From": caller, "To": dialled, "CallStatus": "ringing"}
    status, document = await x.webhook(path, form)
    assert status == 200
    return caller_ids(document)


async def test_every_fallback_has_a_caller_id() -> None:
    async with exchange(AGENTS) as x:
        number = x.numbers["broken"]
        for caller in WITHOUT_NUMBER:
            assert await fallback_of(x, caller, number) == [number]
            assert await fallback_of(x, caller, number, "/twilio/after") == [number]  # a call of another process
        assert await fallback_of(x, "+15550100", number) == [None]
        x.gateway.admission.draining = True
        assert await fallback_of(x, "client:alice", number, "/twilio/voice") == [number]


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ("numbers: ['sip:desk@x.sip.twilio.com']\noutbound: {caller_id: '+15559990001'}", "+15559990001"),
        ("numbers: ['sip:desk@x.sip.twilio.com', '12345', '+15559990002']", "+15559990002"),
        ("numbers: ['sip:desk@x.sip.twilio.com']", None),
    ],
)
def test_the_caller_id_is_one_of_our_numbers(fields: str, shown: str | None) -> None:
    agent = parse_agent(f"name: a\n{fields}\n")
    assert (_caller_id("client:alice", "sip:desk@x.sip.twilio.com", agent) or None) == shown


# --- what is known of a caller


@pytest.mark.parametrize(
    ("caller", "shown"),
    [
        ("+266696687", ""),
        ("+86282452253", ""),
        ("Anonymous", ""),
        ("sip:anonymous@anonymous.invalid", ""),
        ("sip:200@pbx.example", "sip:200@pbx.example"),
        ("client:alice", "client:alice"),
        ("+15550100", "+15550100"),
    ],
)
async def test_a_withheld_number_is_unknown_to_all(caller: str, shown: str) -> None:
    script = Script((GREETING, Reply("caller", (CallTool("who"),))))
    yaml = "instructions: The number of the caller is {{caller}}.\ngreeting: {text: Greet.}\n"
    agent = parse_agent(f"name: desk\n{yaml}tools: [{{function: '{__name__}:who'}}]\n")
    ASKED.clear()
    async with (
        ModelServer(lambda _: script) as model,
        serving([agent], {"OFFHOOK_INSECURE": "1"}, model=model) as (gateway, url),
    ):
        call = SimulatedCall(url, (WaitForAgent("end"), Say(HELLO), Pause(1_500), HangUp()), caller=caller)
        await call.run()
        async with asyncio.timeout(20):
            while (record := await gateway.records.get(call.call_sid)) is None:
                await asyncio.sleep(0.01)
        (session,) = model.sessions
        assert f"The number of the caller is {shown or 'unknown'}." in str(session.setup)
        assert (record.caller, ASKED) == (shown, [shown])
