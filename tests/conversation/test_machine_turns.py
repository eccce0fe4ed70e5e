"""Whose word it is: turns, the wait for an answer, the watchdogs, the idle caller."""

from __future__ import annotations

import pytest

from offhook.gateway.conversation.commands import (
    CloseTurn,
    Drop,
    End,
    OpenTurn,
    Play,
    PlayFiller,
    PlayGreeting,
    Prompt,
    ReconnectModel,
    ReplyEnded,
    SendMark,
    SendPrompt,
    SetTimer,
    StopTimer,
    Unanswered,
)
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.conversation.events import (
    CallerSpeechEnded,
    CallerSpeechStarted,
    CallerTranscribed,
    ConnectTimeout,
    DigitPressed,
    EndpointTimeout,
    FillerDue,
    GoodbyeTimeout,
    IdleTimeout,
    MarkReturned,
    ModelInterrupted,
    ModelReady,
    ModelSilent,
    PlayoutTimeout,
    ReplyAudio,
    ReplyComplete,
    StreamStarted,
    TimeLimit,
    TimeWarning,
    TurnComplete,
)
from offhook.gateway.conversation.ledger import Ledger, Reply
from offhook.gateway.conversation.state import Greets, Link, Phase, Policy, RunningTool, State
from tests.conversation.playbook import LISTENING, SPEAKING, THINKING, Playbook, Until, changed

LOCAL = Policy(local_turns=True)
UP = State(link=Link.UP)
WHOLE = changed(SPEAKING, ledger=Ledger((Reply(1, 8_000, 8_000, 8_000, complete=True),), 8_000, 0, 2.0))


# --- the beginning


def test_model_greets_once_stream_and_model_are_up():
    policy = Policy(greets=Greets.MODEL, call_limit_s=600, warning_s=60)
    play = Playbook(UP, policy) >> StreamStarted(1.0) << SendPrompt(Prompt.GREETING) << Phase.THINKING
    play << SetTimer(TimeLimit, 601.0) << SetTimer(TimeWarning, 541.0)
    assert play
    play = Playbook(State(), policy) >> StreamStarted(1.0) << SetTimer(ConnectTimeout, 13.0) << Phase.THINKING
    play >> StreamStarted(1.1) >> ModelReady(2.0) << SendPrompt(Prompt.GREETING) << StopTimer(ConnectTimeout)
    play << SetTimer(ModelSilent, 8.0)
    assert play


def test_lost_greeting_is_prompted_again():
    policy = Policy(greets=Greets.MODEL)
    play = Playbook(changed(THINKING, link=Link.DOWN), policy) >> ModelReady(3.0)
    play << SendPrompt(Prompt.GREETING) << Phase.THINKING
    assert play


def test_a_caller_who_says_hello_first_is_heard_out():
    policy = Policy(greets=Greets.MODEL)
    early = changed(State(Phase.LISTENING), speaking=True, onset_s=1.5)
    play = Playbook(early, policy) >> ModelReady(2.0) << SendPrompt(Prompt.GREETING) << Phase.LISTENING
    play >> CallerSpeechEnded(2.2, 1.8) << Phase.THINKING
    assert play


def test_a_sound_greets_at_once():
    play = Playbook(State(), Policy(greets=Greets.SOUND)) >> StreamStarted(1.0) << PlayGreeting() << Phase.LISTENING
    play >> ReplyAudio(1.0, 1, 800) << Play(1, 0, 800) >> ReplyComplete(1.0, 1) << Phase.SPEAKING
    play >> MarkReturned(1.15, 1, 800, 0) << Phase.LISTENING
    assert play


def test_nobody_greets():
    assert Playbook(UP) >> StreamStarted(1.0) << Phase.LISTENING << SetTimer(IdleTimeout, 11.0)


def test_audio_before_the_stream_is_dropped():
    play = Playbook(UP) >> ReplyAudio(0.5, 1, 800) << Drop(1) >> StreamStarted(1.0)
    play >> ReplyAudio(1.1, 1, 800) << Drop(1) << Phase.LISTENING
    assert play


