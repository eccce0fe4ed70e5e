"""Random troubles against the model link, seeded: every link goes on or gives up for a named reason.

Each script is a model that misbehaves in its own way, each link a call that talks, asks, rotates and answers tools
all the while. What must hold: the sessions come and go in turn, giving up is the last word, no trouble costs more
connections than it may, turns are numbered upwards, the client breaks no rule of the protocol, and nothing is left
behind: no task, no socket, no open session.

    python -m tests.bench.fuzz_link --scripts 200 --seed 1
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import random
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np

from offhook.gateway.agent.spec import Agent, ModelSettings
from offhook.gateway.conversation.commands import Speak
from offhook.gateway.conversation.events import Event, ModelDown, ModelFailed, ModelReady, ReplyComplete, TurnComplete
from offhook.gateway.models import CallBrief, LinkCount, Speaker, Usage
from offhook.gateway.models.gemini.client import GeminiModel
from offhook.gateway.models.gemini.link import GeminiLink
from offhook.gateway.models.gemini.outbox import UPLINK_MAX_FRAMES
from offhook.gateway.models.gemini.recovery import Patience
from offhook.gateway.models.gemini.settings import GeminiSettings
from offhook.gateway.rehearsal.model import script as m
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.media import mulaw

__all__ = ["Report", "fuzz"]

AT_ONCE = 40  # more would measure the machine
LASTS_S = 3.0
SETUP_S = 0.8  # a busy machine needs a part of it
# Compressed: storms end within the three seconds, and a session that lives for 0.3 s counts as sound.
PATIENCE = Patience(total_s=2.5, attempts=6, delays_s=(0.0, 0.01, 0.02, 0.04), stable_s=0.3)
REASONS = re.compile(r"gave up: (\d+ attempts in \d+ s|\w+ after \d+ fresh sessions|the key, the project, .*)$")
# Nobody's fault: a result that was on its way when the model took the call back, a resume that overtook our close
# at a server that had stopped reading, and a handle that the model had made up.
INNOCENT = ("cancelled", "still in use", "Unknown session resumption handle")
SILENCE, NOTHING = bytes([mulaw.SILENCE]) * mulaw.FRAME_BYTES, np.zeros(mulaw.FRAME_BYTES, dtype=np.int16)
LOOK = SimpleNamespace(name="look", description="Look.", parameters={}, blocking=False)


class Told:
    """A call that notes what its link tells it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.tool_calls: list[tuple[str, str]] = []
        self.counts: Counter[LinkCount] = Counter()
        self.turn = 0
        self.failures: list[str] = []

    def task_failed(self, part: str, error: BaseException) -> None:
        self.failures.append(f"{part}: {error!r}")

    def event(self, event: Event) -> None:
        self.events.append(event)

    def reply_audio(self, turn: int, codes: bytes) -> None: ...
    def words(self, who: Speaker, turn: int | None, text: str, final: bool) -> None: ...
    def usage(self, usage: Usage) -> None: ...
    def segment(self, name: str, seconds: float) -> None: ...

    def count(self, what: LinkCount, by: float = 1, reason: str = "") -> None:
        self.counts[what] += int(by)

    def tool_call(self, call_id: str, name: str, arguments: dict[str, Any]) -> None:
        self.tool_calls.append((call_id, name))

    def next_turn(self) -> int:
        self.turn += 1
        return self.turn

    def agent_has_floor(self) -> bool:
        return False


@dataclass
class Report:
    """What came of it. `broken`: promises that were not kept, with the seed of the script."""

    scripts: int = 0
    ends: Counter[str] = field(default_factory=Counter)  # goes on, or why it gave up
    losses: Counter[str] = field(default_factory=Counter)  # of connections, and what was refused
    connections: int = 0
    most_connections: int = 0  # of one link
    sessions: int = 0  # that were set up
    outlived: int = 0  # links that lost a session and got another
    broken: list[str] = field(default_factory=list)


# --- the model


