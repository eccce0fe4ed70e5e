"""What is reported of a call, as the bodies of webhooks: `{"type": ..., "timestamp": ..., "data": {...}}`. Pure.

An event's id is made of its call and kind: whoever reports it, and however often, it is the same event.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection
from typing import Any

import msgspec

from offhook.gateway.errors import OperatorError, nearest
from offhook.gateway.store.columns import CallEvent, iso
from offhook.gateway.store.record import CallRecord, ToolRecord

__all__ = ["KINDS", "CallEvents", "check_kinds"]

KINDS = ("call.started", "call.ended", "call.transcript", "tool.finished", "recording.ready", "alert")
OUR_SIDES = ("gateway", "model")  # a call that these ended failed, unless the process was stopped
_SPACE = uuid.UUID("5d0f9c5e-6a1e-5d0a-9f44-0ff4000c0011")


def check_kinds(kinds: Collection[str]) -> None:
    """Raises `OperatorError` for a kind that does not exist."""
    for kind in kinds:
        if kind not in KINDS:
            hint = nearest(kind, KINDS)
            raise OperatorError(f"OFFHOOK_WEBHOOK_EVENTS: no event {kind}: {hint}one of {', '.join(KINDS)}")


class CallEvents:
    """Makes the events of the wanted `kinds`, all when empty. `clock` gives wall-clock seconds."""

    def __init__(self, kinds: Collection[str], clock: Callable[[], float]) -> None:
        self._kinds, self._clock = frozenset(kinds or KINDS), clock

    def started(self, record: CallRecord) -> tuple[CallEvent, ...]:
        """A call was admitted: it rings, or is placed."""
        return self._made("call.started", record, _facts(record))

    def tool_finished(self, record: CallRecord, tool: ToolRecord) -> tuple[CallEvent, ...]:
        """A tool of a live call has its outcome."""
        data = {**_facts(record), "tool": msgspec.to_builtins(tool)}
        return self._made("tool.finished", record, data, tool.call_id)

    def ended(self, record: CallRecord) -> tuple[CallEvent, ...]:
        """All that is reported at the end of a call, in order."""
        facts = _facts(record)
        summary = {
            **facts,
            "duration_ms": record.duration_ms,
            "end_reason": record.end_reason,
            "end_side": record.end_side,
            "turns": len(record.turns),
            "tools": len(record.tool_calls),
            "errors": record.errors,
            "messages": msgspec.to_builtins(record.messages),
            "usage": record.usage,
        }
        events = self._made("call.ended", record, summary)
        lines = [{"at_ms": line.at_ms, "who": line.who, "text": line.text} for line in record.transcript]
        events += self._made("call.transcript", record, {**facts, "transcript": lines})
        if record.end_side in OUR_SIDES and record.end_reason != "server_stopped":
            alert = {**facts, "alert": "call_failed", "end_reason": record.end_reason, "errors": record.errors}
            events += self._made("alert", record, alert)
        return events

    def recording_ready(self, record: CallRecord) -> CallEvent | None:
        """To be reported once the recording is where it stays."""
        if record.recording is None:
            return None
        data = {**_facts(record), "size_bytes": record.recording.size_bytes}
        return next(iter(self._made("recording.ready", record, data)), None)

    def _made(self, kind: str, record: CallRecord, data: dict[str, Any], part: str = "") -> tuple[CallEvent, ...]:
        if kind not in self._kinds:
            return ()
        at_ms = int(self._clock() * 1000)
        body = msgspec.json.encode({"type": kind, "timestamp": iso(at_ms), "data": data})
        return (
            CallEvent(str(uuid.uuid5(_SPACE, f"{record.call_sid}:{kind}:{part}")), record.call_sid, kind, body, at_ms),
        )


def _facts(record: CallRecord) -> dict[str, Any]:
    return {
        "call_sid": record.call_sid,
        "agent": record.agent,
        "direction": record.direction,
        "caller": record.caller,
        "dialled": record.dialled,
        "started_at": record.started_at,
        "simulated": record.simulated,
    }