# --- a turn


def test_a_turn_is_taken_and_answered():
    play = Playbook(LISTENING) >> CallerSpeechStarted(2.0, 1.9) << Phase.LISTENING << StopTimer(IdleTimeout)
    play >> CallerSpeechEnded(4.0, 3.6) << Phase.THINKING << SetTimer(ModelSilent, 9.6)
    play >> ReplyAudio(4.5, 1, 1_600, audible_sample=320) << Play(1, 0, 320) << SendMark(1, 320, 0)
    play << Play(1, 320, 1_600) << Phase.SPEAKING << StopTimer(ModelSilent)
    play >> ReplyAudio(4.6, 1, 1_600) << Play(1, 1_600, 2_720) << SendMark(1, 2_720, 0) << Play(1, 2_720, 3_200)
    play >> ReplyComplete(4.7, 1) << SendMark(1, 3_200, 0) >> MarkReturned(4.6, 1, 320, 0)
    play >> MarkReturned(4.95, 1, 3_200, 0) << ReplyEnded(1, 3_200, 3_200, False) << Phase.LISTENING
    play << SetTimer(IdleTimeout, 14.95) << StopTimer(PlayoutTimeout)
    play >> TurnComplete(5.0, 1) << Phase.LISTENING
    assert play


def test_turn_complete_completes_its_reply():
    play = Playbook(SPEAKING) >> TurnComplete(2.5, 1) << SendMark(1, 8_000, 0) << Phase.SPEAKING
    play >> MarkReturned(3.05, 1, 8_000, 0) << ReplyEnded(1, 8_000, 8_000, False) << Phase.LISTENING
    assert play


def test_the_caller_resumes_right_after_the_turn():
    play = Playbook(THINKING) >> CallerSpeechStarted(2.0, 1.94) << Phase.LISTENING << StopTimer(ModelSilent)
    play >> ModelInterrupted(2.2, 1) << Phase.LISTENING >> ReplyAudio(2.25, 1, 800) << Drop(1)
    play >> CallerSpeechEnded(4.0, 3.6) << Phase.THINKING
    assert play


def test_a_cough_into_the_wait_does_not_end_it():
    play = Playbook(THINKING) >> CallerSpeechStarted(2.0, 1.94) >> CallerSpeechEnded(2.6, 2.2) << Phase.THINKING
    play << SetTimer(ModelSilent, 8.2)
    assert play


def test_a_cough_into_silence_is_no_turn():
    play = Playbook(LISTENING) >> CallerSpeechStarted(2.0, 1.94) >> CallerSpeechEnded(2.6, 2.2) << Phase.LISTENING
    play << SetTimer(IdleTimeout, 12.6)
    assert play


def test_hello_hello_is_no_cough():
    play = Playbook(LISTENING) >> CallerSpeechStarted(2.0, 1.94) >> CallerSpeechEnded(2.6, 2.2) << Phase.LISTENING
    play >> CallerSpeechStarted(5.0, 4.94) << Unanswered() >> CallerSpeechEnded(5.6, 5.2) << Phase.THINKING
    play >> Until(6.7) << Unanswered() << SendPrompt(Prompt.NUDGE)
    assert play


def test_what_the_model_understood_was_a_turn():
    play = Playbook(LISTENING) >> CallerSpeechStarted(2.0, 1.94) >> CallerSpeechEnded(2.6, 2.2) << Phase.LISTENING
    play >> CallerTranscribed(2.8) << Phase.THINKING << StopTimer(IdleTimeout) << SetTimer(ModelSilent, 8.8)
    play >> CallerTranscribed(2.9) << SetTimer(ModelSilent, 8.8)  # counted from the first
    assert play
    within_the_hangover = Playbook(LISTENING) >> CallerSpeechStarted(2.0, 1.94) >> CallerTranscribed(2.3)
    within_the_hangover << Phase.LISTENING >> CallerSpeechEnded(2.6, 2.2) << Phase.THINKING
    assert within_the_hangover


