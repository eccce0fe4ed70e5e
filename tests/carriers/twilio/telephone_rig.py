"""A whole exchange for the tests: a real gateway that checks signatures, a simulated Twilio account with its REST
API, a rehearsal model. Everything between them goes over sockets.

Each agent has a number and a script; the model knows by the instructions which script a session plays.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import aiohttp

from offhook.gateway.app import Gateway
from offhook.gateway.carriers.twilio.signature import sign
from offhook.gateway.rehearsal.model.script import Reply, Script
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.phone.truth import CallTruth
from offhook.gateway.rehearsal.phone.twilio_account import Callee, SimulatedTwilio
from offhook.gateway.store.record import CallRecord
from tests.rig.gateway import numbered_agents, serving
from tests.rig.model import id_after
from tests.rig.sounds import sound

__all__ = ["API_TOKEN", "AUTH_TOKEN", "GREETING", "PUBLIC", "Exchange", "exchange"]

PUBLIC = "https://voice.example.com"
API_TOKEN = "api-token-canary"
AUTH_TOKEN = "auth-token-canary"

GREETING = Reply("text", (Speak("Thank you for calling.", sound("thank_you_for_calling")),))


@dataclass
class Exchange:
    """A running gateway with its two peers: the simulated Twilio account and the rehearsal model. `numbers`: agent ->
    its phone number. The methods place calls and send what Twilio or an operator's program would send.
    """

    gateway: Gateway
    url: str
    twilio: SimulatedTwilio
    model: ModelServer
    numbers: dict[str, str]
    http: aiohttp.ClientSession

    def call(self, agent: str, *steps: Any, **options: Any) -> SimulatedCall:
        """A call to this agent's number; `run` it."""
        return self.twilio.inbound(steps, dialled=self.numbers[agent], **options)

    async def placed(self, agent: str, *steps: Any, **options: Any) -> tuple[CallTruth, CallRecord]:
        """Place a call to this agent and wait for its end on both sides."""
        call = self.call(agent, *steps, **options)
        truth = await call.run()
        return truth, await self.record(call.call_sid)

    async def record(self, call_sid: str) -> CallRecord:
        """The record of a call, once it is over."""
        async with asyncio.timeout(20):
            while (record := await self.gateway.records.get(call_sid)) is None:
                await asyncio.sleep(0.01)
        return record

    async def webhook(
        self, path: str, form: Mapping[str, str] | list[tuple[str, str]], **changes: Any
    ) -> tuple[int, str]:
        """A signed webhook as Twilio sends it: (status, text). `changes`: token, public, signature."""
        pairs = list(form.items()) if isinstance(form, Mapping) else form
        signed = sign(changes.get("token", AUTH_TOKEN), changes.get("public", PUBLIC) + path, pairs)
        signature = changes.get("signature", signed)
        headers = {"Content-Type": "application/x-www-form-urlencoded; charset=UTF-8"}
        if signature is not None:
            headers["X-Twilio-Signature"] = signature
        async with self.http.post(self.url + path, data=urlencode(pairs), headers=headers) as response:
            return response.status, await response.text()

    async def api(self, method: str, path: str, body: Any = None, token: str = API_TOKEN) -> tuple[int, Any]:
        """A request of an operator's program: (status, JSON or text)."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with self.http.request(method, self.url + path, json=body, headers=headers) as response:
            is_json = response.content_type == "application/json"
            return response.status, await (response.json() if is_json else response.text())

    def counted(self, metric: str) -> dict[str, float]:
        """The values of a counter that are not 0, by its labels as they stand in the exposition."""
        found = {}
        for line in self.gateway.metrics.render().decode().splitlines():
            name, _, value = line.rpartition(" ")
            if name.startswith(f"offhook_{metric}{{") and float(value):
                found[name.partition("{")[2].rstrip("}")] = float(value)
        return found

    async def until(self, ready: Callable[[], object], timeout_s: float = 60.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not ready():
                await asyncio.sleep(0.01)


@asynccontextmanager
async def exchange(
    agents: Mapping[str, tuple[str, Script]],
    *,
    callees: Callable[[str], Callee | None] = lambda _: Callee(),
    environ: Mapping[str, str] | None = None,
) -> AsyncIterator[Exchange]:
    """`agents`: name -> (YAML fields beside name, numbers and instructions; what the model says)."""
    numbers, made = numbered_agents({name: fields for name, (fields, _) in agents.items()})
    briefing = Script((GREETING,))

    def script_of(setup: dict[str, Any]) -> Script:
        name = id_after("plan", setup)
        return agents[name][1] if name in agents else agents.get("briefing", ("", briefing))[1]

    twilio = SimulatedTwilio(public_url=PUBLIC, auth_token=AUTH_TOKEN, callees=callees, numbers=list(numbers.values()))
    async with ModelServer(script_of) as model, twilio, aiohttp.ClientSession() as http:
        env = {**twilio.environ(), "OFFHOOK_API_TOKEN": API_TOKEN, **(environ or {})}
        async with serving(made, env, model=model) as (gateway, url):
            twilio.gateway_url = url
            yield Exchange(gateway, url, twilio, model, numbers, http)
        assert not twilio.failures, twilio.failures
        assert not model.failures, model.failures
