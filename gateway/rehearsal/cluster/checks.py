"""What must hold after every fault of a cluster, read from what each side kept: the carrier's truth, the model's
sessions, the tool's service, the webhooks, the records in the gateways' databases, their logs. None of it is asked of
the gateway's code.

Each check returns what is wrong, one line for each finding.
"""

from __future__ import annotations

import json
import re
import sqlite3
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from offhook.gateway.rehearsal.cluster.calls import REST, ClusterCall, Move
from offhook.gateway.rehearsal.model.record import ClientViolation

__all__ = ["Evidence", "check", "records_in"]

TOKEN = re.compile(r"v1\.(CA[0-9a-f]{32})\.[0-9a-f]+\.([a-z0-9-]+)\.(\d+)\.")
TOLD = re.compile(r'The caller heard: "(.*?)"')
MS_PER_CHARACTER = 60.0  # of the rehearsal model's voice
WORDS_APART_MS = 1_100.0  # two words: words are whole, the line is 60 ms long and clocks differ by frames
SETUP_MAX_S = 1.0
FRAMES_HZ = 50
LOST_FRAMES = 15  # on their way in a process that is killed; the next stream's first ones
EDGE_S = 0.7  # a line that ends or begins this close to a hole may be in it: the model decides 0.5 s later
COMPLAINTS = ("Traceback", "was never retrieved", "was destroyed but it is pending", "was never awaited")


@dataclass(slots=True)
class Evidence:
    """All that is left of a run. `keeps`: the live store was there throughout, so moved calls go on from where they
    were. `resumes`: model sessions are resumed with their handles. `hangs`: a process was stopped before its streams
    were closed. `cap`: calls at once over all gateways; 0: not enforced.
    `late_s`: by how much the rig's own event loop, carrier and model, was late at worst.
    `left`: what was still there 10 s after the last call. `refused`: calls placed when there was no room.
    """

    calls: Sequence[ClusterCall]
    refused: Sequence[ClusterCall]
    effects: Sequence[str]
    events: Sequence[tuple[str, str, str]]
    violations: Sequence[ClientViolation]
    logs: dict[str, str]
    left: Sequence[str]
    cap: int
    keeps: bool = True
    resumes: bool = True
    hangs: bool = False
    faults_s: list[float] = field(default_factory=list)
    late_s: float = 0.0

    @property
    def moves(self) -> list[Move]:
        return [move for one in self.calls for move in one.moves(self.faults_s)]


def check(seen: Evidence) -> list[str]:
    """Every check; returns what is wrong."""
    found = list(seen.left)
    for one in seen.calls:
        for part in (_ended, _one_record, _one_owner, _no_old_audio, _tools, _frames):
            found += [f"{one.sid[:8]}: {what}" for what in part(one, seen)]
        if seen.keeps:
            for part in (_words, _lines, _transcript):
                found += [f"{one.sid[:8]}: {what}" for what in part(one, seen)]
    found += _effects(seen) + _cap(seen)
    found += [f"the model: {violation.what}" for violation in seen.violations]
    for name, log in seen.logs.items():
        if complaints := [text for text in COMPLAINTS if text in log]:
            found.append(f"{name}'s log has {', '.join(complaints)}")
    return found


def _ended(one: ClusterCall, seen: Evidence) -> list[str]:
    """The caller ended it, and the agent went on after every move."""
    found = [] if one.truth.ended_by == "caller" else [f"ended by {one.truth.ended_by}, not by its caller{_last(one)}"]
    for n, move in enumerate(one.moves(seen.faults_s)):
        if move.audio_s is None:
            found.append(f"move {n + 1}: no audio of the caller reached a model session")
        if seen.keeps and seen.resumes and not move.resumed and move.fault_s and _new_session(one, n):
            found.append(f"move {n + 1}: the model's session was not resumed")
    return found


def _last(one: ClusterCall) -> str:
    """The last document that it requested, and what came of it."""
    documents = [fetched for fetched in one.truth.fetched if not fetched.path.endswith("/status")]
    if not documents:
        return ""
    last = documents[-1]
    return f": {last.path} answered {last.status} after {last.took_ms:.0f} ms: {last.answer[:200]!r}"


def _new_session(one: ClusterCall, n: int) -> bool:
    """Whether the stream after the `n`-th move is another gateway's than the one before."""
    streams = [stream for stream in one.truth.streams if stream.started_s is not None]
    return _node(streams[n].url) != _node(streams[n + 1].url)


