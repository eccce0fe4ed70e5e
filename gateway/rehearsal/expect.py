"""What a scenario expects of a call: each kind is a function over the report that answers in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from gateway.rehearsal.report import CallReport, Verdict

__all__ = ["KINDS", "Expectation", "Kind", "judge", "kept_to_the_rules"]


@dataclass(frozen=True, slots=True)
class Expectation:
    """`value` is of the type that the kind takes."""

    kind: str
    value: Any


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of expectation: what it takes, and `check(report, value) -> (met, words)`."""

    takes: type
    check: Callable[[CallReport, Any], tuple[bool, str]]


def judge(expectation: Expectation, report: CallReport) -> Verdict:
    """The verdict on one expectation."""
    met, words = KINDS[expectation.kind].check(report, expectation.value)
    return Verdict(ok=met, expectation=expectation.kind, words=words)


def kept_to_the_rules(report: CallReport) -> Verdict:
    """Expected of every call: the script could be played, and nobody broke a protocol."""
    line = report.line
    faults = [*line.failed_steps, *line.violations, *(f"model: {fault}" for fault in report.model_violations)]
    if line.frames_dropped:
        faults.append(f"31930: {line.frames_dropped} frames were lost because the gateway read too slowly")
    words = "the script was played to its end, no protocol was broken"
    return Verdict(ok=not faults, expectation="rules", words="; ".join(faults[:5]) if faults else words)


def _answered_within(report: CallReport, limit_ms: float) -> tuple[bool, str]:
    turns = [turn for turn in report.line.caller if turn.kind == "say"]
    if turns and report.line.ended_by == "caller" and report.line.duration_ms < turns[-1].end_ms + limit_ms:
        turns = turns[:-1] + [turn for turn in turns[-1:] if turn.answered_ms is not None]  # said, and hung up
    if not turns:
        return False, "the caller said nothing that could have been answered"
    for turn in turns:
        if turn.answered_ms is None:
            return False, f"{turn.text!r} was never answered"
    late = [turn for turn in turns if turn.answered_ms is not None and turn.answered_ms > limit_ms]
    if late:
        return False, "; ".join(
            f"{turn.text!r} was answered after {turn.answered_ms:.0f} ms, later than {limit_ms:g}" for turn in late
        )
    slowest = max((turn.answered_ms or 0.0 for turn in turns), default=0.0)
    return True, f"all {len(turns)} turns were answered, the slowest within {slowest:.0f} of {limit_ms:g} ms"


def _stopped_within(report: CallReport, limit_ms: float) -> tuple[bool, str]:
    barge_ins = report.line.barge_ins
    if not barge_ins:
        return False, "the caller never spoke over the agent, so nothing had to be stopped"
    for barge_in in barge_ins:
        if barge_in.onset_to_clear_ms is None:
            return False, f"the agent went on talking over {barge_in.text!r}"
        if barge_in.onset_to_clear_ms > limit_ms:
            return False, (
                f"the agent was stopped {barge_in.onset_to_clear_ms:.0f} ms after the first sound of "
                f"{barge_in.text!r}, later than {limit_ms:g}"
            )
        if barge_in.old_samples_after_clear:
            return False, f"{barge_in.old_samples_after_clear} samples of the old reply came behind the clear"
    slowest = max(barge_in.onset_to_clear_ms or 0.0 for barge_in in barge_ins)
    return True, (
        f"the agent was stopped {slowest:.0f} ms after the caller's first sound (limit {limit_ms:g}), "
        "and not one sample of the old reply came behind the clear"
    )


def _tool_cancelled(report: CallReport, name: str) -> tuple[bool, str]:
    outcomes = [tool.outcome for tool in report.record.tool_calls if tool.name == name] if report.record else []
    if "cancelled" in outcomes:
        return True, f"{name} was cancelled"
    return False, f"{name} was not cancelled" + (f" but {', '.join(outcomes)}" if outcomes else ": never called")


def _tool_called(report: CallReport, name: str) -> tuple[bool, str]:
    names = [tool.name for tool in report.record.tool_calls] if report.record else []
    if name in names:
        return True, f"{name} was called"
    return False, f"{name} was not called" + (f", only {', '.join(names)}" if names else "")


def _end_reason(report: CallReport, reason: str) -> tuple[bool, str]:
    if report.end_reason == reason:
        return True, f"the call ended by {reason}"
    return False, f"the call ended by {report.end_reason or 'nobody knows what'}, not by {reason}"


def _no_gap(report: CallReport, wanted: bool) -> tuple[bool, str]:
    gaps = [(reply.longest_gap_ms, reply.generation) for reply in report.line.replies if reply.longest_gap_ms > 0]
    if not gaps:
        return wanted, "no reply had a gap"
    gap_ms, generation = max(gaps)
    return not wanted, f"reply {generation} broke off for {gap_ms:.0f} ms"


def _goodbye_heard(report: CallReport, wanted: bool) -> tuple[bool, str]:
    heard = [reply for reply in report.line.replies if reply.sent_ms]
    if not heard:
        return not wanted, "the agent never said anything"
    last = heard[-1]
    if last.unheard_tail_ms > 0:
        return not wanted, f"the last {last.unheard_tail_ms:.0f} ms of the agent's last words were not heard"
    return wanted, "the agent's last words were heard to their end"


KINDS: MappingProxyType[str, Kind] = MappingProxyType(
    {
        "answered_within_ms": Kind(float, _answered_within),
        "barge_in_stopped_within_ms": Kind(float, _stopped_within),
        "tool_cancelled": Kind(str, _tool_cancelled),
        "tool_called": Kind(str, _tool_called),
        "end_reason": Kind(str, _end_reason),
        "no_gap": Kind(bool, _no_gap),
        "goodbye_heard": Kind(bool, _goodbye_heard),
    }
)
