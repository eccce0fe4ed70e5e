"""Interrupting the agent: dialogues for each mode, each verdict, each awkward moment."""

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
    PlayFiller,
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
    CallerTranscribed,
    ClearAcknowledged,
    ClearTimeout,
    ConnectTimeout,
    DigitPressed,
    EndpointTimeout,
    EndRequested,
    GoodbyeTimeout,
    MarkReturned,
    ModelDown,
    ModelFailed,
    ModelInterrupted,
    ModelReady,
    Outcome,
    PlayoutTimeout,
    ReplyAudio,
    ReplyComplete,
    TimeLimit,
    TimeWarning,
    ToolFinished,
    ToolPolicy,
    TurnComplete,
    VerdictTimeout,
)
from offhook.gateway.conversation.ledger import Ledger, Reply
from offhook.gateway.conversation.state import Mode, Phase, Policy, RunningTool
from tests.conversation.playbook import HELD, LISTENING, SPEAKING, THINKING, Playbook, Until, changed

SUSPECTED, DISMISSED = Verdict.SUSPECTED, Verdict.DISMISSED
BY_MODEL, LOCALLY = Verdict.CONFIRMED_BY_MODEL, Verdict.CONFIRMED_LOCALLY

STOPPING = changed(
    SPEAKING,
    phase=Phase.STOPPING,
    ledger=Ledger((), 4_000, 4_000, 2.5, epoch=1, cleared_s=2.5),
    speaking=True,
    onset_s=2.4,
    clear_pending=True,
    agent_replied=False,
    reply=True,
    dead=1,
)

# 200 ms of a complete reply are kept.
AT_THE_END = changed(
    HELD, ledger=Ledger((Reply(1, 8_000, 8_000, 6_400, 6_400, marked=6_400, complete=True),), 6_400, 6_400, 2.5, 1)
)


# --- hold


def test_speech_stops_playback_and_keeps_the_tail():
    play = Playbook(SPEAKING) >> CallerSpeechStarted(2.5, onset_s=2.4)
    play << Clear(1) << BargeIn(1, 2.4, SUSPECTED) << Phase.HELD
    play << SetTimer(BargeInLasted, 3.4) << SetTimer(ClearTimeout, 3.5) << StopTimer(PlayoutTimeout)
    assert play
    (reply,) = play.state.ledger.replies
    assert (reply.received, reply.sent, reply.placed, reply.heard) == (8_000, 8_000, 4_000, 4_000)


def test_what_still_arrives_is_kept_with_the_tail():
    play = Playbook(HELD) >> ReplyAudio(2.6, 1, 800) >> ReplyAudio(2.7, 1, 800) << Phase.HELD
    assert play
    assert play.state.ledger.replies[0].received == 9_600


def test_the_models_interrupted_confirms():
    play = Playbook(HELD) >> ModelInterrupted(2.7, 1)
    play << BargeIn(1, 2.4, BY_MODEL) << Drop(1) << ReplyEnded(1, 8_000, 4_000, True) << ReportHeard(1, 4_000)
    play << Phase.STOPPING << StopTimer(BargeInLasted)
    play >> ReplyAudio(2.8, 1, 800) << Drop(1)  # late audio of the dead reply
    play >> ClearAcknowledged(2.81, 1) << Phase.LISTENING << StopTimer(ClearTimeout)
    play >> ReplyAudio(2.9, 1, 800) << Drop(1)
    play >> ReplyAudio(3.0, 2, 800) << Play(2, 0, 800) << Phase.SPEAKING
    assert play


def test_a_cough_is_dismissed_and_the_tail_played_on():
    play = Playbook(HELD) >> CallerSpeechEnded(3.0, offset_s=2.6) << SetTimer(VerdictTimeout, 3.0)
    play << StopTimer(BargeInLasted)
    play >> VerdictTimeout(3.0) << BargeIn(1, 2.4, DISMISSED) << Replay(1, 4_000, 6_400) << SendMark(1, 6_400, 1)
    play << Play(1, 6_400, 8_000) << Phase.SPEAKING << SetTimer(PlayoutTimeout, 3.0 + 0.5 + 5.0)
    assert play