def _node(url: str) -> str:
    return url.split("/n/")[1].split("/")[0]


def _one_record(one: ClusterCall, seen: Evidence) -> list[str]:
    ids: dict[str, set[str]] = defaultdict(set)
    for event_id, kind, sid in seen.events:
        if sid == one.sid:
            ids[kind].add(event_id)
    found = [] if len(one.records) == 1 else [f"{len(one.records)} records, not one"]
    for kind in ("call.started", "call.ended"):
        if len(ids[kind]) != 1:
            found.append(f"{len(ids[kind])} events {kind}, not one")
    return found


def _one_owner(one: ClusterCall, seen: Evidence) -> list[str]:
    """By the tokens of the documents: each epoch is one gateway's, and epochs only grow."""
    nodes: dict[int, set[str]] = defaultdict(set)
    epochs = []
    for fetched in one.truth.fetched:
        for sid, node, epoch in TOKEN.findall(fetched.answer):
            if sid == one.sid:
                nodes[int(epoch)].add(node)
                epochs.append(int(epoch))
    if not seen.keeps:  # a call begins anew where nothing is known of it
        return []
    found = [f"epoch {epoch} was of {', '.join(sorted(names))}" for epoch, names in nodes.items() if len(names) > 1]
    if epochs != sorted(epochs):
        found.append(f"epochs went back: {epochs}")
    return found


def _no_old_audio(one: ClusterCall, seen: Evidence) -> list[str]:
    """No audio reached a model session of an owner before, once the session that goes on has some.

    A process that was stopped forwards what it had received, until its first write is refused.
    """
    stopped_s = max((move.fault_s for move in one.moves(seen.faults_s)), default=0.0)
    allowed = LOST_FRAMES + FRAMES_HZ * stopped_s if seen.hangs else 0
    used = sorted((s for s in one.sessions if s.audio_arrivals), key=lambda s: s.opened_at_s)
    found = []
    for old, new in pairwise(used):
        late = sum(at_s > new.audio_arrivals[0][0] for at_s, _ in old.audio_arrivals)
        if late > allowed and new.opened_at_s > (one.truth.streams[0].closed_s or 0.0):
            found.append(f"{late} frames reached the model session of the owner before")
    return found


def _tools(one: ClusterCall, seen: Evidence) -> list[str]:
    """A result that the model was told is an effect; the record has each tool call once."""
    mine = [key for key in seen.effects if one.sid in key]
    found = []
    for session in one.sessions:
        for answer in session.tool_answers:
            if "noted" in json.dumps(answer.response) and not any(key.endswith(f":{answer.id}") for key in mine):
                found.append(f"the model was told that {answer.id} is done, and it is not")
    ids = Counter(tool["call_id"] for record in one.records for tool in record.get("tool_calls", []))
    found += [f"the record has tool call {tool_id} {n} times" for tool_id, n in ids.items() if n > 1]
    return found


def _frames(one: ClusterCall, seen: Evidence) -> list[str]:
    """Every frame of the caller outside a hole reached a model session."""
    moves = one.moves(seen.faults_s)
    sent = sum(stream.frames for stream in one.truth.streams)
    arrived = sum(session.audio_bytes for session in one.sessions) / 640
    stopped_s = sum(move.fault_s for move in moves) if seen.hangs else 0.0  # what it has received goes with it
    hole_s = sum(move.audio_s or 0.0 for move in moves)
    allowed = LOST_FRAMES * (1 + len(moves)) + FRAMES_HZ * (stopped_s + hole_s)
    return [f"{sent - arrived:.0f} of {sent} frames did not reach the model"] if sent - arrived > allowed else []


