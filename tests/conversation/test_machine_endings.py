"""The one way out: hang-ups, goodbyes that are heard, goodbyes that are talked away."""

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
    Replay,
    ReplyEnded,
    ReportHeard,
    RunTool,
    SendMark,
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
    ClearAcknowledged,
    ClearTimeout,
    DigitPressed,
    EndRequested,
    GoodbyeTimeout,
    MarkReturned,
    ModelInterrupted,
    ModelSilent,
    Outcome,
    PlayoutTimeout,
    ReplyAudio,
    ReplyComplete,
    StreamLost,
    StreamStopped,
    TimeLimit,
    Timer,
    TimeWarning,
    ToolFinished,
    ToolRequested,
    ToolWithdrawn,
    TurnComplete,
    VerdictTimeout,
)
from offhook.gateway.conversation.ledger import Ledger, Reply
from offhook.gateway.conversation.machine import EVENTS
from offhook.gateway.conversation.state import Link, Mode, Phase, Policy, RunningTool, State
from tests.conversation.playbook import HELD, LISTENING, SPEAKING, THINKING, Playbook, Until, changed

TIMERS = [x for x in EVENTS if issubclass(x, Timer)]
HUNG_UP, TRANSFERRED, STOPPED = Ending.AGENT_HUNG_UP, Ending.TRANSFERRED, Ending.SERVER_STOPPED
WHOLE = changed(
    SPEAKING,
    ledger=Ledger((Reply(1, 8_000, 8_000, 8_000, marked=8_000, complete=True),), 8_000, 0, 2.0, round_trip_s=0.1),
)
STOPPING = changed(LISTENING, phase=Phase.STOPPING, clear_pending=True, newest=1, dead=1, agent_replied=False)
CLOSING = changed(WHOLE, phase=Phase.CLOSING, ending=HUNG_UP)
WAITING = changed(LISTENING, phase=Phase.CLOSING, ending=HUNG_UP, agent_replied=False)
IN_A_CALL = (LISTENING, THINKING, SPEAKING, HELD, STOPPING, CLOSING)
by_phase = pytest.mark.parametrize("state", IN_A_CALL, ids=lambda s: s.phase.value)


# --- from anywhere, in one step


@by_phase
def test_the_caller_hangs_up(state):
    play = Playbook(state) >> StreamStopped(2.5)
    for _ in state.ledger.replies:
        play << ReplyEnded(1, 8_000, 4_000, True)
    play << End(Ending.CALLER_HUNG_UP) << Phase.ENDED
    assert play


@by_phase
def test_the_stream_dies(state):
    assert Playbook(state) >> StreamLost(2.5) << End(Ending.STREAM_LOST) << Phase.ENDED


def test_before_the_stream():
    assert Playbook(State()) >> StreamStopped(2.5) << End(Ending.CALLER_HUNG_UP)
    assert Playbook(State()) >> StreamLost(2.5) << End(Ending.STREAM_NEVER_STARTED)
    assert Playbook(State()) >> EndRequested(2.5, STOPPED) << End(STOPPED)


def test_after_the_end_there_is_nothing():
    play = Playbook(LISTENING) >> StreamStopped(2.5) << End(Ending.CALLER_HUNG_UP)
    for timer in TIMERS:
        play >> timer(3.0)
    play >> StreamStopped(3.0) >> ReplyAudio(3.0, 9, 800) >> EndRequested(3.0, STOPPED) >> ToolRequested(3.0, "a")
    assert play << Phase.ENDED
    assert 0 < len(TIMERS) < len(EVENTS)


# --- the goodbye


def test_goodbye_is_heard_before_hang_up():
    play = Playbook(SPEAKING) >> ToolRequested(2.2, "end") << RunTool("end")
    play >> EndRequested(2.21, HUNG_UP, "end") << Phase.CLOSING << SetTimer(GoodbyeTimeout, 22.21)
    play >> ToolFinished(2.22, "end", Outcome.DONE) << AnswerTool("end", Outcome.DONE, Speak.SILENT)
    play >> ReplyAudio(2.3, 1, 800) << Play(1, 8_000, 8_800) >> TurnComplete(2.4, 1) << SendMark(1, 8_800, 0)
    play >> MarkReturned(3.2, 1, 8_800, 0) << ReplyEnded(1, 8_800, 8_800, False) << End(HUNG_UP)
    assert play