def test_the_hangover_is_no_speech():
    """A cough of 300 ms is known to be over 400 ms after its end: by then 700 ms have passed, not been spoken."""
    play = Playbook(HELD) >> CallerSpeechEnded(3.1, offset_s=2.7) >> VerdictTimeout(3.1)
    play << BargeIn(1, 2.4, DISMISSED) << Replay(1, 4_000, 6_400) << Play(1, 6_400, 8_000)
    assert play


def test_lasting_speech_is_confirmed_without_the_model():
    play = Playbook(HELD) >> BargeInLasted(3.4) << BargeIn(1, 2.4, LOCALLY) << Drop(1) << ReportHeard(1, 4_000)
    play << Phase.STOPPING
    assert play


def test_lasting_speech_ended_early_is_confirmed():
    play = Playbook(HELD) >> CallerSpeechEnded(3.4, offset_s=3.05)
    play << BargeIn(1, 2.4, LOCALLY) << Drop(1) << ReportHeard(1, 4_000)
    play >> ClearAcknowledged(3.41, 1) << Phase.THINKING
    assert play


def test_second_speech_counts_from_its_own_onset():
    play = Playbook(HELD) >> CallerSpeechEnded(3.0, 2.6) >> CallerSpeechStarted(3.0, 2.95) << Phase.HELD
    play << SetTimer(BargeInLasted, 3.95) << StopTimer(VerdictTimeout)
    play >> VerdictTimeout(3.01) << Phase.HELD  # too late to mean anything
    play >> BargeInLasted(3.95) << BargeIn(1, 2.95, LOCALLY) << Drop(1) << ReportHeard(1, 4_000)
    assert play


def test_late_timer_confirms_nothing_in_silence():
    play = Playbook(HELD) >> CallerSpeechEnded(3.0, 2.6) >> BargeInLasted(3.0) << Phase.HELD
    assert play


def test_audio_received_while_held_plays_on_dismissal():
    play = Playbook(HELD) >> ReplyAudio(2.6, 1, 1_600) >> ReplyComplete(2.7, 1)
    play >> CallerSpeechEnded(3.0, 2.6) >> VerdictTimeout(3.0) << BargeIn(1, 2.4, DISMISSED)
    play << Replay(1, 4_000, 6_400) << SendMark(1, 6_400, 1) << Play(1, 6_400, 8_800) << SendMark(1, 8_800, 1)
    play << Play(1, 8_800, 9_600) << SendMark(1, 9_600, 1)
    play >> MarkReturned(3.8, 1, 9_600, 1) << ReplyEnded(1, 9_600, 9_600, False) << Phase.LISTENING
    assert play


def test_turn_end_while_held_completes_the_reply():
    play = Playbook(HELD) >> TurnComplete(2.7, 1)
    assert play
    assert play.state.ledger.replies[0].complete


def test_an_answer_into_the_last_words_is_no_cough():
    """ "... at eight?" - "Yes." Nothing worth playing on is left, and the answer must not be lost."""
    play = Playbook(AT_THE_END) >> CallerSpeechEnded(3.0, 2.6) >> VerdictTimeout(3.0)
    play << BargeIn(1, 2.4, LOCALLY) << Drop(1) << ReplyEnded(1, 8_000, 6_400, True) << Phase.LISTENING
    play >> ClearAcknowledged(3.05, 1) >> CallerTranscribed(3.1) << Phase.THINKING
    assert play


def test_answer_into_reply_end_opens_a_local_turn():
    play = Playbook(AT_THE_END, Policy(local_turns=True)) >> CallerSpeechEnded(3.0, 2.6) >> VerdictTimeout(3.0)
    play << BargeIn(1, 2.4, LOCALLY) << Drop(1) << OpenTurn() << Phase.LISTENING
    play >> Until(3.7) << CloseTurn()
    assert play


def test_okay_cancels_no_announced_tool():
    """ "Let me look that up for you." - "Okay." """
    play = Playbook(changed(AT_THE_END, tools=(TOOL,))) >> CallerSpeechEnded(3.0, 2.6) >> VerdictTimeout(3.0)
    play << BargeIn(1, 2.4, LOCALLY) << Drop(1) << Phase.THINKING
    play >> ToolFinished(3.1, "a", Outcome.DONE) << AnswerTool("a", Outcome.DONE, Speak.NOW)
    assert play


