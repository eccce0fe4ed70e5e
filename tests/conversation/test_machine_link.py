"""The model's connection lost, changed, got back, given up: in every phase."""

from __future__ import annotations

import pytest

from offhook.gateway.conversation.commands import (
    End,
    Play,
    PlayFiller,
    Prompt,
    ReconnectModel,
    ReplyEnded,
    RotateModel,
    SendMark,
    SendPrompt,
    SetTimer,
    StopTimer,
)
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.conversation.events import (
    CallerSpeechEnded,
    CallerSpeechStarted,
    ConnectTimeout,
    GoAway,
    GoAwayDeadline,
    MarkReturned,
    ModelDown,
    ModelFailed,
    ModelReady,
    ModelSilent,
    Outcome,
    ReplyAudio,
    StreamStarted,
    ToolFinished,
    ToolPolicy,
    ToolWithdrawn,
    TurnComplete,
)
from offhook.gateway.conversation.ledger import Ledger, Reply
from offhook.gateway.conversation.state import Greets, Link, Phase, Policy, RunningTool, State
from tests.conversation.playbook import HELD, LISTENING, SPEAKING, THINKING, Playbook, Until, changed

STOPPING = changed(LISTENING, phase=Phase.STOPPING, clear_pending=True, newest=1, dead=1, reply=True)
CLOSING = changed(SPEAKING, phase=Phase.CLOSING, ending=Ending.AGENT_HUNG_UP)
WAITING_TO_CLOSE = changed(LISTENING, phase=Phase.CLOSING, ending=Ending.AGENT_HUNG_UP, agent_replied=False)
IN_A_CALL = (LISTENING, THINKING, SPEAKING, HELD, STOPPING, CLOSING)
TOOL = RunningTool("a")

by_phase = pytest.mark.parametrize("state", IN_A_CALL, ids=lambda s: s.phase.value)


def at_rest(state):
    """The same, with no timer about to fire."""
    return state


@by_phase
def test_wait_for_a_lost_link_ends_with_its_tries(state):
    play = Playbook(state) >> ModelDown(2.5) << SetTimer(ConnectTimeout, 42.5)
    assert play.state.link is Link.DOWN
    play >> ModelReady(2.6) << StopTimer(ConnectTimeout)
    assert play.state.link is Link.UP


@by_phase
def test_link_neither_back_nor_failed_is_given_up(state):
    play = Playbook(changed(state, link=Link.DOWN)) >> ConnectTimeout(2.5)
    if state.phase in (Phase.LISTENING, Phase.THINKING, Phase.STOPPING):
        assert play << End(Ending.MODEL_LOST) << Phase.ENDED
    elif state.phase is Phase.SPEAKING:
        play << Phase.CLOSING << SendMark(1, 8_000, 0) >> MarkReturned(3.1, 1, 8_000, 0) << End(Ending.MODEL_LOST)
        assert play
    else:
        assert play << state.phase
        assert play.state.link is Link.FAILED


@by_phase
def test_failed_link_ends_call_after_audio_at_hand(state):
    play = Playbook(state) >> ModelFailed(2.5)
    if state.phase in (Phase.LISTENING, Phase.THINKING, Phase.STOPPING):
        assert play << End(Ending.MODEL_LOST) << Phase.ENDED
    elif state.phase is Phase.HELD:
        assert play << Phase.HELD
        assert play.state.ending is Ending.MODEL_LOST
    else:
        reason = Ending.MODEL_LOST if state.phase is Phase.SPEAKING else Ending.AGENT_HUNG_UP
        play << Phase.CLOSING << SendMark(1, 8_000, 0) >> MarkReturned(3.1, 1, 8_000, 0) << End(reason)
        assert play


def test_impossible_goodbye_is_not_waited_for():
    assert Playbook(WAITING_TO_CLOSE) >> ModelFailed(2.5) << End(Ending.AGENT_HUNG_UP)


@by_phase
def test_a_late_connect_timeout_means_nothing(state):
    assert Playbook(state) >> ConnectTimeout(2.5) << state.phase


def test_a_model_that_was_never_there():
    play = Playbook(State(), Policy(greets=Greets.MODEL)) >> StreamStarted(1.0) << Phase.THINKING
    play >> Until(13.0) << PlayFiller() << End(Ending.MODEL_UNREACHABLE)
    assert play
    assert Playbook(State()) >> ModelFailed(0.5) >> StreamStarted(1.0) << End(Ending.MODEL_UNREACHABLE)


