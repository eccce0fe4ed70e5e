"""A call that began in another process: who speaks first, and what is not said again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from offhook.gateway.conversation.commands import (
    AnswerTool,
    Drop,
    End,
    Play,
    PlayGreeting,
    Prompt,
    Replay,
    RunTool,
    SendPrompt,
    SetTimer,
    Speak,
)
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.conversation.events import (
    CallerSpeechStarted,
    ConnectTimeout,
    GoodbyeTimeout,
    LineBack,
    ModelReady,
    Outcome,
    Owed,
    ReplyAudio,
    ReplyComplete,
    Resumed,
    TimeLimit,
    TimeWarning,
    ToolFinished,
    ToolRequested,
)
from offhook.gateway.conversation.state import Greets, LineState, Link, Phase, Policy, State
from tests.conversation.playbook import Playbook

POLICY = Policy(greets=Greets.MODEL, call_limit_s=600.0, warning_s=60.0)
MOVED = Resumed(100.0, newest=7, owed=Owed.NOTHING, began_s=-20.0)
READY = ModelReady(100.1, resumed=True)


def moved(owed: Owed, policy: Policy = POLICY, **more: object) -> Playbook:
    return Playbook(State(), policy) >> replace(MOVED, owed=owed, **more)


@pytest.mark.parametrize(
    ("owed", "phase", "prompt"),
    [
        (Owed.ANSWER, Phase.THINKING, Prompt.NUDGE),
        (Owed.REST, Phase.THINKING, Prompt.TAKE_UP),
        (Owed.GREETING, Phase.THINKING, Prompt.GREETING),
    ],
)
def test_what_is_owed_decides_who_speaks(owed: Owed, phase: Phase, prompt: Prompt) -> None:
    book = moved(owed) << phase << SetTimer(ConnectTimeout, 100.0 + POLICY.connect_timeout_s)
    assert (book.state.line, book.state.link) == (LineState.AWAY, Link.DIALLING)
    assert book >> READY << SendPrompt(prompt) << Phase.THINKING
    assert book >> ModelReady(101.0, resumed=True) << Phase.THINKING  # once
    assert book.state.ledger.dead == book.state.ledger.newest == 7


def test_a_caller_with_the_floor_keeps_it() -> None:
    assert moved(Owed.NOTHING) << Phase.LISTENING >> READY << Phase.LISTENING


def test_a_caller_who_speaks_meanwhile_is_answered() -> None:
    book = moved(Owed.REST) >> CallerSpeechStarted(100.05, 100.0) << Phase.LISTENING
    assert book >> READY << Phase.LISTENING


def test_a_model_that_had_said_nothing_greets_once() -> None:
    assert moved(Owed.GREETING, newest=0) >> READY << SendPrompt(Prompt.GREETING)


def test_a_sound_of_which_nothing_was_heard_is_played() -> None:
    policy = POLICY._replace(greets=Greets.SOUND)
    assert moved(Owed.GREETING, policy) << PlayGreeting() << Phase.LISTENING


def test_a_tool_that_runs_again_is_answered() -> None:
    book = moved(Owed.ANSWER) >> ToolRequested(100.0, "t1") << RunTool("t1") << Phase.THINKING
    book = book >> READY << SendPrompt(Prompt.NUDGE) >> LineBack(100.2) << Phase.THINKING
    assert book >> ToolFinished(101.0, "t1", Outcome.DONE) << AnswerTool("t1", Outcome.DONE, Speak.NOW)


def test_the_limits_count_from_the_calls_beginning() -> None:
    assert moved(Owed.NOTHING) << SetTimer(TimeLimit, 580.0) << SetTimer(TimeWarning, 520.0)
    late = Playbook(State(), POLICY) >> replace(MOVED, at_s=555.0) << SetTimer(TimeLimit, 580.0)
    assert late.shell.due_s(TimeWarning) is None  # it was given there


def test_audio_waits_for_the_line_of_live_replies() -> None:
    book = moved(Owed.REST) >> READY << SendPrompt(Prompt.TAKE_UP)
    book = book >> ReplyAudio(100.2, 7, 1600) << Drop(7)
    book = book >> ReplyAudio(100.2, 8, 1600, 160) << Phase.SPEAKING
    assert book >> LineBack(100.4) << Replay(8, 0, 160) << Play(8, 160, 1600)


def test_a_greeting_from_a_file_goes_on_where_heard() -> None:
    policy = POLICY._replace(greets=Greets.SOUND, greeting_protected=True)
    book = moved(Owed.REST, policy, newest=1, sound=4000, sound_heard=3200) << Phase.SPEAKING
    assert book >> READY >> LineBack(100.4) << Replay(1, 3200, 4000) << Phase.SPEAKING
    assert book.state.caller_muted


def test_a_call_that_was_ending_ends() -> None:
    assert moved(Owed.NOTHING, ending=Ending.AGENT_HUNG_UP) << End(Ending.AGENT_HUNG_UP) << Phase.ENDED


def test_the_rest_of_a_goodbye_is_said() -> None:
    book = moved(Owed.REST, ending=Ending.AGENT_HUNG_UP) << Phase.CLOSING << SetTimer(GoodbyeTimeout, 120.0)
    book = book >> READY << SendPrompt(Prompt.TAKE_UP) >> LineBack(100.2)
    book = book >> ReplyAudio(100.3, 8, 160, 160) << Play(8, 0, 160) >> ReplyComplete(100.4, 8)
    assert book << Phase.CLOSING
