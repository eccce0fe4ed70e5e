"""Runs rehearsals: simulated calls through the unmodified gateway, with the rehearsal model.

The gateway is a process of its own, started as `offhook serve` and reached through its sockets alone; or it runs in
this process, for tests that look inside.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import aiohttp
import msgspec
import numpy as np
from rich.console import Console
from rich.live import Live
from rich.text import Text

from offhook.gateway.errors import OffhookError
from offhook.gateway.rehearsal.account import (
    CONSOLE_TOKEN,
    UNANSWERED,
    account_for,
    at_rest,
    counters,
    environment_of,
    increases,
    legs,
    place_outbound,
)
from offhook.gateway.rehearsal.model.reached import ModelAt, model_environ
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.phone.call import Glance, SimulatedCall
from offhook.gateway.rehearsal.phone.carrier import Carrier
from offhook.gateway.rehearsal.phone.live import LiveCaller
from offhook.gateway.rehearsal.phone.truth import CallTruth
from offhook.gateway.rehearsal.phone.twilio_account import SimulatedTwilio
from offhook.gateway.rehearsal.quick_clock import Clock, running_clock
from offhook.gateway.rehearsal.results.call_files import be_nice, write_call
from offhook.gateway.rehearsal.results.measured import call_report
from offhook.gateway.rehearsal.results.report import CallReport, ExpectationResult, Report, report_of, write_report
from offhook.gateway.rehearsal.results.tables import show
from offhook.gateway.rehearsal.scenario.expect import judge, kept_to_the_rules
from offhook.gateway.rehearsal.scenario.load import Scenario, load_scenario
from offhook.gateway.rehearsal.scenario.standing import released, standing
from offhook.gateway.rehearsal.thinking.party import Party, party_for
from offhook.gateway.store.record import CallRecord

__all__ = [
    "MODEL",
    "PUBLIC_URL",
    "REST_TIMEOUT_S",
    "TELEPHONE",
    "GatewayFailed",
    "agent_file_of",
    "demo",
    "environment_without",
    "fetch_record",
    "gateway_environment",
    "gateway_process",
    "live_line",
    "rehearse",
    "run_demo",
    "run_scenario",
    "seeded",
    "tail_of",
    "understood",
    "write_results",
]

# Prefixes of the environment variables of the carrier and gateway, and of the model.
TELEPHONE, MODEL = ("TWILIO_", "OFFHOOK_"), ("GOOGLE_", "GEMINI_", "OPENAI_")
PUBLIC_URL = "https://rehearsal.example"  # the gateway's public URL; it is never resolved
START_TIMEOUT_S = 90.0  # normally a second; long when a dozen start at once on two cores
STOP_TIMEOUT_S = 10.0
RECORD_TIMEOUT_S = 5.0
REST_TIMEOUT_S = 12.0  # the gateway gives up what does not close within 20
NEVER_A_CALL = (*UNANSWERED, "reject")
STAGGER_S = 0.130  # between the starts of calls placed together; not a multiple of a frame

Progress = Callable[[Glance], None]
Watch = Callable[[SimulatedCall], None]

# Kinds of expectation that apply to a model without a script.
OF_ANY_MODEL = frozenset(
    [
        "greeting_within_ms",
        "answered_within_ms",
        "segments_within_ms",
        "barge_in_stopped_within_ms",
        "never_stopped",
        "caller_text",
        "no_gap",
        "all_heard",
        "goodbye_heard",
        "announced",
        "tool_called",
        "tool_not_called",
        "streams",
        "end_reason",
        "transferred_to",
        "answered_by",
        "no_errors",
    ]
)
_WORD = re.compile(r"\w+")


class GatewayFailed(OffhookError):
    """The gateway did not start; the message has the end of its log."""


def gateway_environment(agent_file: Path, model: ModelAt | None, auth_token: str) -> dict[str, str]:
    """The environment of a rehearsed gateway: see `gateway_process`."""
    env = environment_without(TELEPHONE if model is None else TELEPHONE + MODEL)
    if model is not None:
        env |= model_environ(model)
    return env | {
        "TWILIO_AUTH_TOKEN": auth_token,
        "OFFHOOK_PUBLIC_URL": PUBLIC_URL,
        "OFFHOOK_HOST": "127.0.0.1",
        "OFFHOOK_PORT": "0",
        "OFFHOOK_CONSOLE_TOKEN": CONSOLE_TOKEN,
        "OFFHOOK_AGENT": str(agent_file),
        "OFFHOOK_SIMULATED": "1",
    }


def environment_without(prefixes: tuple[str, ...]) -> dict[str, str]:
    """This process's environment without variables of these prefixes, and without a proxy for loopback."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    return env | {"NO_PROXY": ",".join(filter(None, (env.get("NO_PROXY"), "127.0.0.1", "localhost")))}


