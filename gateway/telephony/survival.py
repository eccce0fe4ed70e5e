"""Calls that outlive their process: each one's checkpoints, and what a process does with one that it takes over.

The carrier asks what follows a stream that has ended. Asked by a process that does not have the call, that is the proof
that its owner's stream is over: the call is claimed at once and goes on here.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any

import msgspec

from offhook.gateway.call.call import Call
from offhook.gateway.call.head import (
    VERSION,
    FollowsHead,
    Head,
    LegHead,
    LogEntry,
    RunningHead,
    Taken,
    open_replies,
    read_head,
    read_log,
    taken_from,
)
from offhook.gateway.conversation.state import Phase
from offhook.gateway.live import CallStage, Claim, ToolRun
from offhook.gateway.live.fleet import Fleet
from offhook.gateway.live.seal import Seal
from offhook.gateway.store.record import CallRecord, ToolRecord, TranscriptLine
from offhook.gateway.telephony.leg import Leg
from offhook.gateway.tools.runner import Known, NotOurs

__all__ = ["MOVES_MAX", "Journal", "Survival", "read_claim", "tools_in_flight", "was_over"]

MOVES_MAX = 2  # within `MOVES_WITHIN_S`: a call that ends one owner after another is not taken a third time


class Survival:
    """One call's checkpoints: a `Kept` of the live store's writer. `moved(call)`: another process has the call."""

    def __init__(
        self,
        call: Call,
        leg: Leg,
        seal: Seal,
        wall: Callable[[], float],
        moved: Callable[[Call], None],
        *,
        taken: Taken | None = None,
    ) -> None:
        self._call, self._leg, self._seal, self._wall, self._moved = call, leg, seal, wall, moved
        self.stage = CallStage.LIVE
        self._sealed: list[bytes] = []
        self._turnaround_s = 0.0 if taken is None else taken.head.turnaround_s
        record = call.record
        self._logged_turns: set[int] = set()
        self._unlogged = [] if taken is None else _entries(taken)  # its log is written anew, once
        self._tools = len(record.tool_calls) if taken is None else len(_over(record))
        self._barge_ins, self._messages, self._said = len(record.barge_ins), len(record.messages), 0

    # --- for the writer

    def checkpoint(self) -> tuple[CallStage, bytes]:
        head = msgspec.json.encode(self.head())
        stage = self.stage if self._call.record.streams else CallStage.RINGING
        return stage, self._seal.seal(head, self._call.facts.call_sid)

    def log(self, start: int) -> Sequence[bytes]:
        self._settle()
        for entry in self._unlogged:
            self._sealed.append(self._seal.seal(msgspec.json.encode(entry), self._call.facts.call_sid))
        self._unlogged.clear()
        return self._sealed[start:]

    def superseded(self) -> None:
        self._moved(self._call)

    # --- the head

    def head(self) -> Head:
        """The call as it is now."""
        call, now_s, wall_s = self._call, self._call.clock(), self._wall()
        state, timeline, record = call.state, call.timeline, call.record
        zero_s = timeline.zero_s
        if not self._turnaround_s and "stream_setup" in record.segments:
            self._turnaround_s = record.segments["stream_setup"] / 1000
        replies = open_replies(state, now_s, wall_s)
        for reply in replies:
            reply.words = timeline.pieces(reply.generation)
        self._settle()
        tail = msgspec.structs.replace(
            record,
            duration_ms=timeline.ms(now_s),
            audio_in_ms=call.hearing.audio_in_ms,
            turns=timeline.open_turns(),
            barge_ins=record.barge_ins[self._barge_ins :],
            tool_calls=record.tool_calls[self._tools :],
            messages=record.messages[self._messages :],
            transcript=timeline.caller_lines()[self._said :],
            remembered=dict(call.remembered),
        )
        transfer, step, ending = call.tools.transfer_to, self._leg.next, call.ending or state.ending
        return Head(
            v=VERSION,
            wall_s=wall_s,
            record=tail,
            parameters=dict(call.facts.parameters),
            effects=list(call.facts.effects),
            leg=LegHead(
                self._leg.own_number,
                self._leg.caller_id,
                None if step is None else FollowsHead(step.kind.value, step.target, step.whisper, step.starts),
            ),
            began_s=0.0 if zero_s is None else wall_s + zero_s - now_s,
            turnaround_s=self._turnaround_s,
            phase=state.phase.value,
            ending="" if ending is None else ending.value,
            transfer=None if transfer is None else (transfer.target, transfer.whisper, transfer.warm),
            newest=call.speaking.turns,
            session=call.model.session,
            replies=replies,
            tools=call.tools.running(),
            memory=call.model.link.memory(),
        )

    def _settle(self) -> None:
        """Move what is over to the log, in its order, each thing once."""
        timeline, record = self._call.timeline, self._call.record
        for turn in timeline.closed_turns():
            if turn.generation not in self._logged_turns:
                self._logged_turns.add(turn.generation)
                self._unlogged.append(LogEntry(turn=turn))
        while self._tools < len(record.tool_calls) and record.tool_calls[self._tools].finished_ms is not None:
            self._unlogged.append(LogEntry(tool=record.tool_calls[self._tools]))
            self._tools += 1
        while self._barge_ins < len(record.barge_ins) - 1:  # the last one may not be over
            self._unlogged.append(LogEntry(barge_in=record.barge_ins[self._barge_ins]))
            self._barge_ins += 1
        while self._messages < len(record.messages):
            self._unlogged.append(LogEntry(message=record.messages[self._messages]))
            self._messages += 1
        said: list[TranscriptLine] = timeline.caller_lines()
        while self._said < len(said) - 1:  # likewise
            self._unlogged.append(LogEntry(said=said[self._said]))
            self._said += 1


class Journal:
    """One call's tool runs with outside effects, in the live store: a `ToolJournal`.

    While the store is away the stream is what proves that the call is this process's: without one no run begins.
    """

    def __init__(self, call: Call, fleet: Fleet, seal: Seal) -> None:
        self._call, self._fleet, self._seal = call, fleet, seal

    async def begins(self, key: str) -> Known | None:
        call_id = self._call.facts.call_sid
        begin = await self._fleet.begin_tool(call_id, key)
        if begin is None:
            if self._call.line is None:
                raise NotOurs("the live store is away, and so is the caller's stream")
            self._call.timeline.error("a tool began without a note of it in the live store")
            self._call.tools.unnoted.add(key)
            return None
        if begin.fenced:
            raise NotOurs("another process has the call")
        return None if begin.before is None else _known(begin.before, self._seal, call_id)

    async def done(self, key: str, response: Mapping[str, Any]) -> None:
        call_id = self._call.facts.call_sid
        sealed = self._seal.seal(msgspec.json.encode(response), call_id)
        await self._fleet.tool_done(call_id, key, base64.b64encode(sealed).decode())


def _known(run: ToolRun, seal: Seal, call_id: str) -> Known:
    """A run that was noted; one whose result cannot be read counts as not done."""
    plain = seal.open(base64.b64decode(run.result), call_id) if run.done else None
    return Known() if plain is None else Known(msgspec.json.decode(plain))


def _entries(taken: Taken) -> list[LogEntry]:
    """All of the call's record in the processes before, as a log."""
    record = taken.record
    entries = [LogEntry(turn=turn) for turn in taken.turns]
    entries += [LogEntry(tool=tool) for tool in _over(record)]
    entries += [LogEntry(barge_in=barge_in) for barge_in in record.barge_ins]
    entries += [LogEntry(message=message) for message in record.messages]
    return entries + [LogEntry(said=line) for line in taken.lines if line.who == "caller"]


