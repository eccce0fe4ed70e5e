"""Every reachable state, in classes: what always holds, holds on each step; and from each the call ends by itself."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from offhook.gateway.conversation import events as e
from offhook.gateway.conversation.handlers import barge_in, line, replies, tools
from offhook.gateway.conversation.machine import TABLE, ignore
from offhook.gateway.conversation.state import Greets, LineState, Link, Mode, Phase, Policy
from tests.conversation.reference_shell import Violated
from tests.conversation.walker import alone, walk

# The time limit bounds everything: without it the rest must do.
UNBOUNDED = Policy(call_limit_s=0)
WALKS = {
    "hold, two replies": (UNBOUNDED, ""),
    "hold, replies that break off": (UNBOUNDED, "one cut"),
    "hold, link and ends": (UNBOUNDED, "one link ends"),
    "hold, fillers": (UNBOUNDED, "one filler"),
    "hold, tools": (UNBOUNDED._replace(idle_prompt_s=0), "one tools"),
    "hold, protected, keys": (UNBOUNDED._replace(dtmf_barge_in=True, greeting_protected=True), "one digits"),
    "hold, local turns": (UNBOUNDED._replace(local_turns=True, dtmf_barge_in=True), "one digits ends"),
    "hold, line away": (UNBOUNDED, "one line ends"),
    "hold, moved from another process": (UNBOUNDED._replace(greets=Greets.MODEL), "one moved line"),
    "hold, last words": (UNBOUNDED, "one words loud"),
    "stop": (UNBOUNDED._replace(mode=Mode.STOP), "one ends"),
    "model": (UNBOUNDED._replace(mode=Mode.MODEL), "one ends"),
    "off, local turns": (UNBOUNDED._replace(mode=Mode.OFF, local_turns=True), "one ends"),
    "greeting, time limit": (Policy(greets=Greets.MODEL), "one link"),
}
TOOL_LIMIT_S = 600.0


TOTAL: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def _no_garbage() -> Iterator[None]:
    """Values in tuples have no circles, and looking for some among all states of a walk took a sixth of its time."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("name", WALKS)
def test_invariants_hold_in_every_reachable_state(name):
    policy, kinds = WALKS[name]
    began_s = time.process_time()
    shells, steps, _ = walk(policy, *kinds.split())
    phases = Counter(shell.state.phase for shell in shells)
    unreachable = {Phase.HELD, Phase.STOPPING} if policy.mode is Mode.OFF else set()
    unreachable |= {Phase.HELD} if policy.mode is Mode.MODEL else set()
    assert set(phases) == set(Phase) - unreachable
    longest_s, ends = 0.0, {}
    for shell in shells:
        if shell.state.phase is Phase.CONNECTING or policy.call_limit_s:
            continue  # bounded by the server; by the time limit
        end = alone(policy, shell, within_s=2_000, ends=ends)
        assert end.state.phase is Phase.ENDED, shell
        longest_s = max(longest_s, end.now_s - shell.now_s)
    assert longest_s <= 90 + ("tools" in kinds) * TOOL_LIMIT_S
    took_s = time.process_time() - began_s
    TOTAL.update(states=len(shells), steps=steps, ms=round(took_s * 1000))
    print(f"\n{name}: {len(shells)} classes of states, {steps} steps, left alone over within {longest_s:.0f} s", end="")
    print(f"; so far {TOTAL['states']} and {TOTAL['steps']} in {TOTAL['ms'] / 1000:.1f} s", end="")


def _undead(s):
    return s.with_ledger(s.ledger._replace(dead=0))


def dies_not(p, s, ev, do):
    """A confirmed barge-in that forgets what it killed."""
    return _undead(barge_in.interrupted_held(p, s, ev, do))


def talks_on(p, s, ev, do):
    """Speech is noted, and nothing is cleared."""
    return s.with_caller(speaking=True, onset_s=ev.onset_s)


def plays_twice(p, s, ev, do):
    """A dismissed barge-in that begins at the reply's beginning."""
    replies = tuple(r._replace(placed=0) for r in s.ledger.replies)
    return barge_in.verdict_timeout(p, s._replace(ledger=s.ledger._replace(replies=replies)), ev, do)


def answers_twice(p, s, ev, do):
    return tools.tool_finished(p, s, ev, do)._replace(tools=s.tools)


def never_quiet(p, s, ev, do):
    """The marks are noted, and the phase stays."""
    return replies.mark_returned(p, s, ev, do)._replace(phase=Phase.SPEAKING)