@asynccontextmanager
async def gateway_process(
    agent_file: Path,
    model: ModelAt | None,
    *,
    auth_token: str,
    log: Path,
    environment: Mapping[str, str] | None = None,
    limits: Mapping[str, int] | None = None,
    workers: int = 1,
) -> AsyncIterator[str]:
    """Run `offhook serve` with this agent and the rehearsal model; yields its URL. Raises `GatewayFailed`.

    The process does not inherit settings or keys, except the model's when `model` is None: the gateway then connects
    to the model that the environment names. The log goes to the file `log`. `limits`: resource limits of the
    process, such as `{"RLIMIT_NOFILE": 64}`.
    """
    env = gateway_environment(agent_file, model, auth_token) | dict(environment or {})
    command = [sys.executable, "-m", "offhook", "serve", *(["--workers", str(workers)] if workers > 1 else [])]
    if limits:
        command = [sys.executable, "-c", _LIMITED, msgspec.json.encode(limits).decode(), *command]
    with log.open("wb") as log_file:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log_file,
        )
    try:
        assert process.stdout is not None
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                first = (await process.stdout.readline()).decode().strip()
        except TimeoutError:
            first = ""
        if not first.startswith("listening on "):
            raise GatewayFailed(f"the gateway did not start: {tail_of(log) or first or 'its log is empty'}")
        yield first.removeprefix("listening on ")
    finally:
        await _stop(process)


# Sets its own limits, then executes the command: code between fork and exec is not safe in Python.
_LIMITED = """
import json, os, resource, sys
for name, limit in json.loads(sys.argv[1]).items():
    kind = getattr(resource, name)
    resource.setrlimit(kind, (limit, limit))  # the hard one, too: the gateway raises the soft one
os.execv(sys.argv[2], sys.argv[2:])
"""


def tail_of(log: Path) -> str:
    """The last 800 characters of a log."""
    return log.read_text(encoding="utf-8", errors="replace").strip()[-800:]


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
    await process.wait()


async def fetch_record(url: str, truth: CallTruth, token: str = CONSOLE_TOKEN) -> CallRecord | None:
    """The gateway's record of a call that has ended, or None if it keeps none. `token`: its console token."""
    if not truth.streams and truth.ended_by in NEVER_A_CALL:
        return None
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session:
        for _ in range(round(RECORD_TIMEOUT_S / 0.05)):
            async with session.get(f"{url}/console/api/calls/{truth.call_sid}") as response:
                if response.status == 200:
                    return msgspec.json.decode(await response.read(), type=CallRecord)
            await asyncio.sleep(0.05)
    return None


async def rehearse(
    scenario: Scenario,
    url: str,
    model: ModelServer | None,
    *,
    auth_token: str | None,
    public_url: str = PUBLIC_URL,
    calls: int = 1,
    seed: int | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
    twilio: SimulatedTwilio | None = None,
    party: Party | None = None,
    clock: Clock | None = None,
) -> list[tuple[CallTruth, CallReport]]:
    """Place the scenario's call, or several at once, through a running gateway.

    `seed` determines all random values of the calls, their SIDs included. `model` None: a model without a script, for
    which fewer expectations are checked. `watch` is called with each call as it is placed. `twilio`: the account whose
    REST API the gateway uses, needed for outbound calls. `party`: the models of a caller who thinks. `clock`: by
    default the running loop's.
    """
    clock = clock or running_clock()
    if twilio is not None:
        twilio.gateway_url = url
    before = await counters(url)
    callers = [party.caller() if party else None for _ in range(calls)]
    placed = [
        _call(scenario, url, auth_token, public_url, seed, number, twilio, live, clock)
        for number, live in enumerate(callers)
    ]

    async def place(index: int, call: SimulatedCall) -> CallTruth:
        await asyncio.sleep(index * STAGGER_S)
        if twilio is not None:
            if scenario.outbound is not None:
                return await place_outbound(scenario.outbound, scenario.agent.name, url, twilio, clock)
            twilio.calls[call.call_sid] = call
        if watch is not None:
            watch(call)
        return await call.run()

    first_session, first_fault = (len(model.sessions), len(model.violations)) if model else (0, 0)
    watcher = asyncio.create_task(_watch(placed[0], progress)) if progress else None
    try:
        truths = await asyncio.gather(*(place(index, call) for index, call in enumerate(placed)))
    finally:
        if watcher is not None:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
    records = await asyncio.gather(*(fetch_record(url, truth) for truth in truths))
    counted = increases(before, await counters(url))

    def sessions_open() -> int:
        return sum(session.closed_at_s is None for session in model.sessions[first_session:]) if model else 0

    left = released(await at_rest(url, REST_TIMEOUT_S, clock, sessions_open), sessions_open())
    # Calls start one after another and each opens its session at once: sessions pair with calls unless one reconnects.
    sessions = model.sessions[first_session:] if model else []
    paired = sessions if len(sessions) == calls else [None] * calls
    faults = [f"{fault.what} (session {fault.session})" for fault in model.violations[first_fault:]] if model else []
    reports = []
    for truth, record, session, live in zip(truths, records, paired, callers, strict=True):
        report = call_report(
            truth,
            record,
            session,
            scenario=scenario.name,
            model_violations=faults,
            sessions=sessions if calls == 1 and model is not None else None,
            legs=legs(twilio, truth),
            counted=counted,
        )
        own = _verdicts(scenario, report, scripted=model is not None)
        both = standing(report, all_audio=scenario.agent.turn_detection.mode == "model")
        report.verdicts = [kept_to_the_rules(report), *both, left, *own]
        if party is not None and live is not None:
            await party.judged(live, truth, report)
        reports.append(report)
    return list(zip(truths, reports, strict=True))


