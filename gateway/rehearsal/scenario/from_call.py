"""A recorded call becomes a scenario: its words, timings, tools, and the faults that its record shows.

The caller's lines are synthesised again, the agent's are a hum of their length: timing counts, not voices. Telephone
numbers are left out. What a record does not hold (when a connection was lost) is put in the middle, with a comment.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import msgspec

from offhook.gateway.errors import OperatorError
from offhook.gateway.rehearsal.results.report import Report
from offhook.gateway.rehearsal.scenario.load import parse_scenario
from offhook.gateway.store.record import CallRecord, ToolRecord, TurnRecord
from offhook.gateway.text import visible, visible_in
from offhook.gateway.yamlfile import write_yaml

__all__ = ["read_record", "scenario_from", "scenario_text"]

ENDPOINT_MS = 480.0  # of the rehearsal model: from the caller's last sound to the end of the turn
SAME_MS = 60.0  # tool calls within this time are one request
PAUSE_MAX_MS = 10_000.0
PLAIN = ("end_call", "send_dtmf", "collect_digits", "remember")  # built-in tools without required options
UNKNOWN_WORDS = "Uh-huh."  # where the record has no transcript; bundled
_CODE = re.compile(r"model: .*?\b(1\d{3})\b")


def read_record(path: Path, call_sid: str = "") -> CallRecord:
    """The call in a record or a report (JSON); of several the one named. Raises `OperatorError`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise OperatorError(f"{path} cannot be read ({error.strerror})") from None
    try:
        found: Any = visible_in(msgspec.json.decode(data))
        if isinstance(found, dict) and "calls" in found:
            records = [call.record for call in msgspec.convert(found, Report).calls if call.record is not None]
        else:
            records = [msgspec.convert(one, CallRecord) for one in (found if isinstance(found, list) else [found])]
    except RecursionError:
        raise OperatorError(f"{path} is neither a call's record nor a report: it is nested too deeply") from None
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise OperatorError(f"{path} is neither a call's record nor a report: {error}") from None
    named = [record for record in records if not call_sid or record.call_sid == call_sid]
    if len(named) == 1:
        return named[0]
    there = ", ".join(record.call_sid for record in records) or "none"
    raise OperatorError(f"{path} holds {len(records)} calls ({there}): name one with --call")


def scenario_text(record: CallRecord, name: str, agent: str = "", directory: Path = Path()) -> str:
    """The scenario as YAML. `agent`: the agent's file, relative to `directory`; "": one made from the record.

    Raises `ScenarioError` when it does not load: no voice for its lines, no such agent file.
    """
    fields, notes = scenario_from(record, name, agent)
    text = "".join(f"# {visible(note)}\n" for note in notes) + write_yaml(fields, width=110)
    parse_scenario(text, path=f"{name}.call.yaml", directory=directory)
    return text


def scenario_from(record: CallRecord, name: str, agent: str = "") -> tuple[dict[str, Any], list[str]]:
    """The fields of the scenario, and notes for its reader."""
    turns = sorted(record.turns, key=_turn_at)
    notes = [f"Made from call {record.call_sid} of {record.started_at or 'an unknown time'}."]
    carrier, faults, more = _faults(record)
    notes += more
    greeted = bool(turns) and turns[0].caller_started_ms is None and turns[0].kind == "model"
    fields: dict[str, Any] = {
        "name": name,
        "about": f"As it happened: {record.duration_ms / 1000:.0f} s, ended by {record.end_reason.replace('_', ' ')}.",
        "agent": agent or _agent(record, greeted),
        "caller": {"steps": _steps(record, turns)},
    }
    if carrier:
        fields["carrier"] = carrier
    fields["model"] = {"replies": _replies(record, turns, greeted), "default": {"say": "Yes."}, **faults}
    known = bool(agent)
    if not known and (foreign := sorted({tool.name for tool in record.tool_calls} - set(PLAIN))):
        notes.append(f"Its tools {', '.join(foreign)} are not in the record: name the agent's file as `agent`.")
    fields["expect"] = _expect(record, turns, known)
    return fields, notes


