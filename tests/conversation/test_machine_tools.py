"""Tool calls beside the conversation: one outcome each, told when there is room; the wait is covered."""

from __future__ import annotations

import pytest

from offhook.gateway.conversation.commands import (
    AnswerTool,
    BargeIn,
    CancelTool,
    Clear,
    Drop,
    End,
    Play,
    PlayFiller,
    Prompt,
    ReportHeard,
    RunTool,
    SendPrompt,
    SetTimer,
    Speak,
    StopTimer,
    Unanswered,
    Verdict,
)
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.conversation.events import (
    CallerSpeechEnded,
    CallerSpeechStarted,
    CallerTranscribed,
    ClearAcknowledged,
    DigitPressed,
    FillerDue,
    IdleTimeout,
    MarkReturned,
    ModelInterrupted,
    ModelReady,
    ModelSilent,
    Outcome,
    PlayoutTimeout,
    ReplyAudio,
    ReplyComplete,
    StreamStopped,
    ToolFinished,
    ToolPolicy,
    ToolRequested,
    ToolWithdrawn,
    TurnComplete,
)
from offhook.gateway.conversation.ledger import Ledger, Reply
from offhook.gateway.conversation.state import Phase, Policy, RunningTool, State
from tests.conversation.playbook import HELD, LISTENING, SPEAKING, THINKING, Playbook, Until, changed

DONE, FAILED = Outcome.DONE, Outcome.FAILED
NOW, WHEN_IDLE, SILENT = Speak.NOW, Speak.WHEN_IDLE, Speak.SILENT
TOOL = RunningTool("a")
FINISHES = RunningTool("b", ToolPolicy.FINISH)
WHOLE = changed(SPEAKING, ledger=Ledger((Reply(1, 8_000, 8_000, 8_000, complete=True),), 8_000, 0, 2.0))
STOPPING = changed(LISTENING, phase=Phase.STOPPING, clear_pending=True, newest=1, dead=1, agent_replied=False)
CLOSING = changed(SPEAKING, phase=Phase.CLOSING, ending=Ending.AGENT_HUNG_UP)
IN_A_CALL = (LISTENING, THINKING, SPEAKING, HELD, STOPPING, CLOSING)
by_phase = pytest.mark.parametrize("state", IN_A_CALL, ids=lambda s: s.phase.value)


# --- one outcome


@by_phase
def test_a_tool_is_run_once_and_has_one_outcome(state):
    play = Playbook(state) >> ToolRequested(2.5, "a") << RunTool("a")
    play >> ToolRequested(2.6, "a")  # the same request again
    play >> ToolFinished(2.7, "a", FAILED)
    (answer,) = play.felt
    assert isinstance(answer, AnswerTool)
    assert answer.outcome is FAILED
    play << answer >> ToolFinished(2.8, "a", DONE) >> ToolWithdrawn(2.9, "a")
    assert play


@by_phase
def test_withdrawn_tool_is_cancelled_without_result(state):
    play = Playbook(changed(state, tools=(TOOL,))) >> ToolWithdrawn(2.5, "a") << CancelTool("a")
    play >> ToolFinished(2.6, "a", DONE)
    assert play


@by_phase
def test_withdrawn_finishing_tool_sends_no_result(state):
    play = Playbook(changed(state, tools=(FINISHES,))) >> ToolWithdrawn(2.5, "b") >> ToolWithdrawn(2.6, "b")
    play >> ToolFinished(2.7, "b", DONE) << AnswerTool("b", DONE, None)
    assert play


@by_phase
def test_none_outlives_the_call(state):
    play = Playbook(changed(state, tools=(TOOL, FINISHES))) >> StreamStopped(2.5)
    play << CancelTool("a") << CancelTool("b") << End(Ending.CALLER_HUNG_UP)
    play >> ToolFinished(2.6, "a", DONE) >> ToolRequested(2.7, "c") << Phase.ENDED
    assert play


def test_nothing_is_done_for_a_caller_who_is_not_there():
    assert Playbook(State()) >> ToolRequested(0.5, "a") << CancelTool("a") << Phase.CONNECTING


# --- when the model is told