def test_a_goodbye_that_was_all_heard_when_it_was_held():
    heard = Ledger((Reply(1, 8_000, 8_000, 8_000, 8_000, marked=8_000, complete=True),), 8_000, 8_000, 2.5, 1)
    play = Playbook(changed(HELD, ledger=heard, ending=Ending.AGENT_HUNG_UP)) >> CallerSpeechEnded(3.0, 2.6)
    play >> VerdictTimeout(3.0) << BargeIn(1, 2.4, DISMISSED) << End(Ending.AGENT_HUNG_UP)
    assert play


def test_goodbye_over_the_goodbye_does_not_cancel_it():
    at_the_end = changed(AT_THE_END, ending=Ending.AGENT_HUNG_UP)
    play = Playbook(at_the_end) >> CallerSpeechEnded(3.0, 2.6) >> VerdictTimeout(3.0)
    play << BargeIn(1, 2.4, DISMISSED) << Replay(1, 6_400, 8_000) << Phase.CLOSING << SetTimer(GoodbyeTimeout, 23.0)
    play >> MarkReturned(3.3, 1, 8_000, 1) << End(Ending.AGENT_HUNG_UP)
    assert play


def test_speech_after_the_last_sample_is_an_answer():
    """Only the last mark is still on its way: nothing is stopped, nothing held."""
    said = changed(SPEAKING, ledger=Ledger((Reply(1, 8_000, 8_000, 8_000, 7_200, complete=True),), 8_000, 0, 2.0))
    play = Playbook(said) >> CallerSpeechStarted(3.05, 3.01) << Phase.LISTENING << ReplyEnded(1, 8_000, 8_000, False)
    play >> MarkReturned(3.1, 1, 8_000, 0) << Phase.LISTENING
    assert play
    play = Playbook(said, Policy(local_turns=True)) >> CallerSpeechStarted(3.05, 3.01) << OpenTurn()
    assert play


def test_marks_echoed_by_the_clear_prove_nothing():
    play = Playbook(HELD) >> MarkReturned(2.55, 1, 8_000, 0) << Phase.HELD
    play >> CallerSpeechEnded(3.0, 2.6) >> VerdictTimeout(3.0) << BargeIn(1, 2.4, DISMISSED)
    play << Replay(1, 4_000, 6_400) << Play(1, 6_400, 8_000)
    play >> MarkReturned(3.05, 1, 8_000, 0) << Phase.SPEAKING
    assert play
    assert play.state.ledger.replies[0].heard == 4_000


def test_marks_dropped_by_the_clear_are_not_waited_for():
    """The carrier neither echoes the marks nor answers the clear."""
    play = Playbook(STOPPING) >> Until(200) << Phase.LISTENING
    assert play
    silent = Playbook(changed(STOPPING, speaking=False)) >> ClearTimeout(3.5) << Phase.THINKING
    assert silent
    held = Playbook(HELD) >> ClearTimeout(3.5) >> BargeInLasted(3.5) << BargeIn(1, 2.4, LOCALLY) << Drop(1)
    held << ReportHeard(1, 4_000) << Phase.LISTENING
    assert held


def test_two_interruptions_within_a_second():
    play = Playbook(SPEAKING) >> CallerSpeechStarted(2.5, 2.4) << Clear(1) << BargeIn(1, 2.4, SUSPECTED)
    play >> ModelInterrupted(2.6, 1) << BargeIn(1, 2.4, BY_MODEL) << Drop(1) << ReportHeard(1, 4_000)
    play >> CallerSpeechEnded(3.0, 2.6) >> ReplyAudio(3.05, 2, 8_000) << Phase.SPEAKING
    play << Play(2, 0, 2_400) << Play(2, 2_400, 4_800) << Play(2, 4_800, 7_200) << Play(2, 7_200, 8_000)
    play >> CallerSpeechStarted(3.2, 3.1) << Clear(2) << BargeIn(2, 3.1, SUSPECTED) << Phase.HELD
    play >> ClearAcknowledged(3.25, 1) << Phase.HELD  # the answer to the first is none to the second
    play >> ModelInterrupted(3.3, 2) << BargeIn(2, 3.1, BY_MODEL) << Drop(2) << ReportHeard(2, 1_280) << Phase.STOPPING
    play >> ClearAcknowledged(3.31, 2) << Phase.LISTENING
    assert play