def _turn_at(turn: TurnRecord) -> float:
    times = (turn.caller_started_ms, turn.reply_started_ms)
    return min((at_ms for at_ms in times if at_ms is not None), default=0.0)


def _agent(record: CallRecord, greeted: bool) -> dict[str, Any]:
    agent: dict[str, Any] = {"name": record.agent or "agent"}
    if greeted:
        agent["greeting"] = {"text": "Greet the caller."}
    used = {tool.name for tool in record.tool_calls}
    if record.end_reason == "agent_hung_up":
        used.add("end_call")
    if tools := [{"builtin": name} for name in PLAIN if name in used]:
        agent["tools"] = tools
    return agent


# -- the caller


def _steps(record: CallRecord, turns: Sequence[TurnRecord]) -> list[Any]:
    steps: list[Any] = []
    before: TurnRecord | None = None
    for turn in turns:
        if turn.caller_started_ms is not None:
            words = turn.caller_text.strip() or UNKNOWN_WORDS
            steps += _said(words, turn.caller_started_ms, before)
        if turn.reply_started_ms is not None:
            before = turn
            steps += _dismissed(record, turn)
    if record.end_reason == "caller_hung_up":
        heard_out = before is not None and not before.interrupted and before.heard_ms >= before.received_ms - 40
        if before is not None and heard_out:
            steps.append({"wait_for_agent": "end"})
        elif before is not None:
            left_ms = max(0.0, record.duration_ms - (before.reply_started_ms or 0.0))
            steps += [{"wait_for_agent": "start"}, {"pause_ms": round(left_ms)}]
        steps.append("hang_up")
    else:
        steps.append({"wait_for_end": {"timeout_ms": 60_000}})
    return steps


def _said(words: str, at_ms: float, before: TurnRecord | None) -> list[Any]:
    """The caller's line: over the agent's voice, or at its time after the end of it."""
    if before is None or before.reply_started_ms is None:
        return [{"pause_ms": round(min(at_ms, PAUSE_MAX_MS))}, {"say": words}]
    ended_ms = before.reply_ended_ms if before.reply_ended_ms is not None else before.reply_started_ms + before.heard_ms
    if before.interrupted and at_ms > before.reply_started_ms:
        return [{"say_over": words, "after_ms": round(at_ms - before.reply_started_ms)}]
    pause_ms = round(min(max(0.0, at_ms - ended_ms), PAUSE_MAX_MS))
    return [{"wait_for_agent": "end"}, *([{"pause_ms": pause_ms}] if pause_ms else []), {"say": words}]


def _dismissed(record: CallRecord, turn: TurnRecord) -> list[Any]:
    """A cough for each sound over this reply that was no speech."""
    start_ms = turn.reply_started_ms or 0.0
    return [
        {"cough": {"over_after_ms": round(max(0.0, barge_in.onset_ms - start_ms))}}
        for barge_in in record.barge_ins
        if barge_in.verdict == "dismissed" and barge_in.generation == turn.generation
    ]


# -- the model


def _replies(record: CallRecord, turns: Sequence[TurnRecord], greeted: bool) -> list[dict[str, Any]]:
    """The events in order of time, divided into replies by what each waited for."""
    happened: list[tuple[float, int, Any]] = []
    for n, turn in enumerate(turns):
        if turn.caller_started_ms is not None:
            happened.append((turn.caller_ended_ms or turn.caller_started_ms, n, turn.caller_text))
        if turn.reply_started_ms is not None and turn.kind == "model":
            happened.append((turn.reply_started_ms, n, turn))
    happened += [(tool.requested_ms, -1, tool) for tool in record.tool_calls]
    happened.sort(key=lambda what: what[:2])

    replies: list[dict[str, Any]] = []
    reply: dict[str, Any] = {"on": "text" if greeted else "caller", "do": []}
    asked_ms = -1e9

    def wait_for(what: str, heard: str = "") -> None:
        nonlocal reply
        if reply["do"]:
            replies.append(reply)
        reply = {"on": what, **({"heard": [f" {heard}"]} if heard else {}), "do": []}

    for at_ms, _, what in happened:
        if isinstance(what, str):
            wait_for("caller", what.strip())
        elif isinstance(what, ToolRecord):
            if at_ms - asked_ms < SAME_MS and replies and not reply["do"]:
                reply_before = replies.pop()
                reply_before["do"].append(_asked(what))
                reply = reply_before
            else:
                reply["do"].append(_asked(what))
            asked_ms = at_ms
            if what.outcome != "cancelled":
                wait_for(f"tool:{what.name}")
        else:
            reply["do"].append(_spoken(what, reply))
    wait_for("caller")
    return replies