def test_end_tool_before_goodbye_waits_for_it():
    unanswered = changed(THINKING, tools=(RunningTool("end"),))
    play = Playbook(unanswered) >> EndRequested(2.0, HUNG_UP, "end") << Phase.CLOSING << StopTimer(ModelSilent)
    play << SetTimer(GoodbyeTimeout, 5.0)
    play >> ToolFinished(2.1, "end", Outcome.DONE) << AnswerTool("end", Outcome.DONE, Speak.NOW)
    play >> ReplyAudio(2.8, 1, 800) << Play(1, 0, 800)
    play << SetTimer(GoodbyeTimeout, 22.8) >> ReplyAudio(2.85, 1, 800) << Play(1, 800, 1_600)
    play >> ReplyComplete(2.9, 1) << SendMark(1, 1_600, 0) >> MarkReturned(3.1, 1, 1_600, 0) << End(HUNG_UP)
    assert play


def test_a_tool_that_was_called_off_ends_nothing():
    """Its thread goes on for a while, and asks for the end after the caller has said: wait."""
    play = Playbook(SPEAKING) >> ToolRequested(2.2, "end") << RunTool("end") >> ToolWithdrawn(2.3, "end")
    play << CancelTool("end") >> EndRequested(2.4, HUNG_UP, "end") << Phase.SPEAKING
    assert play
    assert Playbook(LISTENING) >> EndRequested(2.0, TRANSFERRED, "gone") << Phase.LISTENING
    assert Playbook(LISTENING) >> EndRequested(2.0, STOPPED, "gone") << Phase.LISTENING


def test_a_goodbye_that_does_not_come_in_time():
    play = Playbook(THINKING) >> EndRequested(2.0, HUNG_UP) << Phase.CLOSING >> Until(5.0) << End(HUNG_UP)
    assert play


def test_nobody_hangs_up_on_the_last_syllable():
    """All was said and heard, it seems: a word more may be on its way."""
    play = Playbook(LISTENING) >> EndRequested(2.0, HUNG_UP) << Phase.CLOSING << SetTimer(GoodbyeTimeout, 3.0)
    play >> ReplyAudio(2.5, 2, 800) << Play(2, 0, 800) >> ReplyComplete(2.6, 2)
    play >> MarkReturned(2.7, 2, 800, 0) << End(HUNG_UP)
    assert play
    assert Playbook(LISTENING) >> EndRequested(2.0, HUNG_UP) >> Until(3.0) << End(HUNG_UP)


def test_a_goodbye_longer_than_most_is_heard_out():
    long = Ledger((Reply(1, 240_000, 240_000, 240_000, marked=240_000, complete=True),), 240_000, 0, 2.0)
    play = Playbook(changed(SPEAKING, ledger=long)) >> EndRequested(3.0, HUNG_UP) << SetTimer(GoodbyeTimeout, 34.0)
    assert play


def test_a_goodbye_whose_marks_do_not_return():
    play = Playbook(CLOSING) >> PlayoutTimeout(5.0) << ReplyEnded(1, 8_000, 8_000, False) << End(HUNG_UP)
    assert play


def test_a_goodbye_that_breaks_off():
    broken = changed(CLOSING, ledger=SPEAKING.ledger)
    play = Playbook(broken) >> PlayoutTimeout(5.0) << SetTimer(PlayoutTimeout, 8.0) << Phase.CLOSING
    play >> PlayoutTimeout(8.0) << ReplyEnded(1, 8_000, 8_000, False) << End(HUNG_UP)
    assert play


def test_a_goodbye_that_stutters():
    """A gap in mid-sentence is not its end: what comes after it is waited for again."""
    stuttering = changed(CLOSING, ledger=SPEAKING.ledger)
    play = Playbook(stuttering) >> ReplyAudio(4.0, 1, 800) << Play(1, 8_000, 8_800) << SetTimer(GoodbyeTimeout, 24.0)
    assert play << Phase.CLOSING


def test_late_audio_of_a_dead_reply_is_no_goodbye():
    play = Playbook(changed(WAITING, dead=3, newest=3)) >> ReplyAudio(2.0, 3, 800) << Drop(3) << Phase.CLOSING
    assert play


# --- talked away


