"""A call's head: what its next process makes of it."""

from __future__ import annotations

import msgspec
import pytest

from offhook.gateway.call.head import (
    VERSION,
    Head,
    LogEntry,
    OpenReply,
    RunningHead,
    Taken,
    open_replies,
    read_head,
    read_log,
    taken_from,
)
from offhook.gateway.conversation.events import Owed
from offhook.gateway.conversation.ledger import Ledger, Reply
from offhook.gateway.conversation.state import LineState, Phase, State
from offhook.gateway.store.record import CallRecord, ToolRecord, TranscriptLine, TurnRecord

WORDS = [("one", 0), (" two", 4000), (" three", 8000), (" four", 12000)]


def turn(generation: int, *, heard_ms: float = 0.0, kind: str = "model") -> TurnRecord:
    text = "one two three four"
    return TurnRecord(
        number=generation, generation=generation, kind=kind, reply_started_ms=1000.0, reply_text=text, heard_ms=heard_ms
    )


def taken(
    phase: Phase, *replies: OpenReply, at_s: float = 102.0, before: int = 0, kind: str = "model", **more: object
) -> Taken:
    """Replies began to play at 100 s of the wall clock; the stream's end is learnt at `at_s`."""
    record = CallRecord(call_sid="CA1", streams=["MZ1"], turns=[turn(r.generation, kind=kind) for r in replies])
    head = Head(v=VERSION, wall_s=100.5, record=record, began_s=90.0, phase=phase.value, replies=list(replies), **more)  # type: ignore[arg-type]
    log = [LogEntry(turn=turn(n, heard_ms=2000.0)) for n in range(-before, 0)]
    return taken_from(read_head(msgspec.json.encode(head)) or head, log, at_s, 8000)


PLAYING = OpenReply(1, 16_000, plays_from_s=100.0, complete=True, words=WORDS)


@pytest.mark.parametrize(
    ("reply", "at_s", "heard_ms", "words"),
    [
        (PLAYING, 101.0, 1000.0, "one two"),
        (PLAYING, 103.0, 2000.0, "one two three four"),
        (msgspec.structs.replace(PLAYING, heard=12_000), 100.2, 1500.0, "one two three"),  # marks know better
        (msgspec.structs.replace(PLAYING, plays_from_s=None, heard=8000), 109.0, 1000.0, "one two"),  # it was held
        (msgspec.structs.replace(PLAYING, received=4000, complete=False), 101.0, 1000.0, ""),  # more had come since
    ],
)
def test_what_was_heard_follows_from_the_time(reply: OpenReply, at_s: float, heard_ms: float, words: str) -> None:
    found = taken(Phase.SPEAKING, reply, at_s=at_s).turns[0]
    assert found.heard_ms == pytest.approx(heard_ms, abs=1)
    assert found.heard_text.startswith(words)


def test_the_carriers_turnaround_was_not_heard() -> None:
    assert taken(Phase.SPEAKING, PLAYING, at_s=101.6, turnaround_s=0.6).turns[0].heard_ms == pytest.approx(1000, abs=1)
    late = taken(Phase.SPEAKING, PLAYING, at_s=102.0, turnaround_s=30.0)  # no carrier takes that long
    assert late.turns[0].heard_ms == pytest.approx(1000, abs=1)
    handed_over = taken(Phase.SPEAKING, PLAYING, at_s=100.7, turnaround_s=0.6)  # the stream was up at 100.5
    assert handed_over.turns[0].heard_ms == pytest.approx(500, abs=1)


