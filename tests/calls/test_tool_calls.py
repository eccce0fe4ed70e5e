"""Tools in simulated calls, over real sockets: what the caller interrupts, enters, and must never hear of."""

from __future__ import annotations

import logging

import msgspec
import pytest

from offhook.gateway.rehearsal.model.script import Abort, CallTool, Fault, Reply, Script
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.phone.steps import Digit, HangUp, Pause, Say, SayOver, WaitForAgent, WaitForEnd
from tests.calls import phone_tools
from tests.calls.lines import GOODBYE, GREETING, HELLO, SATURDAY, WAIT, agent
from tests.rig.calls import Outcome, Plan, place_calls
from tests.rig.sounds import sound

LONG = Speak("Of course. Let me look for a table on Friday evening.", sound("of_course"))
MOMENT = Speak("One moment, please.", sound("saturday"))

PIN = "80739264"
KEY = "sk-planted-51c08d77"
ASK = (WaitForAgent("end"), Say(HELLO), WaitForAgent("end"), Pause(200), HangUp())

# By scenario name: the caller's steps, the model's script and the agent of one simulated call. All are placed at once.
PLANS = {
    "a thread is interrupted": Plan(
        (WaitForAgent("end"), Say(HELLO), SayOver(WAIT, 1_000), WaitForAgent("end"), Pause(1_500), HangUp()),
        Script(
            (
                GREETING,
                Reply("caller", (CallTool("book_slowly", {"day": "Friday"}), LONG)),
                Reply("caller", (SATURDAY,)),
            )
        ),
        agent=agent("function: 'tests.calls.phone_tools:book_slowly'"),
    ),
    "one that finishes": Plan(
        (WaitForAgent("end"), Say(HELLO), SayOver(WAIT, 1_000), WaitForAgent("end"), Pause(2_500), HangUp()),
        Script((GREETING, Reply("caller", (CallTool("look_slowly"), LONG)), Reply("caller", (SATURDAY,)))),
        agent=agent("function: 'tests.calls.phone_tools:look_slowly', on_barge_in: finish, announce: silent"),
    ),
    "a rehearsal": Plan(
        ASK,
        Script((GREETING, Reply("caller", (CallTool("charge", {"cents": "500"}),)), Reply("tool:charge", (SATURDAY,)))),
        agent=agent("function: tests.calls.phone_tools"),
    ),
    # The connection breaks, and the resumed session asks for the same again.
    "a repeat": Plan(
        (WaitForAgent("end"), Say(HELLO), WaitForAgent("end", nth=3), HangUp()),
        Script(
            (
                GREETING,
                Reply("caller", (CallTool("count", id="same"),)),
                Reply("tool:count", (SATURDAY,)),
                Reply("resume", (CallTool("count", id="same"),)),
                Reply("tool:count", (CallTool("count", id="other"),)),
                Reply("tool:count", (SATURDAY,)),
            ),
            faults=(Fault(11.5, (Abort(),)),),
        ),
        agent=agent("function: 'tests.calls.phone_tools:count'"),
    ),
    "a secret number": Plan(
        (WaitForAgent("end"), Say(HELLO), Pause(1_500), Digit(PIN), WaitForAgent("end"), HangUp()),
        Script(
            (
                GREETING,
                Reply("caller", (CallTool("enter_pin"),)),
                Reply("tool:enter_pin", (CallTool("check_pin", {"pin": "secret-1"}),)),
                Reply("tool:check_pin", (SATURDAY,)),
            )
        ),
        agent=agent(
            "builtin: collect_digits, name: enter_pin, options: {length: 8, secret: true}",
            "function: 'tests.calls.phone_tools:check_pin'",
        ),
    ),
    "a number": Plan(
        (
            WaitForAgent("end"),
            Say(HELLO),
            Pause(1_500),
            Digit("12#"),
            WaitForAgent("end"),
            Digit("7"),
            Pause(300),
            HangUp(),
        ),
        Script((GREETING, Reply("caller", (CallTool("collect_digits"),)), Reply("tool:collect_digits", (SATURDAY,)))),
        agent=agent("builtin: collect_digits"),
    ),
    "a transfer": Plan(
        (WaitForAgent("end"), Say(HELLO), WaitForEnd(20_000)),
        Script(
            (
                GREETING,
                Reply("caller", (CallTool("transfer_call", {"target": "+19005550199"}),)),
                Reply("tool:transfer_call", (CallTool("transfer_call", {"target": "sales"}),)),
                Reply("tool:transfer_call", (GOODBYE,)),
            )
        ),
        agent=agent(
            "builtin: transfer_call, options: {targets: {sales: '+15550123', office: '+15550124'}, say: One moment.}"
        ),
    ),
    "a line while it takes": Plan(
        (WaitForAgent("end"), Say(HELLO), WaitForAgent("end", nth=3), Pause(200), HangUp()),
        Script(
            (
                GREETING,
                Reply("caller", (CallTool("look_slowly"),)),
                Reply("text:One moment", (MOMENT,)),
                Reply("tool:look_slowly", (GOODBYE,)),
            )
        ),
        agent=agent(
            "function: 'tests.calls.phone_tools:look_slowly', filler: 'One moment, please.', filler_after_ms: 300"
        ),
    ),
    "a message": Plan(
        ASK,
        Script(
            (
                GREETING,
                Reply(
                    "caller",
                    (
                        CallTool("take_message", {"recipient": "Ana", "message": "Call Bo."}),
                        CallTool("remember", {"key": "name", "value": "Bo"}),
                        CallTool("set_language", {"language": "de-DE"}),
                    ),
                ),
                Reply("tool:set_language", (SATURDAY,)),
            )
        ),
        agent=agent(
            "builtin: take_message, options: {recipients: [Ana]}",
            "builtin: remember",
            "builtin: set_language, options: {languages: [de-DE, en-US]}",
        ),
    ),
    "an answering machine": Plan(
        (WaitForAgent("end"), Say(HELLO), WaitForEnd(20_000)),
        Script((GREETING, Reply("caller", (CallTool("leave_message"),)), Reply("text:Please call", (GOODBYE,)))),
        agent=agent("builtin: leave_message, options: {say: Please call us back.}"),
    ),
    "secrets": Plan(
        ASK,
        Script(
            (
                GREETING,
                Reply("caller", (CallTool("leak", {"what": KEY}),)),
                Reply("tool:leak", (CallTool("leak", {"what": "raise"}),)),
                Reply("tool:leak", (CallTool("leak", {"what": "tell"}),)),
                Reply("tool:leak", (CallTool("leak", {"what": [KEY]}),)),
                Reply("tool:leak", (SATURDAY,)),
            )
        ),
        agent=agent("function: 'tests.calls.phone_tools:leak'"),
    ),
}  # fmt: skip