def test_late_transcript_of_answered_turn_is_ignored():
    assert Playbook(LISTENING) >> CallerTranscribed(2.8) << Phase.LISTENING
    assert Playbook(SPEAKING) >> CallerTranscribed(2.8) << Phase.SPEAKING


def test_late_audio_without_a_reply_to_it_is_a_reply():
    play = Playbook(LISTENING) >> ReplyAudio(2.0, 4, 800) << Play(4, 0, 800) << Phase.SPEAKING
    assert play


def test_a_second_reply_is_played_behind_the_first():
    play = Playbook(SPEAKING) >> ReplyComplete(2.3, 1) >> ReplyAudio(2.5, 2, 2_400) << Play(2, 0, 2_400)
    play << SendMark(2, 2_400, 0) >> ReplyComplete(2.6, 2)
    play >> MarkReturned(3.1, 1, 8_000, 0) << ReplyEnded(1, 8_000, 8_000, False) << Phase.SPEAKING
    play >> MarkReturned(3.4, 2, 2_400, 0) << ReplyEnded(2, 2_400, 2_400, False) << Phase.LISTENING
    assert play


def test_speech_over_mode_off_has_floor_afterwards():
    talking = changed(WHOLE, speaking=True, onset_s=2.9)
    play = Playbook(talking, LOCAL) >> MarkReturned(3.1, 1, 8_000, 0) << OpenTurn() << Phase.LISTENING
    play >> CallerSpeechEnded(5.0, 4.6) << SetTimer(EndpointTimeout, 5.3) >> Until(5.3) << CloseTurn()
    play << Phase.THINKING
    assert play


# --- local turns


def test_local_turns_are_told_to_the_model():
    play = Playbook(LISTENING, LOCAL) >> CallerSpeechStarted(2.0, 1.94) << OpenTurn() << Phase.LISTENING
    play >> CallerSpeechEnded(4.0, 3.6) << SetTimer(EndpointTimeout, 4.3) << Phase.LISTENING
    play >> CallerSpeechStarted(4.2, 4.1) << StopTimer(EndpointTimeout)  # a pause for breath
    play >> CallerSpeechEnded(6.0, 5.6) >> Until(6.3) << CloseTurn() << Phase.THINKING
    play << SetTimer(ModelSilent, 11.6)  # from the end of speech
    assert play


def test_a_local_cough_is_told_and_not_waited_upon():
    play = Playbook(LISTENING, LOCAL) >> CallerSpeechStarted(2.0, 1.94) << OpenTurn()
    play >> CallerSpeechEnded(2.6, 2.2) >> Until(2.9) << CloseTurn() << Phase.LISTENING
    play << SetTimer(IdleTimeout, 12.9)
    assert play


def test_a_late_endpoint_ends_no_turn_that_goes_on():
    speaking = changed(LISTENING, speaking=True, turn_open=True)
    assert Playbook(speaking, LOCAL) >> EndpointTimeout(2.0) << Phase.LISTENING
    assert Playbook(LISTENING, LOCAL) >> EndpointTimeout(2.0) << Phase.LISTENING


@pytest.mark.parametrize("phase", [Phase.SPEAKING, Phase.CLOSING])
def test_local_turn_ends_though_the_agent_spoke(phase):
    talking = changed(WHOLE, phase=phase, speaking=True, onset_s=1.0, turn_open=True)
    talking = changed(talking, ending=Ending.TIME_LIMIT) if phase is Phase.CLOSING else talking
    play = Playbook(talking, LOCAL) >> CallerSpeechEnded(2.2, 1.8) << SetTimer(EndpointTimeout, 2.5)
    play >> EndpointTimeout(2.5) << CloseTurn() << phase
    assert play


def test_a_turn_is_ended_while_held_and_while_stopping():
    for phase in (Phase.HELD, Phase.STOPPING):
        replies = WHOLE.ledger.replies if phase is Phase.HELD else ()
        ledger = Ledger(replies, 0, 0, 2.0, epoch=1)
        state = changed(WHOLE, phase=phase, ledger=ledger, turn_open=True, speaking=True, clear_pending=True)
        play = Playbook(changed(state, onset_s=1.9), LOCAL) >> CallerSpeechEnded(2.6, 2.2)
        play << SetTimer(EndpointTimeout, 2.9) >> EndpointTimeout(2.9) << CloseTurn() << phase
        assert play


