"""The cases of `offhook faults`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from offhook.gateway.rehearsal.faults.run import Case, Required, Rig, Seen, until
from offhook.gateway.rehearsal.load.worker import Lateness
from offhook.gateway.rehearsal.model.script import CallTool, Close, Fault, Mute, Reply, Script, SendGoAway, Stall
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.phone.carrier import Carrier
from offhook.gateway.rehearsal.phone.steps import HangUp, Pause, Say, SayOver, Step, WaitForAgent, WaitForEnd
from offhook.gateway.rehearsal.phone.twilio_wire import ConnectVerb, parse_twiml, sign, signed_socket_url

__all__ = ["CASES"]

LINE = "Uh-huh."  # bundled
GREETING = Reply("text", (Speak("Hello", length_ms=1_500, delay_ms=50),))
ANSWER = Reply("caller", (Speak("Of course", length_ms=1_200, delay_ms=100),))
PROMPTED = Reply("text:waiting", ANSWER.do)  # a new session is prompted that the caller waits
LONG = Reply("caller", (Speak("A long story", length_ms=6_000, delay_ms=100),))
# The greeting, then two turns; the pause between them is long enough for a fault and the recovery.
TALK: tuple[Step, ...] = (
    WaitForAgent("end"), Pause(300), Say(LINE), WaitForAgent("end"),
    Pause(3_000), Say(LINE), WaitForAgent("end", timeout_ms=30_000), HangUp(),
)  # fmt: skip
BYE = "greeting: {text: Greet the caller.}\ntools: [{builtin: end_call}]"
FALLBACK = "greeting: {text: Greet the caller.}\nfallback: {say: 'Please call again.'}"
CONTINUES = Required(answers=3)  # the greeting and two answers
ON_A_BROKEN_LINK = 50  # frames: a second of audio, sent on a connection that was already broken


def talked(seen: Seen, turns: int = 2) -> list[str]:
    """The call continued: the script ran to its end and every turn was answered."""
    found = []
    for truth, record in zip(seen.truths, seen.records, strict=True):
        found += [f"{step.step}: {step.failed}" for step in truth.steps if step.failed]
        if truth.ended_by != "caller":
            found.append(f"the call did not continue: ended by {truth.ended_by}")
        if len(truth.agent) < turns + 1:
            found.append(f"the agent was heard {len(truth.agent)} times, not {turns + 1}")
        if record is not None and record.end_reason != "caller_hung_up":
            found.append(f"ended by {record.end_reason}")
    return found


def reconnected(limit_s: float, sessions: int = 2) -> Any:
    """The call continued over `sessions` sessions, with no gap between them longer than `limit_s`."""

    def check(seen: Seen) -> Sequence[str]:
        found = talked(seen)
        if len([s for s in seen.sessions if s.ready_at_s is not None]) < sessions:
            found.append(f"{len(seen.sessions)} model sessions, not {sessions}: the model was not reconnected")
        name = "offhook_model_reconnect_gap_seconds"
        buckets = seen.after.buckets(name)
        count = max(buckets.values(), default=0)
        over = count - max((n for bound, n in buckets.items() if bound <= limit_s), default=0)
        if over:
            found.append(f"{over:.0f} of {count:.0f} gaps were longer than {limit_s:g} s")
        return found

    return check


def fell_back(reason: str, within_s: float) -> Any:
    """The caller heard the fallback line, and the record has the reason."""

    def check(seen: Seen) -> Sequence[str]:
        truth, found = seen.truth, []
        if "Please call again." not in [verb.text for verb in truth.announced]:
            found.append("the fallback line was not heard")
        if seen.record.end_reason != reason:
            found.append(f"ended by {seen.record.end_reason}, not by {reason}")
        if truth.ended_s - truth.rang_s > within_s:
            found.append(f"it took {truth.ended_s - truth.rang_s:.0f} s, more than {within_s:g}")
        return found

    return check


# -- the carrier's side


def _closed_with_the_call(seen: Seen) -> list[str]:
    """The model's session was closed with the call."""
    last = seen.sessions[-1]
    if last.closed_at_s is None:
        return ["the model's session is still open"]
    return []


def _reentered(seen: Seen) -> Sequence[str]:
    found = [] if len(seen.truth.streams) == 2 else [f"{len(seen.truth.streams)} streams, not 2"]
    ready = [session for session in seen.sessions if session.ready_at_s is not None]
    return [*found, *talked(seen), *([] if len(ready) == 1 else [f"{len(ready)} model sessions, not 1"])]


def _given_up(seen: Seen) -> Sequence[str]:
    found = [] if seen.record.end_reason == "stream_lost" else [f"ended by {seen.record.end_reason}"]
    return [*found, *_closed_with_the_call(seen)]


