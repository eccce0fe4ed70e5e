"""A recorded call becomes a scenario that loads, runs, and goes as the call went."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from offhook.gateway.errors import OperatorError
from offhook.gateway.rehearsal import scenarios
from offhook.gateway.rehearsal.results.report import Report
from offhook.gateway.rehearsal.scenario.from_call import read_record, scenario_from, scenario_text
from offhook.gateway.rehearsal.scenario.load import parse_scenario
from offhook.gateway.store.record import BargeInRecord, CallRecord, ToolRecord, TurnRecord
from tests.needs import require

pytestmark = [pytest.mark.wall_clock(calm=True), pytest.mark.usefixtures("forked")]

GREETING = TurnRecord(
    number=1, generation=1, reply_started_ms=200, reply_ended_ms=1_200, reply_text="Hello", heard_text="Hello",
    received_ms=1_000, sent_ms=1_000, heard_ms=1_000,
)  # fmt: skip
CUT = TurnRecord(
    number=2, generation=2, caller_started_ms=1_700, caller_ended_ms=3_000, caller_text="Hello there.",
    reply_started_ms=3_900, reply_ended_ms=5_400, reply_text="A long story about everything", heard_text="A long",
    received_ms=5_000, sent_ms=4_000, heard_ms=1_500, interrupted=True,
    segments={"model_first_audio": 880.0, "turn_gap": 890.0},
)  # fmt: skip
LAST = TurnRecord(
    number=3, generation=3, caller_started_ms=5_300, caller_ended_ms=6_000, caller_text="Wait.",
    reply_started_ms=7_500, reply_ended_ms=8_300, reply_text="Goodbye", heard_text="Goodbye",
    received_ms=800, sent_ms=800, heard_ms=800, segments={"turn_gap": 1_480.0},
)  # fmt: skip
CALL = CallRecord(
    call_sid="CA1",
    agent="anna",
    duration_ms=9_000,
    end_reason="agent_hung_up",
    streams=["MZ1"],
    turns=[GREETING, CUT, LAST],
    barge_ins=[
        BargeInRecord(generation=2, onset_ms=4_300, decided_ms=4_380, verdict="dismissed"),
        BargeInRecord(generation=2, onset_ms=5_300, decided_ms=5_380, verdict="confirmed_by_model"),
    ],
    tool_calls=[
        ToolRecord(call_id="1", name="find", requested_ms=6_400, finished_ms=7_000, outcome="done", arguments={"n": 2}),
        ToolRecord(call_id="2", name="end_call", requested_ms=8_200, finished_ms=8_210, outcome="done"),
    ],
)

AGENT = Path(scenarios.__file__).parent / "restaurant.agent.yaml"
TALK = f"""\
name: talk
agent: {AGENT}
caller:
  steps:
    - wait_for_agent: end
    - say: A table for two, please.
    - say_over: Wait, stop!
      after_ms: 1500
    - wait_for_agent: end
    - hang_up
model:
  replies:
    - {{on: text, say: "Blue Heron, how can I help?"}}
    - on: caller
      heard: [" A table for two, please."]
      do:
        - {{tool: find_table, args: {{day: Friday, people: 2}}}}
        - {{say: "I am looking for one on Friday, please bear with me.", length_ms: 4000}}
    - {{on: caller, heard: [" Wait, stop!"], say: "Hello, I am listening."}}