def _call(
    scenario: Scenario,
    url: str,
    auth_token: str | None,
    public_url: str,
    seed: int | None,
    number: int,
    twilio: SimulatedTwilio | None,
    live: LiveCaller | None,
    clock: Clock,
) -> SimulatedCall:
    carrier, call_sid = seeded(scenario, seed, number)
    return SimulatedCall(
        url,
        scenario.steps,
        public_url=public_url,
        auth_token=auth_token,
        caller=scenario.number,
        dialled=scenario.dials,
        carrier=carrier,
        call_sid=call_sid,
        directory=scenario.directory,
        conferences=twilio,
        live=live,
        clock=clock,
    )


def seeded(scenario: Scenario, seed: int | None, number: int) -> tuple[Carrier, str | None]:
    """The carrier, and the SID, of the call `number` of a seed; without a seed the SID is random (None)."""
    if seed is None:
        return scenario.carrier, None
    digest = hashlib.sha256(f"{scenario.name} {seed + number}".encode()).hexdigest()
    return replace(scenario.carrier, seed=seed + number), "CA" + digest[:32]


def _verdicts(scenario: Scenario, report: CallReport, *, scripted: bool) -> list[ExpectationResult]:
    """Verdicts on the scenario's expectations; without a script, on those that apply to any model."""
    if scripted:
        return [judge(one, report) for one in scenario.expect]
    kept = [judge(one, report) for one in scenario.expect if one.kind in OF_ANY_MODEL]
    return [*kept, understood(report)]


def understood(report: CallReport) -> ExpectationResult:
    """Whether the model transcribed at least half of the caller's words, so that the caller was intelligible."""
    spoken = {word for turn in report.line.caller if turn.kind == "say" for word in _WORD.findall(turn.text.lower())}
    turns = report.record.turns if report.record else []
    transcribed = {word for turn in turns for word in _WORD.findall(turn.caller_text.lower())}
    share = len(spoken & transcribed) / len(spoken) if spoken else 1.0
    words = f"the model transcribed {share:.0%} of the caller's {len(spoken)} different words"
    return ExpectationResult(ok=share >= 0.5, expectation="understood", words=words)