def test_interruption_before_audio_is_no_barge_in():
    play = Playbook(THINKING) >> ModelInterrupted(2.0, 3) << Phase.THINKING >> ReplyAudio(2.1, 3, 800) << Drop(3)
    play >> TurnComplete(2.2, 3)
    assert play


@pytest.mark.parametrize("state", [SPEAKING, HELD, THINKING])
def test_local_turns_an_unasked_interrupted_is_nothing(state):
    """The model's detection is disabled, and it reports all the same. Its turn goes on, or `turnComplete` ends it."""
    play = Playbook(changed(state, tools=(TOOL,)), Policy(local_turns=True))
    for _ in range(10):
        play = play >> ModelInterrupted(2.7, 1)
    assert play
    assert play.state == changed(state, tools=(TOOL,))


def test_local_turns_the_detector_alone_confirms():
    play = Playbook(HELD, Policy(local_turns=True)) >> ModelInterrupted(2.7, 1) >> BargeInLasted(3.0)
    play << BargeIn(1, 2.4, LOCALLY) << Drop(1) << ReportHeard(1, 4_000) << OpenTurn() << Phase.STOPPING
    assert play


def test_interrupted_after_the_generation_was_complete():
    whole = changed(SPEAKING, ledger=Ledger((Reply(1, 8_000, 8_000, 8_000, complete=True),), 8_000, 0, 2.0))
    play = Playbook(whole) >> ModelInterrupted(2.5, 1) << Clear(1) << BargeIn(1, 2.5, BY_MODEL) << Drop(1)
    play << ReplyEnded(1, 8_000, 4_000, True) << ReportHeard(1, 4_000) << Phase.STOPPING
    assert play


def test_phantom_interruption_is_mended_by_watchdog():
    """The model says `interrupted`, nobody spoke, and it says nothing more."""
    play = Playbook(SPEAKING) >> ModelInterrupted(2.5, 1) << Clear(1) << BargeIn(1, 2.5, BY_MODEL) << Drop(1)
    play << ReportHeard(1, 4_000) >> ClearAcknowledged(2.6, 1) << Phase.THINKING
    assert play >> Until(8.7) << PlayFiller() << SendPrompt(Prompt.NUDGE)


def test_the_model_may_hear_the_caller_first():
    play = Playbook(SPEAKING) >> ModelInterrupted(2.5, 1) << Clear(1) << BargeIn(1, 2.5, BY_MODEL) << Drop(1)
    play << ReportHeard(1, 4_000) << Phase.STOPPING >> CallerSpeechStarted(2.55, 2.3) << Phase.STOPPING
    play << StopTimer(EndpointTimeout) >> ClearAcknowledged(2.6, 1) << Phase.LISTENING
    assert play


def test_interrupted_twice_for_one_reply_is_said_once():
    play = Playbook(STOPPING) >> ModelInterrupted(2.6, 1) << Phase.STOPPING
    play >> ClearAcknowledged(2.7, 1) >> ModelInterrupted(2.8, 1) << Phase.LISTENING
    assert play


def test_new_turn_interrupted_while_stopping_is_dead():
    play = Playbook(STOPPING) >> ModelInterrupted(2.6, 2) >> ReplyAudio(2.7, 2, 800) << Drop(2)
    assert play


def test_a_new_reply_while_stopping_is_played():
    play = Playbook(changed(STOPPING, speaking=False)) >> ReplyAudio(2.6, 2, 800) << Play(2, 0, 800)
    play << Phase.SPEAKING >> ClearAcknowledged(2.62, 1) << Phase.SPEAKING << StopTimer(ClearTimeout)
    assert play
    assert not play.state.ledger.clear_pending
    assert abs(play.state.ledger.round_trip_s - 0.12) < 1e-9
    late = Playbook(changed(STOPPING, speaking=False)) >> ReplyAudio(2.6, 2, 800) << Play(2, 0, 800)
    late >> ClearTimeout(3.5) << Phase.SPEAKING
    assert late
    assert not late.state.ledger.clear_pending