def _over(record: CallRecord) -> list[ToolRecord]:
    """The tools up to the first that still runs."""
    return list(takewhile(lambda tool: tool.finished_ms is not None, record.tool_calls))


def read_claim(claim: Claim, seal: Seal, call_id: str, wall_s: float, rate_hz: int) -> Taken | None:
    """What the call was in the process before; None when nothing of it can be read."""
    plain = seal.open(claim.head, call_id) if claim.head else None
    head = read_head(plain) if plain is not None else None
    if head is None:
        return None
    entries = [opened for sealed in claim.log if (opened := seal.open(sealed, call_id)) is not None]
    head.memory.handle_age_s += wall_s - head.wall_s
    return taken_from(head, read_log(entries), wall_s, rate_hz)._replace(epoch=claim.epoch)


async def tools_in_flight(fleet: Fleet, seal: Seal, taken: Taken) -> list[tuple[RunningHead, Known | None]]:
    """The tools that were running, each with what is noted of it; None: nothing, as it had not begun or is safe."""
    call_id = taken.record.call_sid

    async def look(tool: RunningHead) -> tuple[RunningHead, Known | None]:
        run = ToolRun() if tool.unnoted else await fleet.tool_run(call_id, tool.key)
        return tool, None if run is None else _known(run, seal, call_id)

    return await asyncio.gather(*map(look, taken.head.tools))


def was_over(taken: Taken) -> bool:
    """The conversation had ended: only what follows it is to be delivered."""
    return taken.head.leg.follows is not None or Phase(taken.head.phase) is Phase.ENDED
