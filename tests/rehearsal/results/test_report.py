"""The report: figures out of the carrier's truth, and verdicts that fail when they should."""

from __future__ import annotations

import io
import json

import msgspec
import numpy as np
import pytest
from rich.console import Console

from offhook.gateway.rehearsal.model.record import ReplySent
from offhook.gateway.rehearsal.phone.truth import (
    CallTruth,
    StepTaken,
    Violation,
)
from offhook.gateway.rehearsal.results.measured import call_report
from offhook.gateway.rehearsal.results.report import Report, report_of, write_report
from offhook.gateway.rehearsal.results.tables import show
from offhook.gateway.rehearsal.scenario.expect import KINDS, Expectation, judge, kept_to_the_rules
from offhook.media.mulaw import encode
from tests.rehearsal.results.paper_call import (
    BEGAN_S,
    LAST,
    mark,
    media,
    paper_record,
    paper_report,
    paper_truth,
)


def test_times_are_on_the_axis_of_the_stream_s_start():
    line = paper_report().line
    assert [turn.onset_ms for turn in line.caller] == [1510.0, 4510.0]
    assert line.duration_ms == pytest.approx(11_010)


def test_answers_are_timed_between_audible_samples():
    first, second = paper_report().line.caller
    assert first.answered_ms == pytest.approx(620)
    assert second.answered_ms == pytest.approx(1020)


def test_heard_audio_of_each_reply():
    replies = paper_report().line.replies
    assert [(r.generation, r.sent_ms, r.heard_ms, r.unheard_tail_ms, r.longest_gap_ms) for r in replies] == [
        (1, 1000.0, 1000.0, 0.0, 0.0),
        (2, 4000.0, 1000.0, 3000.0, 0.0),
        (3, 2000.0, 2000.0, 0.0, 60.0),
    ]
    assert replies[0].started_ms == pytest.approx(210)
    assert replies[2].ended_ms == pytest.approx(9090)


def test_barge_in_is_timed_from_onset_to_silence():
    [barge_in] = paper_report().line.barge_ins
    assert barge_in.generation == 2
    assert barge_in.onset_to_clear_ms == pytest.approx(120)
    assert barge_in.onset_to_silence_ms == pytest.approx(140)
    assert barge_in.discarded_ms == 3000
    assert barge_in.old_samples_after_clear == 0
    assert barge_in.verdict == "confirmed_by_model"


def test_old_audio_after_a_clear_is_found_by_its_mark():
    truth = paper_truth()
    truth.media.insert(3, media(6.5, (40_000, 41_600)))
    truth.media[4] = media(7.0, (41_600, 56_000))
    truth.marks.insert(4, mark("r2.33600.0", 41_600, 6.5))
    [barge_in] = paper_report(truth).line.barge_ins
    assert barge_in.old_samples_after_clear == 1600


def test_old_audio_during_speech_is_found_without_mark():
    truth = paper_truth()
    truth.media.insert(3, media(5.0, (40_000, 40_160)))
    truth.media[4] = media(7.0, (40_160, 56_000))
    [barge_in] = paper_report(truth).line.barge_ins
    assert barge_in.old_samples_after_clear == 160


def test_a_dismissed_barge_in_may_play_on():
    truth, record = paper_truth(), paper_record()
    truth.media[3] = media(5.5, LAST)
    truth.marks[4] = mark("r2.48000.1", 56_000, 5.5)
    record.barge_ins[0].verdict = "dismissed"
    assert paper_report(truth, record).line.barge_ins[0].old_samples_after_clear == 0
    record.barge_ins[0].verdict = "confirmed_locally"
    assert paper_report(truth, record).line.barge_ins[0].old_samples_after_clear == 16_000


def test_agent_talking_on_is_a_barge_in_without_clear():
    truth = paper_truth()
    truth.clears.clear()
    [barge_in] = paper_report(truth).line.barge_ins
    assert barge_in.onset_to_clear_ms is None
    assert barge_in.generation == 2