@pytest.mark.parametrize("state", [LISTENING, THINKING], ids=lambda s: s.phase.value)
def test_a_clear_answered_late_is_answered(state):
    """A dismissed barge-in into the last words: the reply was over before the carrier said a word."""
    waiting = changed(state, ledger=Ledger(epoch=1, cleared_s=2.5), clear_pending=True)
    play = Playbook(waiting) >> ClearAcknowledged(2.6, 1) << StopTimer(ClearTimeout) << state.phase
    assert not play.state.ledger.clear_pending
    assert play
    play = Playbook(waiting) >> ClearTimeout(3.5) << state.phase
    assert not play.state.ledger.clear_pending
    assert play


def test_clear_confirmed_while_held_is_done():
    play = Playbook(HELD) >> ClearAcknowledged(2.6, 1) << StopTimer(ClearTimeout) << Phase.HELD
    play >> ModelInterrupted(2.7, 1) << BargeIn(1, 2.4, BY_MODEL) << Drop(1) << ReportHeard(1, 4_000)
    assert play << Phase.LISTENING


def test_a_pause_of_breath_while_stopping():
    play = Playbook(STOPPING) >> CallerSpeechEnded(2.9, 2.5) >> ClearAcknowledged(2.95, 1) << Phase.THINKING
    assert play


def test_all_that_is_open_is_dropped():
    """A filler is being heard, the answer waits behind it."""
    two = changed(
        HELD,
        ledger=Ledger((Reply(1, 8_000, 8_000, 4_000, 4_000, complete=True), Reply(2, 800, 800)), 4_000, 4_000, 2.5, 1),
        newest=2,
    )
    play = Playbook(two) >> ModelInterrupted(2.7, 2) << BargeIn(1, 2.4, BY_MODEL)
    play << Drop(1) << ReplyEnded(1, 8_000, 4_000, True) << ReportHeard(1, 4_000)
    play << Drop(2) << ReplyEnded(2, 800, 0, True) << ReportHeard(2, 0)
    assert play


def test_nothing_is_told_where_repair_is_off():
    play = (
        Playbook(HELD, Policy(report_heard=False)) >> ModelInterrupted(2.7, 1) << BargeIn(1, 2.4, BY_MODEL) << Drop(1)
    )
    assert play


# --- the other modes


def test_stop_the_detectors_word_is_final():
    play = Playbook(SPEAKING, Policy(mode=Mode.STOP)) >> CallerSpeechStarted(2.5, 2.4) << Clear(1)
    play << BargeIn(1, 2.4, LOCALLY) << Drop(1) << ReportHeard(1, 4_000) << Phase.STOPPING
    assert play


def test_model_only_interrupted_counts():
    play = Playbook(SPEAKING, Policy(mode=Mode.MODEL)) >> CallerSpeechStarted(2.5, 2.4) << Phase.SPEAKING
    play >> ModelInterrupted(2.8, 1) << Clear(1) << BargeIn(1, 2.4, BY_MODEL) << Drop(1) << ReportHeard(1, 6_400)
    assert play


def test_off_the_agent_finishes():
    play = Playbook(SPEAKING, Policy(mode=Mode.OFF, dtmf_barge_in=True)) >> CallerSpeechStarted(2.5, 2.4)
    play << Phase.SPEAKING >> DigitPressed(2.6) << Phase.SPEAKING
    play >> ModelInterrupted(2.7, 1) << SendMark(1, 8_000, 0) << Phase.SPEAKING
    play >> MarkReturned(3.1, 1, 8_000, 0) << Phase.LISTENING
    assert play


# --- protected replies

PROTECTED = Policy(greeting_protected=True)