def test_speech_while_stopping_opens_a_turn():
    stopping = changed(LISTENING, phase=Phase.STOPPING, clear_pending=True)
    play = Playbook(stopping, LOCAL) >> CallerSpeechStarted(2.0, 1.94) << OpenTurn() << Phase.STOPPING
    assert play


# --- watchdogs


def test_silent_model_nudge_reconnect_give_up():
    play = Playbook(LISTENING) >> CallerSpeechStarted(2.0, 1.9) >> CallerSpeechEnded(4.0, 3.6)
    play >> Until(9.6) << Unanswered() << SendPrompt(Prompt.NUDGE) << PlayFiller() << Phase.THINKING
    play >> Until(11.1) << ReconnectModel() << SetTimer(ConnectTimeout, 51.1)
    play >> ModelReady(12.0) << SendPrompt(Prompt.NUDGE)  # the prompt before was lost with its connection
    play >> Until(15.1) << End(Ending.MODEL_LOST) << Phase.ENDED
    assert play


def test_an_answer_clears_the_strikes():
    play = Playbook(changed(THINKING, failed_prompts=2)) >> ReplyAudio(3.0, 1, 800, 800) << Play(1, 0, 800)
    assert play
    assert play.state.due.failed_prompts == 0


def test_a_silence_whatever_the_policy_says_has_an_end():
    play = Playbook(LISTENING, Policy(silent_after_s=0)) >> CallerSpeechStarted(2.0, 1.9) >> CallerSpeechEnded(4.0, 3.6)
    play << SetTimer(ModelSilent, 4.6)
    assert play


def test_an_empty_turn_is_nudged_at_once_and_only_once():
    play = Playbook(THINKING) >> TurnComplete(2.0, 1) << SendPrompt(Prompt.NUDGE) << SetTimer(ModelSilent, 3.5)
    play >> TurnComplete(2.5, 2) << Phase.THINKING
    assert play


def test_end_of_earlier_turn_is_no_empty_turn():
    assert Playbook(changed(THINKING, newest=3)) >> TurnComplete(2.0, 3) << Phase.THINKING
    assert Playbook(changed(THINKING, dead=3)) >> TurnComplete(2.0, 3) << Phase.THINKING


def test_a_reply_that_breaks_off_counts_as_silence():
    play = Playbook(SPEAKING) >> PlayoutTimeout(5.0) << SetTimer(PlayoutTimeout, 8.0) << Phase.SPEAKING
    play >> PlayoutTimeout(8.0) << Phase.THINKING << SetTimer(ModelSilent, 9.0) << SetTimer(FillerDue, 9.0)
    play >> ReplyAudio(9.0, 1, 800) << Play(1, 8_000, 8_800) << Phase.SPEAKING  # it goes on after all
    assert play


def test_cut_reply_that_was_complete_after_all():
    broken = changed(SPEAKING, phase=Phase.THINKING, reply=True)
    for end in (ReplyComplete(9.0, 1), TurnComplete(9.0, 1)):
        play = Playbook(broken) >> end << ReplyEnded(1, 8_000, 8_000, False) << Phase.LISTENING
        play << SetTimer(IdleTimeout, 19.0)
        assert play
        spoken_since = Playbook(changed(broken, agent_replied=False)) >> end << ReplyEnded(1, 8_000, 8_000, False)
        spoken_since << Phase.THINKING
        assert spoken_since
        listening = Playbook(changed(broken, phase=Phase.LISTENING)) >> end << ReplyEnded(1, 8_000, 8_000, False)
        listening << Phase.LISTENING
        assert listening


def test_interrupted_drops_a_cut_reply():
    broken = changed(SPEAKING, phase=Phase.THINKING, reply=True)
    play = Playbook(broken) >> ModelInterrupted(9.0, 1) << Drop(1) << ReplyEnded(1, 8_000, 8_000, False)
    play << Phase.THINKING << SetTimer(ModelSilent, 15.0)
    assert play
    play = Playbook(changed(broken, phase=Phase.LISTENING)) >> ModelInterrupted(9.0, 1) << Drop(1) << Phase.LISTENING
    assert play


