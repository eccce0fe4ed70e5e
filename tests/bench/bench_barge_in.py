"""Interruptions by the hundred: onset -> `clear` and silence, decision -> `clear` sent, what was heard.

All against the carrier's truth.

The gateway is its own process; callers and model in this one. Each caller interrupts each reply at another place.

    python -m tests.bench.bench_barge_in [BARGE_INS] [PROVIDER ...]
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from offhook.gateway.rehearsal.model.record import SessionRecord
from offhook.gateway.rehearsal.model.script import Reply, Script
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.phone.steps import HangUp, Pause, SayOver, Step
from offhook.gateway.rehearsal.phone.truth import CallTruth
from offhook.gateway.rehearsal.run import fetch_record, gateway_process
from offhook.gateway.store.record import CallRecord
from offhook.metrics.quantiles import exact
from tests.rig.sounds import sound

PER_CALL = 10
TOKEN = "bench"


class Lived(NamedTuple):
    """One call: what the carrier saw, what the gateway recorded, what the model was told."""

    truth: CallTruth
    record: CallRecord
    session: SessionRecord | None


async def place(barge_ins: int, provider: str) -> list[Lived]:
    long = Speak("Of course. Let me look for a table on Friday evening.", sound("agent_of_course"))
    script = Script((Reply("text", (long,)),), default=Reply("caller", (long,)))
    line = str(sound("caller_oh_sorry"))
    places = random.Random(1)
    async with ModelServer(script, keep_audio=False) as model:
        with tempfile.TemporaryDirectory() as folder:
            agent, log = Path(folder) / "agent.yaml", Path(folder) / "log"
            agent.write_text(f"name: bench\ngreeting: {{text: Greet.}}\nmodel: {{provider: {provider}}}\n")
            async with gateway_process(agent, model, auth_token=TOKEN, log=log) as url:
                calls, tasks = [], []
                for _ in range(-(-barge_ins // PER_CALL)):
                    steps: list[Step] = [SayOver(line, places.uniform(300, 6_000)) for _ in range(PER_CALL)]
                    call = SimulatedCall(
                        url, (*steps, Pause(500), HangUp()), public_url="https://rehearsal.example", auth_token=TOKEN
                    )
                    calls.append(call)
                    tasks.append(asyncio.create_task(call.run()))
                    await asyncio.sleep(0.237)
                truths = await asyncio.gather(*tasks)
                records = [await fetch_record(url, call.truth) for call in calls]
        sessions = sorted(model.sessions, key=lambda session: session.opened_at_s)
    # The calls rang one after the other, each session is that of one call, in this order.
    by_call = sessions if len(sessions) == len(calls) else [None] * len(calls)
    return [Lived(t, r, s) for t, r, s in zip(truths, records, by_call, strict=True) if r is not None]


def told_errors_s(call: Lived) -> list[float]:
    """Where the model was told that its reply ended for the caller, against where playback ended: truncations, of which
    Gemini Live has none.
    """
    found = []
    told = [t.begins_ms + t.audio_end_ms for t in call.session.truncations] if call.session is not None else []
    begun = 0
    for told_ms, clear in zip(told, call.truth.clears, strict=False):
        played = sum(
            min(p.samples, clear.position - p.position) for p in call.truth.played if p.position < clear.position
        )
        found.append(abs(told_ms - (played - begun) / 8) / 1000)
        begun = played
    return found if len(told) == len(call.truth.clears) else []


def main() -> None:
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    for provider in sys.argv[2:] or ("gemini", "openai"):
        print(f"\n{provider}")
        show(asyncio.run(place(wanted, provider)))


def show(lived: list[Lived]) -> None:
    told_error = [error for call in lived for error in told_errors_s(call)]
    onset_to_clear, decided_to_sent, heard_error, old = [], [], [], 0
    onset_to_silence, measured, silence_error = [], [], []
    for truth, record, _ in lived:
        old += record.samples_after_clear
        onsets = [s.onset_s for s in truth.spoken if s.over_agent]
        for clear in truth.clears:
            before = [onset for onset in onsets if onset <= clear.at_s]
            if before:
                onset_to_clear.append(clear.at_s - before[-1])
                onset_to_silence.append(clear.stopped_s - before[-1])
        for barge_in, clear in zip(record.barge_ins, truth.clears, strict=False):
            if "bargein_silence" in barge_in.segments:
                onset_s = max((onset for onset in onsets if onset <= clear.at_s), default=clear.at_s)
                measured.append(barge_in.segments["bargein_silence"] / 1000)
                silence_error.append(abs(measured[-1] - (clear.stopped_s - onset_s)))
        for barge_in in record.barge_ins:
            if barge_in.clear_sent_ms is not None:
                decided_to_sent.append((barge_in.clear_sent_ms - barge_in.decided_ms) / 1000)
        # All that was played of the calls's replies, by the carrier, against all that the ledgers say was heard.
        position = 0
        for clear, turn in zip(truth.clears, [t for t in record.turns if t.interrupted], strict=False):
            played = sum(
                min(p.samples, clear.position - p.position) for p in truth.played if p.position < clear.position
            )
            heard_before = position
            position = played
            heard_error.append(abs((played - heard_before) / 8 - turn.heard_ms) / 1000)
    print(f"{len(lived)} calls, {len(onset_to_clear)} barge-ins, energy detector, clean speech; milliseconds")
    for name, figures in (
        ("caller's onset -> clear at the carrier", onset_to_clear),
        ("caller's onset -> silence at the carrier", onset_to_silence),
        ("the same, measured by the gateway", measured),
        ("silence, gateway against carrier", silence_error),
        ("decision -> clear sent", decided_to_sent),
        ("heard, ledger against carrier", heard_error),
        ("heard, told the model against carrier", told_error),
    ):
        if not figures:
            continue
        summary = exact(figures)
        quantiles = (summary.p50, summary.p95, summary.p99, summary.max)
        shown = [f"{q * 1000:8.2f}" if q is not None else "   (few)" for q in quantiles]
        print(f"{name:40} n={summary.count:4} p50 {shown[0]} p95 {shown[1]} p99 {shown[2]} max {shown[3]}")
    print(f"samples of a dropped reply sent after its clear: {old}")


if __name__ == "__main__":
    main()
