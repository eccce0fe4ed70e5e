"""What is expected of every call, beside its scenario: the sides agree on what was said, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Mapping

from offhook.gateway.rehearsal.results.report import CallReport, ExpectationResult, LineReply

__all__ = ["CALLER_DROPS", "released", "standing"]

WHOLE_MS = 100.0  # a reply's last frame is filled up, and a reply that is played again begins where it was cut
CALLER_DROPS = ("uplink_full", "model_down", "call_over")  # the reasons for which a caller's frame is dropped
AUDIO_SHARE = 0.05  # of the caller's audio may be missing at the model: before the setup, and under way at the end
AUDIO_MS = 400.0
LEVEL_DB = 6.0  # the model's 24 kHz have more of a voice than the line's 8 kHz
CLOCK_MS = 250.0  # the gateway's clocks start where a frame is received, and a bad line delays it as much
TURN_GAP, BARGE_IN = "turn_gap", "bargein_silence"


def standing(report: CallReport, *, all_audio: bool = True) -> list[ExpectationResult]:
    """The verdicts on what can be compared in this call; nothing that only one side saw.

    `all_audio`: the model is to get all of the caller's audio, not only their turns.
    """
    found = [_whole(report), _agent_level(report), _caller_audio(report) if all_audio else None, _clocks(report)]
    return [verdict for verdict in found if verdict is not None]


def released(left: Mapping[str, float], sessions_open: int) -> ExpectationResult:
    """Whether the gateway released everything. `left`: gauges that did not return to zero, without their prefix."""
    faults = [f"{name} is {value:g} although no call is left" for name, value in left.items()]
    if sessions_open:
        faults.append(f"{sessions_open} sessions of the model are open although no call is left")
    words = "; ".join(faults) or "nothing was left behind"
    return ExpectationResult(ok=not faults, expectation="released", words=words)


def _result(expectation: str, fault: str, words: str) -> ExpectationResult:
    return ExpectationResult(ok=not fault, expectation=expectation, words=fault or words)


def _undisturbed(report: CallReport) -> list[LineReply]:
    """Replies whose audio reached the caller to its end, on a call with one stream."""
    record = report.record
    if record is None or len(record.streams) != 1:
        return []
    cut = {turn.generation for turn in record.turns if turn.interrupted}
    cut |= {barge_in.generation for barge_in in record.barge_ins if barge_in.verdict != "dismissed"}
    return [r for r in report.line.replies if r.model_ms and r.generation not in cut and not r.unheard_tail_ms]


def _whole(report: CallReport) -> ExpectationResult | None:
    """Each reply that nobody interrupted was heard as long as the model sent it; after a dismissed barge-in at least as
    long: it is played again from the last mark.
    """
    replies = _undisturbed(report)
    again = {barge_in.generation for barge_in in report.record.barge_ins} if report.record else set()
    fault = ""
    for reply in replies:
        wrong_ms = reply.heard_ms - (reply.model_ms or 0.0)
        if reply.generation in again and wrong_ms > 0:
            continue
        if abs(wrong_ms) > WHOLE_MS:
            what = f"{wrong_ms:.0f} ms more than" if wrong_ms > 0 else f"{-wrong_ms:.0f} ms less than"
            fault = fault or f"of reply {reply.generation} the caller heard {what} the model's {reply.model_ms:.0f} ms"
    return _result("whole", fault, "every reply was heard as the model sent it") if replies else None


def _agent_level(report: CallReport) -> ExpectationResult | None:
    replies = [reply for reply in _undisturbed(report) if reply.level_db is not None]
    wrong = [reply for reply in replies if abs(reply.level_db or 0.0) > LEVEL_DB]
    fault = f"reply {wrong[0].generation} was heard {wrong[0].level_db:+.1f} dB off the model's level" if wrong else ""
    return _result("agent_level", fault, "the agent was heard at the model's level") if replies else None


def _caller_audio(report: CallReport) -> ExpectationResult | None:
    """The caller's audio reached the model, as loud as it was sent, or was counted as dropped."""
    model, line = report.model, report.line
    if model is None or model.sessions != 1 or not model.caller_audio_ms:
        return None
    sent_ms = 20.0 * line.frames_sent
    counted = sum(report.counted.get(f'frames_dropped_total{{reason="{reason}"}}', 0.0) for reason in CALLER_DROPS)
    missing_ms = sent_ms - 20.0 * counted - model.caller_audio_ms
    fault = ""
    if missing_ms > max(AUDIO_MS, AUDIO_SHARE * sent_ms):
        fault = f"{missing_ms:.0f} of {sent_ms:.0f} ms of the caller's audio did not reach the model"
    elif model.caller_level_db is not None and abs(model.caller_level_db) > LEVEL_DB / 2:
        fault = f"the model heard the caller {model.caller_level_db:+.1f} dB off the level that was sent"
    return _result("caller_audio", fault, "the model heard all of the caller, at the level that was sent")


def _clocks(report: CallReport) -> ExpectationResult | None:
    """The gateway's segments are as long as the line saw them."""
    record, line = report.record, report.line
    if record is None:
        return None
    pairs = []
    heard_at = {reply.generation: reply.started_ms for reply in line.replies}
    for turn in record.turns:
        gap_ms, started_ms = turn.segments.get(TURN_GAP), heard_at.get(turn.generation)
        answered = [c for c in line.caller if c.answered_ms is not None and started_ms is not None]
        for spoken in answered:
            seen_ms = spoken.answered_ms or 0.0
            if gap_ms is not None and abs(spoken.end_ms + seen_ms - (started_ms or 0.0)) < CLOCK_MS:
                pairs.append((TURN_GAP, gap_ms, seen_ms))
    stopped = [b for b in record.barge_ins if BARGE_IN in b.segments and b.stopped_ms is not None]
    for barge_in in stopped:
        for seen in line.barge_ins:
            if seen.silent_ms is not None and abs(seen.silent_ms - (barge_in.stopped_ms or 0.0)) < CLOCK_MS:
                pairs.append((BARGE_IN, barge_in.segments[BARGE_IN], seen.onset_to_silence_ms or 0.0))
    wrong = [pair for pair in pairs if abs(pair[1] - pair[2]) > CLOCK_MS]
    fault = f"{wrong[0][0]} is {wrong[0][1]:.0f} ms in the record, {wrong[0][2]:.0f} ms on the line" if wrong else ""
    return _result("clocks", fault, "the gateway's latencies agree with the line's") if pairs else None
