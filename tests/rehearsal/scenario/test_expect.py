"""Expectations: each kind fails when it should and says why, judged on real simulated calls."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import msgspec
import pytest

from offhook.gateway.cli.quickly import gateway_here
from offhook.gateway.rehearsal.quick_clock import Clock, run_quickly
from offhook.gateway.rehearsal.results.report import CallReport
from offhook.gateway.rehearsal.run import run_scenario
from offhook.gateway.rehearsal.scenario.expect import KINDS, Expectation, judge
from offhook.gateway.rehearsal.scenario.load import SCENARIOS, load_scenario, parse_scenario
from offhook.gateway.tools.function import THREADS

# The agent's voice breaks off, the caller hangs up on it, the model's link is lost, a step cannot be done.
BAD_DAY = """\
name: bad-day
agent: {name: anna, greeting: {text: Hello}}
caller:
  steps:
    - wait_for_agent: start
    - pause_ms: 3000
    - wait_for_agent: {nth: 9, timeout_ms: 300}
    - hang_up
model:
  replies:
    - on: text
      do:
        - {say: It goes on and on., length_ms: 1200, chunk_ms: [600], speed: 0.4}
        - {say: And on and on., length_ms: 9000, speed: 50}
        - abort
"""
CALLS = ("barge-in-hold", "tool-cancelled", "transfer", "line-rubbish", "outbound-machine")

# Of which call what is expected wrongly, and what is said of it.
MUST_FAIL: list[tuple[str, str, Any, str]] = [
    ("barge-in-hold", "greeting_within_ms", 1, r"the agent was first heard \d+ ms after the answer \(1\)"),
    ("barge-in-hold", "answered_within_ms", 1, r"'A table for two, please\.' was answered after \d+ ms, later than 1"),
    ("bad-day", "answered_within_ms", 9000, "the caller said nothing that could have been answered"),
    ("barge-in-hold", "waited_within_ms", 1, r"the caller waited in silence for \d+ ms at most \(1\)"),
    ("barge-in-hold", "ended_within_s", 1, r"the call lasted \d+\.\d s \(1\)"),
    ("barge-in-hold", "segments_within_ms", {"turn_gap": 1}, r"turn_gap took \d+ ms, longer than 1 \(longest of \d\)"),
    ("bad-day", "segments_within_ms", {"tool_call": 1}, "tool_call was never measured"),
    (
        "barge-in-hold",
        "barge_in_stopped_within_ms",
        1,
        r"the agent was stopped \d+ ms after the first sound of 'Wait, stop!', later than 1",
    ),
    ("bad-day", "barge_in_stopped_within_ms", 900, "the caller never spoke over the agent"),
    ("barge-in-hold", "barge_ins", [], r"barge-ins: confirmed_\w+, not none"),
    ("barge-in-hold", "barge_ins", ["dismissed"], r"barge-ins: confirmed_\w+, not dismissed"),
    ("barge-in-hold", "never_stopped", True, "the agent's voice was stopped once"),
    ("bad-day", "never_stopped", False, "nothing stopped the agent's voice"),
    (
        "barge-in-hold",
        "heard_text",
        "back of the room",
        r"the caller did not hear 'back of the room', only '.*Saturday",
    ),
    ("barge-in-hold", "not_heard_text", "on saturday there is", "the caller heard 'on saturday there is'"),
    ("barge-in-hold", "caller_text", "pizza", "the transcript does not have the caller say 'pizza'"),
    ("bad-day", "no_gap", True, r"reply 1 broke off for \d+ ms"),
    ("bad-day", "all_heard", True, r"the last \d+ ms of reply 1 were not heard"),
    ("transfer", "all_heard", False, "every word of the agent's was heard"),
    ("bad-day", "goodbye_heard", True, r"the last \d+ ms of the agent's last words were not heard"),
    ("transfer", "announced", "dial +15550111", r"never told to dial \+15550111, only to dial \+15550177"),
    ("bad-day", "tool_called", "find_table", "find_table was not called"),
    ("transfer", "tool_called", "find_table", "find_table was not called, only transfer_call"),
    (
        "tool-cancelled",
        "tool_called",
        {"name": "find_table", "with": {"day": "Sunday"}},
        r'find_table was not called with \{"day": "Sunday"\} but with \{"day": "Friday", "people": 2\}',
    ),
    ("tool-cancelled", "tool_called", {"name": "find_table", "times": 2}, "find_table was called once, not 2 times"),
    ("tool-cancelled", "tool_not_called", "find_table", "find_table was called once"),
    ("transfer", "tool_cancelled", "transfer_call", "transfer_call was not cancelled but done"),
    ("transfer", "tool_cancelled", "find_table", "find_table was not cancelled: never called"),
    ("tool-cancelled", "tool_outcomes", {"find_table": "done"}, "find_table came to cancelled, not to done"),
    ("transfer", "tool_answers", {"transfer_call": "pizza"}, "the model was not answered 'pizza' by transfer_call but"),
    ("barge-in-hold", "tool_answers", {"find_table": "window"}, "the model got no answer of find_table"),
    ("barge-in-hold", "told_model", "pizza", "the model was not told 'pizza', only 'Greet the caller"),
    ("barge-in-hold", "model_sessions", 2, r"the call took 1 model sessions \(2\)"),
    ("barge-in-hold", "streams", 2, r"the call had 1 media streams \(2\)"),
    ("barge-in-hold", "end_reason", "agent_hung_up", "the call ended by caller_hung_up, not by agent_hung_up"),
    ("transfer", "transferred_to", "+15550111", r"not put through to \+15550111 but to \+15550177"),
    ("outbound-machine", "answered_by", "human", r"the call was answered by machine_start \(human\)"),
    (
        "line-rubbish",
        "counted",
        {"input_errors_total carrier not_json": 9},
        r"input_errors_total carrier not_json was counted \w+, not 9 times",
    ),
    ("line-rubbish", "counted", {"input_errors_total carrier not_json": 0}, r"was counted \w+, not never"),
    ("bad-day", "no_errors", True, "the gateway noted: .*connection lost"),
    ("bad-day", "noted", "pizza", "the gateway did not note 'pizza' but .*connection lost"),
]


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> dict[str, CallReport]:
    folder = tmp_path_factory.mktemp("calls")

    async def all_of_them(clock: Clock) -> dict[str, CallReport]:
        gateway = partial(gateway_here, clock=clock)
        scenarios = [parse_scenario(BAD_DAY), *map(load_scenario, CALLS)]
        ran = [await run_scenario(one, folder / one.name, gateway=gateway, clock=clock) for one in scenarios]
        return {scenario.name: report.calls[0] for scenario, report in zip(scenarios, ran, strict=True)}

    return run_quickly(all_of_them, others_work=lambda: THREADS.busy)


@pytest.mark.parametrize("name", CALLS)
def test_a_right_expectation_is_met(reports, name):
    assert [verdict.words for verdict in reports[name].verdicts if not verdict.ok] == []


@pytest.mark.parametrize(("name", "kind", "value", "says"), MUST_FAIL, ids=lambda value: str(value)[:30])
def test_a_wrong_expectation_fails_with_its_reason(reports, name, kind, value, says):
    verdict = judge(Expectation(kind, msgspec.convert(value, KINDS[kind].takes)), reports[name])
    assert not verdict.ok
    assert verdict.expectation == kind
    assert re.search(says, verdict.words), verdict.words


def test_every_kind_has_a_call_that_must_fail_it():
    assert {kind for _, kind, *_ in MUST_FAIL} == KINDS.keys()


def test_every_kind_is_met_in_a_bundled_scenario():
    used = {one.kind for path in SCENARIOS.glob("*.call.yaml") for one in load_scenario(path).expect}
    assert used == KINDS.keys()


def test_a_failed_script_step_fails_the_scenario(reports):
    rules = reports["bad-day"].verdicts[0]
    assert not rules.ok
    assert "wait for the agent to finish (9): the agent was not heard within 0.3 s" in rules.words


def test_a_gap_made_by_the_rehearsal_is_no_failure(reports):
    report = reports["bad-day"]
    gap_ms = max(reply.longest_gap_ms for reply in report.line.replies)
    late = msgspec.structs.replace(report.line, latest_tick_ms=gap_ms + 1)
    verdict = judge(Expectation("no_gap", True), msgspec.structs.replace(report, line=late))
    assert verdict.ok
    assert "the rehearsal itself was late" in verdict.words


def test_expectations_on_a_missing_record_fail(reports):
    bare = msgspec.structs.replace(reports["tool-cancelled"], record=None, model=None, end_reason="webhook_failed")
    for kind, value in {
        "heard_text": "Saturday", "caller_text": "table", "tool_called": "find_table", "tool_cancelled": "find_table",
        "tool_outcomes": {"find_table": "cancelled"}, "tool_answers": {"find_table": ""}, "told_model": "Greet",
        "model_sessions": 1, "streams": 1, "end_reason": "caller_hung_up", "answered_by": "human", "noted": "x",
        "no_errors": True, "barge_ins": ["confirmed"],
    }.items():  # fmt: skip
        assert not judge(Expectation(kind, value), bare).ok, kind