class Placed:
    """The calls, placed once, and what the process said meanwhile."""

    def __init__(self, outcomes: dict[str, Outcome], metrics: str, log: str) -> None:
        self.outcomes, self.metrics, self.log = outcomes, metrics, log


@pytest.fixture(scope="module")
def placed() -> Placed:
    lines: list[str] = []
    handler = logging.Handler()
    handler.setFormatter(formatter := logging.Formatter("%(name)s %(message)s"))
    handler.emit = lambda record: lines.append(formatter.format(record))  # type: ignore[method-assign]
    logging.getLogger("offhook.gateway").addHandler(handler)
    metrics: list[str] = []
    phone_tools.DONE.clear()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SHOP_API_KEY", KEY)
            # Tools have threads of their own.
            outcomes = place_calls(PLANS, environ={"SHOP_API_KEY": KEY}, metrics=metrics, speed=4.0)
    finally:
        logging.getLogger("offhook.gateway").removeHandler(handler)
    return Placed(outcomes, metrics[0], "\n".join(lines))


def tools_of(placed: Placed, name: str) -> list[tuple[str, str]]:
    return [(t.name, t.outcome) for t in placed.outcomes[name].record.tool_calls]


def told(placed: Placed, name: str) -> list[dict]:
    return [answer.response for s in placed.outcomes[name].sessions for answer in s.tool_answers]


def test_interrupted_thread_is_cancelled_and_recorded(placed: Placed) -> None:
    outcome = placed.outcomes["a thread is interrupted"]
    assert tools_of(placed, "a thread is interrupted") == [("book_slowly", "cancelled")]
    assert "booked" not in str(told(placed, "a thread is interrupted"))
    assert "booked Friday, cancelled: True" in phone_tools.DONE
    (call,) = outcome.record.tool_calls
    assert call.afterwards == 'finished: {"booked":"Friday"}'
    assert call.arguments == {"day": "Friday"}
    assert 'offhook_tool_afterwards_total{state="running"} 1' in placed.metrics
    assert 'offhook_tool_afterwards_total{state="finished"} 1' in placed.metrics


def test_the_caller_is_heard_while_a_thread_is_blocked(placed: Placed) -> None:
    truth = placed.outcomes["a thread is interrupted"].truth
    (over,) = [s for s in truth.spoken if s.over_agent]
    assert truth.clears[0].at_s - over.onset_s < 1.0  # the thread ends after it


