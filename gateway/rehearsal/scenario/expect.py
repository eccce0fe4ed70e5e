"""What a scenario expects of a call: each kind is a function over the report that returns a verdict and its reason.

Words are compared without regard to case and punctuation. Limits are inclusive.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec

from offhook.gateway.labels import LABELS
from offhook.gateway.rehearsal.results.report import LINE_SEGMENTS, CallReport, ExpectationResult
from offhook.gateway.store.record import CallRecord, ToolRecord
from offhook.metrics.segments import BY_NAME

__all__ = ["CARRIER_ENDINGS", "KINDS", "Expectation", "ExpectationKind", "ToolUse", "judge", "kept_to_the_rules"]

# How a call ends at the carrier, when the gateway took no call and has no record.
CARRIER_ENDINGS = (
    "caller", "rest", "twiml_hangup", "twiml_end", "dial", "enqueue", "reject", "webhook_failed", "stream_closed",
    "busy", "no-answer", "failed", "canceled",
)  # fmt: skip

Limit = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=0)]


class ToolUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool and the arguments it is called with; arguments not named here may have any value."""

    name: str
    arguments: dict[str, Any] = msgspec.field(default_factory=dict, name="with")
    times: Annotated[int, msgspec.Meta(ge=1)] | None = None


class Told(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A text for the model, and how often it is sent."""

    text: str
    times: Annotated[int, msgspec.Meta(ge=1)]


@dataclass(frozen=True, slots=True)
class Expectation:
    """`value` is of the type that the kind takes."""

    kind: str
    value: Any


@dataclass(frozen=True, slots=True)
class ExpectationKind:
    """One kind of expectation: what it takes, `check(report, value) -> (met, words)`, and what it means.

    `listed`: a list in the scenario is one value, not several expectations.
    """

    takes: Any
    check: Callable[[CallReport, Any], tuple[bool, str]]
    about: str
    listed: bool = False


def judge(expectation: Expectation, report: CallReport) -> ExpectationResult:
    """The verdict on one expectation."""
    met, words = KINDS[expectation.kind].check(report, expectation.value)
    return ExpectationResult(ok=met, expectation=expectation.kind, words=words)


def kept_to_the_rules(report: CallReport) -> ExpectationResult:
    """Expected of every call: the script was played to its end, and no peer broke its protocol."""
    line = report.line
    faults = [*line.failed_steps, *line.violations, *(f"model: {fault}" for fault in report.model_violations)]
    if line.frames_dropped:
        faults.append(f"31930: {line.frames_dropped} frames were lost because the gateway read too slowly")
    words = "the script was played to its end, no protocol was broken"
    return ExpectationResult(ok=not faults, expectation="rules", words="; ".join(faults[:5]) if faults else words)


# -- time ------------------------------------------------------------------------------------------------------


def _greeting_within(report: CallReport, limit_ms: float) -> tuple[bool, str]:
    started = [reply.started_ms for reply in report.line.replies if reply.started_ms is not None]
    if not started:
        return False, "the agent was never heard"
    return min(started) <= limit_ms, f"the agent was first heard {min(started):.0f} ms after the answer ({limit_ms:g})"


def _answered_within(report: CallReport, limit_ms: float) -> tuple[bool, str]:
    turns = [turn for turn in report.line.caller if turn.kind == "say"]
    if turns and report.line.ended_by == "caller" and report.line.duration_ms < turns[-1].end_ms + limit_ms:
        turns = turns[:-1] + [
            turn for turn in turns[-1:] if turn.answered_ms is not None
        ]  # the caller hung up after these words
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


def _waited_within(report: CallReport, limit_ms: float) -> tuple[bool, str]:
    waited_ms = report.line.longest_wait_ms
    return waited_ms <= limit_ms, f"the caller waited in silence for {waited_ms:.0f} ms at most ({limit_ms:g})"


def _ended_within(report: CallReport, limit_s: float) -> tuple[bool, str]:
    lasted_s = report.line.duration_ms / 1000
    return lasted_s <= limit_s, f"the call lasted {lasted_s:.1f} s ({limit_s:g})"


def _segments_within(report: CallReport, limits_ms: Mapping[str, float]) -> tuple[bool, str]:
    for name, limit_ms in limits_ms.items():
        found = _segment(report, name)
        if not found:
            return False, f"{name} was never measured"
        if max(found) > limit_ms:
            return False, f"{name} took {max(found):.0f} ms, longer than {limit_ms:g} (longest of {len(found)})"
    return True, "; ".join(f"{name} within {max(_segment(report, name)):.0f} ms" for name in limits_ms)


def _segment(report: CallReport, name: str) -> list[float]:
    record, line = report.record, report.line
    found: list[float | None] = []
    if record is not None:
        found += [turn.segments.get(name) for turn in record.turns] + [record.segments.get(name)]
        found += [barge_in.segments.get(name) for barge_in in record.barge_ins]
        if name == "tool_call":  # its metric is per tool; the record has the times of each call
            found += [t.finished_ms - t.requested_ms for t in record.tool_calls if t.finished_ms is not None]
    if name == "line_answer":
        found += [turn.answered_ms for turn in line.caller]
    elif name == "line_bargein_clear":
        found += [b.onset_to_clear_ms for b in line.barge_ins]
    elif name == "line_bargein_silence":
        found += [b.onset_to_silence_ms for b in line.barge_ins]
    elif name in ("line_to_model", "model_to_line", "added"):
        to_model = [turn.line_to_model_ms for turn in line.caller]
        to_line = [turn.model_to_line_ms for turn in line.caller]
        both = [a + b for a, b in zip(to_model, to_line, strict=True) if a is not None and b is not None]
        found += to_model if name == "line_to_model" else to_line if name == "model_to_line" else both
    return [ms for ms in found if ms is not None]


# -- interruptions ---------------------------------------------------------------------------------------------


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
            return False, f"{barge_in.old_samples_after_clear} samples of the old reply came after the clear"
    slowest = max(barge_in.onset_to_clear_ms or 0.0 for barge_in in barge_ins)
    return True, (
        f"the agent was stopped {slowest:.0f} ms after the caller's first sound (limit {limit_ms:g}), "
        "and not one sample of the old reply came after the clear"
    )


def _barge_ins(report: CallReport, wanted: list[str]) -> tuple[bool, str]:
    found = [barge_in.verdict for barge_in in report.record.barge_ins] if report.record else []
    fits = (one in (is_, is_.partition("_")[0]) for one, is_ in zip(wanted, found, strict=False))
    if len(found) == len(wanted) and all(fits):
        return True, f"barge-ins: {_listed(found)}"
    return False, f"barge-ins: {_listed(found)}, not {_listed(wanted)}"


def _never_stopped(report: CallReport, wanted: bool) -> tuple[bool, str]:
    if not report.line.clears:
        return wanted, "nothing stopped the agent's voice"
    return not wanted, f"the agent's voice was stopped {_times(report.line.clears)}"


# -- what was heard --------------------------------------------------------------------------------------------


def _heard_text(report: CallReport, text: str) -> tuple[bool, str]:
    heard = _words_heard(report)
    if _plain(text) in _plain(heard):
        return True, f"the caller heard {text!r}"
    return False, f"the caller did not hear {text!r}, only {_short(heard)}"


def _not_heard_text(report: CallReport, text: str) -> tuple[bool, str]:
    if _plain(text) in _plain(_words_heard(report)):
        return False, f"the caller heard {text!r}"
    return True, f"the caller did not hear {text!r}"


def _caller_text(report: CallReport, text: str) -> tuple[bool, str]:
    said = " ".join(line.text for line in report.record.transcript if line.who == "caller") if report.record else ""
    if _plain(text) in _plain(said):
        return True, f"the transcript has the caller say {text!r}"
    return False, f"the transcript does not have the caller say {text!r}, only {_short(said)}"


def _words_heard(report: CallReport) -> str:
    return " ".join(turn.heard_text for turn in report.record.turns) if report.record else ""


def _no_gap(report: CallReport, wanted: bool) -> tuple[bool, str]:
    gaps = [(reply.longest_gap_ms, reply.generation) for reply in report.line.replies if reply.longest_gap_ms > 0]
    if not gaps:
        return wanted, "no reply had a gap"
    gap_ms, generation = max(gaps)
    late_ms = report.line.latest_tick_ms
    if gap_ms <= late_ms:  # model and carrier share a clock's lateness: the gap may be of their own making
        return wanted, f"no reply had a gap longer than the rehearsal itself was late, {late_ms:.0f} ms"
    return not wanted, f"reply {generation} broke off for {gap_ms:.0f} ms"


def _all_heard(report: CallReport, wanted: bool) -> tuple[bool, str]:
    if not any(reply.sent_ms for reply in report.line.replies):
        return not wanted, "the agent never said anything"
    cut = [reply for reply in report.line.replies if reply.unheard_tail_ms > 0]
    if not cut:
        return wanted, "every word of the agent's was heard"
    tail = f"the last {cut[0].unheard_tail_ms:.0f} ms of reply {cut[0].generation} were not heard"
    return not wanted, tail


def _goodbye_heard(report: CallReport, wanted: bool) -> tuple[bool, str]:
    heard = [reply for reply in report.line.replies if reply.sent_ms]
    if not heard:
        return not wanted, "the agent never said anything"
    last = heard[-1]
    if last.unheard_tail_ms > 0:
        return not wanted, f"the last {last.unheard_tail_ms:.0f} ms of the agent's last words were not heard"
    return wanted, "the agent's last words were heard to their end"


def _announced(report: CallReport, text: str) -> tuple[bool, str]:
    said = report.line.announced
    if any(_plain(text) in _plain(one) for one in said):
        return True, f"the carrier was told to {text}"
    return False, f"the carrier was never told to {text}" + (f", only to {'; '.join(said)}" if said else "")


# -- tools -----------------------------------------------------------------------------------------------------


def _tools(report: CallReport, name: str) -> list[ToolRecord]:
    return [tool for tool in report.record.tool_calls if tool.name == name] if report.record else []


def _tool_called(report: CallReport, wanted: str | ToolUse) -> tuple[bool, str]:
    use = wanted if isinstance(wanted, ToolUse) else ToolUse(wanted)
    calls = _tools(report, use.name)
    if not calls:
        names = [tool.name for tool in report.record.tool_calls] if report.record else []
        return False, f"{use.name} was not called" + (f", only {', '.join(names)}" if names else "")
    fitting = [call for call in calls if use.arguments.items() <= call.arguments.items()]
    with_ = f" with {_json(use.arguments)}" if use.arguments else ""
    if not fitting:
        return False, f"{use.name} was not called{with_} but with {_json(calls[-1].arguments)}"
    if use.times is not None and len(fitting) != use.times:
        return False, f"{use.name} was called{with_} {_times(len(fitting))}, not {_times(use.times)}"
    return True, f"{use.name} was called{with_}"


def _tool_not_called(report: CallReport, name: str) -> tuple[bool, str]:
    called = len(_tools(report, name))
    return not called, f"{name} was called {_times(called)}" if called else f"{name} was not called"


def _tool_cancelled(report: CallReport, name: str) -> tuple[bool, str]:
    outcomes = [tool.outcome for tool in _tools(report, name)]
    if "cancelled" in outcomes:
        return True, f"{name} was cancelled"
    return False, f"{name} was not cancelled" + (f" but {', '.join(outcomes)}" if outcomes else ": never called")


def _tool_outcomes(report: CallReport, wanted: Mapping[str, str]) -> tuple[bool, str]:
    for name, outcome in wanted.items():
        outcomes = [tool.outcome or "nothing yet" for tool in _tools(report, name)]
        if not outcomes:
            return False, f"{name} was never called"
        if outcomes[-1] != outcome:
            return False, f"{name} came to {outcomes[-1]}, not to {outcome}"
    return True, "; ".join(f"{name}: {outcome}" for name, outcome in wanted.items())


def _tool_answers(report: CallReport, wanted: Mapping[str, str]) -> tuple[bool, str]:
    if report.model is None:
        return False, "what the model received from its tools is not known"
    for name, text in wanted.items():
        answers = [answer for tool, answer in report.model.tool_answers if tool == name]
        if not answers:
            return False, f"the model got no answer of {name}"
        if not any(text.lower() in answer.lower() for answer in answers):
            return False, f"the model was not answered {text!r} by {name} but {_short(answers[-1])}"
    return True, "; ".join(f"{name} answered {text!r}" for name, text in wanted.items())


# -- the model and the carrier ---------------------------------------------------------------------------------


def _told_model(report: CallReport, wanted: str | Told) -> tuple[bool, str]:
    text, times = (wanted.text, wanted.times) if isinstance(wanted, Told) else (wanted, None)
    told = report.model.told if report.model else []
    found = sum(_plain(text) in _plain(one) for one in told)
    if found and times is not None and found != times:
        return False, f"the model was told {text!r} {_times(found)}, not {_times(times)}"
    if found:
        return True, f"the model was told {text!r}"
    return False, f"the model was not told {text!r}" + (f", only {_short(' / '.join(told))}" if told else "")


def _model_sessions(report: CallReport, wanted: int) -> tuple[bool, str]:
    if report.model is None:
        return False, "how many sessions the model had of this call is not known"
    return report.model.sessions == wanted, f"the call took {report.model.sessions} model sessions ({wanted})"


def _streams(report: CallReport, wanted: int) -> tuple[bool, str]:
    found = len(report.record.streams) if report.record else 0
    return found == wanted, f"the call had {found} media streams ({wanted})"


def _end_reason(report: CallReport, reason: str) -> tuple[bool, str]:
    if report.end_reason == reason:
        return True, f"the call ended by {reason}"
    return False, f"the call ended by {report.end_reason or 'an unknown reason'}, not by {reason}"


def _transferred_to(report: CallReport, target: str) -> tuple[bool, str]:
    dialled = [said.removeprefix("dial ") for said in report.line.announced if said.startswith("dial ")]
    there = [*dialled, *report.line.legs]
    if target in there:
        return True, f"the caller was put through to {target}"
    return False, f"the caller was not put through to {target}" + (f" but to {', '.join(there)}" if there else "")


def _answered_by(report: CallReport, wanted: str) -> tuple[bool, str]:
    found = report.record.answered_by if report.record else ""
    return found == wanted, f"the call was answered by {found or 'an unknown party'} ({wanted})"


# -- faults ----------------------------------------------------------------------------------------------------


def _counted(report: CallReport, wanted: Mapping[str, float]) -> tuple[bool, str]:
    for words, least in wanted.items():
        found = sum(value for name, value in report.counted.items() if _is_metric(name, words))
        if least == 0 and found:
            return False, f"{words} was counted {_times(found)}, not never"
        if found < least:
            return False, f"{words} was counted {_times(found)}, not {_times(least)}"
    return True, "; ".join(f"{words} was counted" if least else f"no {words}" for words, least in wanted.items())


def _is_metric(name: str, words: str) -> bool:
    """`input_errors_total{peer="carrier",reason="gap"}` is meant by "input_errors_total gap"."""
    metric, _, labels = name.partition("{")
    wanted, *values = words.split()
    return metric == wanted and set(values) <= set(re.findall(r'"([^"]*)"', labels))


def _no_errors(report: CallReport, wanted: bool) -> tuple[bool, str]:
    errors = report.record.errors if report.record else ["the gateway kept no record of the call"]
    if not errors:
        return wanted, "the gateway noted no error"
    return not wanted, f"the gateway noted: {'; '.join(errors)}"


def _noted(report: CallReport, text: str) -> tuple[bool, str]:
    errors = _record_errors(report.record)
    if any(_plain(text) in _plain(error) for error in errors):
        return True, f"the gateway noted {text!r}"
    return False, f"the gateway did not note {text!r}" + (f" but {'; '.join(errors)}" if errors else "")


def _record_errors(record: CallRecord | None) -> Iterable[str]:
    return record.errors if record else ()


# -- words -----------------------------------------------------------------------------------------------------


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[\w+']+", text.lower()))


def _short(text: str) -> str:
    return repr(text if len(text) <= 200 else f"{text[:200]}...") if text.strip() else "nothing"


def _listed(words: list[str]) -> str:
    return ", ".join(words) or "none"


def _times(count: float) -> str:
    return "never" if not count else "once" if count == 1 else f"{count:g} times"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


# The permitted values, for the parser and for the schema.
_EndReason: Any = Literal[(*LABELS.call_endings, *CARRIER_ENDINGS)]
_Verdict: Any = Literal[(*LABELS.barge_in_verdicts, "confirmed")]
_Outcome: Any = Literal[LABELS.tool_outcomes]
_Segment: Any = Literal[(*BY_NAME, *LINE_SEGMENTS)]

KINDS: MappingProxyType[str, ExpectationKind] = MappingProxyType(
    {
        "greeting_within_ms": ExpectationKind(
            Limit, _greeting_within, "From the answer to the agent's first audible sound."
        ),
        "answered_within_ms": ExpectationKind(
            Limit, _answered_within, "From each turn's last sound to the agent's next."
        ),
        "waited_within_ms": ExpectationKind(
            Limit, _waited_within, "The longest silence before the agent is heard again; fillers end it."
        ),
        "ended_within_s": ExpectationKind(Limit, _ended_within, "The whole call was no longer than this."),
        "segments_within_ms": ExpectationKind(
            dict[_Segment, Limit], _segments_within, "Limits of latency segments, for the call's slowest."
        ),
        "barge_in_stopped_within_ms": ExpectationKind(
            Limit, _stopped_within, "From the caller's first sound over the agent to the carrier's clear."
        ),
        "barge_ins": ExpectationKind(
            list[_Verdict],
            _barge_ins,
            "The verdict on each barge-in, in order; confirmed: by the gateway or the model.",
            listed=True,
        ),
        "never_stopped": ExpectationKind(bool, _never_stopped, "Nothing stopped the agent's voice, not for a moment."),
        "heard_text": ExpectationKind(str, _heard_text, "Words of the agent that the caller heard."),
        "not_heard_text": ExpectationKind(str, _not_heard_text, "Words that the caller must not have heard."),
        "caller_text": ExpectationKind(str, _caller_text, "Words of the caller in the transcript."),
        "no_gap": ExpectationKind(bool, _no_gap, "No reply broke off while its audio was on its way."),
        "all_heard": ExpectationKind(bool, _all_heard, "Every reply was heard to its end."),
        "goodbye_heard": ExpectationKind(bool, _goodbye_heard, "The agent's last words were heard to their end."),
        "announced": ExpectationKind(
            str, _announced, "An instruction of TwiML to the carrier: `say TEXT`, `dial NUMBER`, `play DIGITS`."
        ),
        "tool_called": ExpectationKind(
            str | ToolUse, _tool_called, "A tool was called, with these arguments, this many times."
        ),
        "tool_not_called": ExpectationKind(str, _tool_not_called, "A tool was not called."),
        "tool_cancelled": ExpectationKind(str, _tool_cancelled, "A tool was cancelled."),
        "tool_outcomes": ExpectationKind(dict[str, _Outcome], _tool_outcomes, "The outcome of each tool's last call."),
        "tool_answers": ExpectationKind(
            dict[str, str], _tool_answers, "A text in what the model received from each tool."
        ),
        "told_model": ExpectationKind(
            str | Told, _told_model, "A text that the model received, this many times: what was heard, keys, prompts."
        ),
        "model_sessions": ExpectationKind(Count, _model_sessions, "How many model sessions the call took."),
        "streams": ExpectationKind(Count, _streams, "How many media streams the call had."),
        "end_reason": ExpectationKind(_EndReason, _end_reason, "Why the call ended."),
        "transferred_to": ExpectationKind(str, _transferred_to, "The number that the caller was put through to."),
        "answered_by": ExpectationKind(
            str, _answered_by, "The AMD result of a call that the gateway placed: human, machine_start."
        ),
        "counted": ExpectationKind(
            dict[str, Annotated[float, msgspec.Meta(ge=0)]],
            _counted,
            "Counters of the gateway and the least they rose by; 0: not at all. "
            "A metric without its prefix and any of its labels' values: `input_errors_total carrier not_json`.",
        ),
        "no_errors": ExpectationKind(bool, _no_errors, "The call's record notes no error."),
        "noted": ExpectationKind(str, _noted, "An error that the call's record notes."),
    }
)
