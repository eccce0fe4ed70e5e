"""Protocol faults planted into the gateway are found by the simulated carrier and model, which share no parser with it.

The faulty gateway is a process of its own; see `planted/sitecustomize.py` for what is planted.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
from pathlib import Path

import pytest

from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.results.report import CallReport
from offhook.gateway.rehearsal.run import gateway_process, rehearse
from offhook.gateway.rehearsal.scenario.load import parse_scenario

pytestmark = pytest.mark.wall_clock

PLANTED = Path(__file__).parent / "planted"
spec = importlib.util.spec_from_file_location("planted_faults", PLANTED / "sitecustomize.py")
assert spec is not None
assert spec.loader is not None
faults = importlib.util.module_from_spec(spec)
spec.loader.exec_module(faults)

CALL = """\
name: planted
agent:
  name: anna
  greeting: {text: Hello}
  tools: [{function: "offhook.gateway.rehearsal.scenarios.restaurant_tools:find_table"}]
caller:
  steps:
    - wait_for_agent: {timeout_ms: 8000}
    - say: A table for two, please.
    - {say_over: "Wait, stop!", after_ms: 800, timeout_ms: 8000}
    - pause_ms: 1500
    - hang_up
model:
  replies:
    - {on: text, say: Blue Heron., length_ms: 800, chunk_ms: [80]}
    - {on: caller, tool: find_table, args: {day: Monday, people: 2}}
    - {on: "tool:find_table", say: There is one by the window on Monday., length_ms: 3000, chunk_ms: [80]}
    - {on: caller, say: "Yes?", length_ms: 600}
"""

# What is found of each fault.
FOUND = {
    "line": {
        "not base64": "31951: media.payload is not base64",
        "empty": "31951: media.payload is empty",
        "file header": "31951: media.payload begins with a file header",
        "other stream": "31951: streamSid is 'MZ0000",
        "no stream": "31951: .*missing required field `streamSid`",
        "unknown event": "31951: .*Invalid value 'audio'",
        "unknown field": "31951: .*contains unknown field `track`",
        "unnamed mark": "31951: mark.name is empty",
        "number for text": "31951: Expected `str`, got `int`",
        "not JSON": "31951: Input data was truncated",
    },
    "model": {
        "not base64": "Base64 decoding failed",
        "odd": "PCM16 audio of an odd number of bytes",
        "mime type": "Unsupported audio type 'audio/wav'",
        "rate": "Unsupported sample rate 1",
        "unknown kind": 'Unknown name "realtimeSound"',
        "unknown field": "realtimeInput: .*unknown field `loud`",
        "two kinds": "exactly one of its kinds, not 2",
        "not JSON": r"Invalid JSON payload received\. \(",
        "setup again": "setup may only be the first message",
        "activity": "activityStart is not supported when automatic activity detection is enabled",
        "tool id": "result of find_table for a call that is unknown",
        "tool name": "result named somebody_else for a call of find_table",
        "scheduling": "Invalid value at 'function_responses.scheduling'",
        "role": "Please use a valid role",
        "no setup first": "The first message must be setup",
    },
    "twiml": {
        "not encrypted": "31922: /twilio/voice: the stream's URL is 'ws:",
        "query string": "31920: /twilio/voice: the stream's URL has a query string",
        "no stream": "12200: /twilio/voice: <Connect> holds exactly one <Stream>",
        "not XML": "12100: /twilio/voice: TwiML is not XML",
        "no response": "12200: /twilio/voice: TwiML begins with <Answer>",
        "long parameter": "12200: /twilio/voice: <Parameter> 't+' and its value have 500 characters or more",
    },
}
AT_ONCE = {"line": 1, "model": len(FOUND["model"]), "twiml": len(FOUND["twiml"])}


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> dict[str, list[CallReport]]:
    folder = tmp_path_factory.mktemp("planted")

    async def all_of_them() -> list[list[CallReport]]:
        return await asyncio.gather(*(placed(folder, where, AT_ONCE.get(where, 1)) for where in (*FOUND, "nowhere")))

    return dict(zip((*FOUND, "nowhere"), asyncio.run(all_of_them()), strict=True))


async def placed(folder: Path, where: str, calls: int) -> list[CallReport]:
    """So many calls through a gateway with faults planted there."""
    path = os.pathsep.join(filter(None, (str(PLANTED), os.environ.get("PYTHONPATH"))))
    environment = {"PLANTED": where if where in FOUND else "", "PYTHONPATH": path}
    scenario = parse_scenario(CALL)
    agent, log = folder / f"{where}.yaml", folder / f"{where}.log"
    agent.write_text(scenario.agent_text)
    async with (
        ModelServer(scenario.script()) as model,
        gateway_process(agent, model, auth_token="planted", log=log, environment=environment) as url,
    ):
        lived = await rehearse(scenario, url, model, auth_token="planted", calls=calls)
    return [report for _, report in lived]


def violations(reports: list[CallReport]) -> list[str]:
    """What carrier and model complained of, over all calls."""
    found = {fault for call in reports for fault in (*call.line.violations, *call.model_violations)}
    return sorted(found)


@pytest.mark.parametrize(("where", "fault"), [(where, fault) for where, all_ in FOUND.items() for fault in all_])
def test_a_planted_fault_is_found(reports, where, fault):
    found = violations(reports[where])
    assert any(re.search(FOUND[where][fault], one) for one in found), "\n".join(found)


@pytest.mark.parametrize("where", list(FOUND))
def test_a_call_with_a_planted_fault_does_not_pass(reports, where):
    assert not all(call.ok for call in reports[where])
    assert not any(call.ok for call in reports[where] if call.line.violations)


def test_every_planted_fault_is_looked_for():
    planted = {"line": faults.LINE, "model": faults.MODEL, "twiml": faults.TWIML}
    assert {where: set(one) for where, one in planted.items()} == {where: set(one) for where, one in FOUND.items()}


def test_without_a_fault_nothing_is_found(reports):
    assert violations(reports["nowhere"]) == []
    assert all(call.ok for call in reports["nowhere"])
