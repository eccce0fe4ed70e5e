"""A caller who thinks: a Live model on our own link, on a simulated phone.

The sides are swapped: for this link the agent of the call is the caller, whose audio is what the phone plays; its
replies are what the caller says. The agent's barge-in works as well: the caller falls silent when the model hears it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from offhook.gateway.agent.spec import Agent
from offhook.gateway.conversation.commands import Speak
from offhook.gateway.conversation.events import (
    Event,
    GoAway,
    ModelFailed,
    ModelInterrupted,
    ReplyComplete,
    TurnComplete,
)
from offhook.gateway.models import CallBrief, LinkCount, Model, ModelSink, Prices, Speaker, Usage
from offhook.gateway.models.pricing import cost
from offhook.gateway.rehearsal.phone.call import StepFailed
from offhook.gateway.rehearsal.phone.live import LiveCaller, Phone
from offhook.gateway.rehearsal.phone.playback import SILENT_FRAME, audible
from offhook.gateway.rehearsal.phone.truth import Utterance
from offhook.gateway.rehearsal.scenario.thinking import CallerLimits
from offhook.gateway.rehearsal.thinking.persona import HANG_UP, PRESS_KEYS, SILENCE, TOOLS
from offhook.media.mulaw import FRAME_BYTES, RATE_HZ, decode

__all__ = ["ThinkingCaller"]

SILENT_S = 10.0  # neither side is heard: the caller is prompted, as people say hello again
HANG_UP_AFTER_S = 1.0  # from the request, or the last word of either side: a goodbye may come behind the request
HANG_UP_LATEST_S = 10.0  # from the request, though the agent goes on
_SAME_S = 0.1  # a timer's firing and its time are closer


@dataclass(slots=True)
class _Turn:
    """One turn of the caller's model: audio that is not said yet, and how much is."""

    number: int
    audio: bytearray = field(default_factory=bytearray)
    said: int = 0  # samples
    complete: bool = False
    utterance: Utterance | None = None
    text: str = ""