def nobody_waits(p, s, ev, do):
    return s._replace(link=Link.DOWN)


def plays_on(p, s, ev, do):
    """The queue is believed to be still there."""
    return s._replace(line=LineState.AWAY)


def stays_up(p, s, ev, do):
    """The queue is lost, and what comes is sent to nowhere."""
    return line.away_playing(p, s, ev, do)._replace(line=LineState.UP)


def sends_nothing_again(p, s, ev, do):
    return s._replace(line=LineState.UP)


def sends_all_again(p, s, ev, do):
    """From each reply's beginning, and what was heard is heard twice."""
    replies = tuple(r._replace(placed=0) for r in s.ledger.replies)
    return line.back_playing(p, s._replace(ledger=s.ledger._replace(replies=replies)), ev, do)


def waits_for_the_clear(p, s, ev, do):
    return line.away(p, s, ev, do)


def forgets_the_cancelled(p, s, ev, do):
    """The replies go, and their number may come again."""
    return _undead(barge_in.cancel_heard(p, s, ev, do))


def fills_once(p, s, ev, do):
    return s


FAULTS = {
    "I1 a dead reply is played": (Phase.HELD, e.ModelInterrupted, dies_not, ""),
    "I2 the agent talks on": (Phase.SPEAKING, e.CallerSpeechStarted, talks_on, ""),
    "I2 in the goodbye": (Phase.CLOSING, e.CallerSpeechStarted, talks_on, "one ends"),
    "I3 two outcomes": (Phase.THINKING, e.ToolFinished, answers_twice, "one tools"),
    "I3 no outcome": (Phase.SPEAKING, e.ToolFinished, ignore, "one tools"),
    "I4 played twice": (Phase.HELD, e.VerdictTimeout, plays_twice, ""),
    "I5 no end": (Phase.STOPPING, e.StreamStopped, ignore, ""),
    "I6 an unanswered clear": (Phase.STOPPING, e.ClearTimeout, ignore, ""),
    "I6 a silent model": (Phase.THINKING, e.ModelSilent, ignore, ""),
    "I6 a silent caller": (Phase.LISTENING, e.IdleTimeout, ignore, ""),
    "I6 marks that do not come": (Phase.SPEAKING, e.PlayoutTimeout, ignore, ""),
    "I6 a verdict that does not come": (Phase.HELD, e.VerdictTimeout, ignore, ""),
    "I6 a goodbye that does not come": (Phase.CLOSING, e.GoodbyeTimeout, ignore, "one ends"),
    "I6 a reply that is never over": (Phase.SPEAKING, e.MarkReturned, never_quiet, ""),
    "I7 the lost queue plays on": (Phase.SPEAKING, e.LineAway, plays_on, "one line"),
    "I7 a goodbye plays on": (Phase.CLOSING, e.LineAway, plays_on, "one line ends"),
    "I7 the clear of a lost stream": (Phase.STOPPING, e.LineAway, waits_for_the_clear, "one line"),
    "I7 an idle clock": (Phase.LISTENING, e.LineAway, plays_on, "one line"),
    "I8 nothing is sent again": (Phase.SPEAKING, e.LineBack, sends_nothing_again, "one line"),
    "I8 nor of the goodbye": (Phase.CLOSING, e.LineBack, sends_nothing_again, "one line ends"),
    "I8 all is sent again": (Phase.SPEAKING, e.LineBack, sends_all_again, "one line"),
    "I8 the line is not missed": (Phase.SPEAKING, e.LineAway, stays_up, "one line"),
    "I8 an idle caller is forgotten": (Phase.LISTENING, e.LineBack, sends_nothing_again, "one line"),
    "I1 a cancelled reply": (Phase.SPEAKING, e.CancelReply, forgets_the_cancelled, "one line"),
    "I9 a filler that is due once": (Phase.THINKING, e.FillerDue, fills_once, "one filler"),
    "I9 a line without a filler": (Phase.THINKING, e.LineBack, sends_nothing_again, "one line"),
    "I6 a lost link nobody waits for": (Phase.LISTENING, e.ModelDown, nobody_waits, "one link"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(monkeypatch, fault):
    phase, event, handler, kinds = FAULTS[fault]
    monkeypatch.setitem(TABLE[phase], event, handler)
    with pytest.raises(Violated):
        walk(Policy(), *kinds.split())