def trouble(rng: random.Random) -> m.Action:
    """Something that goes wrong, at a time of its own or in the middle of a reply."""
    troubles: list[m.Action] = [
        m.Close(1000, "The operation was cancelled."),
        m.Close(1007, "Request contains an invalid argument."),
        m.Close(1008, "The operation was aborted."),
        m.Close(1011, "Internal error encountered."),
        m.Close(1011, "Deadline expired before operation could complete."),
        m.Close(1013, "Try again later."),
        m.Close(rng.choice((1001, 1002, 1003, 1012, 1014, 3000, 4999)), ""),
        m.Abort(),
        m.Stall(rng.uniform(50, 400)),
        m.Send("{" * rng.randrange(1, 40)),
        m.Send({"brandNew": {"x": 1}, "serverContent": {"modelTurn": 7}}),
        m.Send({"sessionResumptionUpdate": {"newHandle": "made-up", "resumable": True}}),
        m.Send({"toolCallCancellation": {"ids": [None, "made-up"]}, "goAway": {"timeLeft": "soon"}}),
        m.Oversize(1_200_000),
        m.SendInterrupted(),
        m.SendGoAway(rng.uniform(0.05, 0.3)),
        m.CancelTools(),
        m.Mute(),
    ]
    return rng.choice(troubles)


def script_of(seed: int) -> m.Script:
    """A model's behaviour; the same for the same seed."""
    rng = random.Random(seed)

    def reply(on: str) -> m.Reply:
        actions: list[m.Action] = [m.Say("So it goes", length_ms=rng.uniform(20, 400), delay_ms=0, speed=20)]
        if rng.random() < 0.4:
            actions.append(m.CallTool("look", {"at": seed}))
        if rng.random() < 0.4:
            actions.insert(rng.randrange(len(actions) + 1), trouble(rng))
        if rng.random() < 0.1:
            actions = [m.EmptyTurn()]
        return m.Reply(on, tuple(actions))

    def refusal() -> m.Close:
        return m.Close(rng.choice((1007, 1008, 1011)), "no")

    return m.Script(
        replies=tuple(reply(on) for on in ("start", "text", "text", "text", "tool:look", "resume")),
        faults=tuple(m.Fault(rng.uniform(0, 1.5), (trouble(rng),)) for _ in range(rng.randrange(4))),
        refuse_resumes=tuple(refusal() for _ in range(rng.choice((0, 0, 1, 2)))),
        refuse=refusal() if rng.random() < 0.1 else None,
        instead_of_setup=m.Send({"goAway": {"timeLeft": "1s"}}) if rng.random() < 0.03 else None,
        setup_delay_ms=rng.choice((0, 0, 0, 0, 0, 0, 20, 2 * SETUP_S * 1000)),
        lifetime_s=rng.choice((600.0, 600.0, 0.8, 0.3)),
        go_away_s=rng.uniform(0.0, 0.3),
        unknown_tool_id="close",
        text_frames=rng.random() < 0.2,
    )


# --- the call


async def one_call(model: GeminiModel, seed: int, lasts_s: float) -> tuple[Told, GeminiLink]:
    """A call through the troubles of one script; everything it does is random too."""
    rng = random.Random(-seed - 1)
    loop = asyncio.get_running_loop()
    told = Told()
    agent = Agent(name="a", instructions="Script {{caller}}.", model=ModelSettings(setup_timeout_s=SETUP_S))
    link = model.link(CallBrief(agent=agent, clock=loop.time, tools=(LOOK,), variables={"caller": str(seed)}), told)
    await asyncio.sleep(rng.random() / 2)  # not all handshakes at once
    running = loop.create_task(link.run(), name="gemini-run")
    done = 0
    ends_s = loop.time() + lasts_s
    while loop.time() < ends_s and not running.done():
        link.caller_audio(SILENCE, NOTHING, loop.time())
        assert link._outbox.frames <= UPLINK_MAX_FRAMES
        luck = rng.random()
        if luck < 0.02:
            link.prompt("Go on.")
        elif luck < 0.025:
            link.rotate()
        elif luck < 0.028:
            link.reconnect()
        elif luck < 0.1 and done < len(told.tool_calls):
            call_id, name = told.tool_calls[done]
            done += 1
            if rng.random() < 0.2:
                link.tool_cancelled(call_id)
            else:
                link.tool_result(call_id, name, {"seen": True}, rng.choice(list(Speak)))
        await asyncio.sleep(0.02)
    async with asyncio.timeout(10):
        await link.close()
        await running
    return told, link