def test_the_caller_speaks_where_a_reply_broke_off():
    talking = changed(SPEAKING, speaking=True, onset_s=4.0)
    play = Playbook(talking, LOCAL) >> PlayoutTimeout(8.0) << OpenTurn() << Phase.LISTENING
    assert play


def test_marks_that_never_return_are_not_waited_for():
    play = Playbook(WHOLE) >> PlayoutTimeout(5.0) << ReplyEnded(1, 8_000, 8_000, False) << Phase.LISTENING
    play << SetTimer(IdleTimeout, 15.0)
    assert play


def test_a_key_keeps_a_waiting_model_from_being_late():
    assert Playbook(THINKING) >> DigitPressed(3.0) << SetTimer(ModelSilent, 9.0) << Phase.THINKING


# --- the idle caller


def test_idle_caller_gets_prompt_then_goodbye():
    """Both counted from the end of playback, as heard, not from the end of what the model sent."""
    play = Playbook(WHOLE, Policy(idle_prompt_s=10, idle_goodbye_s=20)) >> MarkReturned(3.1, 1, 8_000, 0)
    play << Phase.LISTENING >> TurnComplete(3.2, 1) >> Until(13.1) << SendPrompt(Prompt.IDLE) << Phase.THINKING
    play >> ReplyAudio(14.0, 2, 2_400, 2_400) << Play(2, 0, 2_400) >> ReplyComplete(14.1, 2)
    play >> MarkReturned(14.4, 2, 2_400, 0) << SetTimer(IdleTimeout, 34.4)
    play >> Until(34.4) << SendPrompt(Prompt.IDLE_GOODBYE) << Phase.CLOSING
    play >> ReplyAudio(35.0, 3, 2_400) << Play(3, 0, 2_400) >> ReplyComplete(35.1, 3) << Phase.CLOSING
    play >> MarkReturned(35.4, 3, 2_400, 0) << End(Ending.CALLER_IDLE)
    assert play


def test_missing_goodbye_is_not_waited_for():
    play = Playbook(changed(LISTENING, idle_prompted=True)) >> IdleTimeout(30.0) << SendPrompt(Prompt.IDLE_GOODBYE)
    play << SetTimer(GoodbyeTimeout, 33.0) >> Until(33.0) << End(Ending.CALLER_IDLE)
    assert play


def test_a_sign_of_life_begins_anew():
    prompted = changed(LISTENING, idle_prompted=True)
    play = Playbook(prompted) >> DigitPressed(3.0) << SetTimer(IdleTimeout, 13.0)
    assert play
    assert not play.state.caller.idle_prompted
    play = Playbook(prompted) >> CallerSpeechStarted(3.0, 2.9) << StopTimer(IdleTimeout)
    assert play
    assert not play.state.caller.idle_prompted
    assert not (Playbook(changed(THINKING, idle_prompted=True)) >> DigitPressed(3.0)).state.caller.idle_prompted
    assert not (Playbook(changed(SPEAKING, idle_prompted=True)) >> DigitPressed(3.0)).state.caller.idle_prompted


def test_key_during_speech_starts_no_idle_clock():
    talking = changed(LISTENING, speaking=True)
    play = Playbook(talking) >> IdleTimeout(3.0) >> DigitPressed(3.0) << Phase.LISTENING << StopTimer(IdleTimeout)
    assert play


def test_steps_of_zero_are_off():
    play = Playbook(WHOLE, Policy(idle_prompt_s=0, idle_goodbye_s=20)) >> MarkReturned(3.1, 1, 8_000, 0)
    play >> Until(23.1) << SendPrompt(Prompt.IDLE_GOODBYE) << Phase.CLOSING
    assert play
    play = Playbook(WHOLE, Policy(idle_prompt_s=0, idle_goodbye_s=0)) >> MarkReturned(3.1, 1, 8_000, 0)
    play << Phase.LISTENING >> Until(1_000) << Phase.LISTENING
    assert play


