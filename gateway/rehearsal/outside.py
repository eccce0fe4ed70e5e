"""Rehearsals of any gateway that speaks Twilio Media Streams, through its sockets alone.

The simulated carrier calls it by its voice webhook or opens its media socket. What only this project's gateway keeps,
its record and counters, is not there: expectations that need them are reported as not seen from outside.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from offhook.gateway.errors import OperatorError
from offhook.gateway.files import write_whole
from offhook.gateway.rehearsal.model.script import Script
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.phone.carrier import Carrier
from offhook.gateway.rehearsal.phone.steps import Step
from offhook.gateway.rehearsal.phone.truth import CallTruth
from offhook.gateway.rehearsal.quick_clock import Clock
from offhook.gateway.rehearsal.results.measured import call_report
from offhook.gateway.rehearsal.results.report import LINE_SEGMENTS, CallReport, ExpectationResult, Report
from offhook.gateway.rehearsal.run import seeded, write_results
from offhook.gateway.rehearsal.scenario.expect import CARRIER_ENDINGS, Expectation, judge, kept_to_the_rules
from offhook.gateway.rehearsal.scenario.load import Scenario
from offhook.gateway.rehearsal.thinking.party import Party, party_for

__all__ = [
    "OtherGateway",
    "OtherModel",
    "address_of",
    "call_to",
    "check_outside",
    "model_at",
    "rehearse_outside",
    "seen_outside",
    "target_of",
]

# Kinds of expectation that the line decides alone, and those that take what the rehearsal model received.
_OF_THE_LINE = frozenset(
    [
        "greeting_within_ms",
        "answered_within_ms",
        "ended_within_s",
        "barge_in_stopped_within_ms",
        "never_stopped",
        "no_gap",
        "all_heard",
        "goodbye_heard",
        "announced",
    ]
)
_OF_THE_MODEL = frozenset(["tool_answers", "told_model", "model_sessions"])
_OF_BOTH = frozenset(["line_to_model", "model_to_line", "added"])


class OtherGateway(msgspec.Struct, frozen=True):
    """A gateway under test. `url` with http(s): its voice webhook; with ws(s): its media socket.

    `public_url`: the origin that it knows itself by, which signatures are made for. `auth_token` None: requests are
    not signed. `parameters`: those of a stream that no webhook announces.
    """

    url: str
    public_url: str
    auth_token: str | None = None
    parameters: Mapping[str, str] = {}


def target_of(url: str, public_url: str, auth_token: str, parameters: Sequence[str]) -> OtherGateway:
    """A gateway by its URL; `parameters` are NAME=VALUE. Raises `OperatorError`: no carrier could call it."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "ws", "wss") or not parts.hostname:
        raise OperatorError(
            f"{url}: a gateway's URL begins with http:// or https:// (its voice webhook) "
            "or with ws:// or wss:// (its media socket)"
        )
    if parameters and parts.scheme.startswith("http"):
        raise OperatorError("--parameter goes with a media socket (ws:// or wss://): a webhook names its own in TwiML")
    named = {}
    for given in parameters:
        name, equals, value = given.partition("=")
        if not name or not equals:
            raise OperatorError(f"--parameter takes NAME=VALUE, not {given!r}")
        named[name] = value
    public = urlsplit(public_url or url)
    if not public.hostname:
        raise OperatorError(f"{public_url}: a public URL has a host, such as https://phone.example.com")
    return OtherGateway(url, f"{public.scheme}://{public.netloc}", auth_token or None, named)


class OtherModel:
    """The rehearsal model at an address of its own: it answers from the script of the scenario that is played."""

    def __init__(self) -> None:
        self.script: Script | None = None
        self.server: ModelServer

    def script_of(self, setup: dict[str, Any]) -> Script:
        assert self.script is not None, "the address is given out before the first scenario begins"
        return self.script