def test_the_caller_takes_the_word_from_the_goodbye():
    play = Playbook(CLOSING) >> CallerSpeechStarted(2.5, 2.4) << Clear(1) << BargeIn(1, 2.4, Verdict.SUSPECTED)
    play << Phase.HELD << StopTimer(GoodbyeTimeout) >> BargeInLasted(3.4)
    play << BargeIn(1, 2.4, Verdict.CONFIRMED_LOCALLY) << Drop(1) << ReportHeard(1, 4_000) << Phase.STOPPING
    assert play
    assert play.state.ending is None
    by_model = Playbook(CLOSING) >> ModelInterrupted(2.5, 1) << Clear(1)
    by_model << BargeIn(1, 2.5, Verdict.CONFIRMED_BY_MODEL) << Drop(1) << ReportHeard(1, 4_000) << Phase.STOPPING
    assert by_model
    by_key = Playbook(CLOSING, Policy(dtmf_barge_in=True)) >> DigitPressed(2.5) << Clear(1)
    by_key << BargeIn(1, 2.5, Verdict.CONFIRMED_LOCALLY) << Drop(1) << ReportHeard(1, 4_000) << Phase.STOPPING
    assert by_key


def test_a_word_of_thanks_into_it_does_not():
    play = Playbook(CLOSING) >> CallerSpeechStarted(2.5, 2.4) << Clear(1) << BargeIn(1, 2.4, Verdict.SUSPECTED)
    play >> CallerSpeechEnded(3.0, 2.6) >> VerdictTimeout(3.0) << BargeIn(1, 2.4, Verdict.DISMISSED)
    play << Replay(1, 4_000, 6_400) << Play(1, 6_400, 8_000) << Phase.CLOSING << SetTimer(GoodbyeTimeout, 23.0)
    assert play


def test_okay_does_not_cancel_a_transfer():
    """ "I'll put you through." - "Okay." """
    play = Playbook(changed(WAITING, ending=TRANSFERRED)) >> CallerSpeechStarted(2.5, 2.4) << Phase.CLOSING
    play << SetTimer(BargeInLasted, 3.4) << SetTimer(GoodbyeTimeout, 6.4)
    play >> CallerSpeechEnded(3.1, 2.7) << Phase.CLOSING << StopTimer(BargeInLasted) << SetTimer(GoodbyeTimeout, 6.1)
    play >> Until(6.1) << End(TRANSFERRED)
    assert play


def test_nobody_is_hung_up_on_in_mid_sentence():
    play = Playbook(changed(LISTENING, speaking=True, onset_s=1.9, agent_replied=False)) >> EndRequested(2.0, HUNG_UP)
    play << Phase.CLOSING << SetTimer(BargeInLasted, 2.9) >> Until(2.9) << Phase.LISTENING << StopTimer(GoodbyeTimeout)
    assert play
    assert play.state.ending is None
    play >> CallerSpeechEnded(5.0, 4.6) << Phase.THINKING
    assert play


def test_who_speaks_into_the_last_pause_has_the_word():
    play = Playbook(WAITING) >> CallerSpeechStarted(2.5, 2.4) >> CallerSpeechEnded(3.45, 3.05) << Phase.THINKING
    assert play
    assert play.state.ending is None
    local = Playbook(WAITING, Policy(local_turns=True)) >> CallerSpeechStarted(2.5, 2.4) << Phase.CLOSING
    local >> BargeInLasted(3.4) << OpenTurn() << Phase.LISTENING
    assert local
    local = Playbook(WAITING, Policy(local_turns=True)) >> CallerSpeechStarted(2.5, 2.4)
    local >> CallerSpeechEnded(3.45, 3.05) << OpenTurn() << Phase.LISTENING >> Until(4.15) << CloseTurn()
    assert local << Phase.THINKING


def test_bye_behind_the_goodbye():
    """Only the goodbye's mark is on its way: "bye!" neither cancels nor is cut off."""
    play = Playbook(CLOSING) >> CallerSpeechStarted(3.05, 3.01) << ReplyEnded(1, 8_000, 8_000, False) << Phase.CLOSING
    play >> CallerSpeechEnded(3.7, 3.3) << SetTimer(GoodbyeTimeout, 6.7) >> Until(6.7) << End(HUNG_UP)
    assert play


def test_the_goodbye_was_heard_while_the_caller_spoke():
    talking = changed(CLOSING, speaking=True, onset_s=2.9)
    play = Playbook(talking, Policy(mode=Mode.OFF)) >> MarkReturned(3.1, 1, 8_000, 0) << Phase.CLOSING
    play >> Until(3.9) << Phase.LISTENING
    assert play
    no_model = changed(talking, link=Link.FAILED)
    assert Playbook(no_model, Policy(mode=Mode.OFF)) >> MarkReturned(3.1, 1, 8_000, 0) << End(HUNG_UP)