def test_no_idle_prompt_while_the_link_is_down():
    down = changed(LISTENING, link=Link.DOWN)
    assert Playbook(down) >> IdleTimeout(10.0) << SetTimer(IdleTimeout, 20.0) << Phase.LISTENING


# --- the time limit


def test_the_time_warning_is_spoken_in_a_quiet_moment():
    assert Playbook(LISTENING) >> TimeWarning(10.0) << SendPrompt(Prompt.TIME_WARNING) << Phase.THINKING
    play = Playbook(WHOLE) >> TimeWarning(2.5) << SendPrompt(Prompt.TIME_WARNING) << Phase.SPEAKING
    play >> MarkReturned(3.1, 1, 8_000, 0) << Phase.THINKING  # the warning is on its way
    assert play


@pytest.mark.parametrize(
    "state",
    [
        SPEAKING,  # in mid-reply: a text would cut it short
        THINKING,
        changed(LISTENING, speaking=True),
        changed(LISTENING, link=Link.DOWN),
    ],
)
def test_else_it_waits(state):
    assert Playbook(state) >> TimeWarning(2.5) << SetTimer(TimeWarning, 3.5) << state.phase


def test_late_timers_of_other_phases_mean_nothing():
    for late in (ModelSilent(2.0), FillerDue(2.0), GoodbyeTimeout(2.0), PlayoutTimeout(2.0)):
        assert Playbook(LISTENING) >> late << Phase.LISTENING
    assert Playbook(SPEAKING) >> ModelSilent(2.5) >> IdleTimeout(2.5) << Phase.SPEAKING


# --- a reply that broke off


def test_rest_of_cut_reply_is_prompted_during_playback():
    play = Playbook(WHOLE) >> TurnComplete(2.3, 1, cut=True) << SendPrompt(Prompt.GO_ON) << Phase.SPEAKING
    play >> ReplyAudio(2.6, 2, 800) << Play(2, 0, 800)
    assert play >> TurnComplete(2.8, 2) << Phase.SPEAKING
    assert not play.state.due.continuation_asked, "the next one that breaks off is asked for again"


def test_or_after_it_and_then_the_model_owes_it():
    play = Playbook(changed(LISTENING, newest=1)) >> TurnComplete(5.0, 1, cut=True)
    assert play << SendPrompt(Prompt.GO_ON) << Phase.THINKING << SetTimer(ModelSilent, 11.0)


def test_nobody_waits_for_ever_for_the_rest():
    play = Playbook(WHOLE) >> TurnComplete(2.3, 1, cut=True) << SendPrompt(Prompt.GO_ON)
    play >> MarkReturned(3.1, 1, 8_000, 0) << Phase.THINKING
    assert play >> Until(9.2) << PlayFiller() << SendPrompt(Prompt.NUDGE)


def test_repeatedly_cut_reply_is_continued_once():
    play = Playbook(WHOLE) >> TurnComplete(2.3, 1, cut=True) << SendPrompt(Prompt.GO_ON)
    play >> ReplyAudio(2.6, 2, 800) << Play(2, 0, 800) >> TurnComplete(2.7, 2, cut=True)
    assert play << Phase.SPEAKING


@pytest.mark.parametrize(
    "state",
    [
        changed(LISTENING, newest=1, speaking=True),
        changed(LISTENING, newest=1, dead=1),
        changed(LISTENING, newest=2),
        changed(LISTENING, newest=1, link=Link.DOWN),
        changed(THINKING, newest=1),
        changed(WHOLE, tools=(RunningTool("a"),)),
        changed(WHOLE, phase=Phase.CLOSING, ending=Ending.TIME_LIMIT),
    ],
    ids=["the caller speaks", "dropped", "an older one", "no link", "another is due", "tool", "end"],
)
def test_rest_is_not_prompted_when_a_reply_is_due(state):
    assert Playbook(state) >> TurnComplete(2.3, 1, cut=True) << state.phase
