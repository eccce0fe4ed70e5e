"""The line away and back, replies cancelled by the shell, last words, the cost warning: in every phase."""

from __future__ import annotations

import pytest

from offhook.gateway.conversation.commands import (
    AnswerTool,
    BargeIn,
    CancelTool,
    Clear,
    CloseTurn,
    Drop,
    End,
    OpenTurn,
    Play,
    Prompt,
    Replay,
    ReplyEnded,
    ReportHeard,
    SendMark,
    SendPrompt,
    SetTimer,
    Speak,
    StopTimer,
    Verdict,
)
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.conversation.events import (
    BargeInLasted,
    CallerSpeechEnded,
    CallerSpeechStarted,
    CancelReply,
    ClearAcknowledged,
    ClearTimeout,
    CostWarning,
    EndRequested,
    GoodbyeTimeout,
    IdleTimeout,
    LineAway,
    LineBack,
    MarkReturned,
    ModelDown,
    ModelInterrupted,
    ModelReady,
    ModelSilent,
    Outcome,
    PlayoutTimeout,
    ReplyAudio,
    ReplyComplete,
    SayAndEnd,
    StreamLost,
    StreamStarted,
    TimeWarning,
    ToolFinished,
    ToolPolicy,
    ToolRequested,
    TurnComplete,
    VerdictTimeout,
)
from offhook.gateway.conversation.ledger import Ledger, Reply
from offhook.gateway.conversation.state import (
    Greets,
    LastWords,
    LineState,
    Link,
    Mode,
    Phase,
    Policy,
    RunningTool,
    State,
)
from tests.conversation.playbook import HELD, LISTENING, SPEAKING, THINKING, Playbook, Until, changed

HUNG_UP, STOPPED = Ending.AGENT_HUNG_UP, Ending.SERVER_STOPPED
TOOL, FINISHES = RunningTool("a"), RunningTool("b", ToolPolicy.FINISH, silent=True)
WHOLE = changed(
    SPEAKING, ledger=Ledger((Reply(1, 8_000, 8_000, 8_000, marked=8_000, complete=True),), 8_000, 0, 2.0, newest=1)
)
STOPPING = changed(LISTENING, phase=Phase.STOPPING, clear_pending=True, newest=1, dead=1, agent_replied=False)
CLOSING = changed(WHOLE, phase=Phase.CLOSING, ending=HUNG_UP)
WAITING = changed(LISTENING, phase=Phase.CLOSING, ending=HUNG_UP, agent_replied=False)
IN_A_CALL = (LISTENING, THINKING, SPEAKING, HELD, STOPPING, CLOSING, WAITING)
by_phase = pytest.mark.parametrize("state", IN_A_CALL, ids=lambda s: s.phase.value)


# --- the line away, and back


def test_the_unheard_part_of_a_reply_is_sent_again():
    """With fresh marks, faded in at the seam, from the frame that was being played."""
    play = Playbook(WHOLE) >> LineAway(2.51) << Phase.SPEAKING << StopTimer(PlayoutTimeout)
    assert play.state.line is LineState.AWAY
    play >> LineBack(9.0) << Replay(1, 4_000, 6_400) << SendMark(1, 6_400, 1) << Play(1, 6_400, 8_000)
    play << SendMark(1, 8_000, 1) << SetTimer(PlayoutTimeout, 9.0 + 0.5 + 2.0)
    play >> MarkReturned(9.6, 1, 8_000, 1) << ReplyEnded(1, 8_000, 8_000, False) << Phase.LISTENING
    assert play
    assert play.state.line is LineState.UP


def test_a_late_mark_does_not_set_the_clock_back():
    """At 2.5 s half of it was heard; the mark of that came 0.2 s later, as did the frames before it."""
    half = changed(WHOLE, ledger=WHOLE.ledger._replace(round_trip_s=0.05))
    late = Playbook(half) >> MarkReturned(2.75, 1, 4_000, 0, 0.2) << Phase.SPEAKING
    assert late.state.ledger.anchor_s - late.state.ledger.anchor / 8_000 == pytest.approx(2.0)
    behind = Playbook(half) >> MarkReturned(2.75, 1, 4_000, 0) << Phase.SPEAKING
    assert behind.state.ledger.anchor_s - behind.state.ledger.anchor / 8_000 == pytest.approx(2.2)