@pytest.mark.parametrize(
    ("phase", "replies", "before", "owed"),
    [
        (Phase.LISTENING, (), 1, Owed.NOTHING),
        (Phase.THINKING, (), 1, Owed.ANSWER),
        (Phase.THINKING, (), 0, Owed.GREETING),
        (Phase.SPEAKING, (PLAYING,), 1, Owed.REST),
        (Phase.HELD, (msgspec.structs.replace(PLAYING, plays_from_s=None, heard=800),), 1, Owed.REST),
        (Phase.STOPPING, (msgspec.structs.replace(PLAYING, plays_from_s=None, heard=800),), 1, Owed.ANSWER),
        (Phase.SPEAKING, (msgspec.structs.replace(PLAYING, plays_from_s=None),), 1, Owed.ANSWER),
        (Phase.SPEAKING, (msgspec.structs.replace(PLAYING, plays_from_s=None),), 0, Owed.GREETING),
        (Phase.SPEAKING, (msgspec.structs.replace(PLAYING, received=8000),), 1, Owed.NOTHING),  # heard to its end
        (Phase.CLOSING, (PLAYING,), 1, Owed.REST),
        (Phase.CLOSING, (), 1, Owed.NOTHING),
    ],
)
def test_the_phase_decides_what_is_owed(phase: Phase, replies: tuple[OpenReply, ...], before: int, owed: Owed) -> None:
    assert taken(phase, *replies, at_s=101.0, before=before).owed is owed


def test_a_filler_that_was_cut_owes_nothing_itself() -> None:
    assert taken(Phase.SPEAKING, PLAYING, at_s=101.0, before=1, kind="filler").owed is Owed.ANSWER
    assert taken(Phase.SPEAKING, PLAYING, at_s=101.0, kind="filler").owed is Owed.GREETING


def test_the_record_is_the_log_and_the_head() -> None:
    record = CallRecord(
        call_sid="CA1",
        turns=[turn(2)],
        tool_calls=[ToolRecord(call_id=name, name="book", requested_ms=9000.0) for name in ("b", "c")],
        transcript=[TranscriptLine(at_ms=3000.0, who="caller", text="and now?")],
    )
    running = [RunningHead("c", "book", "CA1:1:c")]  # its outcome is found out
    head = Head(
        v=VERSION, wall_s=100.0, record=record, began_s=90.0, phase="thinking", replies=[PLAYING], tools=running
    )
    log = [
        LogEntry(turn=turn(1, heard_ms=2000.0)),
        LogEntry(said=TranscriptLine(at_ms=500.0, who="caller", text="hello")),
        LogEntry(tool=ToolRecord(call_id="a", name="look", requested_ms=1.0, finished_ms=2.0, outcome="done")),
    ]
    found = taken_from(head, read_log([msgspec.json.encode(entry) for entry in [*log]] + [b"{"]), 100.0, 8000)
    assert [t.generation for t in found.record.turns] == [1, 2]
    assert [line.text for line in found.lines] == ["hello", "one two three four", "one two three four", "and now?"]
    assert [(t.call_id, t.outcome) for t in found.record.tool_calls] == [
        ("a", "done"),
        ("b", "cancelled"),
        ("c", ""),
    ]
    assert found.record.tool_calls[1].finished_ms == 10_000.0


def test_neighbouring_versions_read_each_other() -> None:
    head = Head(v=VERSION, wall_s=1.0, record=CallRecord(call_sid="CA1"))
    newer = msgspec.json.encode({**msgspec.to_builtins(head), "something_new": 1})
    assert read_head(newer) == head
    assert read_head(msgspec.json.encode(msgspec.structs.replace(head, v=VERSION + 1))) is None
    assert read_head(b"") is None


def test_the_ledger_is_put_on_the_wall_clock() -> None:
    """Half a second of the first reply was heard when its rest and the second one were queued at 7 s."""
    first = Reply(1, 8000, 8000, 8000, heard=4000, base=0, complete=True)
    second = Reply(2, 4000, 4000, 4000, base=8000)
    state = State(Phase.SPEAKING, ledger=Ledger((first, second), queued_to=12_000, anchor=4000, anchor_s=7.0))
    one, two = open_replies(state, 7.2, 1007.2)
    assert one.plays_from_s == pytest.approx(1006.5)
    assert two.plays_from_s == pytest.approx(1007.5)
    assert [r.plays_from_s for r in open_replies(state._replace(line=LineState.AWAY), 7.2, 1007.2)] == [None, None]