class _Session:
    """A model that got the caller's audio `late_s` after it was sent, from frame `first` on."""

    audio_rate_hz = 16_000

    def __init__(self, truth: CallTruth, left: np.ndarray, first: int, late_s: float) -> None:
        frames = len(left) // 160
        self.audio = bytearray(np.repeat(left[first * 160 : frames * 160], 2).astype("<i2").tobytes())
        self.audio_arrivals = [
            (truth.began_s + (frame + 1) * 0.02 + late_s, (frame + 1 - first) * 640) for frame in range(first, frames)
        ]
        self.texts: list = []
        self.tool_answers: list = []
        self.audio_bytes = len(self.audio)
        self.replies = [ReplySent("caller", decided_at_s=0.0, first_audio_at_s=BEGAN_S + 6.996)]


def test_gateway_share_is_measured_by_sample():
    truth = paper_truth()
    rng = np.random.default_rng(1)
    left = np.zeros(80_000, np.int16)
    for utterance in truth.spoken:
        left[utterance.onset_place : utterance.end_place] = rng.normal(
            0, 3000, utterance.end_place - utterance.onset_place
        )
    truth.left = encode(left)
    report = call_report(truth, paper_record(), _Session(truth, left, 7, 0.0031))
    second = report.line.caller[1]
    assert second.line_to_model_ms == pytest.approx(3.1, abs=0.01)
    assert second.model_to_line_ms == pytest.approx(4.0, abs=0.01)
    totals = report_of([report]).totals.segments
    assert totals["added"].p50_ms == pytest.approx(7.1, abs=0.02)
    # A model that heard something else is not compared.
    noise = _Session(truth, rng.normal(0, 3000, 80_000).astype(np.int16), 0, 0.0)
    assert call_report(truth, None, noise).line.caller[1].line_to_model_ms is None


def test_percentiles_of_few_samples_are_withheld():
    few = report_of([paper_report()] * 9).totals.segments["line_answer"]
    assert (few.count, few.p95_ms, few.p99_ms) == (18, None, None)
    some = report_of([paper_report()] * 10).totals.segments["line_answer"]
    assert (some.count, some.p99_ms) == (20, None)
    assert (some.p50_ms, some.p95_ms) == (pytest.approx(620), pytest.approx(1020))
    many = report_of([paper_report()] * 150).totals.segments["line_answer"]
    assert many.p99_ms == pytest.approx(1020)


def test_the_json_reads_back(tmp_path):
    report = report_of([paper_report()], {"recording": "call.wav"})
    write_report(report, tmp_path / "deep" / "report.json")
    text = (tmp_path / "deep" / "report.json").read_bytes()
    assert msgspec.json.decode(text, type=Report) == report
    call = json.loads(text)["calls"][0]
    assert call["record"]["turns"][1]["segments"]["turn_gap"] == 620.0
    assert call["line"]["replies"][1]["heard_ms"] == 1000.0


def test_tables_show_turns_barge_ins_tools_verdicts():
    report = paper_report()
    report.verdicts = [judge(Expectation("tool_cancelled", "look"), report), judge(Expectation("no_gap", True), report)]
    out = io.StringIO()
    show(report_of([report], {"recording": "out/call.wav"}), Console(file=out, width=120))
    shown = out.getvalue()
    for words in ("caller: no, two", "agent: Let me ✂", "confirmed by model", "look", "cancelled", "turn_gap"):
        assert words in shown
    for words in ("✓ look was cancelled", "✗ reply 3 broke off for 60 ms", "out/call.wav", "both phone legs"):
        assert words in shown


def test_call_without_a_record_is_still_reported():
    report = call_report(paper_truth(), None)
    assert report.end_reason == "twiml_hangup"
    show(report_of([report]), Console(file=io.StringIO()))


# --- verdicts


def test_the_paper_call_meets_its_expectations():
    report = paper_report()
    met = {
        "answered_within_ms": 1100.0,
        "barge_in_stopped_within_ms": 130.0,
        "tool_cancelled": "look",
        "tool_called": "end_call",
        "end_reason": "agent_hung_up",
        "no_gap": False,
        "goodbye_heard": True,
    }
    assert met.keys() <= KINDS.keys()
    for kind, value in met.items():
        assert judge(Expectation(kind, value), report).ok, kind
    assert kept_to_the_rules(report).ok


