"""Random calls: whatever comes, late, repeated or out of order, the promises hold and nothing is raised."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from offhook.gateway.conversation import commands as c
from offhook.gateway.conversation import events as e
from offhook.gateway.conversation import ledger as lg
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.conversation.machine import EVENTS, step
from offhook.gateway.conversation.state import Greets, Mode, Phase, Policy, State
from tests.conversation.reference_shell import Shell, feed

WAITS_S = st.sampled_from([0.0, 0.001, 0.02, 0.1, 0.3, 0.7, 2.0, 8.0])
GENERATIONS = st.integers(-1, 2)  # from the newest number seen
SAMPLES = st.sampled_from([1, 160, 800, 1_600, 4_000, 24_000])
TOOLS = st.sampled_from("ab")

# A happening is a function of what is known now; the time is put in when it is fed.
HAPPENINGS = st.one_of(
    st.tuples(st.just("timer"), st.integers(0, 12)),
    st.tuples(st.just("speech"), st.floats(0.02, 3.0)),
    st.tuples(st.just("audio"), GENERATIONS, SAMPLES, st.booleans()),
    st.tuples(st.just("complete"), GENERATIONS),
    st.tuples(st.just("turn"), GENERATIONS),
    st.tuples(st.just("interrupted"), GENERATIONS),
    st.tuples(st.just("mark"), GENERATIONS, st.integers(0, 30), st.integers(-1, 1)),
    st.tuples(st.just("acknowledged"), st.integers(-1, 0)),
    st.tuples(st.just("tool"), TOOLS, st.sampled_from(e.ToolPolicy), st.booleans()),
    st.tuples(st.just("finished"), TOOLS, st.sampled_from([e.Outcome.DONE, e.Outcome.FAILED, e.Outcome.TIMED_OUT])),
    st.tuples(st.just("withdrawn"), TOOLS),
    st.tuples(st.just("end"), st.sampled_from([Ending.AGENT_HUNG_UP, Ending.TRANSFERRED, Ending.COST_LIMIT])),
    st.tuples(
        st.just("plain"),
        st.sampled_from(
            [
                e.DigitPressed,
                e.CallerTranscribed,
                e.ModelReady,
                e.ModelReady,
                e.ModelDown,
                e.StreamStarted,
                e.LineAway,
                e.LineBack,
                e.LineBack,
                e.CostWarning,
            ]
        ),
    ),
    st.tuples(st.just("cancel"), GENERATIONS),
    st.tuples(st.just("say and end"), st.sampled_from([Ending.AGENT_HUNG_UP, Ending.SERVER_STOPPED]), GENERATIONS),
    st.tuples(st.just("go away"), st.floats(0.0, 60.0)),
)
RARE = st.sampled_from([e.ModelFailed, e.StreamStopped, e.StreamLost])
POLICIES = st.builds(
    Policy()._replace,
    mode=st.sampled_from(Mode),
    dtmf_barge_in=st.booleans(),
    local_turns=st.booleans(),
    greets=st.sampled_from(Greets),
    greeting_protected=st.booleans(),
    report_heard=st.booleans(),
    idle_prompt_s=st.sampled_from([0.0, 5.0]),
    idle_goodbye_s=st.sampled_from([0.0, 10.0]),
    call_limit_s=st.sampled_from([0.0, 120.0]),
    verdict_timeout_s=st.sampled_from([0.0, 0.4, 1.0]),
)


def event_of(shell: Shell, at_s: float, what: tuple) -> e.Event | None:  # type: ignore[type-arg]
    """The happening as an event that can come now; None when it cannot."""
    s = shell.state
    match what:
        case ("timer", number):
            if not shell.timers:
                return None
            timer, due_s = shell.timers[number % len(shell.timers)]
            return timer(max(at_s, due_s) if due_s - at_s < 60 else at_s + 60)
        case ("speech", seconds):
            if s.caller.speaking:
                offset_s = max(s.caller.onset_s, at_s - 0.4)
                return e.CallerSpeechEnded(at_s, offset_s)
            return e.CallerSpeechStarted(at_s, max(0.0, at_s - seconds / 10))
        case ("audio", back, samples, voiced):
            return e.ReplyAudio(at_s, max(1, s.ledger.newest + back), samples, 160 if voiced else None)
        case ("complete", back):
            return e.ReplyComplete(at_s, max(1, s.ledger.newest + back))
        case ("turn", back):
            return e.TurnComplete(at_s, max(1, s.ledger.newest + back))
        case ("interrupted", back):
            return e.ModelInterrupted(at_s, max(1, s.ledger.newest + back))
        case ("mark", back, frames, epochs):
            return e.MarkReturned(at_s, max(1, s.ledger.newest + back), frames * 160, s.ledger.epoch + epochs)
        case ("acknowledged", epochs):
            return e.ClearAcknowledged(at_s, s.ledger.epoch + epochs)
        case ("tool", call_id, policy, silent):
            return e.ToolRequested(at_s, call_id, policy, silent, 1.5 if silent else None, limit_s=30.0)
        case ("finished", call_id, outcome):
            return e.ToolFinished(at_s, call_id, outcome)
        case ("withdrawn", call_id):
            return e.ToolWithdrawn(at_s, call_id)
        case ("end", ending):
            return e.EndRequested(at_s, ending)
        case ("cancel", back):
            return e.CancelReply(at_s, max(0, s.ledger.newest + back))
        case ("say and end", ending, back):
            return e.SayAndEnd(at_s, ending, max(0, s.ledger.newest + back))
        case ("go away", left_s):
            return e.GoAway(at_s, left_s)
        case ("plain", kind):
            return kind(at_s)
    raise AssertionError(what)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(POLICIES, st.lists(st.tuples(WAITS_S, HAPPENINGS), min_size=5, max_size=60), st.one_of(st.none(), RARE))
def test_the_promises_hold_in_every_call(policy, happenings, last):
    """Promises: those of the reference shell, after every step; and the call's end is one step away."""
    shell, _ = feed(policy, Shell(), e.StreamStarted(0.0))
    for wait_s, what in happenings:
        event = event_of(shell, shell.now_s + wait_s, what)
        if event is not None:
            shell, _ = feed(policy, shell, event)
    if last is not None:
        shell, _ = feed(policy, shell, last(shell.now_s))
    shell, _ = feed(policy, shell, e.StreamStopped(shell.now_s))
    assert shell.state.phase is Phase.ENDED


