"""The calls of a cluster's rehearsal, the tool they use, and the receiver of webhooks: what each of them saw."""

from __future__ import annotations

import asyncio
import bisect
import hashlib
import itertools
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from offhook.gateway.rehearsal.model.record import SessionRecord
from offhook.gateway.rehearsal.model.script import CallTool, Reply, Say, Script
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.phone.carrier import Carrier
from offhook.gateway.rehearsal.phone.steps import Pause, Step
from offhook.gateway.rehearsal.phone.steps import Say as Speak
from offhook.gateway.rehearsal.phone.truth import CallTruth
from offhook.media.mulaw import RATE_HZ

__all__ = [
    "AGENT",
    "LINE",
    "REST",
    "ClusterCall",
    "Move",
    "Receivers",
    "call_of",
    "counting",
    "owner_of",
    "placed",
    "script_of",
]

# The call's id stands in the instructions of its model sessions.
AGENT = """
name: counting
instructions: 'plan {{{{call_sid}}}}.'
greeting: {{text: Greet the caller.}}
fallback: {{say: Please call again.}}
tools:
  - name: note
    description: Write it down.
    parameters: {{type: object, properties: {{what: {{type: string}}}}, required: [what]}}
    on_barge_in: finish
    outside_effects: true
    timeout_s: 10
    http: {{method: POST, url: "{0}/tool", allow_private: true}}
"""
LINE = "Uh-huh."  # bundled
REST = "and so on to the end."
TOOL_S = 0.3
TURNS = 60
TALKING_EVERY_MS = 2_600


def counting(words: int) -> str:
    """What an agent says that counts."""
    return " ".join(f"number{n}" for n in range(1, words + 1)) + "."


def script_of(talks: bool, words: int) -> Script:
    """A caller who listens hears the agent count; one who talks has each line noted by a tool, and confirmed.

    Told that the line broke, the model says the rest.
    """
    rest = [Reply("text:line broke", (Say(REST, delay_ms=50),)) for _ in range(6)]
    if not talks:
        greeting = Say(counting(words), delay_ms=50)
        return Script((Reply("text:Greet", (greeting,)), *rest), default=Reply("caller", (Say("Yes.", delay_ms=50),)))
    turns: list[Reply] = []
    for n in range(1, TURNS + 1):
        turns.append(Reply("caller", (CallTool("note", {"what": f"line {n}"}),), heard=(f" This is line {n}.",)))
        turns.append(Reply("tool:note", (Say(f"Noted number {n}.", delay_ms=50),)))
    return Script((Reply("text:Greet", (Say("Hello.", delay_ms=50),)), *rest, *turns))


def owner_of(call: SimulatedCall) -> str:
    """The gateway whose name the call's last stream has in its address."""
    return urlsplit(call.truth.streams[-1].url).path.split("/")[3]


def call_of(session: SessionRecord) -> str:
    """The id of the call whose model session this is."""
    if not session.setup:  # refused before it
        return ""
    text: str = session.setup["systemInstruction"]["parts"][0]["text"]
    return text.partition("plan ")[2].partition(".")[0]


@dataclass(frozen=True, slots=True)
class Move:
    """A call's stream was closed and another one came up: seconds from its close; None for what did not come.

    `fault_s`: from the fault before it to the close. `audio_s`: the caller's audio reached the model session that goes
    on. `agent_s`: the agent was heard again.
    """

    fault_s: float
    stream_s: float
    audio_s: float | None
    agent_s: float | None
    resumed: bool


@dataclass(slots=True)
class ClusterCall:
    """One call and what became of it. `before`: its transcript just before the fault, as (who, text)."""

    call: SimulatedCall
    talks: bool
    words: str  # what the agent counts
    sessions: list[SessionRecord] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    before: list[tuple[str, str]] = field(default_factory=list)

    @property
    def sid(self) -> str:
        return self.call.call_sid

    @property
    def truth(self) -> CallTruth:
        return self.call.truth

    @property
    def connected(self) -> bool:
        """It has a stream now."""
        streams = self.truth.streams
        return bool(streams) and streams[-1].started_s is not None and streams[-1].closed_s is None

    @property
    def moved(self) -> bool:
        return sum(stream.started_s is not None for stream in self.truth.streams) > 1

    def moves(self, faults_s: Iterable[float]) -> list[Move]:
        """Each of its moves, after these faults."""
        found, streams = [], [stream for stream in self.truth.streams if stream.started_s is not None]
        for one, after in itertools.pairwise(streams):
            assert one.closed_s is not None
            assert after.started_s is not None
            closed_s, ends_s = one.closed_s, after.closed_s or math.inf
            played_s = (self.truth.began_s + run.place / RATE_HZ for run in self.truth.played)
            heard = [at_s for at_s in played_s if after.started_s < at_s < ends_s]
            opened = [s for s in self.sessions if s.opened_at_s < ends_s]
            arrivals = [(s.opened_at_s, at_s) for s in opened if (at_s := _arrival(s, closed_s)) < ends_s]
            found.append(
                Move(
                    fault_s=closed_s - max((s for s in faults_s if s < closed_s), default=closed_s),
                    stream_s=after.started_s - closed_s,
                    audio_s=max(arrivals)[1] - closed_s if arrivals else None,  # the newest session goes on
                    agent_s=min(heard) - closed_s if heard else None,
                    resumed=any(
                        s.resumed_from is not None and s.ready_at_s and s.opened_at_s > closed_s for s in opened
                    ),
                )
            )
        return found


def _arrival(session: SessionRecord, after_s: float) -> float:
    """When the first of the caller's audio later than this arrived."""
    arrivals = session.audio_arrivals
    first = bisect.bisect_right(arrivals, after_s, key=lambda arrived: arrived[0])
    return arrivals[first][0] if first < len(arrivals) else math.inf


def placed(
    url: str, n: int, name: str, *, public_url: str, auth_token: str, delay_ms: float, words: int
) -> ClusterCall:
    """The `n`-th call of a run; every second one talks."""
    talks = n % 2 == 1
    sid = "CA" + hashlib.sha256(f"{name} {n}".encode()).hexdigest()[:32]
    turn: list[Step] = [Speak(LINE), Pause(TALKING_EVERY_MS)]
    steps: list[Step] = [Pause(1_500), *(TURNS * turn)] if talks else []
    call = SimulatedCall(
        url, steps, public_url=public_url, auth_token=auth_token, call_sid=sid, carrier=Carrier(delay_ms=delay_ms)
    )
    return ClusterCall(call, talks, counting(words))


class Receivers:
    """What the gateways act on outside: the service behind the tool, and the receiver of webhooks.

    `effects`: the idempotency key of each request of the tool. `events`: (webhook-id, kind, call) of each delivery.
    """

    def __init__(self) -> None:
        self.effects: list[str] = []
        self.events: list[tuple[str, str, str]] = []
        self.url = ""

    async def __aenter__(self) -> Receivers:
        app = web.Application()
        app.add_routes([web.post("/tool", self._tool), web.post("/events", self._event)])
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _tool(self, request: web.Request) -> web.Response:
        self.effects.append(request.headers.get("Idempotency-Key", ""))
        await asyncio.sleep(TOOL_S)
        return web.json_response({"noted": True})

    async def _event(self, request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        call_sid = body["data"].get("call_sid", "")
        self.events.append((request.headers["webhook-id"], body["type"], call_sid))
        return web.Response()