def test_protected_greeting_mutes_caller_to_its_end():
    play = Playbook(LISTENING, PROTECTED) >> ReplyAudio(2.0, 1, 8_000)
    play << Play(1, 0, 2_400) << Play(1, 2_400, 4_800) << Play(1, 4_800, 7_200) << Play(1, 7_200, 8_000)
    assert play.state.caller_muted
    play >> ReplyComplete(2.1, 1) >> CallerSpeechStarted(2.5, 2.4) << Phase.SPEAKING
    play >> DigitPressed(2.6) << Phase.SPEAKING >> ModelInterrupted(2.7, 1) << Phase.SPEAKING
    play >> MarkReturned(3.1, 1, 8_000, 0) << Phase.LISTENING
    assert play
    assert not play.state.caller_muted


def test_only_the_first_reply_is_the_greeting():
    play = Playbook(LISTENING, PROTECTED) >> ReplyAudio(2.0, 1, 800) << Play(1, 0, 800) >> ReplyComplete(2.0, 1)
    play >> MarkReturned(2.2, 1, 800, 0) >> ReplyAudio(3.0, 2, 800) << Play(2, 0, 800)
    assert not play.state.caller_muted
    play >> CallerSpeechStarted(3.05, 3.0) << Clear(1) << BargeIn(2, 3.0, SUSPECTED) << Phase.HELD
    assert play


def test_an_empty_turn_is_no_greeting():
    play = Playbook(THINKING, PROTECTED) >> TurnComplete(2.0, 1) << SendPrompt(Prompt.NUDGE)
    play >> ReplyAudio(2.5, 2, 800) << Play(2, 0, 800)
    assert play.state.caller_muted
    assert play


def test_speech_through_protected_reply_stops_the_next():
    play = Playbook(LISTENING, PROTECTED) >> ReplyAudio(2.0, 1, 2_400) << Play(1, 0, 2_400)
    play >> ReplyComplete(2.0, 1) >> ReplyAudio(2.1, 2, 2_400) << Play(2, 0, 2_400)
    play >> CallerSpeechStarted(2.2, 2.1) << Phase.SPEAKING
    play >> MarkReturned(2.4, 1, 2_400, 0) << SetTimer(BargeInLasted, 3.0)
    assert not play.state.caller_muted
    play >> BargeInLasted(2.5) << Clear(1) << BargeIn(2, 2.1, LOCALLY) << Drop(2) << ReportHeard(2, 1_600)
    assert play


def test_cut_protected_reply_unmutes_the_caller():
    play = Playbook(LISTENING, PROTECTED) >> ReplyAudio(2.0, 1, 800) << Play(1, 0, 800)
    play >> Until(7.2) << Phase.THINKING
    assert not play.state.caller_muted
    play >> ReplyAudio(7.3, 1, 800) << Play(1, 800, 1_600)
    assert play.state.caller_muted
    play >> ModelDown(7.4) >> MarkReturned(7.5, 1, 1_600, 0)
    assert not play.state.caller_muted
    assert play


# --- keys


def test_a_key_interrupts_where_it_may():
    play = Playbook(SPEAKING, Policy(dtmf_barge_in=True)) >> DigitPressed(2.5) << Clear(1)
    play << BargeIn(1, 2.5, LOCALLY) << Drop(1) << ReportHeard(1, 4_000) << Phase.STOPPING
    play >> DigitPressed(2.55) << Phase.STOPPING
    play >> ClearAcknowledged(2.6, 1) << Phase.THINKING
    assert play
    assert Playbook(SPEAKING) >> DigitPressed(2.5) << Phase.SPEAKING


def test_a_key_decides_a_suspected_barge_in():
    play = Playbook(HELD, Policy(dtmf_barge_in=True)) >> DigitPressed(2.6) << BargeIn(1, 2.4, LOCALLY) << Drop(1)
    play << ReportHeard(1, 4_000) << Phase.STOPPING
    assert play
    assert Playbook(HELD) >> DigitPressed(2.6) << Phase.HELD


def test_key_interrupts_with_local_turns():
    play = Playbook(SPEAKING, Policy(dtmf_barge_in=True, local_turns=True)) >> DigitPressed(2.5) << Clear(1)
    play << BargeIn(1, 2.5, LOCALLY) << Drop(1) << ReportHeard(1, 4_000) << OpenTurn()
    play >> ClearAcknowledged(2.6, 1) << Phase.LISTENING >> Until(3.3) << CloseTurn() << Phase.THINKING
    assert play


