"""What a rehearsed call needs besides itself: Twilio's REST API, outbound calls placed through it, counters."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import aiohttp

from offhook.gateway.errors import OffhookError
from offhook.gateway.rehearsal.phone.truth import CallTruth
from offhook.gateway.rehearsal.phone.twilio_account import SimulatedTwilio
from offhook.gateway.rehearsal.quick_clock import Clock
from offhook.gateway.rehearsal.scenario.load import OutboundPlan, Scenario

__all__ = [
    "API_TOKEN",
    "CONSOLE_TOKEN",
    "UNANSWERED",
    "account_for",
    "at_rest",
    "counters",
    "environment_of",
    "increases",
    "legs",
    "place_outbound",
]

# Of the gateways that this process rehearses: other users of the machine reach their ports, too.
API_TOKEN, CONSOLE_TOKEN = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
UNANSWERED = ("busy", "no-answer", "failed", "canceled")  # final states of an outbound call that was not answered
OUTBOUND_MAX_S = 120.0
# Gauges that return to zero once no call is left.
_AT_REST = re.compile(
    r"^offhook_(calls_active|marks_outstanding|records_waiting|webhooks_waiting) (\S+)$", re.MULTILINE
)
_SAMPLE = re.compile(r"^offhook_(\w+_total(?:\{[^}]*\})?) (\S+)$", re.MULTILINE)


@asynccontextmanager
async def account_for(
    scenario: Scenario, auth_token: str, public_url: str, clock: Clock
) -> AsyncIterator[SimulatedTwilio | None]:
    """The simulated account of a scenario with outbound calls or transfers, else None."""
    if scenario.others is None:
        yield None
        return
    async with SimulatedTwilio(
        public_url=public_url,
        auth_token=auth_token,
        callees=scenario.others.get,
        numbers=(scenario.dials,),
        clock=clock,
    ) as twilio:
        yield twilio
    for failure in twilio.failures:
        raise failure


def environment_of(scenario: Scenario, twilio: SimulatedTwilio | None) -> dict[str, str]:
    """Variables that the rehearsed gateway needs for this scenario."""
    env = {"OFFHOOK_API_TOKEN": API_TOKEN, "OFFHOOK_SIMULATED_EFFECTS": ",".join(scenario.allow_outside_effects)}
    if twilio is not None:
        env |= twilio.environ()
    return env


async def place_outbound(
    outbound: OutboundPlan, agent: str, url: str, twilio: SimulatedTwilio, clock: Clock
) -> CallTruth:
    """Place an outbound call by the gateway's API and wait for its end. `ended_by`: its state if unanswered."""
    headers = {"Authorization": f"Bearer {API_TOKEN}"}
    body = {"to": outbound.to, "agent": agent, "variables": outbound.variables}
    deadline_s = clock() + OUTBOUND_MAX_S
    async with aiohttp.ClientSession(headers=headers) as http:
        async with http.post(f"{url}/calls", json=body) as response:
            if response.status != 202:
                raise OffhookError(f"the gateway did not place the call: {response.status} {await response.text()}")
            placed_id = (await response.json())["id"]
        while clock() < deadline_s:
            await asyncio.sleep(0.05)
            async with http.get(f"{url}/calls/{placed_id}") as response:
                placed = await response.json()
            call = twilio.calls.get(placed["call_sid"])
            if call is not None and call.over:
                return call.truth
            if placed["status"] in UNANSWERED:
                truth = CallTruth(call_sid=placed["call_sid"], dialled=outbound.to, ended_by=placed["status"])
                truth.began_s = truth.ended_s = clock()
                return truth
    raise OffhookError(f"the call to {outbound.to} did not end within {OUTBOUND_MAX_S:g} s")


def legs(twilio: SimulatedTwilio | None, truth: CallTruth) -> list[str]:
    """Numbers of the calls that joined the same conferences as this one."""
    if twilio is None:
        return []
    rooms = {dial.text for dial in truth.announced if dial.verb == "dial"}
    others = [call.truth for sid, call in twilio.calls.items() if sid != truth.call_sid]
    return [one.dialled for one in others if any(verb.verb == "dial" and verb.text in rooms for verb in one.announced)]


async def counters(url: str) -> dict[str, float]:
    """The gateway's counters without their prefix; empty if `/metrics` is not accessible."""
    headers = {"Authorization": f"Bearer {CONSOLE_TOKEN}"}
    async with aiohttp.ClientSession(headers=headers) as http, http.get(f"{url}/metrics") as response:
        text = await response.text() if response.status == 200 else ""
    return {name: float(value) for name, value in _SAMPLE.findall(text)}


async def at_rest(url: str, within_s: float, clock: Clock, sessions_open: Callable[[], int] = int) -> dict[str, float]:
    """Wait until no call is left: the gauges that have not returned to zero within `within_s`, without their prefix.

    `sessions_open()`: sessions of the model that are waited for, too. Empty if `/metrics` is not accessible.
    """
    headers = {"Authorization": f"Bearer {CONSOLE_TOKEN}"}
    deadline_s = clock() + within_s
    async with aiohttp.ClientSession(headers=headers) as http:
        while True:
            async with http.get(f"{url}/metrics") as response:
                text = await response.text() if response.status == 200 else ""
            left = {name: float(value) for name, value in _AT_REST.findall(text) if float(value)}
            if clock() >= deadline_s or not (left or sessions_open()):
                return left
            await asyncio.sleep(0.1)


def increases(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """The increase of each counter; unchanged ones are left out."""
    return {name: value - before.get(name, 0.0) for name, value in after.items() if value != before.get(name, 0.0)}