def _asked(tool: ToolRecord) -> dict[str, Any]:
    return {"tool": tool.name, **({"args": dict(tool.arguments)} if tool.arguments else {})}


def _spoken(turn: TurnRecord, reply: dict[str, Any]) -> dict[str, Any]:
    first_ms = turn.segments.get("model_first_audio")
    delay_ms = 100.0
    if reply["do"]:  # continues a reply
        delay_ms = 0.0
    elif first_ms is not None and reply["on"] == "caller":
        delay_ms = max(0.0, first_ms - ENDPOINT_MS)
    return {
        "say": turn.reply_text.strip() or "…",
        "length_ms": round(max(turn.received_ms, 100.0)),
        "delay_ms": round(delay_ms),
    }


# -- what went wrong


def _faults(record: CallRecord) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Faults of the carrier, faults of the model, and notes on what is a guess."""
    carrier: dict[str, Any] = {}
    model: dict[str, Any] = {}
    notes = []
    middle_s = round(record.duration_ms / 2000, 1)
    if len(record.streams) > 1:
        carrier = {"drop_after_s": middle_s, "drops": len(record.streams) - 1}
        notes.append("The stream was lost and came back; when is not in the record, half way is a guess.")
    elif record.end_reason == "stream_lost":
        carrier = {"drop_after_s": max(0.5, round(record.duration_ms / 1000, 1)), "drops": 9}
    codes = [int(found[1]) for error in record.errors if (found := _CODE.search(error))]
    if record.end_reason == "model_unreachable":
        model["refuse"] = {"code": codes[0] if codes else 1011, "reason": "As recorded."}
    elif record.end_reason == "model_lost":
        refusals = [{"code": codes[-1] if codes else 1011, "reason": "As recorded."}] * 8
        model["faults"] = [{"at_s": middle_s, "close": codes[0] if codes else 1011}]
        model |= {"refuse_resumes": refusals, "carries_on": True}
        notes.append("The model was lost; when is not in the record, half way is a guess.")
    elif codes:
        model["faults"] = [{"at_s": middle_s, "close": codes[0]}]
        model["carries_on"] = True
        notes.append(f"The model's session ended with {codes[0]}; when is not in the record, half way is a guess.")
    return carrier, model, notes


def _expect(record: CallRecord, turns: Sequence[TurnRecord], tools_known: bool) -> dict[str, Any]:
    expect: dict[str, Any] = {}
    gaps = [turn.segments["turn_gap"] for turn in turns if "turn_gap" in turn.segments]
    unanswered = any(turn.caller_started_ms is not None and turn.reply_started_ms is None for turn in turns)
    if gaps and not unanswered:
        expect["answered_within_ms"] = 100 * ceil((max(gaps) + 500) / 100)
    if any(barge_in.verdict.startswith("confirmed") for barge_in in record.barge_ins):
        expect["barge_in_stopped_within_ms"] = 300
    called = list(dict.fromkeys(tool.name for tool in record.tool_calls if tools_known or tool.name in PLAIN))
    if called:
        expect["tool_called"] = called if len(called) > 1 else called[0]
    if record.end_reason:
        expect["end_reason"] = record.end_reason
    return expect