def broken_promises(told: Told, link: GeminiLink) -> list[str]:
    """What this link did that it must not."""
    found = []
    ups = [type(event) for event in told.events if isinstance(event, ModelReady | ModelDown | ModelFailed)]
    if ModelFailed in ups[:-1]:
        found.append("giving up was not the last word")
    if any(this is following for this, following in pairwise(ups)):
        found.append("up and down did not take turns")
    if ups and ups[0] is ModelDown:
        found.append("down before it was up")
    if (ModelFailed in ups) != any(fault.startswith("gave up") for fault in link.faults):
        found.append("gave up without a reason, or the other way round")
    found += [f"no known reason: {f}" for f in link.faults if f.startswith("gave up") and not REASONS.match(f)]
    ends = [event.generation for event in told.events if isinstance(event, TurnComplete)]
    if ends != sorted(ends):
        found.append(f"turns out of order: {ends}")
    if any(event.generation > told.turn for event in told.events if isinstance(event, ReplyComplete)):
        found.append("the end of a turn that never began")
    times = [event.at_s for event in told.events]
    if times != sorted(times):
        found.append("time ran backwards")
    # One trouble costs at most `attempts`; there are no more troubles than sound sessions, and one before them.
    allowed = (1 + ups.count(ModelDown)) * PATIENCE.attempts
    if (connections := connections_of(told)) > allowed:
        found.append(f"{connections} connections, {allowed} allowed")
    return found


def connections_of(told: Told) -> int:
    """Attempts, the successful ones and the failed."""
    return sum(isinstance(event, ModelReady) for event in told.events) + told.counts[LinkCount.SESSION_FAILED]


async def fuzz(scripts: int, seed: int, lasts_s: float = LASTS_S) -> Report:
    """So many scripts, from this seed on, some at once."""
    report = Report()
    for first in range(0, scripts, AT_ONCE):
        await _batch(range(seed * 1_000_000 + first, seed * 1_000_000 + min(first + AT_ONCE, scripts)), lasts_s, report)
    return report


async def _batch(seeds: range, lasts_s: float, report: Report) -> None:
    def script_for(setup: dict[str, Any]) -> m.Script:
        number = re.search(r"Script (\d+)", str(setup))
        assert number is not None
        return script_of(int(number[1]))

    before, sockets_before = asyncio.all_tasks(), _open_files()
    async with ModelServer(script_for, keep_audio=False) as server:
        model = GeminiModel(
            GeminiSettings(api_key="fuzz", base_url=server.url, ca_file=server.ca_path), patience=PATIENCE
        )
        await model.warm_up()
        calls = await asyncio.gather(*(one_call(model, seed, lasts_s) for seed in seeds), return_exceptions=True)
        left = [task.get_name() for task in asyncio.all_tasks() - before if task.get_name().startswith("gemini")]
        report.broken += [f"task left: {name}" for name in left]
        await model.close()
    report.broken += [f"{session.path}: not closed" for session in server.sessions if session.closed_at_s is None]
    for _ in range(100):  # the peers' transports close in the loop's own time
        gc.collect()
        if _open_files() <= sockets_before:
            break
        await asyncio.sleep(0.02)
    else:
        report.broken.append(f"{_open_files() - sockets_before} sockets left")
    report.broken += [f"the model's own failure: {failure!r}" for failure in server.failures]
    report.broken += [v.what for v in server.violations if not any(word in v.what for word in INNOCENT)]
    for seed, outcome in zip(seeds, calls, strict=True):
        report.scripts += 1
        if isinstance(outcome, BaseException):
            report.broken.append(f"{seed}: escaped: {outcome!r}")
            continue
        told, link = outcome
        report.broken += [f"{seed}: {what}" for what in broken_promises(told, link)]
        gave_up = next((fault for fault in link.faults if fault.startswith("gave up")), "goes on")
        report.ends[re.sub(r"\d+", "N", gave_up)] += 1
        report.losses.update(loss[1] for fault in link.faults if (loss := re.match(r"((?:conn|no s).*?: \d+)", fault)))
        report.connections += connections_of(told)
        report.most_connections = max(report.most_connections, connections_of(told))
        ready = sum(isinstance(event, ModelReady) for event in told.events)
        report.sessions += ready
        report.outlived += ready > 1


def _open_files() -> int:
    """Of this process, its sockets among them; 0 where that cannot be known."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scripts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    began_s = time.monotonic()
    report = asyncio.run(fuzz(arguments.scripts, arguments.seed))
    print(f"seed {arguments.seed}: {report.scripts} scripts in {time.monotonic() - began_s:.0f} s")
    for what, count in report.ends.most_common():
        print(f"  {count:4}  {what}")
    print(
        f"{report.connections} connections, {report.most_connections} at most for one link; "
        f"{report.sessions} sessions; {report.outlived} links lost one and got another"
    )
    print("lost or refused: " + ", ".join(f"{what} {count}" for what, count in report.losses.most_common()))
    for line in report.broken:
        print(f"BROKEN: {line}")
    print("every promise kept" if not report.broken else f"{len(report.broken)} promises broken")
    return bool(report.broken)


if __name__ == "__main__":
    raise SystemExit(main())
