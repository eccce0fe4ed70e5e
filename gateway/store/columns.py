"""What the store searches and counts of a record, as plain values: its row, its words, its samples of latency.

`words_of` and `samples_of` are repeated on the stored record when it is removed or replaced: a change of either needs a
migration that builds their tables again.
"""

from __future__ import annotations

import hmac
import re
import unicodedata
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import msgspec

from offhook.gateway.numbers import mask, read_address
from offhook.gateway.store.record import CallRecord
from offhook.metrics.quantiles import bin_of

__all__ = [
    "COLUMNS",
    "CallEvent",
    "Entry",
    "call_key",
    "entry_of",
    "first_key",
    "hash_number",
    "iso",
    "packed",
    "samples_of",
    "tokens",
    "tools_of",
    "unpacked",
    "without_number",
    "words_of",
]

COLUMNS = (
    "id, call_sid, epoch, agent, model, direction, number_hash, number_shown, started_ms, duration_ms, end_reason, "
    "end_side, simulated, turns, barge_ins, tools, errors, turn_gap_ms, barge_in_ms, tokens, cost_usd, recording, "
    "size_bytes"
)
_SID_BITS = 21  # of a call's key; with 42 bits of milliseconds it lasts until 2109
_WORD = re.compile(r"\w+")
_WORD_LENGTH = 60  # longer ones are no words, and Postgres bounds them
_TOTAL = re.compile(r"total_?token", re.IGNORECASE)  # providers name their sum so


class CallEvent(msgspec.Struct, frozen=True):
    """A webhook to deliver. `id` is the same whoever emits it; events of one `subject` keep their order."""

    id: str
    subject: str
    kind: str
    body: bytes
    at_ms: int


class Entry(msgspec.Struct, frozen=True):
    """One unit of what is kept, written in one transaction: a call's record, events, or both.

    `row`: the values of `COLUMNS`, but for the key, whose first candidate it is.
    """

    events: tuple[CallEvent, ...] = ()
    row: tuple[Any, ...] | None = None
    record: bytes = b""


def first_key(at_ms: int) -> int:
    """The lowest key of a call that began at this time (milliseconds since 1970) or later."""
    return max(0, at_ms) << _SID_BITS


def call_key(started_ms: int, call_sid: str) -> int:
    """A call's key in the store, which grows with its start. Two calls of one millisecond differ, as a rule."""
    return first_key(started_ms) | int.from_bytes(sha256(call_sid.encode()).digest()[:3], "big") >> (24 - _SID_BITS)


def hash_number(number: str, key: bytes) -> str:
    """A phone number, hashed with the operator's key: the same for every way to write it. "" when withheld."""
    address = read_address(number)
    name = address.names[0] if address.names else address.text
    return hmac.new(key, name.encode(), sha256).hexdigest()[:32] if name else ""


def tokens(text: str) -> list[str]:
    """Its words without case and accents."""
    folded = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    return [word[:_WORD_LENGTH] for word in _WORD.findall(folded.replace("_", " "))]


def words_of(record: CallRecord) -> str:
    """What both sides said, folded, in order."""
    return " ".join(word for line in record.transcript for word in tokens(line.text))


def tools_of(record: CallRecord) -> list[str]:
    """The names of the tools that ran."""
    return sorted({tool.name for tool in record.tool_calls})


def samples_of(record: CallRecord) -> dict[str, dict[int, int]]:
    """Samples of latency, by segment and bin."""
    found: dict[str, dict[int, int]] = {}
    for segments in (record.segments, *(t.segments for t in record.turns), *(b.segments for b in record.barge_ins)):
        for name, ms in segments.items():
            bins = found.setdefault(name, {})
            index = bin_of(ms / 1000)
            bins[index] = bins.get(index, 0) + 1
    return found


def packed(record: CallRecord) -> bytes:
    """As the store holds it."""
    return zlib.compress(msgspec.json.encode(record), 6)


def unpacked(data: bytes) -> CallRecord:
    """Of `packed`. Raises `msgspec.MsgspecError`."""
    return msgspec.json.decode(zlib.decompress(data), type=CallRecord)


def _worst(segments: Iterator[dict[str, float]], name: str) -> float | None:
    return max((one[name] for one in segments if name in one), default=None)


def without_number(record: CallRecord) -> CallRecord:
    """A copy of the record with the other party's number masked."""
    if record.direction == "outbound":
        return msgspec.structs.replace(record, dialled=mask(record.dialled))
    return msgspec.structs.replace(record, caller=mask(record.caller))


def entry_of(record: CallRecord, epoch: int, key: bytes, events: tuple[CallEvent, ...] = ()) -> Entry:
    """What is written of a record; the other party's number in it is hashed and masked from here on."""
    number = record.dialled if record.direction == "outbound" else record.caller
    data = packed(without_number(record))
    recording = record.recording
    started_ms = int(datetime.fromisoformat(record.started_at).timestamp() * 1000) if record.started_at else 0
    totals = [int(n) for name, n in record.usage.items() if _TOTAL.match(name)]
    row = (
        call_key(started_ms, record.call_sid),
        record.call_sid,
        epoch,
        record.agent,
        record.model,
        record.direction,
        hash_number(number, key),
        mask(number),
        started_ms,
        int(record.duration_ms),
        record.end_reason,
        record.end_side,
        int(record.simulated),
        len(record.turns),
        sum(barge_in.verdict.startswith("confirmed") for barge_in in record.barge_ins),
        len(record.tool_calls),
        len(record.errors),
        _worst((turn.segments for turn in record.turns), "turn_gap"),
        _worst((barge_in.segments for barge_in in record.barge_ins), "bargein_silence"),
        max(totals, default=0),
        record.usage.get("cost_usd"),
        recording.file if recording is not None else "",
        len(data) + (recording.size_bytes if recording is not None else 0),
    )
    return Entry(events, row, data)


def iso(at_ms: int) -> str:
    """Milliseconds since 1970 as ISO 8601, UTC."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
