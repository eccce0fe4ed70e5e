"""A call that began in another process: who speaks first, and what is not said again."""

from __future__ import annotations

import pytest

from offhook.gateway.conversation import commands as c
from offhook.gateway.conversation import events as e
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.conversation.machine import step
from offhook.gateway.conversation.state import Greets, LineState, Link, Phase, Policy, State

POLICY = Policy(greets=Greets.MODEL, call_limit_s=600.0, warning_s=60.0)


def resumed(owed: e.Owed, policy: Policy = POLICY, *, newest: int = 7, **more: object):
    return step(policy, State(), e.Resumed(100.0, newest, owed, -20.0, **more))  # type: ignore[arg-type]


def prompts(commands: tuple[c.Command, ...]) -> list[c.Prompt]:
    return [command.prompt for command in commands if isinstance(command, c.SendPrompt)]


@pytest.mark.parametrize(
    ("owed", "phase", "prompted"),
    [
        (e.Owed.NOTHING, Phase.LISTENING, []),
        (e.Owed.ANSWER, Phase.THINKING, [c.Prompt.NUDGE]),
        (e.Owed.REST, Phase.THINKING, [c.Prompt.TAKE_UP]),
        (e.Owed.GREETING, Phase.THINKING, [c.Prompt.GREETING]),
    ],
)
def test_what_is_owed_decides_who_speaks(owed: e.Owed, phase: Phase, prompted: list[c.Prompt]) -> None:
    state, commands = resumed(owed)
    assert (state.phase, state.line, state.link) == (phase, LineState.AWAY, Link.DIALLING)
    assert prompts(commands) == prompted
    state, commands = step(POLICY, state, e.ModelReady(100.1, resumed=True))
    assert prompts(commands) == []  # the prompt has waited for the link; the greeting is not repeated
    assert state.ledger.dead == state.ledger.newest == 7


def test_a_model_that_had_said_nothing_greets_once() -> None:
    state, commands = resumed(e.Owed.GREETING, newest=0)
    assert prompts(commands) == []
    _, commands = step(POLICY, state, e.ModelReady(100.1, resumed=False))
    assert prompts(commands) == [c.Prompt.GREETING]


def test_the_limits_count_from_the_calls_beginning() -> None:
    _, commands = resumed(e.Owed.NOTHING)
    timers = {command.event: command.at_s for command in commands if isinstance(command, c.SetTimer)}
    assert (timers[e.TimeLimit], timers[e.TimeWarning]) == (580.0, 520.0)
    _, commands = step(POLICY, State(), e.Resumed(555.0, 7, e.Owed.NOTHING, -20.0))
    timers = {command.event: command.at_s for command in commands if isinstance(command, c.SetTimer)}
    assert e.TimeWarning not in timers  # it was given there


def test_audio_waits_for_the_line_and_old_replies_are_dead() -> None:
    state, _ = resumed(e.Owed.REST)
    state, _ = step(POLICY, state, e.ModelReady(100.1, resumed=True))
    _, commands = step(POLICY, state, e.ReplyAudio(100.2, 7, 1600))
    assert commands == (c.Drop(7),)
    state, commands = step(POLICY, state, e.ReplyAudio(100.2, 8, 1600, 160))
    assert state.phase is Phase.SPEAKING
    assert not [x for x in commands if isinstance(x, c.Play)]
    _, commands = step(POLICY, state, e.LineBack(100.4))
    played = [(x.generation, x.from_sample, x.to_sample) for x in commands if isinstance(x, (c.Play, c.Replay))]
    assert (played[0][:2], played[-1][2]) == ((8, 0), 1600)


def test_a_greeting_from_a_file_goes_on_where_it_was_heard() -> None:
    policy = POLICY._replace(greets=Greets.SOUND, greeting_protected=True)
    state, commands = resumed(e.Owed.REST, policy, newest=1, sound=8000, sound_heard=3200)
    assert (state.phase, prompts(commands)) == (Phase.SPEAKING, [])
    _, commands = step(policy, state, e.LineBack(100.4))
    played = [x for x in commands if isinstance(x, (c.Play, c.Replay))]
    assert (played[0].from_sample, played[-1].to_sample) == (3200, 8000)


@pytest.mark.parametrize(("owed", "phase"), [(e.Owed.NOTHING, Phase.ENDED), (e.Owed.REST, Phase.CLOSING)])
def test_a_call_that_was_ending_ends(owed: e.Owed, phase: Phase) -> None:
    state, commands = resumed(owed, ending=Ending.AGENT_HUNG_UP)
    assert state.phase is phase
    assert (c.End(Ending.AGENT_HUNG_UP) in commands) is (phase is Phase.ENDED)