async def _second_socket(rig: Rig, call: SimulatedCall) -> Mapping[str, Any]:
    """Open a second stream with the parameters of the first one while that is in use."""
    await until(lambda: any(stream.started_s for stream in call.truth.streams))
    document = call.truth.fetched[0].answer.encode()
    connect = next(verb for verb in parse_twiml(document) if isinstance(verb, ConnectVerb))
    there, real = urlsplit(connect.url), urlsplit(rig.url)
    stream_sid = "MZ" + secrets.token_hex(16)
    start = {
        "accountSid": "AC" + "0" * 32,
        "streamSid": stream_sid,
        "callSid": call.call_sid,
        "tracks": ["inbound"],
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        "customParameters": dict(connect.parameters),
    }
    headers = {"X-Twilio-Signature": sign(signed_socket_url(connect.url), {}, rig.auth_token)}
    async with rig.http.ws_connect(f"ws://{real.netloc}{there.path}", headers=headers) as second:
        await second.send_str(json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"}))
        await second.send_str(
            json.dumps({"event": "start", "sequenceNumber": "1", "start": start, "streamSid": stream_sid})
        )
        message = await second.receive(timeout=10)
        return {"code": second.close_code, "type": message.type}


def _one_stream(seen: Seen) -> Sequence[str]:
    found = [] if seen.noted["code"] == 1008 else [f"the second socket was not refused: {dict(seen.noted)}"]
    ready = [session for session in seen.sessions if session.ready_at_s is not None]
    return [*found, *talked(seen), *([] if len(ready) == 1 else [f"{len(ready)} model sessions, not 1"])]


def _goodbye(seen: Seen) -> Sequence[str]:
    found = [f"{step.step}: {step.failed}" for step in seen.truth.steps if step.failed]
    if seen.record.end_reason != "agent_hung_up":
        found.append(f"ended by {seen.record.end_reason}, not by the agent")
    if seen.truth.streams[-1].unplayed:
        found.append(f"{seen.truth.streams[-1].unplayed / 8:.0f} ms of the goodbye were not heard")
    return found


def _undisturbed(seen: Seen) -> Sequence[str]:
    found = talked(seen)
    if seen.truth.clears:
        found.append(f"playback was stopped {len(seen.truth.clears)} times without an interruption")
    late = seen.after.buckets("offhook_uplink_relative_delay_seconds")
    if max(late.values(), default=0) - late.get(0.06, 0) <= 0:
        found.append("the metrics do not show delayed frames")
    return found


# -- the machine's side


async def _descriptors(rig: Rig, call: SimulatedCall) -> Mapping[str, Any]:
    """More idle connections than there are descriptors, a call arrives, they are closed, another call arrives."""
    await until(lambda: any(interval.open is False for interval in call.truth.agent))
    real = urlsplit(rig.url)
    idle = []
    for _ in range(200):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(real.hostname, real.port)
            writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")  # answered and kept alive
            idle.append(writer)
    await asyncio.sleep(0.5)
    meanwhile = await rig.run(rig.call((WaitForAgent("end"), HangUp())))
    for writer in idle:
        writer.close()
    again = await rig.run(rig.call((WaitForAgent("end"), HangUp())))
    return {"meanwhile": meanwhile, "again": again, "idle": len(idle)}


def _full(seen: Seen) -> Sequence[str]:
    found = [f"{step.step}: {step.failed}" for step in seen.truth.steps if step.failed]
    for when in ("meanwhile", "again"):
        if not seen.noted[when].agent:
            found.append(f"{when}: a call was not answered: ended by {seen.noted[when].ended_by}")
    if seen.noted["idle"] < 150 or not seen.increase_of('offhook_input_errors_total{peer="http",reason="too_many"}'):
        found.append("the idle connections were not too many")
    return found


def _unrecorded(seen: Seen) -> Sequence[str]:
    found = talked(seen)
    if not any("recording" in error for error in seen.record.errors):
        found.append(f"the record does not note that the recording failed: {seen.record.errors}")
    return found


def _refused(seen: Seen) -> Sequence[str]:
    heard = [truth for truth in seen.truths if truth.agent and truth.streams]
    busy = [truth for truth in seen.truths if not truth.streams]
    found = [] if len(heard) == 3 else [f"{len(heard)} calls were answered, not 3"]
    if silent := [truth for truth in busy if "Please call again." not in [verb.text for verb in truth.announced]]:
        found.append(f"{len(silent)} calls were refused without the fallback line")
    if (n := seen.increase_of('offhook_calls_rejected_total{reason="at_limit"}')) != len(busy):
        found.append(f"{n:.0f} refusals were counted, not {len(busy)}")
    found += [f"{step.step}: {step.failed}" for truth in heard for step in truth.steps if step.failed]
    return found


async def _hang_ups(rig: Rig) -> Mapping[str, Any]:
    """Place calls that are hung up as soon as they are connected, many per second."""

    async def brief() -> None:
        call = rig.call(())
        running = asyncio.create_task(rig.run(call))
        await until(lambda: call.over or any(stream.started_s for stream in call.truth.streams))
        call.hang_up()
        await running

    async def some(n: int) -> None:
        for _ in range(n):
            await asyncio.gather(*(brief() for _ in range(5)))

    await some(10)  # fills caches and pools
    warm = (await rig.counters()).get("process_resident_memory_bytes")
    await some(40)
    return {"grown_mib": ((await rig.counters()).get("process_resident_memory_bytes") - warm) / 2**20}


def _released(seen: Seen) -> Sequence[str]:
    grown = seen.noted["grown_mib"]
    found = [] if grown < 8 else [f"{grown:.1f} MiB more memory after 200 calls"]
    if refused := [truth for truth in seen.truths if not truth.streams]:
        found.append(f"{len(refused)} of {len(seen.truths)} calls were not connected")
    return found


async def _scraped(rig: Rig) -> Mapping[str, Any]:
    """Measure the frame lateness of ten calls without and with a scrape every second (ten times the usual rate)."""
    lateness = Lateness()
    calls = [rig.call((WaitForAgent("end"), Pause(14_000), HangUp())) for _ in range(10)]
    running = []
    for call in calls:
        running.append(asyncio.create_task(rig.run(call)))
        await asyncio.sleep(0.037)
    await asyncio.sleep(3.0)
    lateness.since(rig.model.sessions)
    await asyncio.sleep(4.0)
    alone = lateness.since(rig.model.sessions)
    for _ in range(4):
        await rig.counters()
        await asyncio.sleep(1.0)
    beside = lateness.since(rig.model.sessions)
    await asyncio.gather(*running)
    return {"alone": alone, "beside": beside}


def _unmoved(seen: Seen) -> Sequence[str]:
    alone, beside = seen.noted["alone"], seen.noted["beside"]
    if alone.p99_ms is None or beside.p99_ms is None:
        return ["too few frames for a P99"]
    if beside.p99_ms > alone.p99_ms + 5.0:
        return [f"frame lateness P99 {beside.p99_ms:.1f} ms while scraped, {alone.p99_ms:.1f} ms otherwise"]
    return []


CASES: tuple[Case, ...] = (
    Case(
        16,
        "the model closes with 1011 in the middle of a reply",
        reconnected(2.0),
        TALK,
        Script((GREETING, LONG, ANSWER), default=ANSWER, faults=(Fault(4.2, (Close(1011),)),), carries_on=True),
        lost=ON_A_BROKEN_LINK,
        outside=CONTINUES,
    ),
    *(
        Case(
            17,
            f"the model refuses the resumption handle with {code}",
            reconnected(6.0),
            TALK,
            Script(
                (GREETING, ANSWER),
                default=ANSWER,
                faults=(Fault(4.2, (Close(1011),)),),
                refuse_resumes=(Close(code, "Unknown handle."),),
                carries_on=True,
            ),
            lost=ON_A_BROKEN_LINK,
            outside=CONTINUES,
        )
        for code in (1007, 1008)
    ),
    Case(
        18,
        "1011 repeatedly while the old session is still in use",
        reconnected(10.0),
        TALK,
        Script(
            (GREETING, ANSWER),
            default=ANSWER,
            faults=(Fault(4.2, (Close(1011),)),),
            refuse_resumes=(Close(1011, "The session is still in use."),) * 3,
            carries_on=True,
        ),
        lost=ON_A_BROKEN_LINK,
        quick=False,
        outside=CONTINUES,
    ),
    Case(
        19,
        "goAway with a minute's notice",
        reconnected(0.3),
        TALK,
        Script((GREETING, ANSWER), default=ANSWER, faults=(Fault(1.0, (SendGoAway(60.0),)),), carries_on=True),
        outside=CONTINUES,
    ),
    Case(
        19,
        "goAway without notice",
        reconnected(2.0),
        TALK,
        Script((GREETING, ANSWER), default=ANSWER, faults=(Fault(4.2, (SendGoAway(0.0),)),), carries_on=True),
        lost=ON_A_BROKEN_LINK,
        outside=CONTINUES,
    ),
    Case(
        20,
        "the model accepts the connection and never answers the setup",
        fell_back("model_unreachable", 45.0),
        (WaitForEnd(60_000),),
        Script(setup_delay_ms=120_000),
        agent=FALLBACK,
        quick=False,
        outside=Required(ends_within_s=45.0),
    ),
    Case(
        21,
        "the model's connection is open and dead",
        reconnected(45.0),
        (WaitForAgent("end"), Pause(3_000), Say(LINE), WaitForAgent("end", timeout_ms=60_000), Pause(300),
         Say(LINE), WaitForAgent("end"), HangUp()),
        Script((GREETING, PROMPTED), default=ANSWER, faults=(Fault(4.2, (Stall(600_000),)),), carries_on=True),
        agent=FALLBACK,
        lost=1_500,  # the kernel buffers unread audio: half a minute of it
        quick=False,
        outside=CONTINUES,
    ),
    Case(
        21,
        "the model is deaf on every connection, and the caller repeats",
        fell_back("model_lost", 17.0),
        (WaitForAgent("end"), Say(LINE), Pause(3_000), Say(LINE), Pause(3_000), Say(LINE), WaitForEnd(20_000)),
        Script((Reply("text", (*GREETING.do, Mute())),)),
        agent=FALLBACK,
        quick=False,
        outside=Required(ends_within_s=32.0),
    ),
    Case(
        22,
        "the model reads nothing for four seconds",
        talked,
        TALK,
        Script((GREETING, ANSWER), default=ANSWER, faults=(Fault(4.2, (Stall(4_000),)),)),
        outside=CONTINUES,
    ),
    Case(
        23,
        "Twilio's socket is cut, and the call comes back",
        _reentered,
        (WaitForAgent("end"), Pause(4_000), Say(LINE), WaitForAgent("end"), Pause(200), Say(LINE),
         WaitForAgent("end"), HangUp()),
        Script((GREETING, ANSWER), default=ANSWER),
        carrier=Carrier(drop_after_s=3.0),
        lost=ON_A_BROKEN_LINK,
        outside=CONTINUES,
    ),
    Case(
        23,
        "Twilio's sockets are cut repeatedly",
        _given_up,
        (WaitForEnd(60_000),),
        Script((GREETING, ANSWER), default=ANSWER),
        carrier=Carrier(drop_after_s=1.0, drops=9),
        lost=ON_A_BROKEN_LINK,
        outside=Required(ends_within_s=60.0),
    ),
    Case(
        24,
        "a second socket for the same call",
        _one_stream,
        TALK,
        Script((GREETING, ANSWER), default=ANSWER),
        during=_second_socket,
    ),
    Case(
        25,
        "marks are never echoed",
        _goodbye,
        (WaitForAgent("end"), Pause(300), Say(LINE), WaitForEnd(30_000)),
        Script((GREETING, Reply("caller", (Speak("Goodbye", length_ms=1_500), CallTool("end_call"))))),
        agent=BYE,
        carrier=Carrier(marks="lost"),
    ),
    Case(
        25,
        "marks are not echoed after a clear",
        talked,
        (WaitForAgent("end"), Pause(300), Say(LINE), SayOver("Oh, sorry, wait. Could we make that Saturday, for two?",
         after_ms=1_000), WaitForAgent("end"), HangUp()),
        Script((GREETING, LONG, ANSWER), default=ANSWER),
        carrier=Carrier(marks="lost when cleared"),
        outside=CONTINUES,
    ),
    Case(
        26,
        "a line that delays frames by up to 150 ms",
        _undisturbed,
        TALK,
        Script((GREETING, ANSWER), default=ANSWER),
        carrier=Carrier(jitter_ms=150.0),
        outside=CONTINUES,
    ),
    Case(
        30,
        "more idle connections than descriptors",
        _full,
        (WaitForAgent("end"), Pause(12_000), HangUp()),
        Script((GREETING, ANSWER), default=ANSWER),
        during=_descriptors,
        environment={"OFFHOOK_MAX_CALLS": "4"},
        limits={"RLIMIT_NOFILE": 120},
    ),
    Case(
        31,
        "the disk is full while a call is recorded",
        _unrecorded,
        TALK,
        Script((GREETING, ANSWER), default=ANSWER),
        agent="greeting: {text: Greet the caller.}\nrecording: {enabled: true}",
        limits={"RLIMIT_FSIZE": 60_000},
    ),
    Case(
        32,
        "twice as many calls as are allowed",
        _refused,
        (WaitForAgent("end"), Pause(2_000), HangUp()),
        Script((GREETING, ANSWER), default=ANSWER),
        agent=FALLBACK,
        calls=6,
        environment={"OFFHOOK_MAX_CALLS": "3"},
    ),
    Case(
        33,
        "250 calls that are hung up at once, many per second",
        _released,
        script=Script((GREETING, ANSWER), default=ANSWER),
        whole=_hang_ups,
    ),
    Case(
        34,
        "ten calls while Prometheus scrapes every second",
        _unmoved,
        script=Script((GREETING, ANSWER), default=ANSWER),
        whole=_scraped,
        quick=False,
    ),
)  # fmt: skip