"""


def test_words_timings_and_tools_are_the_call_s():
    fields, notes = scenario_from(CALL, "told")
    assert fields["caller"]["steps"] == [
        {"wait_for_agent": "end"},
        {"pause_ms": 500},
        {"say": "Hello there."},
        {"cough": {"over_after_ms": 400}},
        {"say_over": "Wait.", "after_ms": 1_400},
        {"wait_for_end": {"timeout_ms": 60_000}},
    ]
    assert fields["model"]["replies"] == [
        {"on": "text", "do": [{"say": "Hello", "length_ms": 1_000, "delay_ms": 100}]},
        {
            "on": "caller",
            "heard": [" Hello there."],
            "do": [{"say": "A long story about everything", "length_ms": 5_000, "delay_ms": 400}],
        },
        {"on": "caller", "heard": [" Wait."], "do": [{"tool": "find", "args": {"n": 2}}]},
        {"on": "tool:find", "do": [{"say": "Goodbye", "length_ms": 800, "delay_ms": 100}, {"tool": "end_call"}]},
    ]
    assert fields["expect"] == {
        "answered_within_ms": 2_000,
        "barge_in_stopped_within_ms": 300,
        "tool_called": "end_call",
        "end_reason": "agent_hung_up",
    }
    assert "Its tools find are not in the record: name the agent's file as `agent`." in notes


def test_with_the_agent_s_file_its_tools_are_expected(tmp_path):
    fields, notes = scenario_from(CALL, "told", "anna.yaml")
    assert fields["agent"] == "anna.yaml"
    assert fields["expect"]["tool_called"] == ["find", "end_call"]
    assert len(notes) == 1


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"streams": ["MZ1", "MZ2"]}, {"carrier": {"drop_after_s": 4.5, "drops": 1}}),
        ({"end_reason": "model_unreachable", "errors": ["model: no session: 1008 no"]}, {"refuse": 1008}),
        ({"errors": ["model: lost with 1011 Internal error"]}, {"close": 1011}),
        ({"end_reason": "model_lost"}, {"close": 1011}),
    ],
)
def test_faults_in_a_record_become_scripted_faults(changes, found):
    record = msgspec.structs.replace(CALL, **changes)
    fields, notes = scenario_from(record, "told")
    model = fields["model"]
    if "carrier" in found:
        assert fields["carrier"] == found["carrier"]
    if "refuse" in found:
        assert model["refuse"]["code"] == found["refuse"]
    if "close" in found:
        assert model["faults"] == [{"at_s": 4.5, "close": found["close"]}]
        assert any("is a guess" in note for note in notes)
    assert parse_scenario(scenario_text(record, "told")).name == "told"


def test_a_record_cannot_write_yaml():
    forged = "x\nagent: /etc/passwd\n# \u2028\x1b[2J"
    tool = ToolRecord(call_id="1", name=forged, requested_ms=6_400)
    record = msgspec.structs.replace(CALL, call_sid=forged, started_at=forged, tool_calls=[tool])
    text = scenario_text(record, "told")
    assert "\nagent: /etc/passwd" not in text
    assert not any(c in text for c in "\u2028\x1b")
    with pytest.raises(OperatorError, match="names a folder of results"):
        scenario_text(CALL, "../told")


@pytest.mark.parametrize("depth", [1_200, 200_000])
def test_a_record_nested_too_deeply_is_an_error(tmp_path, depth):
    path = tmp_path / "x.json"
    path.write_text('{"call_sid": "CA1", "usage": ' + "[" * depth + "]" * depth + "}")
    with pytest.raises(OperatorError, match="neither a call's record nor a report"):
        read_record(path)


def test_no_phone_number_is_copied():
    record = msgspec.structs.replace(CALL, caller="+4915112345678", dialled="+4930123456")
    assert "+49" not in scenario_text(record, "told")


def test_a_file_without_a_call_is_reported_in_one_line(tmp_path):
    path = tmp_path / "x.json"
    with pytest.raises(OperatorError, match="cannot be read"):
        read_record(path)
    path.write_text('{"what": "ever"}')
    with pytest.raises(OperatorError, match="neither a call's record nor a report"):
        read_record(path)
    path.write_bytes(msgspec.json.encode([CALL, msgspec.structs.replace(CALL, call_sid="CA2")]))
    with pytest.raises(OperatorError, match=r"holds 2 calls \(CA1, CA2\): name one with --call"):
        read_record(path)
    assert read_record(path, "CA2").call_sid == "CA2"


def test_a_scenario_from_a_call_goes_as_the_call_did(tmp_path):
    """A scenario is played; its report becomes one; that is played, with the same agent."""
    require("espeak-ng")

    def offhook(*given: str) -> str:
        ran = subprocess.run(
            [sys.executable, "-m", "offhook", *given], cwd=tmp_path, capture_output=True, text=True, timeout=180
        )
        assert ran.returncode == 0, (given, ran.stdout, ran.stderr)
        return ran.stdout

    (tmp_path / "talk.call.yaml").write_text(TALK)
    offhook("simulate", "talk.call.yaml", "--out", "first")
    said = offhook("scenario", "from-call", "first/talk/report.json", "--agent", str(AGENT), "--out", "again.call.yaml")
    assert "offhook simulate again.call.yaml" in said
    offhook("simulate", "again.call.yaml", "--out", "second", "--speed", "20")
    calls = []
    for path in ("first/talk/report.json", "second/again/report.json"):
        report = msgspec.json.decode((tmp_path / path).read_bytes(), type=Report)
        calls.append(report.calls[0].record)
    first, second = calls
    assert first is not None
    assert second is not None
    assert [tool.name for tool in second.tool_calls] == [tool.name for tool in first.tool_calls]
    assert [tool.outcome for tool in second.tool_calls] == [tool.outcome for tool in first.tool_calls]
    assert [turn.interrupted for turn in second.turns] == [turn.interrupted for turn in first.turns]
    assert second.end_reason == first.end_reason
    assert second.duration_ms == pytest.approx(first.duration_ms, rel=0.25)