def test_the_link_comes_and_goes_before_the_stream():
    play = Playbook(State()) >> ModelReady(0.5) >> ModelDown(0.7) << Phase.CONNECTING
    assert play.state.link is Link.DOWN
    play >> StreamStarted(1.0) << SetTimer(ConnectTimeout, 13.0) >> ModelReady(2.0) << StopTimer(ConnectTimeout)
    assert play


def test_go_away_before_the_stream_is_remembered():
    play = Playbook(State()) >> ModelReady(0.1) >> GoAway(0.5, 20.0) << SetTimer(GoAwayDeadline, 17.5)
    play >> StreamStarted(1.0) << RotateModel() << StopTimer(GoAwayDeadline)
    assert play
    late = Playbook(State()) >> ModelReady(0.1) >> GoAway(0.5, 20.0) >> GoAwayDeadline(17.5) << RotateModel()
    assert late


# --- what was lost with it


def test_reply_cut_by_the_link_continues_at_once():
    play = Playbook(SPEAKING) >> ModelDown(2.2) << SendMark(1, 8_000, 0) << Phase.SPEAKING
    play >> ModelReady(2.6) << SendPrompt(Prompt.NUDGE) << Phase.SPEAKING
    play >> ReplyAudio(2.9, 2, 800) << Play(2, 0, 800)
    play >> MarkReturned(3.1, 1, 8_000, 0) << ReplyEnded(1, 8_000, 8_000, False) << Phase.SPEAKING
    assert play


def test_late_link_still_owes_the_rest():
    play = Playbook(SPEAKING) >> ModelDown(2.2) >> MarkReturned(3.1, 1, 8_000, 0) << Phase.THINKING
    play >> ModelSilent(9.1) << Phase.THINKING  # nobody to ask
    play >> ModelReady(10.0) << SendPrompt(Prompt.NUDGE) << Phase.THINKING << SetTimer(ModelSilent, 16.0)
    assert play


def test_a_reply_that_was_all_there_is_owed_nothing():
    whole = changed(SPEAKING, ledger=Ledger((Reply(1, 8_000, 8_000, 8_000, complete=True),), 8_000, 0, 2.0))
    play = Playbook(whole) >> ModelDown(2.2) >> ModelReady(2.6) << Phase.SPEAKING
    play >> MarkReturned(3.1, 1, 8_000, 0) << Phase.LISTENING
    assert play


def test_turn_in_the_gap_is_awaited_then_prompted():
    """What the caller said meanwhile waits in the uplink, if it was short: a nudge at once would answer twice."""
    waits = changed(THINKING, link=Link.DOWN, quiet_s=4.0)
    play = Playbook(waits) >> ModelReady(5.0) << SetTimer(ModelSilent, 6.5)
    play >> Until(6.5) << SendPrompt(Prompt.NUDGE)
    assert play


def test_a_reply_that_had_broken_off_is_asked_for():
    broken = changed(SPEAKING, phase=Phase.THINKING, reply=True)
    play = Playbook(broken) >> ModelDown(9.0) << ReplyEnded(1, 8_000, 8_000, False) << Phase.THINKING
    play >> ModelReady(9.5) << SendPrompt(Prompt.NUDGE)
    assert play
    talking = changed(broken, phase=Phase.LISTENING, speaking=True)
    assert Playbook(talking) >> ModelDown(9.0) << ReplyEnded(1, 8_000, 8_000, False) << Phase.LISTENING


def test_a_nudge_that_was_lost_is_repeated():
    play = Playbook(changed(THINKING, link=Link.DOWN, failed_prompts=1)) >> ModelReady(5.0) << SendPrompt(Prompt.NUDGE)
    play << SetTimer(ModelSilent, 6.5)
    assert play


def test_link_back_during_a_tool_gets_no_prompt():
    assert Playbook(changed(THINKING, link=Link.DOWN, tools=(TOOL,))) >> ModelReady(5.0) << Phase.THINKING