def test_each_open_reply_is_sent_again_once():
    two = Ledger((*WHOLE.ledger.replies, Reply(2, 1_600, 1_600, 1_600, base=8_000)), 9_600, 0, 2.0, newest=2)
    play = Playbook(changed(WHOLE, ledger=two)) >> LineAway(2.75) >> LineBack(3.0)
    play << Replay(1, 6_000 // 160 * 160, 8_000) << Play(2, 0, 1_600)
    assert play >> LineBack(3.1) << Phase.SPEAKING


def test_what_comes_while_the_line_is_away_is_kept():
    play = Playbook(SPEAKING) >> LineAway(2.5) >> ReplyAudio(2.6, 1, 1_600) >> ReplyComplete(2.7, 1) << Phase.SPEAKING
    play >> ReplyAudio(2.8, 2, 800) >> Until(30.0) << Phase.SPEAKING
    play >> LineBack(30.0) << Replay(1, 4_000, 6_400) << Play(1, 6_400, 8_800) << Play(1, 8_800, 9_600)
    assert play << SendMark(1, 9_600, 1) << Play(2, 0, 800)


def test_reply_begun_while_away_is_kept():
    play = Playbook(THINKING) >> LineAway(2.0) << Phase.THINKING >> ReplyAudio(2.5, 1, 800) << Phase.SPEAKING
    play << StopTimer(ModelSilent) << StopTimer(PlayoutTimeout) >> LineBack(3.0) << Replay(1, 0, 800)
    assert play


def test_a_mark_of_the_lost_stream_proves_nothing():
    play = Playbook(WHOLE) >> LineAway(2.5) >> MarkReturned(2.6, 1, 8_000, 0) << Phase.SPEAKING
    play >> LineBack(3.0) << Replay(1, 4_000, 6_400) << Play(1, 6_400, 8_000)
    assert play >> MarkReturned(3.1, 1, 8_000, 0) << Phase.SPEAKING


def test_a_reply_that_was_heard_to_its_end_is_over():
    """Only its last mark was still to come."""
    play = Playbook(WHOLE) >> LineAway(3.05) << ReplyEnded(1, 8_000, 8_000, False) << Phase.LISTENING
    assert play << StopTimer(IdleTimeout) >> LineBack(4.0) << SetTimer(IdleTimeout, 14.0)


def test_heard_reply_ends_while_away():
    play = Playbook(SPEAKING) >> LineAway(3.05) << Phase.SPEAKING >> ReplyComplete(3.5, 1)
    assert play << ReplyEnded(1, 8_000, 8_000, False) << Phase.LISTENING


def test_fully_sent_reply_goes_on_after_line_back():
    play = Playbook(SPEAKING) >> LineAway(3.05) >> LineBack(4.0) << Phase.SPEAKING << SetTimer(PlayoutTimeout, 8.05)
    assert play >> ReplyAudio(4.5, 1, 800) << Play(1, 8_000, 8_800)


@pytest.mark.parametrize("late", [PlayoutTimeout, IdleTimeout])
@by_phase
def test_playback_and_silence_are_untimed_while_away(state, late):
    play = Playbook(state) >> LineAway(2.5) << StopTimer(late)
    phase = play.state.phase
    assert play >> late(100.0) << phase


def test_idle_clock_starts_when_the_line_is_back():
    play = Playbook(LISTENING) >> LineAway(5.0) << StopTimer(IdleTimeout) >> Until(60.0) << Phase.LISTENING
    assert play >> LineBack(60.0) << SetTimer(IdleTimeout, 70.0)
    talking = changed(LISTENING, speaking=True)
    assert Playbook(talking) >> LineAway(5.0) >> LineBack(60.0) << StopTimer(IdleTimeout)


def test_a_line_that_is_there_is_not_back_again():
    play = Playbook(LISTENING) >> LineBack(5.0)
    assert play.shell.due_s(IdleTimeout) == 100.0
    assert Playbook(SPEAKING) >> LineBack(2.5) << Phase.SPEAKING
    twice = Playbook(SPEAKING) >> LineAway(2.5) >> LineAway(2.8)
    assert twice >> LineBack(3.0) << Replay(1, 4_000, 6_400) << Play(1, 6_400, 8_000)


@by_phase
def test_a_line_that_does_not_come_back_ends_the_call(state):
    assert Playbook(state) >> LineAway(2.5) >> StreamLost(20.0) << End(Ending.STREAM_LOST) << Phase.ENDED


def test_before_the_call_there_is_no_line_to_lose():
    play = Playbook(State(link=Link.UP)) >> LineAway(0.5) >> LineBack(0.6) << Phase.CONNECTING
    assert play >> StreamStarted(1.0) << Phase.LISTENING << SetTimer(IdleTimeout, 11.0)


def test_the_model_is_waited_for_all_the_same():
    play = Playbook(THINKING) >> LineAway(2.0) >> ModelSilent(8.0) << SendPrompt(Prompt.NUDGE) << Phase.THINKING
    play >> LineBack(9.0) << Phase.THINKING >> ReplyAudio(9.5, 1, 800) << Play(1, 0, 800)
    assert play


def test_a_barge_in_by_the_model_needs_no_clear():
    play = Playbook(SPEAKING) >> LineAway(2.5) >> ModelInterrupted(2.6, 1)
    play << BargeIn(1, 2.6, Verdict.CONFIRMED_BY_MODEL) << Drop(1) << ReplyEnded(1, 8_000, 4_000, True)
    assert play << ReportHeard(1, 4_000) << Phase.THINKING
    assert not play.state.ledger.clear_pending


def test_suspected_barge_in_is_decided_while_away():
    play = Playbook(HELD) >> LineAway(2.6) << Phase.HELD << StopTimer(ClearTimeout)
    play >> ClearAcknowledged(2.7, 1) >> BargeInLasted(3.4) << BargeIn(1, 2.4, Verdict.CONFIRMED_LOCALLY) << Drop(1)
    assert play << ReportHeard(1, 4_000) << Phase.LISTENING  # no clear is waited for


def test_tail_dismissed_while_away_is_sent_on_return():
    play = Playbook(HELD) >> LineAway(2.6) >> CallerSpeechEnded(3.0, 2.6) >> VerdictTimeout(3.0)
    play << BargeIn(1, 2.4, Verdict.DISMISSED) << Phase.SPEAKING
    assert play >> LineBack(5.0) << Replay(1, 4_000, 6_400) << Play(1, 6_400, 8_000)


def test_line_back_decides_no_barge_in():
    play = Playbook(HELD) >> LineAway(2.6) >> LineBack(2.8) << Phase.HELD >> CallerSpeechEnded(3.0, 2.6)
    play >> VerdictTimeout(3.0) << BargeIn(1, 2.4, Verdict.DISMISSED) << Replay(1, 4_000, 6_400)
    assert play << Play(1, 6_400, 8_000)


def test_speech_while_a_kept_reply_waits_holds_it():
    play = Playbook(WHOLE) >> LineAway(2.5) >> CallerSpeechStarted(2.6, 2.55) << Phase.HELD
    play << BargeIn(1, 2.55, Verdict.SUSPECTED)
    assert (
        play >> BargeInLasted(3.55) << BargeIn(1, 2.55, Verdict.CONFIRMED_LOCALLY) << Drop(1) << ReportHeard(1, 4_000)
    )


def test_a_clear_is_not_waited_for_on_a_lost_stream():
    play = Playbook(STOPPING) >> LineAway(2.5) << StopTimer(ClearTimeout) << Phase.THINKING
    assert play
    assert not play.state.ledger.clear_pending
    assert Playbook(changed(STOPPING, speaking=True)) >> LineAway(2.5) << Phase.LISTENING


def test_a_tool_finishes_while_the_line_is_away():
    play = Playbook(changed(THINKING, tools=(TOOL,))) >> LineAway(2.0) >> ToolFinished(2.5, "a", Outcome.DONE)
    assert play << AnswerTool("a", Outcome.DONE, Speak.NOW) << Phase.THINKING
    play = Playbook(SPEAKING) >> LineAway(2.2) >> ToolRequested(2.3, "a", filler_after_s=1.0)
    (run,) = play.felt
    assert play << run << StopTimer(PlayoutTimeout) << Phase.SPEAKING


def test_a_model_lost_while_the_line_is_away():
    play = Playbook(SPEAKING) >> LineAway(2.5) >> ModelDown(2.6) << Phase.SPEAKING >> ModelReady(3.0)
    play << SendPrompt(Prompt.NUDGE) >> LineBack(4.0) << Replay(1, 4_000, 6_400) << Play(1, 6_400, 8_000)
    assert play << SendMark(1, 8_000, 1) >> MarkReturned(4.6, 1, 8_000, 1) << Phase.THINKING


def test_end_requested_while_away_waits_for_kept_audio():
    play = Playbook(WHOLE) >> LineAway(2.5) >> EndRequested(2.6, STOPPED) << Phase.CLOSING
    play << SetTimer(GoodbyeTimeout, 22.6) >> LineBack(20.0) << Replay(1, 4_000, 6_400) << Play(1, 6_400, 8_000)
    play << SetTimer(GoodbyeTimeout, 40.0) << SetTimer(PlayoutTimeout, 22.5)
    assert play >> MarkReturned(20.6, 1, 8_000, 1) << End(STOPPED)
    assert Playbook(WHOLE) >> LineAway(2.5) >> EndRequested(2.6, STOPPED) >> Until(22.6) << End(STOPPED)


def test_heard_goodbye_ends_the_call_at_line_away():
    assert Playbook(CLOSING) >> LineAway(3.05) << ReplyEnded(1, 8_000, 8_000, False) << End(HUNG_UP)


def test_a_goodbye_that_comes_while_the_line_is_away():
    play = Playbook(WAITING) >> LineAway(2.0) << Phase.CLOSING >> ReplyAudio(2.2, 1, 800) << Phase.CLOSING
    play << SetTimer(GoodbyeTimeout, 22.2) >> ReplyAudio(2.3, 1, 800) >> ReplyComplete(2.4, 1)
    assert play.shell.due_s(GoodbyeTimeout) == 22.2
    play >> LineBack(3.0) << Replay(1, 0, 1_600) << SendMark(1, 1_600, 1)
    assert play >> MarkReturned(3.3, 1, 1_600, 1) << End(HUNG_UP)
    assert Playbook(WAITING) >> LineAway(2.0) >> LineBack(3.0) << Phase.CLOSING << StopTimer(PlayoutTimeout)


def test_a_local_turn_is_closed_while_the_line_is_away():
    play = Playbook(LISTENING, Policy(local_turns=True)) >> CallerSpeechStarted(2.0, 1.94) << OpenTurn()
    play >> CallerSpeechEnded(4.0, 3.6) >> LineAway(4.1) >> Until(4.3) << CloseTurn() << Phase.THINKING
    assert play


@pytest.mark.parametrize("warning", [TimeWarning, CostWarning])
def test_a_warning_waits_for_the_line(warning):
    assert Playbook(LISTENING) >> LineAway(2.0) >> warning(2.5) << SetTimer(warning, 3.5) << Phase.LISTENING


def test_marks_and_times_follow_the_line_rate():
    play = Playbook(State(link=Link.UP), Policy(rate_hz=16_000)) >> StreamStarted(1.0) >> ReplyAudio(2.0, 1, 9_600)
    play << Play(1, 0, 4_800) << SendMark(1, 4_800, 0) << Play(1, 4_800, 9_600) << SendMark(1, 9_600, 0)
    assert play << SetTimer(PlayoutTimeout, 2.6 + 2.0)


# --- replies cancelled: no barge-in, and the model is not told of one


def test_a_cancelled_reply_is_cleared_and_dropped():
    play = Playbook(SPEAKING) >> CancelReply(2.5, 1) << Clear(1) << Drop(1) << ReplyEnded(1, 8_000, 4_000, True)
    play << Phase.LISTENING << StopTimer(PlayoutTimeout) << SetTimer(IdleTimeout, 12.5)
    play >> ReplyAudio(2.6, 1, 800) << Drop(1) >> ClearAcknowledged(2.7, 1) << StopTimer(ClearTimeout)
    assert play << Phase.LISTENING


def test_a_protected_reply_is_cancelled_as_well():
    protected = changed(SPEAKING, ledger=Ledger((Reply(1, 8_000, 8_000, 8_000, protected=True),), 8_000, 0, 2.0))
    for policy in (Policy(), Policy(mode=Mode.OFF)):
        play = Playbook(protected, policy) >> CancelReply(2.5) << Clear(1) << Drop(1) << Phase.LISTENING
        assert play
        assert not play.state.caller_muted


def test_numbered_turn_without_audio_is_cancelled():
    play = Playbook(THINKING) >> CancelReply(2.0, 3) << Phase.THINKING << SetTimer(ModelSilent, 8.0)
    assert play >> ReplyAudio(2.1, 3, 800) << Drop(3) >> ReplyAudio(2.2, 4, 800) << Play(4, 0, 800)


def test_with_the_reply_go_its_tools():
    play = Playbook(changed(SPEAKING, tools=(TOOL, FINISHES))) >> CancelReply(2.5, 1) << Clear(1) << Drop(1)
    assert play << CancelTool("a") << Phase.THINKING


def test_speaker_has_floor_after_cancelled_reply():
    talking = changed(SPEAKING, speaking=True, onset_s=2.0)
    assert Playbook(talking, Policy(mode=Mode.OFF)) >> CancelReply(2.5) << Clear(1) << Drop(1) << Phase.LISTENING


def test_reply_cancelled_while_held_needs_no_clear():
    play = Playbook(HELD) >> CancelReply(2.6, 1) << Drop(1) << ReplyEnded(1, 8_000, 4_000, True) << Phase.LISTENING
    assert play << StopTimer(BargeInLasted) << StopTimer(VerdictTimeout)


@pytest.mark.parametrize("state", [LISTENING, STOPPING, WAITING], ids=lambda s: s.phase.value)
def test_silent_agent_cancels_only_what_is_coming(state):
    play = Playbook(state) >> CancelReply(2.5, 2) << state.phase >> ReplyAudio(2.6, 2, 800) << Drop(2)
    assert play << state.phase


def test_a_goodbye_that_is_cancelled_ends_the_call():
    assert Playbook(CLOSING) >> CancelReply(2.5) << Clear(1) << Drop(1) << End(HUNG_UP)


def test_reply_cancelled_while_away_needs_no_clear():
    assert Playbook(SPEAKING) >> LineAway(2.4) >> CancelReply(2.5) << Drop(1) << Phase.LISTENING


# --- last words


@pytest.mark.parametrize(
    "state", [LISTENING, THINKING, SPEAKING, HELD, STOPPING, CLOSING, WAITING], ids=lambda s: s.phase.value
)
def test_last_words_replace_all_and_end_the_call(state):
    play = Playbook(changed(state, speaking=False)) >> SayAndEnd(2.5, HUNG_UP, 1)
    epoch = play.state.ledger.epoch
    if state.phase in (Phase.SPEAKING, Phase.CLOSING) and state.ledger.replies:
        play << Clear(1)
    if state.ledger.replies:
        play << Drop(1)
    play << SendPrompt(Prompt.LAST_WORDS) << Phase.THINKING << SetTimer(ModelSilent, 8.5)
    for timer in (PlayoutTimeout, BargeInLasted, GoodbyeTimeout, IdleTimeout):
        play << StopTimer(timer)
    play >> TurnComplete(2.55, 1) << Phase.THINKING  # of the turn before
    play >> ReplyAudio(3.0, 2, 800) << Play(2, 0, 800) << Phase.SPEAKING
    play >> TurnComplete(3.05, 2) << SendMark(2, 800, epoch) << Phase.CLOSING
    assert play >> MarkReturned(3.2, 2, 800, epoch) << ReplyEnded(2, 800, 800, False) << End(HUNG_UP)


def test_tool_leaving_the_message_ends_meanwhile():
    play = Playbook(changed(THINKING, tools=(FINISHES,), newest=1)) >> SayAndEnd(2.0, HUNG_UP, 1)
    play << SendPrompt(Prompt.LAST_WORDS) >> ToolFinished(2.0, "b", Outcome.DONE)
    play << AnswerTool("b", Outcome.DONE, Speak.SILENT) << Phase.THINKING << SetTimer(ModelSilent, 8.0)
    assert play >> TurnComplete(2.1, 1) << Phase.THINKING  # the turn that requested the tool


def test_last_words_heard_before_turn_complete_end():
    play = Playbook(LISTENING) >> SayAndEnd(2.0, HUNG_UP) << SendPrompt(Prompt.LAST_WORDS)
    play >> ReplyAudio(3.0, 1, 800, 800) << Play(1, 0, 800) >> ReplyComplete(3.0, 1) >> MarkReturned(3.2, 1, 800, 0)
    play << Phase.LISTENING >> TurnComplete(3.3, 1) << Phase.CLOSING << SetTimer(GoodbyeTimeout, 4.3)
    assert play >> Until(4.3) << End(HUNG_UP)


def test_last_words_longer_than_most_are_heard_out():
    play = Playbook(LISTENING) >> SayAndEnd(2.0, HUNG_UP) << SendPrompt(Prompt.LAST_WORDS)
    play >> ReplyAudio(3.0, 1, 240_000)
    assert len([play << done for done in play.felt]) == 100
    assert play >> TurnComplete(3.5, 1) << Phase.CLOSING << SetTimer(GoodbyeTimeout, 35.0)


def test_missing_last_words_are_prompted_again():
    play = Playbook(LISTENING) >> SayAndEnd(2.0, HUNG_UP) << SendPrompt(Prompt.LAST_WORDS)
    play >> Until(8.0) << SendPrompt(Prompt.LAST_WORDS) << Phase.THINKING
    empty = Playbook(LISTENING) >> SayAndEnd(2.0, HUNG_UP) << SendPrompt(Prompt.LAST_WORDS) >> TurnComplete(2.5, 1)
    assert empty << SendPrompt(Prompt.LAST_WORDS) << Phase.THINKING


def test_last_words_wait_for_the_link():
    play = Playbook(changed(THINKING, link=Link.DOWN), Policy(greets=Greets.MODEL)) >> SayAndEnd(2.0, HUNG_UP)
    assert play << Phase.THINKING >> ModelReady(3.0) << SendPrompt(Prompt.LAST_WORDS) << SetTimer(ModelSilent, 9.0)
    failed = changed(WAITING, link=Link.FAILED)
    assert Playbook(failed) >> SayAndEnd(2.0, HUNG_UP) << End(HUNG_UP)


def test_interrupted_last_words_end_with_the_next_turn():
    play = Playbook(LISTENING) >> SayAndEnd(2.0, HUNG_UP) << SendPrompt(Prompt.LAST_WORDS)
    play >> ReplyAudio(3.0, 1, 1_600) << Play(1, 0, 1_600) >> CallerSpeechStarted(3.1, 3.0) << Clear(1)
    play << BargeIn(1, 3.0, Verdict.SUSPECTED) >> ModelInterrupted(3.2, 1)
    play << BargeIn(1, 3.0, Verdict.CONFIRMED_BY_MODEL) << Drop(1) << ReportHeard(1, 800) << Phase.STOPPING
    play >> ClearAcknowledged(3.3, 1) << Phase.LISTENING >> CallerSpeechEnded(5.0, 4.6) << Phase.THINKING
    play >> ReplyAudio(5.5, 2, 800) << Play(2, 0, 800) >> TurnComplete(5.6, 2) << Phase.CLOSING
    assert play >> MarkReturned(5.7, 2, 800, 1) << End(HUNG_UP)


def test_cut_last_words_are_continued():
    play = Playbook(LISTENING) >> SayAndEnd(2.0, HUNG_UP) << SendPrompt(Prompt.LAST_WORDS)
    play >> ReplyAudio(3.0, 1, 800) << Play(1, 0, 800) >> TurnComplete(3.05, 1, cut=True) << SendPrompt(Prompt.GO_ON)
    play << Phase.SPEAKING >> ReplyAudio(3.5, 2, 800) << Play(2, 0, 800)
    assert play >> TurnComplete(3.6, 2, cut=True) << Phase.CLOSING


def test_last_words_while_held_end_after_verdict():
    held = changed(HELD, last_words=LastWords(HUNG_UP, after=0))
    play = Playbook(held) >> TurnComplete(2.9, 1) << Phase.HELD
    assert play.state.ending is HUNG_UP
    play >> CallerSpeechEnded(3.0, 2.6) >> VerdictTimeout(3.0) << BargeIn(1, 2.4, Verdict.DISMISSED)
    assert play << Replay(1, 4_000, 6_400) << Play(1, 6_400, 8_000) << Phase.CLOSING


def test_speaker_is_heard_before_the_last_words():
    talking = changed(LISTENING, speaking=True, onset_s=1.0)
    play = Playbook(talking) >> SayAndEnd(2.0, HUNG_UP) << SendPrompt(Prompt.LAST_WORDS) << Phase.LISTENING
    assert play >> CallerSpeechEnded(3.0, 2.6) << Phase.THINKING


def test_last_words_before_the_stream_end_the_call():
    assert Playbook(State(link=Link.UP)) >> SayAndEnd(0.5, HUNG_UP) << End(HUNG_UP)


def test_the_gateways_own_reason_stands():
    for state in (changed(CLOSING, ending=STOPPED), changed(HELD, ending=STOPPED)):
        play = Playbook(state) >> SayAndEnd(2.5, HUNG_UP) << state.phase
        assert play.state.ending is STOPPED
        assert play


def test_last_words_while_the_line_is_away_are_kept():
    play = Playbook(SPEAKING) >> LineAway(2.4) >> SayAndEnd(2.5, HUNG_UP, 1) << Drop(1)
    play << SendPrompt(Prompt.LAST_WORDS) << Phase.THINKING >> ReplyAudio(3.0, 2, 800) >> TurnComplete(3.1, 2)
    play << Phase.CLOSING >> LineBack(4.0) << Replay(2, 0, 800) << SendMark(2, 800, 1)
    assert play >> MarkReturned(4.2, 2, 800, 1) << End(HUNG_UP)


# --- the cost warning


def test_the_cost_warning_is_spoken_in_a_quiet_moment():
    assert Playbook(LISTENING) >> CostWarning(10.0) << SendPrompt(Prompt.COST_WARNING) << Phase.THINKING
    play = Playbook(WHOLE) >> CostWarning(2.5) << SendPrompt(Prompt.COST_WARNING) << Phase.SPEAKING
    assert play >> MarkReturned(3.1, 1, 8_000, 0) << Phase.THINKING


@pytest.mark.parametrize("state", [SPEAKING, THINKING, HELD, STOPPING, CLOSING], ids=lambda s: s.phase.value)
def test_else_it_waits(state):
    play = Playbook(state) >> CostWarning(2.5) << SetTimer(CostWarning, 3.5) << state.phase
    assert play


def test_second_warning_waits_for_the_first():
    play = Playbook(LISTENING) >> TimeWarning(2.0) << SendPrompt(Prompt.TIME_WARNING)
    assert play >> CostWarning(2.1) << SetTimer(CostWarning, 3.1) << Phase.THINKING