@pytest.mark.parametrize(
    ("state", "tool", "scheduling"),
    [
        (THINKING, TOOL, NOW),
        (LISTENING, TOOL, NOW),
        (changed(LISTENING, speaking=True), TOOL, WHEN_IDLE),
        (changed(LISTENING, turn_open=True, speaking=True), TOOL, WHEN_IDLE),
        (SPEAKING, TOOL, WHEN_IDLE),
        (HELD, TOOL, WHEN_IDLE),
        (STOPPING, TOOL, WHEN_IDLE),
        (CLOSING, TOOL, SILENT),  # the goodbye is being said
        (changed(CLOSING, ledger=Ledger(), agent_replied=False), TOOL, NOW),  # the goodbye hangs on it
        (THINKING, changed(TOOL, silent=True), SILENT),
        (SPEAKING, changed(TOOL, silent=True), SILENT),
        (THINKING, changed(FINISHES, withdrawn=True), None),
    ],
)
def test_the_model_is_told_when_there_is_room(state, tool, scheduling):
    local = Policy(local_turns=state.caller.turn_open)
    play = Playbook(changed(state, tools=(tool,)), local) >> ToolFinished(2.5, tool.call_id, DONE)
    assert play << AnswerTool(tool.call_id, DONE, scheduling)


def test_what_the_model_is_told_it_owes_an_answer_to():
    play = Playbook(changed(THINKING, tools=(TOOL,), agent_replied=True)) >> ToolFinished(2.5, "a", DONE)
    play << AnswerTool("a", DONE, NOW) << Phase.THINKING << SetTimer(ModelSilent, 8.5) << SetTimer(FillerDue, 6.0)
    assert play


def test_a_silent_result_changes_nothing():
    silent = RunningTool("a", silent=True)
    play = Playbook(changed(THINKING, tools=(silent,), agent_replied=True)) >> ToolFinished(2.5, "a", DONE)
    assert play << AnswerTool("a", DONE, SILENT) << Phase.LISTENING << SetTimer(IdleTimeout, 12.5)
    play = Playbook(changed(THINKING, tools=(silent,), agent_replied=False)) >> ToolFinished(2.5, "a", DONE)
    assert play << AnswerTool("a", DONE, SILENT) << Phase.THINKING << SetTimer(ModelSilent, 8.5)


def test_a_withdrawn_tool_is_not_waited_for():
    play = Playbook(changed(THINKING, tools=(TOOL,), agent_replied=True)) >> ToolWithdrawn(2.5, "a") << CancelTool("a")
    assert play << Phase.LISTENING
    play = Playbook(changed(THINKING, tools=(FINISHES,))) >> ToolWithdrawn(2.5, "b") << Phase.THINKING
    assert play << SetTimer(ModelSilent, 8.5)


def test_while_another_runs_the_wait_goes_on():
    play = Playbook(changed(THINKING, tools=(TOOL, FINISHES))) >> ToolFinished(2.5, "a", DONE)
    assert play << AnswerTool("a", DONE, NOW) << Phase.THINKING


def test_the_turn_that_asked_for_a_tool_is_not_empty():
    """A quick tool is done before the turn that asked for it ends: that end owes no nudge."""
    play = Playbook(THINKING) >> ToolRequested(2.0, "a") << RunTool("a") >> ToolFinished(2.01, "a", DONE)
    play << AnswerTool("a", DONE, NOW) >> TurnComplete(2.05, 1) << Phase.THINKING
    play >> TurnComplete(2.5, 2) << SendPrompt(Prompt.NUDGE)  # but the next one does
    assert play
    for phase in (LISTENING, SPEAKING, HELD, STOPPING):
        asked = changed(phase, tool_asked=True)
        assert not (Playbook(asked) >> TurnComplete(2.45, 1)).state.due.tool_asked


def test_an_interrupted_turn_takes_its_tools_with_it():
    play = Playbook(changed(THINKING, tools=(TOOL, FINISHES))) >> ModelInterrupted(2.0, 1) << CancelTool("a")
    play << Phase.THINKING
    assert play
    play = Playbook(changed(LISTENING, tools=(TOOL,), speaking=True)) >> ModelInterrupted(2.0, 1)
    assert play << CancelTool("a") << Phase.LISTENING


def test_withdrawn_tool_holds_up_no_new_turn():
    withdrawn = changed(FINISHES, withdrawn=True)
    talking = changed(LISTENING, tools=(withdrawn,), speaking=True, onset_s=1.0, agent_replied=False)
    play = Playbook(talking) >> CallerSpeechEnded(3.0, 2.6) << Phase.THINKING << SetTimer(ModelSilent, 8.6)
    play >> Until(8.6) << Unanswered() << SendPrompt(Prompt.NUDGE) << PlayFiller()
    assert play


# --- the wait


def test_a_tool_asked_for_in_silence_is_waited_for():
    play = Playbook(LISTENING) >> ToolRequested(2.0, "a", limit_s=25.0) << RunTool("a") << Phase.THINKING
    play << SetTimer(ModelSilent, 27.0) << StopTimer(IdleTimeout)
    play >> CallerTranscribed(2.1) >> DigitPressed(2.2) << Phase.THINKING
    assert play
    assert Playbook(changed(LISTENING, speaking=True)) >> ToolRequested(2.0, "a") << RunTool("a") << (Phase.LISTENING)