def test_a_lost_turn_asked_for_no_tool_any_more():
    play = Playbook(changed(THINKING, tool_asked=True)) >> ModelDown(2.0) >> ModelReady(2.5)
    play >> TurnComplete(3.0, 1) << SendPrompt(Prompt.NUDGE)
    assert play


# --- changing connections


def test_go_away_in_a_quiet_moment_is_followed_at_once():
    play = Playbook(LISTENING) >> GoAway(2.0, 50.0) << RotateModel() << SetTimer(ConnectTimeout, 42.0)
    play >> ModelDown(2.1) >> ModelReady(2.4) << Phase.LISTENING
    assert play


@pytest.mark.parametrize(
    "state",
    [
        THINKING,
        SPEAKING,
        HELD,
        STOPPING,
        CLOSING,
        changed(LISTENING, speaking=True),
        changed(LISTENING, turn_open=True, speaking=True),
        changed(THINKING, tools=(TOOL,)),
    ],
    ids=str,
)
def test_else_it_waits_until_the_last_moment(state):
    play = (
        Playbook(state, Policy(local_turns=state.caller.turn_open))
        >> GoAway(2.0, 50.0)
        << SetTimer(GoAwayDeadline, 49.0)
    )
    play << state.phase >> GoAwayDeadline(49.0) << RotateModel() << state.phase
    assert play
    assert play.state.link is Link.DOWN


def test_or_until_it_is_quiet():
    play = Playbook(SPEAKING) >> GoAway(2.0, 50.0) >> TurnComplete(2.2, 1) << SendMark(1, 8_000, 0)
    play >> MarkReturned(3.1, 1, 8_000, 0) << RotateModel() << Phase.LISTENING << StopTimer(GoAwayDeadline)
    assert play


def test_too_short_notice_rotates_now():
    assert Playbook(SPEAKING) >> GoAway(2.0, 1.0) << SetTimer(GoAwayDeadline, 2.0)


def test_no_rotation_while_a_tool_runs():
    finishing = RunningTool("b", ToolPolicy.FINISH, withdrawn=True)
    waiting = changed(THINKING, tools=(TOOL, finishing), agent_replied=True)
    play = Playbook(waiting) >> GoAway(2.0, 50.0) >> ToolWithdrawn(3.0, "a")
    from offhook.gateway.conversation.commands import AnswerTool, CancelTool

    play << CancelTool("a") << Phase.LISTENING
    play >> ToolFinished(4.0, "b", Outcome.DONE) << AnswerTool("b", Outcome.DONE, None)
    assert play


@by_phase
def test_notice_of_a_lost_connection_is_ignored(state):
    play = Playbook(state) >> GoAway(2.45, 50.0)
    if state.phase is Phase.LISTENING:
        play << RotateModel()
    play >> ModelDown(2.5) << StopTimer(GoAwayDeadline) >> GoAwayDeadline(2.5)
    assert play
    down = Playbook(changed(state, link=Link.DOWN)) >> GoAway(2.5, 50.0) << StopTimer(GoAwayDeadline)
    assert down


def test_a_new_connection_has_no_notice():
    play = Playbook(SPEAKING) >> GoAway(2.0, 50.0) >> ModelReady(2.2) << StopTimer(GoAwayDeadline)
    play >> TurnComplete(2.3, 1) >> MarkReturned(3.1, 1, 8_000, 0) << Phase.LISTENING
    assert play


def test_a_link_that_is_away_is_not_silent():
    play = Playbook(changed(THINKING, link=Link.DOWN)) >> ModelSilent(8.0) << Phase.THINKING
    play >> ModelReady(9.0) << SetTimer(ModelSilent, 10.5)
    assert play
    assert play.state.due.failed_prompts == 0


def test_a_stuck_model_that_stays_away_is_given_up():
    play = Playbook(changed(THINKING, failed_prompts=1)) >> ModelSilent(2.0) << ReconnectModel()
    play << SetTimer(ModelSilent, 6.0) >> ModelDown(2.1) >> Until(6.0) << End(Ending.MODEL_LOST)
    assert play


def test_the_caller_speaks_into_the_gap():
    play = Playbook(LISTENING) >> ModelDown(2.0) >> CallerSpeechStarted(2.2, 2.1) << Phase.LISTENING
    play >> ModelReady(2.5) >> CallerSpeechEnded(4.0, 3.6) << Phase.THINKING
    assert play
