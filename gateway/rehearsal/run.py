"""Runs rehearsals: the rehearsal model, the unmodified gateway between, and the simulated calls.

The gateway is a process of its own, started as `offhook serve` and reached by its sockets alone; or it runs
in this process, for tests that want to look inside.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

import aiohttp
import msgspec
import numpy as np
from rich.console import Console
from rich.live import Live
from rich.text import Text

from offhook.gateway.errors import OffhookError
from offhook.gateway.files import write_whole
from offhook.gateway.rehearsal.account import NOBODY, account_for, counters, environment_of, legs, moved, place_outbound
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.phone.call import Glance, SimulatedCall
from offhook.gateway.rehearsal.phone.truth import CallTruth
from offhook.gateway.rehearsal.phone.twilio_account import SimulatedTwilio
from offhook.gateway.rehearsal.results.picture import draw
from offhook.gateway.rehearsal.results.report import (
    CallReport,
    Report,
    Verdict,
    call_report,
    report_of,
    show,
    write_report,
)
from offhook.gateway.rehearsal.scenario.expect import judge, kept_to_the_rules
from offhook.gateway.rehearsal.scenario.load import Scenario, load_scenario
from offhook.gateway.store.record import CallRecord
from offhook.media.mulaw import RATE_HZ, decode
from offhook.media.wav import wav_bytes

__all__ = [
    "PUBLIC_URL",
    "GatewayFailed",
    "demo",
    "fetch_record",
    "gateway_environment",
    "gateway_process",
    "last_words",
    "rehearse",
    "run_demo",
    "run_scenario",
    "understood",
]

PUBLIC_URL = "https://rehearsal.example"  # what the gateway believes to be called; nothing is looked up
START_TIMEOUT_S = 90.0  # takes a second, where a dozen do not start at once on two cores
STOP_TIMEOUT_S = 10.0
RECORD_TIMEOUT_S = 5.0
NEVER_A_CALL = (*NOBODY, "reject")
STAGGER_S = 0.130  # between the beginnings of calls placed together; no multiple of a frame

Progress = Callable[[Glance], None]
Watch = Callable[[SimulatedCall], None]

# Kinds of expectation that a model without a script can be held to.
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


class ModelAt(Protocol):
    """Where a rehearsal model is, and the certificate to trust."""

    @property
    def url(self) -> str: ...

    @property
    def ca_path(self) -> str: ...


class GatewayFailed(OffhookError):
    """The gateway did not start; the message holds its last words."""


def gateway_environment(agent_file: Path, model: ModelAt | None, auth_token: str) -> dict[str, str]:
    """What a rehearsed gateway finds in its environment: see `gateway_process`."""
    ours = ("TWILIO_", "OFFHOOK_") if model is None else ("GOOGLE_", "GEMINI_", "TWILIO_", "OFFHOOK_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    if model is not None:
        env |= {
            "GOOGLE_GEMINI_BASE_URL": model.url,
            "SSL_CERT_FILE": model.ca_path,
            "GEMINI_API_KEY": "rehearsal",
        }
    return env | {
        "TWILIO_AUTH_TOKEN": auth_token,
        "OFFHOOK_PUBLIC_URL": PUBLIC_URL,
        "OFFHOOK_HOST": "127.0.0.1",
        "OFFHOOK_PORT": "0",
        "OFFHOOK_AGENT": str(agent_file),
        "OFFHOOK_SIMULATED": "1",
        "NO_PROXY": ",".join(filter(None, (os.environ.get("NO_PROXY"), "127.0.0.1", "localhost"))),
    }


@asynccontextmanager
async def gateway_process(
    agent_file: Path,
    model: ModelAt | None,
    *,
    auth_token: str,
    log: Path,
    environment: Mapping[str, str] | None = None,
    limits: Mapping[str, int] | None = None,
) -> AsyncIterator[str]:
    """`offhook serve` with this agent, against the rehearsal model; gives its URL. Raises `GatewayFailed`.

    None of this process's own settings or keys reach it, save those of the model when `model` is None: then the
    gateway talks to the model that the environment names. Its log goes to a file. `limits`: of the process's
    resources, such as `{"RLIMIT_NOFILE": 64}`.
    """
    env = gateway_environment(agent_file, model, auth_token) | dict(environment or {})
    command = [sys.executable, "-m", "offhook", "serve"]
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
            raise GatewayFailed(f"the gateway did not start: {last_words(log) or first or 'it said nothing'}")
        yield first.removeprefix("listening on ")
    finally:
        await _stop(process)


# Sets limits on itself and becomes what follows: between fork and exec nothing of Python's is safe.
_LIMITED = """
import json, os, resource, sys
for name, limit in json.loads(sys.argv[1]).items():
    kind = getattr(resource, name)
    resource.setrlimit(kind, (limit, resource.getrlimit(kind)[1]))
