"""One call: the shell around the conversation machine.

It repeats three lines (`feed`): take an event, step, carry out the commands. Nothing here awaits between a decision
and its effect: the line and the model's link queue what they are given, and send it by tasks of their own.

    line (carriers) --- caller_audio, marks, keys ---> Call --- events ---> conversation.step
    link (models)  --- reply_audio, words, events --->  |   <-- commands --
                                                        +--- play, mark, clear ---> line
                                                        +--- audio, prompts, results ---> link
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from offhook.gateway.agent.policy import policy_of
from offhook.gateway.agent.spec import Agent
from offhook.gateway.call import prompts
from offhook.gateway.call.detection import Detection
from offhook.gateway.call.facts import CallFacts, Transfer
from offhook.gateway.call.faults import Faults
from offhook.gateway.call.head import Taken
from offhook.gateway.call.hearing import Hearing
from offhook.gateway.call.line import Line, ReplyMark
from offhook.gateway.call.model_side import ModelSide
from offhook.gateway.call.recorder import recorder_for
from offhook.gateway.call.speaking import Speaking
from offhook.gateway.call.teardown import Teardown
from offhook.gateway.call.timeline import Timeline
from offhook.gateway.call.timers import Timers
from offhook.gateway.call.tools import CallTools
from offhook.gateway.call.wiring import Wiring
from offhook.gateway.conversation import commands as c
from offhook.gateway.conversation import events as e
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.conversation.machine import step
from offhook.gateway.conversation.state import Link, Phase, State
from offhook.gateway.models import ModelLink, Prices, Speaker
from offhook.gateway.observe.redact import Redactor
from offhook.gateway.store.recordings import Recordings
from offhook.gateway.tools import Tool
from offhook.metrics.catalogue import Metrics

__all__ = ["Call"]

MODEL_WAITS_S = 10.0  # a stream comes a second after its TwiML; a model session is not kept waiting for longer


class Call:
    """One phone call, from ring to end: the sink of its line (`LineSink`) and of its model's link (`ModelSink`).

    `link_for(call)` makes the model's link; `sounds` holds ready mu-law by file name (greeting, fillers);
    `on_over(call)` is called once everything of the call is gone, or was given up. `prices`: of the agent's model,
    where known. `taken`: what the call was in another process, which it is taken over from.

    `on_change()` is called when something changed that another process would need; `on_words()` for each piece of
    transcript.
    """

    def __init__(
        self,
        facts: CallFacts,
        agent: Agent,
        *,
        tools: Mapping[str, Tool],
        sounds: Mapping[str, bytes],
        metrics: Metrics,
        clock: Callable[[], float],
        detection: Detection,
        link_for: Callable[[Call], ModelLink],
        on_over: Callable[[Call], None],
        rang_s: float | None = None,
        prices: Prices | None = None,
        redactor: Redactor | None = None,
        recordings: Recordings | None = None,
        taken: Taken | None = None,
    ) -> None:
        self.facts, self.agent, self.clock = facts, agent, clock
        self._loop = asyncio.get_running_loop()
        self.remembered: dict[str, str] = {}  # by tools; new model sessions get it
        self.record = facts.new_record(agent.name) if taken is None else taken.record
        self.on_change = self.on_words = _nothing
        self.timeline = Timeline(self.record, metrics, facts.formats.takes.rate_hz, rang_s=rang_s)
        self._policy = policy_of(agent)._replace(rate_hz=facts.formats.takes.rate_hz)
        self._state = State()
        self._events: deque[e.Event] = deque()
        self._stepping = False
        self._faults = faults = Faults(facts.call_sid, self.timeline, metrics, self._fail)
        self.task_failed = faults.report
        self._timers = Timers(clock, lambda event: faults.safely("timer", self._fire, event))
        wiring = Wiring(facts, agent, clock, metrics, self.timeline, self.feed, faults, lambda: self.on_change())
        self.speaking = speaking = Speaking(wiring, sounds, self._is_dead)
        self.model = model = ModelSide(wiring, partial(link_for, self), prices)
        epoch = 1 if taken is None else taken.epoch
        self._recorder = recorder_for(wiring, speaking.playout, recordings or Recordings(), epoch)
        self._return_by: asyncio.TimerHandle | None = None  # the line is away until then
        self._unclaimed: asyncio.TimerHandle | None = None
        self.hearing = Hearing(
            wiring,
            self._policy,
            detection,
            recorder=self._recorder,
            uplink=model.link,
            agent_level_dbov=self._agent_level_dbov,
        )
        self.tools = CallTools(
            wiring,
            tools,
            self.remembered,
            hearing=self.hearing,
            model=model,
            say_and_end=self.say_and_end,
            redactor=redactor,
        )
        self._teardown = teardown = Teardown(
            wiring,
            speaking=speaking,
            hearing=self.hearing,
            tools=self.tools,
            model=model,
            recorder=self._recorder,
            stop_timers=self._stop_timers,
            on_over=partial(on_over, self),
            release=self._release,
        )
        self.over, self.give_up, self.publish_counters = teardown.over, teardown.give_up, teardown.publish_counters
        # What the line and the link report straight to a part (the rest of LineSink and ModelSink is below).
        self.caller_audio, self.sent, self.clear_sent = self.hearing.caller_audio, speaking.sent, speaking.clear_sent
        self.reply_audio, self.next_turn = speaking.reply_audio, speaking.next_turn
        self.usage, self.count, self.segment = model.usage, model.count, model.segment
        self.tool_call = self.tools.requested
        if taken is not None:
            self._restore(taken)
        self._do: dict[type[c.Command], Callable[[Any], None]] = {
            c.Play: speaking.play,
            c.Replay: speaking.play,
            c.SendMark: speaking.mark,
            c.Clear: speaking.clear,
            c.Drop: self._drop,
            c.ReplyEnded: lambda command: speaking.playout.drop(command.generation),
            c.PlayGreeting: lambda _: speaking.play_sound(agent.greeting.sound, "sound"),
            c.PlayFiller: self._play_filler,
            **dict.fromkeys((c.BargeIn, c.Unanswered), lambda _: None),  # for the timeline
            c.SendPrompt: model.prompt,
            c.ReportHeard: model.report_heard,
            c.OpenTurn: self._open_turn,
            c.CloseTurn: self._close_turn,
            c.RotateModel: lambda _: model.link.rotate(),
            c.ReconnectModel: lambda _: model.link.reconnect(),
            c.RunTool: self.tools.run,
            c.CancelTool: self.tools.cancel,
            c.AnswerTool: self.tools.answer,
            c.SetTimer: self._timers.set,
            c.StopTimer: self._timers.stop,
            c.End: lambda command: teardown.decide(command.ending),
        }

    # --- the three lines

    def feed(self, event: e.Event) -> None:
        """Take an event, step, carry out the commands, until there are no more events."""
        self.hearing.catch_up()  # a frame that was received before it comes before it
        self._events.append(event)
        if self._stepping:
            return
        self._stepping = True
        phase = self._state.phase
        try:
            while self._events:
                event = self._events.popleft()
                self._state, commands = step(self._policy, self._state, event)
                self.hearing.muted = self._state.caller_muted
                self.timeline.observe(event, commands)
                if self._recorder is not None:
                    self._recorder.observe(event, commands, self._state.ledger)
                for command in commands:
                    self._do[type(command)](command)
        except Exception as error:
            self._faults.report("conversation", error)
            self._fail()
        finally:
            self._stepping = False
            if self._state.phase is not phase:
                self.on_change()

    def _fail(self) -> None:
        """End the call here and now."""
        self._events.clear()
        self._state = self._state._replace(phase=Phase.ENDED)
        self._teardown.decide(Ending.INTERNAL_ERROR)

    # --- life

    def start(self) -> None:
        """Begin: the model session starts connecting now, whether the stream is there or not."""
        self.model.run()
        self._teardown.start()
        self._unclaimed = self._loop.call_later(MODEL_WAITS_S, self._faults.safely, "link", self._release_model)

    def _restore(self, taken: Taken) -> None:
        """What the parts have to know of the call in another process, before anything happens here."""
        head, now_s = taken.head, self.clock()
        self.speaking.turns = head.newest
        self.remembered.update(taken.record.remembered)
        self.hearing.heard_before_ms = taken.record.audio_in_ms
        self.model.restore(head.session, taken.record.usage.get("cost_usd", 0.0))
        if head.transfer is not None:
            self.tools.transfer_to = Transfer(*head.transfer)
        zero_s = now_s - (head.wall_s + taken.age_s - head.began_s)
        self.timeline.restore(zero_s, taken.turns, taken.lines)

    def resume(self, taken: Taken, notes: Sequence[str], grace_s: float) -> None:
        """As `start`, for a call that began elsewhere: the model is connected now, and the call ends unless a stream is
        attached within `grace_s`. `notes`: what the model is told beside what is owed.
        """
        head, now_s = taken.head, self.clock()
        self.model.run()
        self._teardown.start()
        self._return_by = self._loop.call_later(grace_s, self.line_lost)
        opening = prompts.take_up(taken.heard_text) if taken.owed is e.Owed.REST else ""
        self.model.taken_up = " ".join(filter(None, (*notes, opening)))
        sound = self._sound_cut(taken)
        began_s = self.timeline.zero_s or now_s
        owed = e.Owed.ANSWER if notes and taken.owed is e.Owed.NOTHING else taken.owed
        self.feed(e.Resumed(now_s, head.newest, owed, began_s, taken.ending, *sound))

    def _sound_cut(self, taken: Taken) -> tuple[int, int]:
        """The greeting from a file that was cut: its samples, and those that were heard."""
        if not taken.sound_heard or not taken.turns or taken.turns[-1].generation != taken.head.newest:
            return 0, 0
        taken.turns.pop()  # it is on its way again
        samples = self.speaking.sound_again(taken.head.newest, self.agent.greeting.sound)
        frame = self.facts.formats.takes.frame_samples
        return samples, min(taken.sound_heard // frame * frame, samples)

    def conclude(self, ending: Ending) -> None:
        """As `start`, for a call that began elsewhere and is over: only its record is completed."""
        self._teardown.start()
        self._state = self._state._replace(phase=Phase.ENDED)
        self._teardown.decide(ending)

    def moved(self) -> None:
        """Another process has the call: everything of it here is closed, and nothing recorded."""
        if self.ending is None:
            self._events.clear()
            self._state = self._state._replace(phase=Phase.ENDED)
            self._teardown.decide(Ending.MOVED)

    @property
    def state(self) -> State:
        """The conversation's, for a checkpoint."""
        return self._state

    def _release_model(self) -> None:
        """No stream has come: the model waits no longer. A stream that still comes gets a fresh session."""
        self._unclaimed = None
        self.hearing.uplink = self.model.renew()
        self._state = State()

    def attach(self, line: Line) -> None:
        """The carrier's stream is up: the call's first, or one that takes the place of the last."""
        now_s = self.clock()
        if self._unclaimed is not None:
            self._unclaimed.cancel()
            self._unclaimed = None
        elif not self.record.streams:
            self.model.run()
        self.speaking.line = line
        self.hearing.stream_began(now_s)
        self.record.streams.append(line.stream_id)
        self._cancel_return()
        self.on_change()
        if len(self.record.streams) == 1:
            self.feed(e.StreamStarted(now_s))
            return
        self.feed(e.LineAway(now_s))  # where the carrier connects again before the old stream is seen to be gone
        self.feed(e.LineBack(now_s))

    def detach(self, grace_s: float) -> None:
        """The stream is gone; the call ends unless another is attached within `grace_s`."""
        self.speaking.line = None
        self._cancel_return()
        self._return_by = self._loop.call_later(grace_s, self.line_lost)
        self.feed(e.LineAway(self.clock()))

    def _cancel_return(self) -> None:
        if self._return_by is not None:
            self._return_by.cancel()
            self._return_by = None

    def hung_up(self) -> None:
        """The caller hung up."""
        self.feed(e.StreamStopped(self.clock()))

    def line_lost(self) -> None:
        """The stream is gone and none will follow."""
        self.feed(e.StreamLost(self.clock()))

    def stop(self, ending: Ending) -> None:
        """End the call once what is being said has been heard."""
        self.feed(e.EndRequested(self.clock(), ending))

    def cancel_reply(self) -> None:
        """Stop what the agent is saying, for good."""
        self.feed(e.CancelReply(self.clock(), self.speaking.turns))

    def say_and_end(self, text: str, ending: Ending) -> None:
        """Have the agent say this instead of what it is saying; then the call ends."""
        self.model.last_words = text
        self.feed(e.SayAndEnd(self.clock(), ending, self.speaking.turns))

    def operator_says(self, text: str) -> bool:
        """Have the agent say this to the caller, word for word; False once the call is ending."""
        if self.ending is None:
            self.model.link.prompt(prompts.say(text))
        return self.ending is None

    def operator_notes(self, text: str) -> bool:
        """Have the model take this into account; False once the call is ending."""
        if self.ending is None:
            self.model.link.note(prompts.operator_note(text))
        return self.ending is None

    @property
    def line(self) -> Line | None:
        """The call's line, None while it is away."""
        return self.speaking.line

    @property
    def attached(self) -> bool:
        """Whether the call has a line now."""
        return self.speaking.line is not None

    @property
    def phase(self) -> Phase:
        return self._state.phase

    @property
    def quiet(self) -> bool:
        """Neither side speaks, and nothing is awaited."""
        state = self._state
        return state.phase is Phase.LISTENING and not (state.caller.speaking or state.tools or state.caller.turn_open)

    def silent_s(self, now_s: float) -> float:
        """How long the stream has brought nothing; 0 without one."""
        last_s = self.hearing.last_frame_s
        return now_s - last_s if self.attached and last_s is not None else 0.0

    # --- the end

    @property
    def ending(self) -> Ending | None:
        """Why the call ends, once that is decided."""
        return self._teardown.ending

    @property
    def ended_s(self) -> float | None:
        """When that was decided."""
        return self._teardown.decided_s

    def _release(self) -> None:
        """Nothing of the call runs any more: part it from its parts, which hold each other, so that all of them are
        freed here, and not by a collection, which stops all calls for longer the more of them there are.
        """
        parts = (self.speaking, self.model, self.hearing, self.tools, self.timeline, self._timers, self._faults)
        for part in (*parts, self._teardown):
            vars(part).clear()
        kept = {name: vars(self)[name] for name in ("facts", "agent", "record", "clock", "remembered")}
        vars(self).clear()
        vars(self).update(kept)

    def _stop_timers(self) -> None:
        self._timers.close()
        for timer in (self._unclaimed, self._return_by):
            if timer is not None:
                timer.cancel()

    # --- the line's side (LineSink; `caller_audio` is the hearing's)

    def mark_heard(self, mark: ReplyMark) -> None:
        self.hearing.then(e.MarkReturned(self.clock(), mark.generation, mark.sample, mark.epoch))

    def cleared(self, epoch: int) -> None:
        self.feed(e.ClearAcknowledged(self.clock(), epoch))

    def key_pressed(self, key: str) -> None:
        self.hearing.key_pressed()
        if self.tools.drops_key(key):
            return
        self.feed(e.DigitPressed(self.clock()))
        if not self.tools.key_pressed(key):
            self.model.key_pressed(key)

    def line_failed(self, why: str) -> None:
        if self._state.phase is not Phase.ENDED:
            self.timeline.error(why)
            self.line_lost()

    def agent_has_floor(self) -> bool:
        phase = self._state.phase
        return phase in (Phase.SPEAKING, Phase.HELD) or (phase is Phase.CLOSING and bool(self._state.ledger.replies))

    def _agent_level_dbov(self, now_s: float) -> float:
        return self.speaking.playout.heard_level_dbov(self._state.ledger, now_s)

    def _is_dead(self, turn: int) -> bool:
        return turn <= self._state.ledger.dead or self._state.phase is Phase.ENDED

    # --- the model's side (ModelSink)

    def event(self, event: e.Event) -> None:
        if isinstance(event, (e.ReplyComplete, e.TurnComplete)):
            self.speaking.finish(event.generation)
            self.on_change()
        self.model.observe(event)
        self.feed(event)

    def words(self, who: Speaker, turn: int | None, text: str, final: bool) -> None:
        self.speaking.words(who, turn, text, final)
        self.on_words()

    # --- commands

    def _drop(self, command: c.Drop) -> None:
        self.speaking.drop(command)
        self.model.link.cancel_reply(command.generation)

    def _play_filler(self, command: c.PlayFiller) -> None:
        if sound := self.tools.filler(command):
            self.speaking.play_sound(sound, "filler")

    def _open_turn(self, command: c.OpenTurn) -> None:
        self.model.link.turn_started()
        self.hearing.open_turn()

    def _close_turn(self, command: c.CloseTurn) -> None:
        self.hearing.close_turn()
        self.model.link.turn_ended()

    def _fire(self, event: type[e.Event]) -> None:
        if event is e.ModelSilent and any(not tool.withdrawn for tool in self._state.tools):
            self._faults.stuck("a tool did not end in its time")
        elif event is e.ConnectTimeout and self.model.was_ready and self._state.link is Link.DOWN:
            self._faults.stuck("the model's link neither came back nor gave up")
        self.feed(event(self.clock()))


def _nothing() -> None:
    """A call that no other process could go on with."""