# --- caller and agent at once


def test_agent_does_not_begin_over_a_new_speaker():
    play = Playbook(LISTENING) >> CallerSpeechStarted(2.0, 1.94) >> ReplyAudio(2.1, 1, 800) << Phase.HELD
    play << SetTimer(BargeInLasted, 2.94)
    play >> BargeInLasted(2.94) << Drop(1) << ReplyEnded(1, 800, 0, True) << ReportHeard(1, 0) << Phase.LISTENING
    assert play


def test_it_begins_when_that_was_a_cough():
    play = Playbook(LISTENING) >> CallerSpeechStarted(2.0, 1.94) >> ReplyAudio(2.1, 1, 800) << Phase.HELD
    play >> ReplyAudio(2.2, 1, 800) >> CallerSpeechEnded(2.5, 2.1) >> VerdictTimeout(2.5)
    play << Play(1, 0, 1_600) << Phase.SPEAKING
    assert play


def test_also_where_the_detectors_word_is_final():
    """Nothing was heard of the reply that could be stopped, and the word may still prove a cough."""
    play = Playbook(LISTENING, Policy(mode=Mode.STOP)) >> CallerSpeechStarted(2.0, 1.94) >> ReplyAudio(2.1, 1, 800)
    play << Phase.HELD >> CallerSpeechEnded(2.5, 2.1) >> VerdictTimeout(2.5) << Play(1, 0, 800)
    assert play


def test_a_reply_within_the_hangover_is_played_at_once():
    """The caller has long spoken, and has perhaps stopped: the answer does not wait for the detector's word."""
    play = Playbook(LISTENING) >> CallerSpeechStarted(2.0, 1.94) >> ReplyAudio(4.0, 1, 800) << Play(1, 0, 800)
    play << Phase.SPEAKING << SetTimer(BargeInLasted, 4.6)
    play >> CallerSpeechEnded(4.2, 3.8) << StopTimer(BargeInLasted) << Phase.SPEAKING
    assert play


def test_agent_yields_to_speech_over_its_beginning():
    play = Playbook(LISTENING) >> CallerSpeechStarted(2.0, 1.94) >> ReplyAudio(4.0, 1, 8_000)
    play << Play(1, 0, 2_400) << Play(1, 2_400, 4_800) << Play(1, 4_800, 7_200) << Play(1, 7_200, 8_000)
    play >> BargeInLasted(4.6) << Clear(1) << BargeIn(1, 1.94, LOCALLY) << Drop(1) << ReportHeard(1, 4_800)
    play << Phase.STOPPING
    assert play


def test_detector_stops_nothing_in_mode_model():
    play = Playbook(LISTENING, Policy(mode=Mode.MODEL)) >> CallerSpeechStarted(2.0, 1.94) >> ReplyAudio(2.1, 1, 800)
    play << Play(1, 0, 800) >> BargeInLasted(2.8) << Phase.SPEAKING
    assert play


def test_reply_waits_while_the_local_turn_is_open():
    play = Playbook(LISTENING, Policy(local_turns=True)) >> CallerSpeechStarted(2.0, 1.94) << OpenTurn()
    play >> ReplyAudio(4.0, 1, 800) << Phase.HELD >> Until(4.0) << Drop(1) << ReportHeard(1, 0) << Phase.LISTENING
    assert play


def test_model_may_interrupt_a_held_reply():
    play = Playbook(LISTENING) >> CallerSpeechStarted(2.0, 1.94) >> ReplyAudio(2.1, 1, 800) << Phase.HELD
    play >> ModelInterrupted(2.2, 1) << Drop(1) << ReportHeard(1, 0) << Phase.LISTENING
    assert play
    play = Playbook(changed(HELD, dead=0)) >> ModelInterrupted(2.6, 0) << Phase.HELD  # of an older turn
    assert play


# --- while held, everything else goes on

TOOL = RunningTool("a")
FINISHES = RunningTool("b", ToolPolicy.FINISH)