os.execv(sys.argv[2], sys.argv[2:])
"""


def last_words(log: Path) -> str:
    """What a log ends with."""
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


async def fetch_record(url: str, truth: CallTruth) -> CallRecord | None:
    """The gateway's own record of a call that has ended, or None if it keeps none."""
    if not truth.streams and truth.ended_by in NEVER_A_CALL:
        return None
    async with aiohttp.ClientSession() as session:
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
) -> list[tuple[CallTruth, CallReport]]:
    """Place the scenario's call, or several at once, through a gateway that is already there.

    `seed` settles whatever is random about them, their names included. `model` None: a model that plays no
    script, of which less is expected. `watch` is given each call as it is placed. `twilio`: the account whose REST
    API the gateway uses; with it a scenario may have the gateway place the call.
    """
    if twilio is not None:
        twilio.gateway_url = url
    before = await counters(url)
    placed = [_call(scenario, url, auth_token, public_url, seed, number, twilio) for number in range(calls)]

    async def place(index: int, call: SimulatedCall) -> CallTruth:
        await asyncio.sleep(index * STAGGER_S)
        if twilio is not None:
            if scenario.outbound is not None:
                return await place_outbound(scenario.outbound, scenario.agent.name, url, twilio)
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
    counted = moved(before, await counters(url))
    # Calls ring one after the other, and each opens its session at once. One that reconnects breaks the pairs.
    sessions = model.sessions[first_session:] if model else []
    paired = sessions if len(sessions) == calls else [None] * calls
    faults = [f"{fault.what} (session {fault.session})" for fault in model.violations[first_fault:]] if model else []
    reports = []
    for truth, record, session in zip(truths, records, paired, strict=True):
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
        report.verdicts = [kept_to_the_rules(report), *_verdicts(scenario, report, scripted=model is not None)]
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
) -> SimulatedCall:
    carrier, call_sid = scenario.carrier, None
    if seed is not None:
        carrier = replace(carrier, seed=seed + number)
        call_sid = "CA" + hashlib.sha256(f"{scenario.name} {seed + number}".encode()).hexdigest()[:32]
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
    )


def _verdicts(scenario: Scenario, report: CallReport, *, scripted: bool) -> list[Verdict]:
    """On what is expected of the call; of a model without our script, on what may still be expected."""
    if scripted:
        return [judge(one, report) for one in scenario.expect]
    kept = [judge(one, report) for one in scenario.expect if one.kind in OF_ANY_MODEL]
    return [*kept, understood(report)]


def understood(report: CallReport) -> Verdict:
    """Whether the model took down, of the caller's words, at least half: was the caller intelligible?"""
    said = {word for turn in report.line.caller if turn.kind == "say" for word in _WORD.findall(turn.text.lower())}
    turns = report.record.turns if report.record else []
    heard = {word for turn in turns for word in _WORD.findall(turn.caller_text.lower())}
    share = len(said & heard) / len(said) if said else 1.0
    words = f"the model took down {share:.0%} of the caller's {len(said)} different words"
    return Verdict(ok=share >= 0.5, expectation="understood", words=words)


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
) -> Report:
    """A scenario from end to end: model, gateway process, calls; results in `out_dir`.

    `call.wav` (left what the caller said, right what the caller heard), `call.png` and `report.json`; of
    several calls, recordings and pictures are numbered. `real_model`: no rehearsal model but the one that this
    process's environment leads to, with its key. `gateway`: what begins it, called as `gateway_process` is.
    """
    agent_file = _agent_file(scenario, out_dir)
    auth_token = secrets.token_hex(16)
    async with AsyncExitStack() as stack:
        model = None if real_model else await stack.enter_async_context(ModelServer(scenario.script()))
        twilio = await stack.enter_async_context(account_for(scenario, auth_token, PUBLIC_URL))
        begun = gateway(
            agent_file,
            model,
            auth_token=auth_token,
            log=out_dir / "gateway.log",
            environment={**environment_of(scenario, twilio), **(environment or {})},
        )
        url = await stack.enter_async_context(begun)
        lived = await rehearse(
            scenario,
            url,
            model,
            auth_token=auth_token,
            calls=calls,
            seed=seed,
            progress=progress,
            watch=watch,
            twilio=twilio,
        )
        for failure in model.failures if model else ():
            raise failure
    painter = _draughtsman() if gateway is gateway_process else None  # elsewhere no clock goes on that it could delay
    paths: dict[str, str] = {}
    for number, (truth, report) in enumerate(lived, 1):
        suffix = f"-{number}" if len(lived) > 1 else ""
        paths |= await asyncio.get_running_loop().run_in_executor(painter, write_call, out_dir, truth, report, suffix)
    whole = report_of([report for _, report in lived], paths | {"report": str(out_dir / "report.json")})
    await asyncio.to_thread(write_report, whole, out_dir / "report.json")
    return whole


@cache
def _draughtsman() -> ProcessPoolExecutor:
    """A process that draws: it takes a second a picture, and other calls' clocks go on here."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_be_nice)


def _be_nice() -> None:
    if hasattr(os, "nice"):
        os.nice(10)


def _agent_file(scenario: Scenario, out_dir: Path) -> Path:
    out_dir.mkdir(parents=True, exist_ok=True)
    if scenario.agent_file is not None:
        return scenario.agent_file
    path = out_dir / "agent.yaml"
    path.write_text(scenario.agent_text, encoding="utf-8")
    return path


def write_call(out_dir: Path, truth: CallTruth, report: CallReport, suffix: str = "") -> dict[str, str]:
    """Recording and picture of one call; their paths by name."""
    sound, picture = out_dir / f"call{suffix}.wav", out_dir / f"call{suffix}.png"
    left, right = decode(truth.left), decode(truth.right)
    write_whole(sound, wav_bytes(left, RATE_HZ, right=right[: len(left)] if len(left) else right))
    draw(truth, report, picture)
    return {f"recording{suffix}": str(sound), f"picture{suffix}": str(picture)}


async def run_demo(out_dir: Path, progress: Progress | None = None) -> Report:
    """The bundled demo: one call of half a minute."""
    return await run_scenario(load_scenario("demo"), out_dir, progress=progress)


async def demo(out: Path, json: Path | None = None) -> None:
    """`offhook demo`: a live line while the call goes on, then tables and paths. SystemExit(1) if it failed."""
    console = Console()
    console.print("A simulated call through the real gateway: rehearsal model and carrier on this machine.")
    with _live(console) as progress:
        report = await run_demo(out, progress)
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


class _live:
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
