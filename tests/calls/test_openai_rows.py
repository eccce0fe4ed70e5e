"""What goes wrong with the Realtime API, each as a call through the whole gateway: the caller is answered, or hears the
fallback, and never meets more silence than the agent's `silent_after_ms`.
"""

from __future__ import annotations

import pytest

from offhook.gateway.rehearsal.model.script import (
    Abort,
    CallTool,
    Close,
    EmptyTurn,
    FailResponse,
    Fault,
    Reply,
    Script,
    Send,
    SendInterrupted,
    Wait,
)
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.phone.steps import HangUp, Pause, Say, SayOver, Step, WaitForAgent, WaitForEnd
from offhook.gateway.rehearsal.phone.truth import longest_wait_s
from tests.rig.calls import Outcome, Plan, place_calls

SILENT_AFTER_S = 6.0  # the agent file's default
TOLERANCE_S = 0.15  # as in `test_silence`
GREETING = Reply("text:Greet", (Speak("Good morning, this is the Blue Door.", length_ms=1_000),))
SATURDAY = Speak("Saturday for two is no problem.", length_ms=1_500)
ANSWERED, NUDGED = Reply("caller", (SATURDAY,)), Reply("text:waiting", (SATURDAY,))
LONG = Speak("Let me see. There is a table at eight, and one at half past nine. Which one?", length_ms=6_000)
ASK, MORE = "A table for two, on Saturday, please.", "Wait, I meant Sunday, not Saturday."
TALK: tuple[Step, ...] = (WaitForAgent("end"), Say(ASK), WaitForAgent("end", timeout_ms=20_000), HangUp())
# The wait for a reply that breaks off ends with it: the rest comes after another wait.
AGAIN = (*TALK[:3], WaitForAgent("end", timeout_ms=20_000), HangUp())
TALK_AFTER_FILLER = (*TALK[:2], Pause(11_000), HangUp())
WAITS = (*TALK[:3], Pause(4_000), HangUp())  # where the rest may come in time, or after a pause
OVER: tuple[Step, ...] = (WaitForAgent("end"), Say(ASK), SayOver(MORE, 1_500), WaitForAgent("end"), HangUp())
LOST: tuple[Step, ...] = (WaitForAgent("end"), Say(ASK), WaitForEnd(timeout_ms=40_000))
AGENT = "greeting: {text: Greet the caller.}\nmodel: {provider: openai}\nfallback: {say: We will call you back.}\n"
TOOLS = """tools: [
  {function: 'tests.calls.slow_tools:a_while', name: slow},
  {function: 'tests.calls.slow_tools:quick', name: quick},
]
"""


def error(code: str, **more: str) -> Send:
    return Send({"type": "error", "error": {"type": "invalid_request_error", "code": code, "message": code, **more}})


def failing(code: str, reset_s: float = 0.0) -> Reply:
    return Reply("caller", (FailResponse(code, reset_s=reset_s),))


ODD = (
    Send("no JSON"),
    Send({"type": "response.surprise", "from": "the future"}),
    Send({"type": "response.output_audio.delta", "response_id": "resp_nobody", "item_id": "x", "delta": "!!!"}),
    Send({"type": "response.done", "response": {"usage": 7}}),
    Send(["a list"]),  # type: ignore[arg-type]
)