def test_a_tool_that_never_ends_is_given_up():
    play = Playbook(LISTENING) >> ToolRequested(2.0, "a", limit_s=25.0) << RunTool("a")
    play >> Until(26.9) << PlayFiller() << PlayFiller() << PlayFiller() << PlayFiller()
    play >> Until(27.0) << CancelTool("a") << SendPrompt(Prompt.NUDGE) << Phase.THINKING
    assert play


def test_the_caller_may_speak_meanwhile():
    play = Playbook(changed(THINKING, tools=(TOOL,), agent_replied=True)) >> CallerSpeechStarted(2.0, 1.94)
    play << Phase.LISTENING << StopTimer(FillerDue) >> CallerSpeechEnded(2.6, 2.2) << Phase.THINKING
    assert play


def test_filler_covers_slow_tool_in_silence():
    play = Playbook(WHOLE) >> ToolRequested(2.1, "a", filler_after_s=1.5) << RunTool("a") << Phase.SPEAKING
    play >> FillerDue(2.2) << Phase.SPEAKING  # not while the agent is heard
    play >> MarkReturned(3.1, 1, 8_000, 0) << Phase.THINKING << SetTimer(FillerDue, 4.6)
    play >> Until(4.6) << PlayFiller("a") << Phase.THINKING
    play >> ReplyAudio(4.6, 2, 800) << Play(2, 0, 800) >> ReplyComplete(4.6, 2) << Phase.SPEAKING
    play >> MarkReturned(4.75, 2, 800, 0) << Phase.THINKING
    play >> Until(10.75) << PlayFiller("a")  # after as much silence as a caller may meet
    assert play


def test_heard_turn_waiting_for_its_tool_is_silent():
    """It is not complete, and says no more until it has the result: the filler does not wait for a stall."""
    play = Playbook(SPEAKING) >> ToolRequested(2.1, "a", filler_after_s=1.5) << RunTool("a")
    play << SetTimer(PlayoutTimeout, 3.0) >> Until(3.0) << Phase.THINKING << SetTimer(FillerDue, 4.5)
    play >> ToolFinished(4.0, "a", DONE) << AnswerTool("a", DONE, NOW)
    play >> ReplyAudio(4.4, 1, 800) << Play(1, 8_000, 8_800) << Phase.SPEAKING
    assert play


def test_a_filler_is_interruptible_and_in_the_ledger():
    filler = changed(THINKING, tools=(RunningTool("a", filler_after_s=1.5),))
    play = Playbook(filler) >> FillerDue(2.0) << PlayFiller("a") >> ReplyAudio(2.0, 5, 8_000)
    play << Play(5, 0, 2_400) << Play(5, 2_400, 4_800) << Play(5, 4_800, 7_200) << Play(5, 7_200, 8_000)
    play >> ReplyComplete(2.0, 5) >> CallerSpeechStarted(2.5, 2.4) << Clear(1) << BargeIn(5, 2.4, Verdict.SUSPECTED)
    play >> ModelInterrupted(2.6, 4) << BargeIn(5, 2.4, Verdict.CONFIRMED_BY_MODEL) << Drop(5) << ReportHeard(5, 4_000)
    play << CancelTool("a") >> ClearAcknowledged(2.65, 1) << Phase.LISTENING
    assert play


def test_filler_is_due_for_the_awaited_tool():
    silent_tool = RunningTool("a")
    play = Playbook(changed(THINKING, tools=(silent_tool,))) >> FillerDue(2.0) << PlayFiller() << Phase.THINKING
    assert play
    withdrawn = RunningTool("b", ToolPolicy.FINISH, filler_after_s=1.0, withdrawn=True)
    assert Playbook(changed(THINKING, tools=(withdrawn,))) >> FillerDue(2.0) << PlayFiller() << Phase.THINKING


def test_the_answer_is_played_behind_the_filler():
    filler = changed(WHOLE, tools=(TOOL,))
    play = Playbook(filler) >> ToolFinished(2.5, "a", DONE) << AnswerTool("a", DONE, WHEN_IDLE)
    play >> ReplyAudio(2.8, 2, 800) << Play(2, 0, 800) >> MarkReturned(3.05, 1, 8_000, 0) << Phase.SPEAKING
    assert play


def test_a_link_back_while_a_tool_runs():
    assert Playbook(changed(SPEAKING, tools=(TOOL,))) >> ModelReady(2.2) << Phase.SPEAKING