def _never_answered(truth, record):
    truth.agent.pop()


def _said_nothing(truth, record):
    truth.spoken.clear()


def _talked_on(truth, record):
    truth.clears.clear()


def _old_audio(truth, record):
    truth.media.insert(3, media(5.0, (40_000, 40_160)))


def _nobody_over(truth, record):
    truth.spoken[1].over_agent = False


def _finished(truth, record):
    record.tool_calls[0].outcome = "done"


def _no_tools(truth, record):
    record.tool_calls.clear()


def _cut_goodbye(truth, record):
    truth.played[-1].samples -= 400
    truth.streams[0].unplayed = 400


def _nothing(truth, record):
    pass


@pytest.mark.parametrize(
    ("kind", "value", "change", "words"),
    [
        ("answered_within_ms", 1000.0, _nothing, "'no, two' was answered after 1020 ms, later than 1000"),
        ("answered_within_ms", 5000.0, _never_answered, "'no, two' was never answered"),
        ("answered_within_ms", 5000.0, _said_nothing, "the caller said nothing"),
        ("barge_in_stopped_within_ms", 110.0, _nothing, "120 ms after the first sound of 'no, two', later than 110"),
        ("barge_in_stopped_within_ms", 200.0, _talked_on, "the agent went on talking over 'no, two'"),
        ("barge_in_stopped_within_ms", 200.0, _old_audio, "samples of the old reply came after the clear"),
        ("barge_in_stopped_within_ms", 200.0, _nobody_over, "never spoke over the agent"),
        ("tool_cancelled", "look", _finished, "look was not cancelled but done"),
        ("tool_cancelled", "look", _no_tools, "look was not cancelled: never called"),
        ("tool_called", "book", _nothing, "book was not called, only look, end_call"),
        ("end_reason", "caller_hung_up", _nothing, "ended by agent_hung_up, not by caller_hung_up"),
        ("no_gap", True, _nothing, "reply 3 broke off for 60 ms"),
        ("goodbye_heard", True, _cut_goodbye, "the last 50 ms of the agent's last words were not heard"),
    ],
)
def test_each_expectation_fails_when_it_should(kind, value, change, words):
    truth, record = paper_truth(), paper_record()
    change(truth, record)
    verdict = judge(Expectation(kind, value), paper_report(truth, record))
    assert not verdict.ok
    assert words in verdict.words


def _broke_protocol(truth):
    truth.violations.append(Violation(at_s=BEGAN_S, code=31951, what="unknown field"))


def _failed_step(truth):
    truth.steps.append(StepTaken(step="say 'x'", began_s=BEGAN_S, failed="the call ended first"))


def _dropped(truth):
    truth.frames_dropped = 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_broke_protocol, "31951: unknown field"),
        (_failed_step, "say 'x': the call ended first"),
        (_dropped, "31930: 3 frames were lost"),
    ],
)
def test_the_rules_are_expected_of_every_call(change, words):
    truth = paper_truth()
    change(truth)
    verdict = kept_to_the_rules(paper_report(truth))
    assert not verdict.ok
    assert words in verdict.words
    assert not kept_to_the_rules(call_report(paper_truth(), None, model_violations=["no setup"])).ok


def test_speech_before_hanging_up_needs_no_answer():
    truth = paper_truth()
    truth.agent.pop()
    truth.ended_by, truth.ended_s = "caller", BEGAN_S + 6.5
    assert judge(Expectation("answered_within_ms", 700.0), paper_report(truth)).ok
    truth.ended_s = BEGAN_S + 9.0  # waited long, and gave up
    assert not judge(Expectation("answered_within_ms", 700.0), paper_report(truth)).ok


def test_audio_resent_after_dismissal_counts_as_heard():
    truth, record = paper_truth(), paper_record()
    truth.marks[4] = mark("r2.32000.1", 56_000, 5.5)
    truth.media[3] = media(6.5, LAST)
    record.barge_ins[0].verdict = "dismissed"
    report = paper_report(truth, record)
    assert report.line.replies[-1].unheard_tail_ms == 0
    assert judge(Expectation("goodbye_heard", True), report).ok
