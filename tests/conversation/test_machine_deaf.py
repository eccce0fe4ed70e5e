"""A model that does not answer, and a caller who does not wait: counted from the first turn without a reply."""

from __future__ import annotations

import pytest

from offhook.gateway.conversation.commands import (
    BargeIn,
    Clear,
    Drop,
    End,
    OpenTurn,
    Play,
    PlayFiller,
    Prompt,
    ReconnectModel,
    ReportHeard,
    RunTool,
    SendPrompt,
    SetTimer,
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
    LineAway,
    LineBack,
    LoudWithoutSpeech,
    MarkReturned,
    ModelDown,
    ModelInterrupted,
    ModelReady,
    ModelSilent,
    Owed,
    ReplyAudio,
    ReplyComplete,
    StreamStarted,
    ToolRequested,
)
from offhook.gateway.conversation.state import Greets, Link, Phase, Policy, State
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
    play = asked() >> ModelDown(11.0) >> Until(13.0) << PlayFiller() >> ModelReady(14.0) << SetTimer(ModelSilent, 15.5)
    assert play >> Until(15.9) << SendPrompt(Prompt.NUDGE)


# --- behind a filler


def covered(policy=SOON):
    """The caller has waited for 3 s and hears a filler of 1 s."""
    play = asked(policy) >> Until(13.0) << Unanswered() << SendPrompt(Prompt.NUDGE) << PlayFiller()
    play >> ReplyAudio(13.0, 1, 8_000, 160, filler=True) << Play(1, 0, 160) << Play(1, 160, 2_560)
    for start in (2_560, 4_960, 7_360):
        play << Play(1, start, min(start + 2_400, 8_000))
    return play >> ReplyComplete(13.0, 1) << Phase.SPEAKING


def test_measures_are_taken_behind_a_filler():
    play = covered() >> Until(14.5) << ReconnectModel() >> ModelDown(14.5) >> ModelReady(15.0) << Phase.SPEAKING
    play << SendPrompt(Prompt.NUDGE) >> MarkReturned(15.2, 1, 8_000, 0) << Phase.THINKING
    play << SetTimer(FillerDue, 17.9) << SetTimer(ModelSilent, 18.5) >> Until(18.4) << PlayFiller()
    assert play >> Until(18.5) << End(Ending.MODEL_LOST)


def test_a_filler_is_heard_to_its_end_before_the_end():
    play = (
        covered() >> Until(14.5) << ReconnectModel() >> MarkReturned(14.6, 1, 8_000, 0) >> Until(17.3) << PlayFiller()
    )
    play >> ReplyAudio(17.3, 2, 16_000, 160, filler=True)
    while play.felt:
        play << play.felt[0]
    play >> ReplyComplete(17.3, 2) >> Until(18.5) << Phase.CLOSING >> MarkReturned(19.4, 2, 16_000, 0)
    assert play << End(Ending.MODEL_LOST)


def test_an_answer_behind_a_filler_ends_the_count():
    play = covered() >> ReplyAudio(13.4, 2, 800, 160) << Play(2, 0, 160) << Play(2, 160, 800) << StopTimer(ModelSilent)
    play >> ReplyComplete(13.5, 2) >> MarkReturned(14.1, 1, 8_000, 0) >> MarkReturned(14.2, 2, 800, 0)
    assert play << Phase.LISTENING << SetTimer(IdleTimeout, 24.2)


def test_talking_over_a_filler_is_no_new_count():
    play = covered() >> CallerSpeechStarted(13.3, 13.2) << Clear(1) << BargeIn(1, 13.2, Verdict.SUSPECTED)
    (
        play
        >> CallerSpeechEnded(14.5, 14.1)
        << BargeIn(1, 13.2, Verdict.CONFIRMED_LOCALLY)
        << Drop(1)
        << ReportHeard(1, 2_400)
    )
    play >> ClearAcknowledged(14.6, 1) << Phase.THINKING << SetTimer(ModelSilent, 14.6) << SetTimer(FillerDue, 17.1)
    assert play >> Until(14.6) << ReconnectModel()


def test_a_call_that_moved_is_prompted_over_a_filler():
    owing = changed(THINKING, link=Link.DOWN, owed=Owed.ANSWER, quiet_s=1.0)
    play = Playbook(owing) >> FillerDue(7.0) << PlayFiller() >> ReplyAudio(7.0, 4, 800, filler=True) << Play(4, 0, 800)
    assert play >> ModelReady(7.05) << SendPrompt(Prompt.NUDGE) << Phase.SPEAKING


def test_the_greeting_is_due_after_a_filler():
    greets = Policy(greets=Greets.MODEL, greeting_protected=True)
    play = Playbook(State(), greets) >> StreamStarted(1.0) >> Until(7.0) << PlayFiller()
    play >> ReplyAudio(7.0, 1, 800, filler=True) << Play(1, 0, 800) >> ReplyComplete(7.0, 1)
    play >> ModelReady(7.05) << SendPrompt(Prompt.GREETING) << Phase.SPEAKING
    play >> ReplyAudio(7.08, 2, 800, 0) << Play(2, 0, 800)
    assert play
    assert [reply.protected for reply in play.state.ledger.replies] == [False, True]


def test_a_silent_line_gets_no_filler():
    play = asked() >> LineAway(11.0) << StopTimer(FillerDue) >> Until(13.0) << Unanswered() << SendPrompt(Prompt.NUDGE)
    play << StopTimer(FillerDue) >> LineBack(13.5) << SetTimer(FillerDue, 16.5)
    assert play >> LineBack(13.6) << Phase.THINKING


# --- the detector deaf


def test_loud_audio_without_speech_is_a_turn():
    play = Playbook(LISTENING, SOON) >> LoudWithoutSpeech(10.0) << Phase.THINKING << SetTimer(ModelSilent, 13.0)
    assert play >> Until(13.0) << SendPrompt(Prompt.NUDGE) << PlayFiller()


@pytest.mark.parametrize("state", [SPEAKING, THINKING], ids=["speaking", "thinking"])
def test_loud_audio_elsewhere_means_nothing(state):
    assert Playbook(state, SOON) >> LoudWithoutSpeech(2.5) << state.phase


def test_loud_audio_in_local_turns_means_nothing():
    local = Policy(local_turns=True)
    assert Playbook(LISTENING, local) >> LoudWithoutSpeech(10.0) << Phase.LISTENING
    speaking = changed(LISTENING, speaking=True)
    assert Playbook(speaking) >> LoudWithoutSpeech(10.0) << Phase.LISTENING
