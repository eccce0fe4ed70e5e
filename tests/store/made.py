"""Records made for the tests of the store."""

from __future__ import annotations

from offhook.gateway.store.columns import iso
from offhook.gateway.store.record import (
    BargeInRecord,
    CallRecord,
    RecordingRecord,
    ToolRecord,
    TranscriptLine,
    TurnRecord,
)

__all__ = ["CALLER", "DAY_MS", "KEY", "NOON_MS", "record"]

KEY = b"a key of the operator's own"
CALLER = "+15551234567"
NOON_MS = 1_795_780_800_000  # 2026-11-27 12:00 UTC
DAY_MS = 86_400_000


def record(
    name: str = "CA1",
    *,
    at_ms: int = NOON_MS,
    agent: str = "desk",
    caller: str = CALLER,
    said: str = "I would like a table for two.",
    answer: str = "For which day?",
    gap_ms: float = 800.0,
    tool: str = "",
    end: str = "caller_hung_up",
    recording: str = "",
    model: str = "model-1",
) -> CallRecord:
    """A call of one turn."""
    return CallRecord(
        call_sid=name,
        agent=agent,
        model=model,
        caller=caller,
        dialled="+15550200000",
        started_at=iso(at_ms),
        duration_ms=12_000.0,
        end_reason=end,
        end_side="caller",
        turns=[TurnRecord(number=1, generation=1, segments={"turn_gap": gap_ms})],
        barge_ins=[
            BargeInRecord(
                generation=1, onset_ms=1, decided_ms=2, verdict="confirmed_locally", segments={"bargein_silence": 150.0}
            )
        ],
        tool_calls=[ToolRecord(call_id="t1", name=tool, requested_ms=1.0, outcome="done")] if tool else [],
        transcript=[
            TranscriptLine(at_ms=1.0, who="caller", text=said),
            TranscriptLine(at_ms=2.0, who="agent", text=answer),
        ],
        segments={"answer_to_greeting": 400.0},
        usage={"totalTokenCount": 120, "cost_usd": 0.01},
        recording=RecordingRecord(file=recording, size_bytes=1_000) if recording else None,
    )