# Those that go on, by what befell them: (script, agent's further fields, caller's steps).
GOES_ON: dict[str, Plan] = {
    "nothing": Plan(TALK, Script((GREETING, ANSWERED)), AGENT),
    "closed 1011": Plan(TALK, Script((GREETING, Reply("caller", (Close(1011, "server"),)), NUDGED)), AGENT),
    "closed 1012": Plan(TALK, Script((GREETING, Reply("caller", (Close(1012, ""),)), NUDGED)), AGENT),
    "closed 1013": Plan(TALK, Script((GREETING, Reply("caller", (Close(1013, ""),)), NUDGED)), AGENT),
    "closed 1000": Plan(TALK, Script((GREETING, Reply("caller", (Close(1000, ""),)), NUDGED)), AGENT),
    "connection reset": Plan(TALK, Script((GREETING, Reply("caller", (Abort(),)), NUDGED)), AGENT),
    "expired in the reply": Plan(
        WAITS,
        Script(
            (GREETING, Reply("caller", (Speak(LONG.text, length_ms=6_000, speed=1.2), Wait(10_000))), NUDGED),
            faults=(Fault(6.0, (Close(1001, "Your session hit the maximum duration of 60 minutes."),)),),
        ),
        AGENT,
    ),
    "session_expired": Plan(
        TALK, Script((GREETING, Reply("caller", (error("session_expired"), Wait(5_000))), NUDGED)), AGENT
    ),
    "rate limit once": Plan(TALK, Script((GREETING, failing("rate_limit_exceeded", 1.0), ANSWERED)), AGENT),
    "server error once": Plan(TALK, Script((GREETING, failing("server_error"), ANSWERED)), AGENT),
    "empty response": Plan(TALK, Script((GREETING, Reply("caller", (EmptyTurn(),)), NUDGED)), AGENT),
    "content filter": Plan(
        TALK,
        Script((GREETING, Reply("caller", (FailResponse("content_filter", "incomplete"),)), NUDGED)),
        AGENT,
    ),
    "cut by the token limit": Plan(
        TALK,
        Script(
            (
                GREETING,
                Reply(
                    "caller",
                    (Speak("Saturday for two is", length_ms=900), FailResponse("max_output_tokens", "incomplete")),
                ),
                Reply("text:broke off", (Speak("no problem.", length_ms=700),)),
            )
        ),
        AGENT,
    ),
    "stalled in the reply": Plan(
        TALK_AFTER_FILLER, Script((GREETING, Reply("caller", (Wait(60_000),)), NUDGED)), AGENT
    ),
    "cancelled by nobody": Plan(
        AGAIN, Script((GREETING, Reply("caller", (Speak("Sat", length_ms=300), SendInterrupted())), NUDGED)), AGENT
    ),
    "odd messages": Plan(TALK, Script((GREETING, Reply("caller", (*ODD, SATURDAY)))), AGENT),
    "refused event": Plan(TALK, Script((GREETING, Reply("caller", (error("invalid_value"), SATURDAY)))), AGENT),
    "words twice": Plan(
        TALK,
        Script(
            (
                GREETING,
                Reply(
                    "caller",
                    (
                        *2
                        * (
                            Send(
                                {
                                    "type": "conversation.item.input_audio_transcription.completed",
                                    "item_id": "again",
                                    "transcript": "Hi.",
                                }
                            ),
                        ),
                        SATURDAY,
                    ),
                ),
            )
        ),
        AGENT,
    ),
    "slow pong": Plan(TALK, Script((GREETING, ANSWERED), pong_delay_s=30.0), AGENT),
    "slow setup": Plan(TALK, Script((GREETING, ANSWERED), setup_delay_ms=2_000), AGENT),
    "two items": Plan(
        OVER,
        Script(
            (
                GREETING,
                Reply("caller", (Speak("One moment.", length_ms=800), LONG, Wait(30_000))),
                ANSWERED,
            )
        ),
        AGENT,
    ),
    "an answer over the question": Plan(
        (WaitForAgent("end"), Say(ASK), SayOver("Nine.", 3_000), WaitForAgent("end"), WaitForAgent("end"), HangUp()),
        Script((GREETING, Reply("caller", (LONG,)), ANSWERED)),
        AGENT,
    ),
    "late audio": Plan(
        OVER,
        Script((GREETING, Reply("caller", (Speak(LONG.text, length_ms=6_000, speed=1.2, late_chunks=3),)), ANSWERED)),
        AGENT,
    ),
    "two tools": Plan(
        TALK,
        Script((GREETING, Reply("caller", (CallTool("slow"), CallTool("quick"))), Reply("tool:slow", (SATURDAY,)))),
        AGENT + TOOLS,
    ),
    "a tool over a change": Plan(
        TALK,
        Script(
            (
                GREETING,
                Reply("caller", (CallTool("quick"), Speak("Let me see.", length_ms=800))),
                Reply("tool:quick", (SATURDAY,)),
            ),
            faults=(
                Fault(
                    2.0, (Send({"type": "rate_limits.updated", "rate_limits": [{"name": "requests", "remaining": 0}]}),)
                ),
            ),
        ),
        AGENT + TOOLS,
    ),
    "expires in a pause": Plan(
        (WaitForAgent("end"), Say(ASK), WaitForAgent("end"), Say(MORE), WaitForAgent("end"), HangUp()),
        Script((GREETING, ANSWERED, ANSWERED), lifetime_s=14.0),
        AGENT,
    ),
    "turns found here": Plan(
        OVER, Script((GREETING, Reply("caller", (LONG,)), ANSWERED)), AGENT + "turn_detection: {mode: local}\n"
    ),
    "mode model": Plan(
        OVER, Script((GREETING, Reply("caller", (LONG,)), ANSWERED)), AGENT + "barge_in: {mode: model}\n"
    ),
}
# Those that end with the fallback.
GIVEN_UP: dict[str, Plan] = {
    "wrong key": Plan((WaitForEnd(),), Script(refuse=Close(3000, "invalid_request_error.invalid_api_key")), AGENT),
    "beta refused": Plan(
        (WaitForEnd(),), Script(refuse=Close(4000, "invalid_request_error.beta_api_shape_disabled")), AGENT
    ),
    "no quota at the setup": Plan((WaitForEnd(),), Script(instead_of_setup=error("insufficient_quota")), AGENT),
    "unknown model": Plan(
        (WaitForEnd(),), Script((GREETING,)), AGENT.replace("provider: openai", "provider: openai, name: gpt-9")
    ),
    "no quota for the response": Plan(LOST, Script((GREETING, failing("insufficient_quota"))), AGENT),
    "quota used up": Plan(LOST, Script((GREETING, Reply("caller", (error("insufficient_quota"), Wait(9_000))))), AGENT),
    "key expired": Plan(LOST, Script((GREETING, Reply("caller", (error("expired_api_key"), Wait(9_000))))), AGENT),
    "rate limit for ever": Plan(LOST, Script((GREETING, *[failing("rate_limit_exceeded", 1.0)] * 9)), AGENT),
    "server error for ever": Plan(LOST, Script((GREETING, *[failing("server_error")] * 30)), AGENT),
}
EXPOSITION: list[str] = []


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    return place_calls({**GOES_ON, **GIVEN_UP}, metrics=EXPOSITION)