def _words(one: ClusterCall, seen: Evidence) -> list[str]:
    """No old word is repeated and none is lost: the model was told what the carrier has played to the caller.

    When a stream ended is known by the carrier's request, less the time in which it had connected the first stream. One
    that was slow then, and not now, has played that much more than is told, up to a second, and no less.
    """
    streams = [stream for stream in one.truth.streams if stream.started_s is not None]
    if one.talks or len(streams) < 2 or streams[0].closed_s is None or _node(streams[0].url) == _node(streams[1].url):
        return []
    told = [t.text for s in one.sessions for t in s.texts if t.at_s > streams[0].closed_s and TOLD.search(t.text)]
    if not told:
        return ["the model was not told what was heard"]
    heard = TOLD.search(told[0])[1]  # type: ignore[index]
    if not one.words.startswith(heard):
        return [f"the model was told of words that were not said: {heard[-40:]!r}"]
    played_ms = sum(p.samples for p in one.truth.played if _place_s(one, p.place) < streams[0].closed_s) / 8
    apart_ms = MS_PER_CHARACTER * len(heard) - played_ms
    allowed_ms = WORDS_APART_MS + 1000 * seen.late_s
    if not -allowed_ms - 1000 * min(_setup_s(one), SETUP_MAX_S) <= apart_ms <= allowed_ms:
        return [f"told that {MS_PER_CHARACTER * len(heard):.0f} ms were heard, {played_ms:.0f} ms were played"]
    return [f"greeted again: {text!r}" for text in told if "Greet" in text]


def _setup_s(one: ClusterCall) -> float:
    """From the document that named its first stream to that stream."""
    stream, document = one.truth.streams[0], one.truth.fetched[0]
    return (stream.started_s or stream.dialled_s) - document.at_s - document.took_ms / 1000


def _place_s(one: ClusterCall, place: int) -> float:
    return one.truth.began_s + place / 8000


def _lines(one: ClusterCall, seen: Evidence) -> list[str]:
    """Every line that the caller spoke outside a hole was heard by a model session."""
    holes, edge_s = [], EDGE_S + seen.late_s
    streams = [stream for stream in one.truth.streams if stream.started_s is not None]
    moves = one.moves(seen.faults_s)
    for stream, move in zip(streams, moves, strict=False):
        assert stream.closed_s is not None
        began_s = stream.closed_s - (move.fault_s if seen.hangs else 0.0)
        holes.append((began_s, stream.closed_s + (move.audio_s or move.stream_s)))
    spoken = [
        line
        for line in one.truth.spoken
        if line.end_s < one.truth.ended_s - edge_s
        and not any(line.onset_s < end_s + edge_s and begin_s - edge_s < line.end_s for begin_s, end_s in holes)
    ]
    heard = [speech for session in one.sessions for speech in session.speech]
    missing = [
        line
        for line in spoken
        if not any(s.started_at_s > line.onset_s - 0.1 and s.started_at_s < line.end_s + edge_s for s in heard)
    ]
    return [f"{len(missing)} of {len(spoken)} lines of the caller were not heard by the model"] if missing else []


def _transcript(one: ClusterCall, seen: Evidence) -> list[str]:
    """The transcript is what it was before the fault, and what came after; the words after it are new."""
    if len(one.records) != 1:
        return []
    lines = [(line["who"], line.get("heard_text") or line["text"]) for line in one.records[0]["transcript"]]
    found = []
    before = one.before[:-1]  # the last line goes on
    if lines[: len(before)] != before:
        found.append(f"the transcript began with {before} and now with {lines[: len(before)]}")
    agent = [text for who, text in lines if who == "agent"]
    if not one.talks and one.moved and agent:
        again = [text for text in agent[1:] if text and text not in REST and text != "Yes."]
        if not one.words.startswith(agent[0]) or again:
            found.append(f"after {agent[0][-30:]!r} the agent said {again}")
    return found


def _effects(seen: Evidence) -> list[str]:
    """Each tool effect at most once; none without a key."""
    counted = Counter(seen.effects)
    return [f"the tool took effect {n} times for {key or 'no key'}" for key, n in counted.items() if n > 1 or not key]


def _cap(seen: Evidence) -> list[str]:
    """Never more calls than the fleet may have."""
    changes: list[tuple[float, int]] = []
    for one in (*seen.calls, *seen.refused):
        started = [stream.started_s for stream in one.truth.streams if stream.started_s is not None]
        if started:
            changes += [(started[0], 1), (one.truth.ended_s, -1)]
    at_once = most = 0
    for _, change in sorted(changes):
        at_once += change
        most = max(most, at_once)
    return [f"{most} calls at once, and the fleet may have {seen.cap}"] if seen.cap and most > seen.cap else []


def records_in(folder: Path) -> list[dict[str, Any]]:
    """The records in a gateway's database."""
    file = folder / "offhook.sqlite3"
    if not file.exists():
        return []
    database = sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=5.0)
    try:
        rows = database.execute("select record from records").fetchall()
    finally:
        database.close()
    return [json.loads(zlib.decompress(body)) for (body,) in rows]