class ThinkingCaller(LiveCaller, ModelSink):
    """The caller of one call. Afterwards `ended`, `why`, `turns`, `cost_usd` and `heard` say what became of it.

    `spec`: the caller as an agent, see `persona`. `prices` None: what it costs is not known, and not bounded.
    """

    def __init__(
        self, model: Model, spec: Agent, limits: CallerLimits, prices: Prices | None, clock: Callable[[], float]
    ) -> None:
        self._limits, self._prices, self._clock = limits, prices, clock
        self._link = model.link(CallBrief(agent=spec, clock=clock, tools=TOOLS), self)
        self.ended, self.why = "", ""
        self.turns = 0
        self.cost_usd: float | None = None if prices is None else 0.0
        self.heard: list[tuple[float, str]] = []  # the agent, as this model transcribed it, by when it began to
        self._hearing = False  # the last of `heard` goes on
        self._call: Phone | None = None
        self._queue: deque[_Turn] = deque()
        self._texts: dict[int, _Turn] = {}  # all turns: words may come after the audio
        self._numbers = 0
        self._dead = 0  # no turn up to this one is said any more
        self._sound_s = clock()  # when either side was last heard, or the caller prompted
        self._hang_up_s: float | None = None
        self._pressing: set[asyncio.Task[None]] = set()
        self._problem: BaseException | None = None

    # --- the phone

    def hear(self, frame: bytes) -> None:
        if audible(frame):
            self._sound_s = self._clock()
        self._link.caller_audio(frame, decode(frame), 0.0)
        self._link.flush_audio()

    def speak(self, place: int) -> bytes | None:
        while self._queue and self._queue[0].complete and not self._queue[0].audio:
            self._queue.popleft()
        turn = self._queue[0] if self._queue else None
        if turn is None or not (turn.complete or len(turn.audio) >= FRAME_BYTES):
            return None
        frame = bytes(turn.audio[:FRAME_BYTES])
        del turn.audio[:FRAME_BYTES]
        turn.said += len(frame)
        frame += SILENT_FRAME[len(frame) :]
        if audible(frame):
            self._sound_s = self._clock()
            self._utter(turn, place)
        return frame

    def _utter(self, turn: _Turn, place: int) -> None:
        """Enter an audible frame of this turn in the ground truth."""
        assert self._call is not None
        truth = self._call.truth
        end_place = place + FRAME_BYTES
        end_s = truth.began_s + end_place / RATE_HZ
        if turn.utterance is None:
            over = bool(truth.agent) and truth.agent[-1].open
            turn.utterance = Utterance(
                text=turn.text.strip(),
                kind="say",
                onset_s=truth.began_s + place / RATE_HZ,
                end_s=end_s,
                onset_place=place,
                end_place=end_place,
                over_agent=over,
            )
            truth.spoken.append(turn.utterance)
            self.turns += 1
        turn.utterance.end_place, turn.utterance.end_s = end_place, end_s

    async def converse(self, call: Phone) -> None:
        self._call = call
        until_s = self._clock() + self._limits.seconds
        running = asyncio.create_task(self._link.run())
        try:
            if not await call.until(self._finished, 1000.0 * self._limits.seconds):
                self._end("seconds" if self._clock() >= until_s - _SAME_S else "call_over")
        finally:
            call.hang_up()  # before the session's end, which may take a second
            for press in self._pressing:
                press.cancel()
            await self._link.close()
            await asyncio.gather(running, *self._pressing, return_exceptions=True)
        if self._problem is not None:
            raise self._problem

    def _finished(self) -> bool:
        """Whether the caller hangs up now. Asked once a tick."""
        now_s = self._clock()
        if self._hang_up_s is not None and not self._queue:
            silent_s = now_s - max(self._hang_up_s, self._sound_s)
            if silent_s >= HANG_UP_AFTER_S or now_s - self._hang_up_s >= HANG_UP_LATEST_S:
                self._end("hung_up")
        elif now_s - self._sound_s >= SILENT_S and not self._queue and self._call is not None and self._call.streaming:
            self._sound_s = now_s
            self._link.prompt(SILENCE)
        return bool(self.ended)

    def _end(self, how: str, why: str = "") -> None:
        """The first reason is the one that counts."""
        if not self.ended:
            self.ended, self.why = how, why or self.why

    # --- the model: `ModelSink`

    def event(self, event: Event) -> None:
        match event:
            case ModelInterrupted():
                self._fall_silent(event.generation)
            case ReplyComplete() | TurnComplete():
                if turn := self._texts.get(event.generation):
                    turn.complete = True
            case GoAway():
                self._link.rotate()
            case ModelFailed():
                self._end("failed", self._link.faults[-1] if self._link.faults else "its model cannot be reached")

    def _fall_silent(self, generation: int) -> None:
        """The model heard the agent over the caller's words: what is not said yet is dropped."""
        self._dead = max(self._dead, generation)
        for turn in [turn for turn in self._queue if turn.number <= generation]:
            self._queue.remove(turn)
            turn.audio.clear()
            self._link.cancel_reply(turn.number)
            self._link.heard(turn.number, turn.said, None)

    def reply_audio(self, turn: int, codes: bytes) -> None:
        if turn <= self._dead or self.ended:
            return
        if turn not in self._texts or self._texts[turn] not in self._queue:
            begun = self.turns + sum(waiting.utterance is None for waiting in self._queue)
            if begun >= self._limits.turns:
                self._end("turns")
                return
            self._queue.append(self._turn(turn))
        self._hearing = False
        self._texts[turn].audio += codes

    def _turn(self, number: int) -> _Turn:
        return self._texts.setdefault(number, _Turn(number))

    def words(self, who: Speaker, turn: int | None, text: str, final: bool) -> None:
        if who is Speaker.AGENT and turn is not None:
            mine = self._turn(turn)
            mine.text += text
            if mine.utterance is not None:
                mine.utterance.text = mine.text.strip()
        elif text and self._hearing:
            at_s, so_far = self.heard[-1]
            self.heard[-1] = (at_s, so_far + text)
        elif text:
            self.heard.append((self._clock(), text))
            self._hearing = True
        if who is Speaker.CALLER and final:
            self._hearing = False

    def tool_call(self, call_id: str, name: str, arguments: dict[str, Any]) -> None:
        if name == HANG_UP:
            self._hang_up_s = self._clock()
            self.why = str(arguments.get("reason", ""))[:500]
        elif name == PRESS_KEYS:
            task = asyncio.get_running_loop().create_task(self._press(call_id, str(arguments.get("keys", ""))))
            self._pressing.add(task)
            task.add_done_callback(self._pressing.discard)
        else:
            self._link.tool_result(call_id, name, {"error": f"there is no {name}"}, Speak.SILENT)

    async def _press(self, call_id: str, keys: str) -> None:
        assert self._call is not None
        response = {"result": "pressed"}
        pressed = "".join(key for key in keys if key in "0123456789*#")[:40]
        try:
            if not pressed:
                raise StepFailed("give digits, * and #")
            await self._call.press(pressed)
        except StepFailed as failed:
            response = {"error": str(failed)}
        self._link.tool_result(call_id, PRESS_KEYS, response, Speak.SILENT)

    def usage(self, usage: Usage) -> None:
        if self._prices is None or self.cost_usd is None:
            return
        self.cost_usd += cost(usage, self._prices)
        if self.cost_usd >= self._limits.cost_usd:
            self._end("cost")

    def next_turn(self) -> int:
        self._numbers += 1
        return self._numbers

    def agent_has_floor(self) -> bool:
        """Whether this caller is heard."""
        return bool(self._queue)

    def count(self, what: LinkCount, by: float = 1, reason: str = "") -> None:
        """The link's faults say why a caller was lost; nothing is counted."""

    def segment(self, name: str, seconds: float) -> None:
        """How fast the caller's model is, is no matter of the call's."""

    def task_failed(self, part: str, error: BaseException) -> None:
        self._problem = self._problem or error
        self._end("failed", f"{part}: {type(error).__name__}")