def counted(series: str) -> float:
    lines = "\n".join(EXPOSITION).splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"offhook_{series}"))


@pytest.mark.parametrize("name", GOES_ON)
def test_call_goes_on(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]
    assert outcome.record.end_reason == "caller_hung_up", outcome.record.errors
    assert not [step.failed for step in outcome.truth.steps if step.failed]
    assert "Saturday" in outcome.record.turns[-1].heard_text or "problem" in outcome.record.turns[-1].heard_text
    assert outcome.record.samples_after_clear == 0
    assert outcome.violations == []
    assert longest_wait_s(outcome.truth) <= SILENT_AFTER_S + TOLERANCE_S


@pytest.mark.parametrize("name", GIVEN_UP)
def test_caller_hears_the_fallback(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]
    assert outcome.record.end_reason in ("model_lost", "model_unreachable")
    assert [a.text for a in outcome.truth.announced if a.verb == "say"] == ["We will call you back."]
    assert longest_wait_s(outcome.truth) <= SILENT_AFTER_S + TOLERANCE_S


def test_barge_in_as_with_any_model(outcomes: dict[str, Outcome]) -> None:
    """Silence within a frame of the detector's decision, and the model's memory ends where the caller stopped it."""
    for name in ("two items", "late audio", "turns found here", "mode model"):
        outcome = outcomes[name]
        (clear,) = outcome.truth.clears
        (barge_in,) = [b for b in outcome.record.barge_ins if b.verdict != "dismissed"]
        assert barge_in.verdict == ("confirmed_by_model" if name == "mode model" else "confirmed_locally")
        assert clear.at_s - outcome.truth.spoken[-1].onset_s < (0.5 if name == "mode model" else 0.2), name
        (session,) = outcome.sessions
        told_ms = max(t.begins_ms + t.audio_end_ms for t in session.truncations)
        heard_ms = (clear.position - _begun(outcome)) / 8
        assert told_ms == pytest.approx(heard_ms, abs=20), name
        assert session.errors in ([], ["response_cancel_not_active"])


def _begun(outcome: Outcome) -> int:
    """The interrupted reply's place in all that was sent: what came before it was heard whole."""
    return round(8 * sum(turn.heard_ms for turn in outcome.record.turns[:-2]))


def test_dismissed_words_are_answered_in_the_end(outcomes: dict[str, Outcome]) -> None:
    record = outcomes["an answer over the question"].record
    assert [barge_in.verdict for barge_in in record.barge_ins] == ["dismissed"]
    assert record.turns[1].heard_ms == record.turns[1].received_ms > 5_900, "played on from where it was held"
    assert len(record.turns) == 3


def test_second_of_two_items_is_cut(outcomes: dict[str, Outcome]) -> None:
    (session,) = outcomes["two items"].sessions
    (cut,) = session.truncations
    assert cut.begins_ms == pytest.approx(800, abs=5)
    assert 0 < cut.audio_end_ms < cut.length_ms


def test_parallel_calls_get_one_response(outcomes: dict[str, Outcome]) -> None:
    (session,) = outcomes["two tools"].sessions
    assert sorted(answer.name for answer in session.tool_answers) == ["quick", "slow"]
    assert [reply.trigger for reply in session.replies] == ["text", "caller", "tool:slow"]


def test_new_session_is_given_the_call_so_far(outcomes: dict[str, Outcome]) -> None:
    first, second = outcomes["expires in a pause"].sessions
    assert first.closed_by == "client", "before the service did it"
    assert [text.role for text in second.texts][:1] == ["assistant"]
    assert "Good morning" in second.texts[0].text
    assert len(outcomes["expires in a pause"].record.turns) == 3


def test_errors_are_counted_by_reason(outcomes: dict[str, Outcome]) -> None:
    for reason in ("session_expired", "key", "quota", "refused", "rate_limit", "server_error", "network",
                   "content_filter", "max_output_tokens", "event_refused"):  # fmt: skip
        assert counted(f'model_errors_total{{reason="{reason}"}}') > 0, reason


def test_cost_is_by_the_providers_rows(outcomes: dict[str, Outcome]) -> None:
    usage = outcomes["nothing"].record.usage
    cached_text = usage.get("input_token_details.cached_tokens_details.text_tokens", 0)
    cached_audio = usage.get("input_token_details.cached_tokens_details.audio_tokens", 0)
    text_in = usage["input_token_details.text_tokens"] - cached_text
    audio_in = usage["input_token_details.audio_tokens"] - cached_audio
    spoken = usage["output_token_details.audio_tokens"]
    written = usage["output_token_details.text_tokens"]
    dollars = (text_in * 4 + audio_in * 32 + (cached_text + cached_audio) * 0.4 + written * 24 + spoken * 64) / 1e6
    assert usage["cost_usd"] == pytest.approx(dollars)