def test_the_model_heard_the_caller_before_its_goodbye():
    play = Playbook(WAITING) >> ModelInterrupted(2.5, 1) << Phase.THINKING << StopTimer(GoodbyeTimeout)
    assert play
    assert play.state.ending is None
    play = Playbook(changed(WAITING, dead=1, newest=1)) >> ModelInterrupted(2.5, 1) << Phase.CLOSING
    assert play
    play = Playbook(changed(WAITING, ending=STOPPED)) >> ModelInterrupted(2.5, 1) << Phase.CLOSING
    assert play


# --- the gateway's own reasons


@pytest.mark.parametrize("state", [LISTENING, THINKING, STOPPING, WAITING], ids=lambda s: s.phase.value)
def test_a_drain_ends_a_silent_call_at_once(state):
    assert Playbook(state) >> EndRequested(2.5, STOPPED) << End(STOPPED)


@pytest.mark.parametrize("state", [SPEAKING, CLOSING], ids=lambda s: s.phase.value)
def test_and_one_that_speaks_when_that_was_heard(state):
    play = Playbook(state) >> EndRequested(2.5, STOPPED) << Phase.CLOSING >> TurnComplete(2.6, 1)
    play >> CallerSpeechStarted(2.7, 2.64) << Clear(1) << BargeIn(1, 2.64, Verdict.SUSPECTED)
    play >> ModelInterrupted(2.8, 1) << BargeIn(1, 2.64, Verdict.CONFIRMED_BY_MODEL) << Drop(1)
    play << ReportHeard(1, 5_600) << End(STOPPED)
    assert play


def test_a_caller_cannot_talk_a_drain_away():
    stopped = changed(WAITING, ending=STOPPED)
    play = Playbook(stopped) >> CallerSpeechStarted(2.5, 2.4) >> BargeInLasted(3.4) << Phase.CLOSING
    play >> CallerSpeechEnded(4.0, 3.6) << Phase.CLOSING >> Until(100) << End(STOPPED)
    assert play


@by_phase
def test_the_time_limit(state):
    play = Playbook(state) >> TimeLimit(2.5)
    if state.phase in (Phase.LISTENING, Phase.THINKING, Phase.STOPPING):
        assert play << End(Ending.TIME_LIMIT)
    else:
        assert play << (Phase.HELD if state.phase is Phase.HELD else Phase.CLOSING)
        assert play.state.ending is Ending.TIME_LIMIT


def test_the_first_of_the_agents_reasons_stands():
    play = Playbook(CLOSING) >> EndRequested(2.5, TRANSFERRED)
    assert play << Phase.CLOSING
    assert play.state.ending is HUNG_UP


def test_an_agent_that_ends_the_call_while_stopping():
    play = Playbook(STOPPING) >> EndRequested(2.5, HUNG_UP) << Phase.CLOSING << SetTimer(GoodbyeTimeout, 5.5)
    play >> ClearAcknowledged(2.6, 0) << StopTimer(ClearTimeout) << Phase.CLOSING
    assert play
    play = Playbook(STOPPING) >> EndRequested(2.5, HUNG_UP) >> ClearTimeout(3.5) << Phase.CLOSING
    assert play
    assert not play.state.ledger.clear_pending


def test_nobody_can_say_goodbye_without_a_model():
    assert Playbook(changed(THINKING, link=Link.DOWN)) >> EndRequested(2.5, HUNG_UP) << End(HUNG_UP)


def test_no_warning_in_a_goodbye():
    assert Playbook(CLOSING) >> TimeWarning(2.5) << SetTimer(TimeWarning, 3.5) << Phase.CLOSING


def test_interrupting_caller_at_gateway_ending():
    over = changed(CLOSING, speaking=True, onset_s=1.0)
    play = Playbook(over) >> BargeInLasted(2.5) << Clear(1) << BargeIn(1, 1.0, Verdict.CONFIRMED_LOCALLY) << Drop(1)
    play << ReportHeard(1, 4_000) << Phase.STOPPING
    assert play
    assert Playbook(CLOSING) >> BargeInLasted(2.5) << Phase.CLOSING  # nobody speaks any more
