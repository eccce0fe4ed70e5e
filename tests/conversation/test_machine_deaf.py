"""A model that does not answer, and a caller who does not wait: counted from the first turn without a reply."""

from __future__ import annotations

import pytest

from offhook.gateway.conversation.commands import (
    End,
    OpenTurn,
    Play,
    Prompt,
    ReconnectModel,
    RunTool,
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
    DigitPressed,
    LoudWithoutSpeech,
    MarkReturned,
    ModelDown,
    ModelInterrupted,
    ModelReady,
    ModelSilent,
    ReplyAudio,
    ReplyComplete,
    ToolRequested,
)
from offhook.gateway.conversation.state import Phase, Policy
from tests.conversation.playbook import LISTENING, SPEAKING, THINKING, Playbook, Until, changed

SOON = Policy(silent_after_s=3)
# The caller spoke until 10.0 s and has had no reply.
ASKED = changed(THINKING, since_s=10.0, offset_s=10.0, onset_s=8.4)


def asked(policy=SOON):
    """A turn of 1.6 s that ended at 10 s."""
    return Playbook(LISTENING, policy) >> CallerSpeechStarted(8.5, 8.4) >> CallerSpeechEnded(10.4, 10.0)


def test_repeating_does_not_start_the_wait_anew():
    play = asked() << SetTimer(ModelSilent, 13.0) >> CallerSpeechStarted(11.9, 11.8) << Unanswered() << Phase.LISTENING
    play << SetTimer(ModelSilent, 13.0) >> Until(13.0) << SendPrompt(Prompt.NUDGE) << Phase.LISTENING
    assert play


def test_a_frozen_model_is_given_up_whatever_is_said():
    play = asked() >> CallerSpeechStarted(11.9, 11.8) << Unanswered() >> Until(13.0)
    play << SendPrompt(Prompt.NUDGE) >> CallerSpeechEnded(13.9, 13.5) << Phase.THINKING
    play >> Until(14.5) << ReconnectModel() >> CallerSpeechStarted(15.4, 15.3) << Unanswered()
    play >> ModelReady(15.5) << Phase.LISTENING >> CallerSpeechEnded(17.4, 17.0) << SendPrompt(Prompt.NUDGE)
    play >> Until(18.5) << End(Ending.MODEL_LOST)
    assert play


def test_a_second_turn_without_reply_is_enough():
    play = asked(Policy(silent_after_s=20)) >> CallerSpeechStarted(12.1, 12.0) << Unanswered()
    play >> CallerSpeechEnded(13.4, 13.0) << SetTimer(ModelSilent, 14.5) >> Until(14.5) << Unanswered()
    assert play << SendPrompt(Prompt.NUDGE)


def test_a_pause_within_a_turn_is_not_its_end():
    play = asked() >> CallerSpeechStarted(10.6, 10.5) << StopTimer(ModelSilent) << Phase.LISTENING
    assert play >> CallerSpeechEnded(13.4, 13.0) << SetTimer(ModelSilent, 16.0)


def test_an_afterthought_is_no_unanswered_turn():
    play = asked() >> CallerSpeechStarted(11.1, 11.0) << SetTimer(ModelSilent, 13.0)
    play >> CallerSpeechEnded(12.4, 12.0) << SetTimer(ModelSilent, 13.0)
    assert play
    assert play.state.due.unanswered == 0


def test_hearing_model_is_not_prompted_over_the_caller():
    play = asked() >> CallerTranscribed(10.9) >> CallerSpeechStarted(11.9, 11.8) << Unanswered()
    play >> Until(13.0) << Phase.LISTENING >> CallerSpeechEnded(14.4, 14.0) << SetTimer(ModelSilent, 15.5)
    play >> Until(15.5) << Unanswered() << SendPrompt(Prompt.NUDGE)
    assert play
    interrupted = asked() >> ModelInterrupted(10.9, 1) >> CallerSpeechStarted(11.9, 11.8) << Unanswered()
    assert interrupted >> Until(13.0) << Phase.LISTENING


def test_an_opened_turn_is_not_prompted_into():
    local = Policy(silent_after_s=3, local_turns=True)
    play = Playbook(ASKED, local) >> CallerSpeechStarted(11.9, 11.8) << Unanswered() << OpenTurn()
    assert play >> ModelSilent(13.0) << Phase.LISTENING


def test_audible_audio_ends_the_count():
    play = asked() >> ReplyAudio(11.0, 1, 800, 160) << Play(1, 0, 160) << Play(1, 160, 800) << Phase.SPEAKING
    assert play
    assert play.state.due.since_s is None


def test_audio_without_a_voice_is_no_reply():
    play = asked() >> ReplyAudio(11.0, 1, 800) << Play(1, 0, 800) >> ReplyComplete(11.0, 1)
    play >> MarkReturned(11.2, 1, 800, 0) << Phase.THINKING << SetTimer(ModelSilent, 13.0)
    assert play
    late = asked() >> ReplyAudio(11.0, 1, 800) << Play(1, 0, 800) >> ReplyAudio(11.05, 1, 800, 900)
    late << Play(1, 800, 900) << Play(1, 900, 1600)
    assert late
    assert late.state.due.since_s is None


def test_a_tool_call_ends_the_count():
    play = asked() >> ToolRequested(11.0, "a") << RunTool("a") << SetTimer(ModelSilent, 611.0)
    assert play
    assert play.state.due.since_s is None


def test_a_caller_who_types_is_not_kept_waiting():
    assert Playbook(ASKED, SOON) >> DigitPressed(12.0) << SetTimer(ModelSilent, 15.0)


def test_a_model_that_was_away_was_not_silent():
    play = asked() >> ModelDown(11.0) >> Until(13.0) >> ModelReady(14.0) << SetTimer(ModelSilent, 15.5)
    assert play >> Until(16.0) << SendPrompt(Prompt.NUDGE)


# --- the detector deaf


def test_loud_audio_without_speech_is_a_turn():
    play = Playbook(LISTENING, SOON) >> LoudWithoutSpeech(10.0) << Phase.THINKING << SetTimer(ModelSilent, 13.0)
    assert play >> Until(13.0) << SendPrompt(Prompt.NUDGE)


@pytest.mark.parametrize("state", [SPEAKING, THINKING], ids=["speaking", "thinking"])
def test_loud_audio_elsewhere_means_nothing(state):
    assert Playbook(state, SOON) >> LoudWithoutSpeech(2.5) << state.phase


def test_loud_audio_in_local_turns_means_nothing():
    local = Policy(local_turns=True)
    assert Playbook(LISTENING, local) >> LoudWithoutSpeech(10.0) << Phase.LISTENING
    speaking = changed(LISTENING, speaking=True)
    assert Playbook(speaking) >> LoudWithoutSpeech(10.0) << Phase.LISTENING
