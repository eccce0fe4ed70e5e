"""A call goes on while its stream or its process is replaced by another: where it begins, and how long it waits.

A stream that is lost is waited for; so is the first one, but not by the model. A call that began in another process
(`Taken`) begins here with what its parts have to know of it, and with one event, `Resumed`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from offhook.gateway.call import prompts
from offhook.gateway.call.facts import Transfer
from offhook.gateway.call.head import Taken
from offhook.gateway.call.line import Line
from offhook.gateway.call.parts import Parts
from offhook.gateway.call.teardown import Teardown
from offhook.gateway.call.wiring import Wiring
from offhook.gateway.conversation import events as e
from offhook.gateway.conversation.endings import Ending

__all__ = ["Continuity"]

MODEL_WAITS_S = 10.0  # a stream comes a second after its TwiML; a model session is not kept waiting for longer


class Continuity:
    """One call's. `begin_anew()`, `end_now(ending)`: of the conversation, before a stream; in any state."""

    def __init__(
        self,
        wiring: Wiring,
        parts: Parts,
        teardown: Teardown,
        *,
        begin_anew: Callable[[], None],
        end_now: Callable[[Ending], None],
    ) -> None:
        self._agent, self._frame_samples = wiring.agent, wiring.facts.formats.takes.frame_samples
        self._clock, self._timeline, self._faults = wiring.clock, wiring.timeline, wiring.faults
        self._feed, self._changed, self._streams = wiring.feed, wiring.changed, wiring.timeline.record.streams
        self._speaking, self._hearing, self._tools, self._model = parts[:4]
        self._teardown, self._begin_anew, self._end_now = teardown, begin_anew, end_now
        self._call_later = asyncio.get_running_loop().call_later
        self._unclaimed: asyncio.TimerHandle | None = None  # the model waits for the first stream until then
        self._return_by: asyncio.TimerHandle | None = None  # the line is away until then

    # --- streams

    def start(self) -> None:
        """Begin: the model session starts connecting now, whether the stream is there or not."""
        self._model.run()
        self._teardown.start()
        self._unclaimed = self._call_later(MODEL_WAITS_S, self._faults.safely, "link", self._release_model)

    def _release_model(self) -> None:
        """No stream has come: the model waits no longer. A stream that still comes gets a fresh session."""
        self._unclaimed = None
        self._hearing.uplink = self._model.renew()
        self._begin_anew()

    def attach(self, line: Line) -> None:
        """The carrier's stream is up: the call's first, or one that takes the place of the last."""
        now_s = self._clock()
        if self._unclaimed is not None:
            self._unclaimed.cancel()
            self._unclaimed = None
        elif not self._streams:
            self._model.run()
        self._speaking.line = line
        self._hearing.stream_began(now_s)
        self._streams.append(line.stream_id)
        self._cancel_return()
        self._changed()
        if len(self._streams) == 1:
            self._feed(e.StreamStarted(now_s))
            return
        self._feed(e.LineAway(now_s))  # where the carrier connects again before the old stream is seen to be gone
        self._feed(e.LineBack(now_s))

    def detach(self, grace_s: float) -> None:
        """The stream is gone; the call ends unless another is attached within `grace_s`."""
        self._speaking.line = None
        self._wait_for_line(grace_s)
        self._feed(e.LineAway(self._clock()))

    def _wait_for_line(self, grace_s: float) -> None:
        self._cancel_return()
        self._return_by = self._call_later(grace_s, self.line_lost)

    def _cancel_return(self) -> None:
        if self._return_by is not None:
            self._return_by.cancel()
            self._return_by = None

    def hung_up(self) -> None:
        """The caller hung up."""
        self._feed(e.StreamStopped(self._clock()))

    def line_lost(self) -> None:
        """The stream is gone and none will follow."""
        self._feed(e.StreamLost(self._clock()))

    def stop_waiting(self) -> None:
        """The call ends: no stream is waited for."""
        for timer in (self._unclaimed, self._return_by):
            if timer is not None:
                timer.cancel()

    def silent_s(self, now_s: float) -> float:
        """How long the stream has brought nothing; 0 without one."""
        last_s = self._hearing.last_frame_s
        return now_s - last_s if self._speaking.line is not None and last_s is not None else 0.0

    # --- another process

    def restore(self, taken: Taken) -> None:
        """What the parts have to know of the call in another process, before anything happens here."""
        head, record = taken.head, taken.record
        self._speaking.turns = head.newest
        self._tools.remembered.update(record.remembered)
        self._hearing.heard_before_ms = record.audio_in_ms
        self._model.restore(head.session, record.usage.get("cost_usd", 0.0))
        if head.transfer is not None:
            self._tools.transfer_to = Transfer(*head.transfer)
        zero_s = self._clock() - (head.wall_s + taken.age_s - head.began_s)
        self._timeline.restore(zero_s, taken.turns, taken.lines)

    def resume(self, taken: Taken, notes: Sequence[str], grace_s: float) -> None:
        """As `start`, for a call that began elsewhere: the model is connected now, and the call ends unless a stream is
        attached within `grace_s`. `notes`: what the model is told beside what is owed.
        """
        now_s = self._clock()
        self._model.run()
        self._teardown.start()
        self._wait_for_line(grace_s)
        opening = prompts.take_up(taken.heard_text) if taken.owed is e.Owed.REST else ""
        self._model.taken_up = " ".join(filter(None, (*notes, opening)))
        sound = self._sound_cut(taken)
        began_s = self._timeline.zero_s or now_s
        owed = e.Owed.ANSWER if notes and taken.owed is e.Owed.NOTHING else taken.owed
        self._feed(e.Resumed(now_s, taken.head.newest, owed, began_s, taken.ending, *sound))
        self._tools.run_again()

    def _sound_cut(self, taken: Taken) -> tuple[int, int]:
        """The greeting from a file that was cut: its samples, and those that were heard."""
        if not taken.sound_heard or not taken.turns or taken.turns[-1].generation != taken.head.newest:
            return 0, 0
        taken.turns.pop()  # it is on its way again
        samples = self._speaking.sound_again(taken.head.newest, self._agent.greeting.sound)
        frame = self._frame_samples
        return samples, min(taken.sound_heard // frame * frame, samples)

    def conclude(self, ending: Ending) -> None:
        """As `start`, for a call that began elsewhere and is over: only its record is completed."""
        self._teardown.start()
        self._end_now(ending)

    def moved(self) -> None:
        """Another process has the call: everything of it here is closed, and nothing recorded."""
        if self._teardown.ending is None:
            self._end_now(Ending.MOVED)