def address_of(address: str) -> tuple[str, int]:
    """HOST and PORT of a model's address. Raises `OperatorError`."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise OperatorError(f"{address}: the model's address is HOST:PORT, such as 127.0.0.1:8090")
    return host.strip("[]"), int(port)


@asynccontextmanager
async def model_at(address: str, ca_out: Path | None, clock: Clock) -> AsyncIterator[OtherModel]:
    """Serve the rehearsal model at HOST:PORT; over TLS if `ca_out` is to have its certificate. `OperatorError`."""
    host, port = address_of(address)
    model = OtherModel()
    tls = ca_out is not None
    model.server = ModelServer(model.script_of, host=host, port=port, tls=tls, clock=clock)
    try:
        await model.server.__aenter__()
    except OSError as error:
        raise OperatorError(f"the rehearsal model cannot listen at {address}: {error.strerror}") from None
    try:
        if ca_out is not None:
            certificate = await asyncio.to_thread(Path(model.server.ca_path).read_bytes)
            await asyncio.to_thread(write_whole, ca_out, certificate)
        yield model
    finally:
        await model.server.__aexit__()
    for failure in model.server.failures:
        raise failure


def check_outside(scenario: Scenario) -> None:
    """Raises `OperatorError`: no other gateway can be asked for this call."""
    if scenario.outbound is not None:
        raise OperatorError(f"{scenario.name}: only this project's gateway can be asked to place a call")


async def rehearse_outside(
    scenario: Scenario,
    gateway: OtherGateway,
    model: OtherModel | None,
    out_dir: Path,
    *,
    seed: int | None,
    real_caller: bool = False,
    clock: Clock,
) -> Report:
    """Play a scenario's call to `gateway`; recording, picture and report in `out_dir`. Raises `OperatorError`.

    `model`: where the gateway has its model; it plays the scenario's script, for one call at a time. `real_caller`: a
    caller who thinks, and its judge, are the models that this process's environment has keys for.
    """
    check_outside(scenario)
    async with party_for(scenario, real=real_caller, clock=clock) as party:
        rehearsed = await _rehearsed(scenario, gateway, model, party, seed, clock)
    await asyncio.to_thread(out_dir.mkdir, parents=True, exist_ok=True)
    return await write_results([rehearsed], out_dir)


async def _rehearsed(
    scenario: Scenario,
    gateway: OtherGateway,
    model: OtherModel | None,
    party: Party | None,
    seed: int | None,
    clock: Clock,
) -> tuple[CallTruth, CallReport]:
    live = party.caller() if party else None
    carrier, call_sid = seeded(scenario, seed, 0)
    call = call_to(
        gateway,
        scenario.steps,
        carrier=replace(carrier, status_callbacks=False),
        clock=clock,
        caller=scenario.number,
        dialled=scenario.dials,
        call_sid=call_sid,
        directory=scenario.directory,
        live=live,
    )
    server = model.server if model else None
    first, first_fault = (len(server.sessions), len(server.violations)) if server else (0, 0)
    if model is not None:
        model.script = scenario.script()
    truth = await call.run()
    sessions = server.sessions[first:] if server else None
    faults = [f"{fault.what} (session {fault.session})" for fault in server.violations[first_fault:]] if server else []
    report = call_report(
        truth,
        None,
        sessions[0] if sessions and len(sessions) == 1 else None,
        scenario=scenario.name,
        model_violations=faults,
        sessions=sessions,
        by_marks=False,
    )
    report.verdicts = [kept_to_the_rules(report)]
    for one in scenario.expect:
        report.verdicts += seen_outside(one, report)
    if party is not None and live is not None:
        await party.judged(live, truth, report)
    return truth, report


def call_to(
    gateway: OtherGateway, steps: Sequence[Step], *, carrier: Carrier, clock: Clock, **of_call: Any
) -> SimulatedCall:
    """A call to another gateway; `of_call` are further arguments of `SimulatedCall`."""
    return SimulatedCall(
        gateway.url,
        steps,
        entry=gateway.url,
        public_url=gateway.public_url,
        auth_token=gateway.auth_token,
        parameters=gateway.parameters,
        carrier=carrier,
        clock=clock,
        **of_call,
    )


def seen_outside(expected: Expectation, report: CallReport) -> list[ExpectationResult]:
    """The verdict on what can be seen from outside, and what cannot."""
    kind, value = expected.kind, expected.value
    if kind == "segments_within_ms":
        known = [name for name in LINE_SEGMENTS if report.model is not None or name not in _OF_BOTH]
        seen = {name: ms for name, ms in value.items() if name in known}
        unseen = [name for name in value if name not in seen]
        found = [judge(Expectation(kind, seen), report)] if seen else []
        return [*found, *([_not_seen(f"{kind} {', '.join(unseen)}", kind)] if unseen else [])]
    of_the_line = kind in _OF_THE_LINE or (kind == "end_reason" and value in CARRIER_ENDINGS)
    if of_the_line or (kind in _OF_THE_MODEL and report.model is not None):
        return [judge(expected, report)]
    return [_not_seen(kind, kind)]


def _not_seen(what: str, kind: str) -> ExpectationResult:
    return ExpectationResult(ok=False, seen=False, expectation=kind, words=f"{what}: not seen from outside")