def test_and_in_a_recorded_one():
    """Through real sockets: greeting, turn, barge-in confirmed by the model, turn, hang-up."""
    shell, said = Shell(), []
    for name, *fields in json.loads(Path(__file__).with_name("recorded_call.json").read_text()):
        shell, commands = feed(Policy(greets=Greets.MODEL), shell, getattr(e, name)(*fields))
        said += [x for x in commands if isinstance(x, c.BargeIn | c.ReplyEnded | c.End)]
    assert said == [
        c.ReplyEnded(1, 26_560, 26_560, False),
        c.BargeIn(2, 11.538, c.Verdict.SUSPECTED),
        c.BargeIn(2, 11.538, c.Verdict.CONFIRMED_BY_MODEL),
        c.ReplyEnded(2, 63_360, 16_800, True),
        c.ReplyEnded(3, 49_120, 49_120, False),
        c.End(Ending.CALLER_HUNG_UP),
    ]


def anything() -> st.SearchStrategy[e.Event]:
    at_s = st.floats(0, 1e6)
    number, sample = st.integers(0, 5), st.integers(0, 50_000)
    plain = [
        e.StreamStarted,
        e.ModelReady,
        e.ModelDown,
        e.ModelFailed,
        e.CallerTranscribed,
        e.DigitPressed,
        e.LineAway,
        e.LineBack,
        *(x for x in EVENTS if issubclass(x, e.Timer)),
    ]
    return st.one_of(
        st.builds(lambda kind, t: kind(t), st.sampled_from(plain), at_s),
        st.builds(e.CallerSpeechStarted, at_s, at_s),
        st.builds(e.CallerSpeechEnded, at_s, at_s),
        st.builds(e.ReplyAudio, at_s, number, sample, st.one_of(st.none(), sample)),
        st.builds(e.ReplyComplete, at_s, number),
        st.builds(e.TurnComplete, at_s, number),
        st.builds(e.ModelInterrupted, at_s, number),
        st.builds(e.MarkReturned, at_s, number, sample, number),
        st.builds(e.ClearAcknowledged, at_s, number),
        st.builds(e.GoAway, at_s, at_s),
        st.builds(e.ToolRequested, at_s, TOOLS, st.sampled_from(e.ToolPolicy), st.booleans()),
        st.builds(e.ToolFinished, at_s, TOOLS, st.sampled_from(e.Outcome)),
        st.builds(e.ToolWithdrawn, at_s, TOOLS),
        st.builds(e.EndRequested, at_s, st.sampled_from(Ending)),
        st.builds(e.CancelReply, at_s, number),
        st.builds(e.SayAndEnd, at_s, st.sampled_from(Ending), number),
    )


@settings(max_examples=400, deadline=None, derandomize=True)
@given(POLICIES, st.lists(anything(), max_size=60))
def test_no_nonsense_breaks_the_machine(policy, nonsense):
    """Times that jump, timers nobody set, numbers out of the air: no exception, and the quantities keep their order."""
    state, _ = step(policy, State(), e.StreamStarted(0.0))
    over = False
    for event in nonsense:
        before = state
        state, commands = step(policy, state, event)
        assert not (over and commands)
        over = over or any(type(x) is c.End for x in commands)
        assert over == (state.phase is Phase.ENDED)
        for reply in state.ledger.replies:
            assert 0 <= reply.heard <= reply.placed <= reply.sent <= reply.received
            earlier = lg.find(before.ledger, reply.generation)
            if earlier is not None:
                assert reply.heard >= earlier.heard
                assert reply.sent >= earlier.sent
                assert reply.received >= earlier.received
        for command in commands:
            if isinstance(command, c.Play | c.Replay):
                assert command.generation > before.ledger.dead
                assert command.from_sample < command.to_sample
