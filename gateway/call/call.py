"""One call: the shell around the conversation machine.

It repeats three lines (`feed`): take an event, step, carry out the commands. Nothing here awaits between a decision
and its effect: the line and the model's link queue what they are given, and send it by tasks of their own.

    line (carriers) --- caller_audio, marks, keys ---> Call --- events ---> conversation.step
    link (models)  --- reply_audio, words, events --->  |   <-- commands --
                                                        +--- play, mark, clear ---> line
                                                        +--- audio, prompts, results ---> link
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from offhook.gateway.agent.policy import policy_of
from offhook.gateway.agent.spec import Agent
from offhook.gateway.call import prompts
from offhook.gateway.call.continuity import Continuity
from offhook.gateway.call.detection import Detection
from offhook.gateway.call.facts import CallFacts
from offhook.gateway.call.faults import Faults
from offhook.gateway.call.head import Taken
from offhook.gateway.call.hearing import Hearing
from offhook.gateway.call.line import Line, ReplyMark
from offhook.gateway.call.model_side import ModelSide
from offhook.gateway.call.parts import Parts, release
from offhook.gateway.call.pictures import Pictures
from offhook.gateway.call.recorder import recorder_for
from offhook.gateway.call.speaking import Speaking
from offhook.gateway.call.tap import Tap
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


class Call:
    """One phone call, from ring to end: the sink of its line (`LineSink`) and of its model's link (`ModelSink`).

    `link_for(call)` makes the model's link; `sounds` holds ready mu-law by file name; `on_over(call)` is called once
    everything of the call is gone, or was given up. `prices`: of the agent's model, where known. `taken`: what the call
    was in another process. `on_change()` is called when something changed that another process would need; `on_words()`
    for each piece of transcript.
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
        self.remembered: dict[str, str] = {}  # by tools; new model sessions get it
        self.record = facts.new_record(agent.name) if taken is None else taken.record
        self.on_change: Callable[[], None] = lambda: None
        self.on_words: Callable[[], None] = lambda: None
        self.timeline = Timeline(self.record, metrics, facts.formats.takes.rate_hz, rang_s=rang_s)
        self._policy = policy_of(agent)._replace(rate_hz=facts.formats.takes.rate_hz)
        self.state = State()
        self._events: deque[e.Event] = deque()
        self._stepping = False
        fail = partial(self._end_now, Ending.INTERNAL_ERROR)
        self._faults = faults = Faults(facts.call_sid, self.timeline, metrics, fail)
        self.task_failed = faults.report
        self._timers = Timers(clock, lambda event: faults.safely("timer", self._fire, event))
        wiring = Wiring(facts, agent, clock, metrics, self.timeline, self.feed, faults, lambda: self.on_change())
        self.speaking = speaking = Speaking(wiring, sounds, lambda turn: self.state.is_dead(turn))
        self.model = model = ModelSide(wiring, partial(link_for, self), prices)
        self.pictures = Pictures(wiring, lambda: model.link)
        epoch = 1 if taken is None else taken.epoch
        self._recorder = recorder_for(wiring, speaking.playout, recordings or Recordings(), epoch)
        self.hearing = Hearing(
            wiring,
            self._policy,
            detection,
            recorder=self._recorder,
            uplink=model.link,
            agent_level_dbov=lambda now_s: speaking.playout.heard_level_dbov(self.state.ledger, now_s),
        )
        self.tap = Tap(wiring, speaking.playout, lambda: self.state.ledger, self.hearing)
        self.tools = CallTools(
            wiring,
            tools,
            self.remembered,
            hearing=self.hearing,
            model=model,
            say_and_end=self.say_and_end,
            redactor=redactor,
        )
        self._parts = parts = Parts(speaking, self.hearing, self.tools, model, self._recorder)
        self._teardown = teardown = Teardown(
            wiring, parts, stop_timers=self._stop_timers, on_over=partial(on_over, self), release=self._release
        )
        self.over, self.give_up, self.publish_counters = teardown.over, teardown.give_up, teardown.publish_counters
        self._continuity = continuity = Continuity(
            wiring, parts, teardown, begin_anew=self._begin_anew, end_now=self._end_now
        )
        self.start, self.attach, self.detach = continuity.start, continuity.attach, continuity.detach
        self.resume, self.conclude, self.moved = continuity.resume, continuity.conclude, continuity.moved
        self.hung_up, self.line_lost, self.silent_s = continuity.hung_up, continuity.line_lost, continuity.silent_s
        # What the line and the link report straight to a part (the rest of LineSink and ModelSink is below).
        self.caller_audio, self.sent, self.clear_sent = self.hearing.caller_audio, speaking.sent, speaking.clear_sent
        self.reply_audio, self.next_turn = speaking.reply_audio, speaking.next_turn
        self.usage, self.count, self.segment = model.usage, model.count, model.segment
        self.tool_call, self.picture = self.tools.requested, self.pictures.take
        if taken is not None:
            continuity.restore(taken)
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
        phase = self.state.phase
        try:
            while self._events:
                event = self._events.popleft()
                self.state, commands = step(self._policy, self.state, event)
                self.hearing.muted = self.state.caller_muted
                self.timeline.observe(event, commands)
                if self._recorder is not None:
                    self._recorder.observe(event, commands, self.state.ledger)
                for command in commands:
                    self._do[type(command)](command)
        except Exception as error:
            self._faults.report("conversation", error)
            self._end_now(Ending.INTERNAL_ERROR)
        finally:
            self._stepping = False
            if self.state.phase is not phase:
                self.on_change()

    def _end_now(self, ending: Ending) -> None:
        """The conversation is over, whatever state it is in: what waits to be fed is dropped."""
        self._events.clear()
        self.state = self.state._replace(phase=Phase.ENDED)
        self._teardown.decide(ending)

    def _begin_anew(self) -> None:
        self.state = State()

    def _fire(self, event: type[e.Event]) -> None:
        """A timer of the machine's is due."""
        if event is e.ModelSilent and any(not tool.withdrawn for tool in self.state.tools):
            self._faults.stuck("a tool did not end in its time")
        elif event is e.ConnectTimeout and self.model.was_ready and self.state.link is Link.DOWN:
            self._faults.stuck("the model's link neither came back nor gave up")
        self.feed(event(self.clock()))

    # --- what the process and the operator request, and what they look up

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
    def phase(self) -> Phase:
        return self.state.phase

    @property
    def ending(self) -> Ending | None:
        """Why the call ends, once that is decided."""
        return self._teardown.ending

    @property
    def ended_s(self) -> float | None:
        """When that was decided."""
        return self._teardown.decided_s

    # --- the line's side (the rest of LineSink)

    def mark_heard(self, mark: ReplyMark) -> None:
        late_s = self.hearing.late_s
        self.hearing.then(e.MarkReturned(self.clock(), mark.generation, mark.sample, mark.epoch, late_s))

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
        if self.phase is not Phase.ENDED:
            self.timeline.error(why)
            self.line_lost()

    # --- the model's side (the rest of ModelSink)

    def event(self, event: e.Event) -> None:
        if isinstance(event, (e.ReplyComplete, e.TurnComplete)):
            self.speaking.finish(event.generation)
            self.on_change()
        self.model.observe(event)
        self.feed(event)

    def words(self, who: Speaker, turn: int | None, text: str, final: bool) -> None:
        self.speaking.words(who, turn, text, final)
        self.on_words()

    def agent_has_floor(self) -> bool:
        return self.state.agent_has_floor

    # --- commands that concern two parts

    def _drop(self, command: c.Drop) -> None:
        self.speaking.drop(command)
        self.model.link.cancel_reply(command.generation)

    def _play_filler(self, command: c.PlayFiller) -> None:
        if sound := self.tools.filler(command) if command.call_id else self.agent.model.filler:
            self.speaking.play_sound(sound, "filler")

    def _open_turn(self, command: c.OpenTurn) -> None:
        self.model.link.turn_started()
        self.hearing.open_turn()

    def _close_turn(self, command: c.CloseTurn) -> None:
        self.hearing.close_turn()
        self.model.link.turn_ended()

    # --- the end

    def _stop_timers(self) -> None:
        self.tap.close()
        self._timers.close()
        self._continuity.stop_waiting()

    def _release(self) -> None:
        """Nothing of the call runs any more."""
        shared = (self.tap, self.pictures, self.timeline, self._timers, self._faults, self._teardown, self._continuity)
        release(self, (*self._parts[:4], *shared), kept=("facts", "agent", "record", "clock", "remembered"))