async def run_scenario(
    scenario: Scenario,
    out_dir: Path,
    *,
    calls: int = 1,
    seed: int | None = None,
    progress: Progress | None = None,
    environment: Mapping[str, str] | None = None,
    real_model: bool = False,
    watch: Watch | None = None,
    gateway: Callable[..., AbstractAsyncContextManager[str]] = gateway_process,
    clock: Clock | None = None,
) -> Report:
    """Run a scenario from end to end: model, gateway process, calls; results in `out_dir`.

    The results are `call.wav` (left channel the caller, right channel what the caller heard), `call.png` and
    `report.json`; recordings and pictures of several calls are numbered. `real_model`: use the models that this
    process's environment names, with their keys: the agent's, and those of a caller who thinks. `gateway`:
    starts the gateway, with the arguments of `gateway_process`. `clock`: by default the running loop's.
    """
    clock = clock or running_clock()
    agent_file = agent_file_of(scenario, out_dir)
    auth_token = secrets.token_hex(16)
    async with AsyncExitStack() as stack:
        model = None if real_model else await stack.enter_async_context(ModelServer(scenario.script(), clock=clock))
        party = await stack.enter_async_context(party_for(scenario, real=real_model, clock=clock))
        twilio = await stack.enter_async_context(account_for(scenario, auth_token, PUBLIC_URL, clock))
        starting = gateway(
            agent_file,
            model,
            auth_token=auth_token,
            log=out_dir / "gateway.log",
            environment={**environment_of(scenario, twilio), **(environment or {})},
        )
        url = await stack.enter_async_context(starting)
        rehearsed = await rehearse(
            scenario,
            url,
            model,
            auth_token=auth_token,
            calls=calls,
            seed=seed,
            progress=progress,
            watch=watch,
            twilio=twilio,
            party=party,
            clock=clock,
        )
        for failure in model.failures if model else ():
            raise failure
    # Another gateway runs on the quick clock: there is no call that drawing could delay.
    return await write_results(rehearsed, out_dir, _picture_process() if gateway is gateway_process else None)


async def write_results(
    rehearsed: Sequence[tuple[CallTruth, CallReport]], out_dir: Path, executor: Executor | None = None
) -> Report:
    """Write recordings, pictures and `report.json` of calls that have ended. `executor`: draws, None: a thread."""
    paths: dict[str, str] = {}
    for number, (truth, report) in enumerate(rehearsed, 1):
        suffix = f"-{number}" if len(rehearsed) > 1 else ""
        paths |= await asyncio.get_running_loop().run_in_executor(executor, write_call, out_dir, truth, report, suffix)
    whole = report_of([report for _, report in rehearsed], paths | {"report": str(out_dir / "report.json")})
    await asyncio.to_thread(write_report, whole, out_dir / "report.json")
    return whole


@cache
def _picture_process() -> ProcessPoolExecutor:
    """A process for drawing: a picture takes a second, which would delay other calls in this process."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=be_nice)


def agent_file_of(scenario: Scenario, out_dir: Path) -> Path:
    """The file of a scenario's agent; one that is written in the scenario goes to `out_dir`."""
    out_dir.mkdir(parents=True, exist_ok=True)
    if scenario.agent_file is not None:
        return scenario.agent_file
    path = out_dir / "agent.yaml"
    path.write_text(scenario.agent_text, encoding="utf-8")
    return path


async def run_demo(out_dir: Path, progress: Progress | None = None, provider: str = "") -> Report:
    """Run the bundled demo: one call of half a minute. `provider`: of its model; "" for the agent file's."""
    environment = {"OFFHOOK_PROVIDER": provider} if provider else {}
    return await run_scenario(load_scenario("demo"), out_dir, progress=progress, environment=environment)


async def demo(out: Path, json: Path | None = None, provider: str = "") -> None:
    """`offhook demo`: a live line during the call, then tables and paths. SystemExit(1) if it failed."""
    console = Console()
    console.print("A simulated call through the real gateway: rehearsal model and carrier on this machine.")
    with live_line(console) as progress:
        report = await run_demo(out, progress, provider)
    show(report, console)
    if json is not None:
        write_report(report, json)
    if not report.ok:
        raise SystemExit(1)


# -- progress -------------------------------------------------------------------------------------------------


async def _watch(call: SimulatedCall, progress: Progress) -> None:
    while True:
        progress(call.glance())
        await asyncio.sleep(0.1)


class live_line:
    """A live line on a terminal; elsewhere a line for each new step of the caller's."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=10, transient=True) if console.is_terminal else None
        self._last = ""

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def _show(self, now: Glance) -> None:
        if self._live is not None:
            line = Text.assemble(
                (f"{now.at_s:5.1f} s  ", "bold"),
                ("caller ", "dim"),
                (_meter(now.caller_dbov), "cyan"),
                ("  agent ", "dim"),
                (_meter(now.agent_dbov), "magenta"),
                f"  {now.doing}",
            )
            line.no_wrap, line.overflow = True, "ellipsis"
            self._live.update(line)
        elif now.doing != self._last:
            self._last = now.doing
            self._console.print(f"{now.at_s:5.1f} s  {now.doing}", highlight=False, soft_wrap=True)


def _meter(dbov: float, width: int = 10) -> str:
    filled = int(np.clip((dbov + 50.0) / 40.0 * width, 0, width))
    return "▮" * filled + "▯" * (width - filled)