def test_interrupted_tool_that_finishes_is_reported(placed: Placed) -> None:
    assert tools_of(placed, "one that finishes") == [("look_slowly", "done")]
    assert [answer["result"] for answer in told(placed, "one that finishes")] == ["found"]


def test_outside_effects_are_rehearsed_in_simulation(placed: Placed) -> None:
    assert tools_of(placed, "a rehearsal") == [("charge", "done")]
    (answer,) = told(placed, "a rehearsal")
    assert answer["rehearsed"] is True
    assert not [line for line in phone_tools.DONE if line.startswith("charged")]


def test_a_repeated_call_is_answered_and_not_run_again(placed: Placed) -> None:
    counted = [line for line in phone_tools.DONE if line.startswith("counted")]
    assert counted == ["counted with 1:same", "counted with 1:other"]
    assert [answer["result"] for answer in told(placed, "a repeat")] == [1, 1, 2]


def test_secret_digits_reach_only_the_tool(placed: Placed) -> None:
    outcome = placed.outcomes["a secret number"]
    assert tools_of(placed, "a secret number") == [("enter_pin", "done"), ("check_pin", "done")]
    assert f"pin {PIN}" in phone_tools.DONE
    entered, checked = told(placed, "a secret number")
    assert entered["result"] == {"digits": "secret-1", "count": 8, "complete": True}
    assert checked["result"] == "[secret] is right"
    texts = [t.text for s in outcome.sessions for t in s.texts]
    assert not [text for text in texts if "pressed" in text]
    for where in (placed.log, placed.metrics, str(texts), msgspec.json.encode(outcome.record).decode()):
        assert PIN not in where


def test_digits_after_the_terminator_are_plain_keys(placed: Placed) -> None:
    (answer,) = told(placed, "a number")
    assert answer["result"] == {"digits": "12", "count": 2, "complete": True}
    texts = [t.text for s in placed.outcomes["a number"].sessions for t in s.texts if "pressed" in t.text]
    assert texts == ["The caller pressed the key 7."]


def test_transfer_only_to_targets_of_the_agent_file(placed: Placed) -> None:
    outcome = placed.outcomes["a transfer"]
    refused, done = told(placed, "a transfer")
    assert refused["message"] == "target must be one of sales, office, not '+19005550199'."
    assert done["result"].endswith("word for word, and nothing else: One moment.")
    assert outcome.record.end_reason == "transferred"
    assert outcome.record.turns[-1].heard_ms == outcome.record.turns[-1].received_ms > 0
    answers = "".join(fetched.answer for fetched in outcome.truth.fetched)
    assert "+15550123" in answers
    assert "+19005550199" not in answers


def test_a_slow_tool_is_covered_by_a_line(placed: Placed) -> None:
    turns = placed.outcomes["a line while it takes"].record.turns
    assert [turn.reply_text[:6] for turn in turns if turn.reply_text] == ["Thank ", "One mo", "It is "]
    assert tools_of(placed, "a line while it takes") == [("look_slowly", "done")]


def test_messages_and_facts_stand_in_the_record(placed: Placed) -> None:
    record = placed.outcomes["a message"].record
    assert [(m.recipient, m.text) for m in record.messages] == [("Ana", "Call Bo.")]
    assert record.remembered["name"] == "Bo"
    assert "de-DE" in record.remembered["language"]


def test_message_left_on_a_machine_ends_the_call(placed: Placed) -> None:
    record = placed.outcomes["an answering machine"].record
    assert record.end_reason == "agent_hung_up"
    assert record.turns[-1].reply_text.startswith("It is booked")
    assert record.turns[-1].heard_ms == record.turns[-1].received_ms > 0


def test_planted_secrets_come_out_nowhere(placed: Placed) -> None:
    outcome = placed.outcomes["secrets"]
    assert [o for _, o in tools_of(placed, "secrets")] == ["done", "failed", "failed", "failed"]
    assert "[secret]" in str(told(placed, "secrets"))
    assert "401" in str(outcome.record.errors)
    record = msgspec.json.encode(outcome.record).decode()
    for where in (record, placed.metrics, str(told(placed, "secrets"))):
        assert KEY not in where
    ours = [line for line in placed.log.splitlines() if not line.startswith("tests.calls.phone_tools")]
    assert KEY not in "\n".join(ours)


def test_the_model_keeps_the_protocol(placed: Placed) -> None:
    assert {n: o.violations for n, o in placed.outcomes.items() if o.violations} == {}
    assert {n: o.truth.violations for n, o in placed.outcomes.items() if o.truth.violations} == {}