def test_confirmed_barge_in_cancels_yielding_tools():
    play = Playbook(changed(HELD, tools=(TOOL, FINISHES))) >> ModelInterrupted(2.7, 1) << BargeIn(1, 2.4, BY_MODEL)
    play << Drop(1) << ReportHeard(1, 4_000) << CancelTool("a")
    play >> ToolFinished(2.8, "a", Outcome.DONE)  # too late: dropped
    play >> ToolFinished(2.9, "b", Outcome.DONE) << AnswerTool("b", Outcome.DONE, Speak.WHEN_IDLE)
    assert play


def test_a_dismissed_one_cancels_nothing():
    play = Playbook(changed(HELD, tools=(TOOL,))) >> CallerSpeechEnded(3.0, 2.6) >> VerdictTimeout(3.0)
    play << BargeIn(1, 2.4, DISMISSED) << Replay(1, 4_000, 6_400) << Play(1, 6_400, 8_000)
    play >> ToolFinished(3.1, "a", Outcome.DONE) << AnswerTool("a", Outcome.DONE, Speak.WHEN_IDLE)
    assert play


def test_a_request_to_end_waits_for_the_verdict():
    play = Playbook(HELD) >> EndRequested(2.6, Ending.AGENT_HUNG_UP) << Phase.HELD
    play >> CallerSpeechEnded(3.0, 2.6) >> VerdictTimeout(3.0) << BargeIn(1, 2.4, DISMISSED)
    play << Replay(1, 4_000, 6_400) << Play(1, 6_400, 8_000) << Phase.CLOSING
    assert play
    play = Playbook(HELD) >> EndRequested(2.6, Ending.AGENT_HUNG_UP) >> ModelInterrupted(2.7, 1)
    play << BargeIn(1, 2.4, BY_MODEL) << Drop(1) << ReportHeard(1, 4_000) << Phase.STOPPING
    assert play
    assert play.state.ending is None
    play = Playbook(HELD) >> EndRequested(2.6, Ending.SERVER_STOPPED) >> ModelInterrupted(2.7, 1)
    play << BargeIn(1, 2.4, BY_MODEL) << Drop(1) << ReportHeard(1, 4_000) << End(Ending.SERVER_STOPPED)
    assert play


def test_gateway_ending_is_not_replaced_by_the_agents():
    play = Playbook(HELD) >> TimeLimit(2.6) >> EndRequested(2.65, Ending.AGENT_HUNG_UP) >> ModelInterrupted(2.7, 1)
    play << BargeIn(1, 2.4, BY_MODEL) << Drop(1) << ReportHeard(1, 4_000) << End(Ending.TIME_LIMIT)
    assert play


def test_the_time_warning_waits_while_held():
    assert Playbook(HELD) >> TimeWarning(2.6) << SetTimer(TimeWarning, 3.6) << Phase.HELD
    assert Playbook(STOPPING) >> TimeWarning(2.6) << SetTimer(TimeWarning, 3.6) << Phase.STOPPING


def test_link_lost_while_held_owes_the_rest():
    play = Playbook(HELD) >> ModelDown(2.6) << SetTimer(ConnectTimeout, 42.6)
    play >> ModelReady(2.9) << StopTimer(ConnectTimeout)
    play >> CallerSpeechEnded(3.0, 2.6) >> VerdictTimeout(3.0) << BargeIn(1, 2.4, DISMISSED)
    play << Replay(1, 4_000, 6_400) << Play(1, 6_400, 8_000)
    play >> MarkReturned(3.6, 1, 8_000, 1) << Phase.THINKING
    assert play


def test_a_link_that_fails_while_held():
    play = Playbook(HELD) >> ModelFailed(2.6) << Phase.HELD >> BargeInLasted(3.4) << BargeIn(1, 2.4, LOCALLY)
    play << Drop(1) << End(Ending.MODEL_LOST)
    assert play
    heard = Playbook(HELD) >> ModelFailed(2.6) >> CallerSpeechEnded(3.0, 2.6) >> VerdictTimeout(3.0)
    heard << BargeIn(1, 2.4, DISMISSED) << Replay(1, 4_000, 6_400) << Play(1, 6_400, 8_000) << Phase.CLOSING
    heard >> MarkReturned(3.6, 1, 8_000, 1) << End(Ending.MODEL_LOST)
    assert heard
