"""Turn-taking of the rehearsal model: replies, interruptions, tool calls."""

import asyncio
import json
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from offhook.gateway.rehearsal.model import wire
from offhook.gateway.rehearsal.model.connection import Connection
from offhook.gateway.rehearsal.model.record import ReplySent, SessionRecord, ToolAnswer, ToolCallSent
from offhook.gateway.rehearsal.model.script import (
    Abort,
    Action,
    CallTool,
    CancelTools,
    Close,
    EmptyTurn,
    FailResponse,
    Fault,
    Mute,
    Oversize,
    Reply,
    Say,
    Script,
    Send,
    SendGoAway,
    SendInterrupted,
    Stall,
    Think,
    Wait,
)
from offhook.gateway.rehearsal.model.voice import chunks_of
from offhook.gateway.rehearsal.model.wire import (
    BadMessage,
    Function,
    FunctionResponse,
    Profile,
    Setup,
    audio_frame,
    functions,
    pretty,
)

__all__ = [
    "AUDIO_TOKENS_PER_S",
    "IMAGE_TOKENS",
    "Conversation",
    "Progress",
    "ScriptPlayer",
    "Trigger",
    "find_reply",
    "raw_frame",
    "spread",
]

AUDIO_TOKENS_PER_S = 25  # Google's best practices for the Live API
IMAGE_TOKENS = 258  # of a picture of at most 768 x 768 (Gemini API: image understanding)
# A result sent before the cancellation was received is not a violation.
_CROSSING_S = 0.25
# The service repeats a call whose result was empty two to five times.
_REPEATS = 2
_EMPTY: tuple[Any, ...] = (None, "", [], {})


@dataclass(slots=True)
class Progress:
    """Progress of a script: the indices of the replies and faults that have been used."""

    script: Script
    began_at_s: float
    used: set[int] = field(default_factory=set)
    heard_sent: set[int] = field(default_factory=set)
    faults_done: set[int] = field(default_factory=set)
    resumes_refused: int = 0


@dataclass(slots=True)
class Conversation:
    """The state that a resumption handle restores: the script's progress and the size of the context."""

    progress: Progress
    began_at_s: float
    audio_tokens: float = 0.0
    text_tokens: float = 0.0
    image_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Trigger:
    """An event to which a reply may be scripted. `detail`: the text, or the tool's name."""

    kind: Literal["start", "resume", "caller", "text", "tool"]
    detail: str = ""
    speech_ms: float = 0.0


@dataclass(slots=True)
class _Turn:
    """The model's turn under way. `index` is None for the script's default reply.

    `content`: a part of the turn was sent. `generated`: a part was sent since the last turnComplete. `late`: frames
    that are still sent after an interruption.
    """

    trigger: Trigger
    reply: Reply
    index: int | None
    record: ReplySent
    task: asyncio.Task[None] | None = None
    content: bool = False
    generated: bool = False
    playing_until_s: float = 0.0
    late: list[bytes] = field(default_factory=list)


class ScriptPlayer:
    """Plays the script on one session. `idle` is called whenever the service would offer a resumption handle."""

    def __init__(
        self,
        connection: Connection,
        record: SessionRecord,
        setup: Setup,
        profile: Profile,
        conversation: Conversation,
        *,
        vertex: bool,
        violation: Callable[[str], None],
        idle: Callable[[], None],
    ) -> None:
        self._connection, self._record, self._profile, self._conversation = connection, record, profile, conversation
        self._progress, self._script = conversation.progress, conversation.progress.script
        self._violation, self._idle = violation, idle
        self._vertex = vertex
        self._transcribe_caller = setup.input_audio_transcription is not None
        self._transcribe_model = setup.output_audio_transcription is not None
        self._report_resumable = setup.session_resumption is not None
        self._compression = setup.context_window_compression
        self._interruptible = setup.realtime_input_config.activity_handling != "NO_INTERRUPTION"
        self._blocking: dict[str, bool] = {}
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._turn: _Turn | None = None
        self._pending: deque[Trigger] = deque()
        self._timers: list[asyncio.TimerHandle] = []
        self._muted = False
        self.caller_speaks = False
        self.declare(functions(setup.tools))

    def begin(self, resumed: bool, time_scale: float) -> None:
        """The session is set up: lifetimes and faults begin."""
        script = self._script
        life_s = script.lifetime_s
        if self._compression is None:
            # Without compression the audio of one conversation is limited, however often it is resumed.
            spent_s = (self._connection.clock() - self._conversation.began_at_s) * time_scale
            life_s = min(life_s, max(1.0, self._profile.uncompressed_s - spent_s))
        left_s = min(script.go_away_s, life_s)
        self._later((life_s - left_s) / time_scale, lambda: self._go_away(SendGoAway(left_s / time_scale)))
        elapsed_s = self._connection.clock() - self._progress.began_at_s
        for index, fault in enumerate(script.faults):
            if index not in self._progress.faults_done:
                self._later(max(0.0, fault.at_s - elapsed_s), partial(self._begin_fault, index))
        self.trigger(Trigger("resume" if resumed else "start"))

    def end(self) -> None:
        """The connection is over."""
        for timer in self._timers:
            timer.cancel()
        if (turn := self._turn) is not None:
            self._end_turn(turn, "cut off")
            if turn.task is not None:
                turn.task.cancel()

    def _later(self, delay_s: float, call: Callable[[], Any]) -> None:
        self._timers.append(asyncio.get_running_loop().call_later(delay_s, call))

    # -- turn-taking -------------------------------------------------------------------------------------

    def caller_started(self) -> None:
        self.caller_speaks = True
        if self._interruptible:
            self.interrupt()
            self._cancel_calls(all_of_them=self._script.barge_in_cancels == "all")

    def caller_ended(self, speech_ms: float) -> None:
        self.caller_speaks = False
        self.trigger(Trigger("caller", speech_ms=speech_ms))

    def trigger(self, trigger: Trigger) -> None:
        """Queue an event; the reply scripted for it is played when the model has the floor."""
        self._pending.append(trigger)
        self._play_pending()

    def _play_pending(self, even_over_caller: bool = False) -> None:
        while self._connection.open and self._turn is None and self._pending:
            if self.caller_speaks and not even_over_caller:
                return
            trigger = self._pending.popleft()
            found = self._find(trigger)
            if found is None or self._muted:
                continue
            index, reply = found
            event = f"tool:{trigger.detail}" if trigger.kind == "tool" else trigger.kind
            turn = self._turn = _Turn(trigger, reply, index, ReplySent(event, self._connection.clock()))
            self._record.replies.append(turn.record)
            turn.task = self._connection.tasks.begin(self._play(turn))

    def _find(self, trigger: Trigger) -> tuple[int | None, Reply] | None:
        return find_reply(self._progress, trigger)

    def interrupt(self, phantom: bool = False) -> None:
        """Interrupt the model's turn. Without a turn nothing happens (unless phantom)."""
        turn = self._turn
        if turn is None and not phantom:
            return
        self._connection.send(wire.interrupted(), self._record.interruptions.append)
        for frame in turn.late if turn else ():
            self._connection.put(frame)
        self._turn_complete(turn.record.audio_ms if turn else 0.0, idle=True)
        if turn is None:
            return
        self._end_turn(turn, "interrupted")
        if turn.task is not None and turn.task is not asyncio.current_task():
            turn.task.cancel()
        # The caller only paused: the reply is still due.
        if not turn.content and turn.trigger.kind == "caller" and turn.index is not None:
            self._progress.used.discard(turn.index)
        self._offer_handle()

    def _end_turn(self, turn: _Turn, how: Literal["complete", "interrupted", "cut off"]) -> None:
        turn.record.ended, turn.record.ended_at_s = how, self._connection.clock()
        self._turn = None
        self._conversation.audio_tokens += turn.record.audio_ms / 1000 * AUDIO_TOKENS_PER_S

    # -- a reply ------------------------------------------------------------------------------------------

    async def _play(self, turn: _Turn) -> None:
        if turn.reply.heard_when == "before":
            self._send_caller_transcript(turn)
        await self._act(turn, turn.reply.do)
        if self._turn is not turn:
            return
        if turn.reply.heard_when == "after":
            self._send_caller_transcript(turn)
        if turn.content:
            await self._finish(turn, idle=not self._open_calls())
        self._end_turn(turn, "complete")
        if turn.content:
            self._offer_handle()
        self._play_pending()

    async def _act(self, turn: _Turn, actions: Sequence[Action]) -> None:
        rest = deque(actions)
        while rest and self._turn is turn and self._connection.open:
            action = rest.popleft()
            match action:
                case Say():
                    if turn.generated and self._profile.extended_thinking:
                        await self._finish(turn, idle=False)
                    await self._speak(turn, action)
                case Think(text):
                    self._generating(turn)
                    self._connection.send(wire.thought(text))
                case CallTool():
                    calls = [action]
                    while rest and isinstance(rest[0], CallTool):
                        calls.append(rest.popleft())  # type: ignore[arg-type]
                    self._generating(turn)
                    await self._call_tools(turn, [self._new_call(call) for call in calls])
                case EmptyTurn() | FailResponse():
                    self._turn_complete(0.0, idle=True)
                case SendInterrupted():
                    self.interrupt(phantom=True)
                    self._play_pending()
                case _:
                    await self._do(action)

    def _generating(self, turn: _Turn) -> None:
        if not turn.content and self._report_resumable:
            self._connection.send(wire.resumption_update())
        turn.content = turn.generated = True

    def _send_caller_transcript(self, turn: _Turn) -> None:
        """Send the caller's transcript, once even if the reply begins again."""
        if not self._transcribe_caller or turn.index in self._progress.heard_sent:
            return
        if turn.index is not None:
            self._progress.heard_sent.add(turn.index)
        for piece in turn.reply.heard:
            self._connection.send(wire.caller_transcript(piece, finished=self._profile.marks_finished))

    async def _speak(self, turn: _Turn, say: Say) -> None:
        record = turn.record
        chunks = chunks_of(say)
        begin_s = self._connection.clock() + say.delay_ms / 1000
        if record.first_audio_at_s is None and not turn.content:
            # The first delay counts from the decision, so that lateness of this server does not add up.
            begin_s = record.decided_at_s + say.delay_ms / 1000
            record.delay_ms = say.delay_ms
        record.text = f"{record.text} {say.text}".strip()
        await asyncio.sleep(max(0.0, begin_s - self._connection.clock()))
        self._generating(turn)
        own_frame = say.transcript == "own frame" or (
            say.transcript == "as the model does" and not self._profile.same_frame_transcript
        )
        spaced = say.transcript in ("as the model does", "same frame", "own frame") and self._transcribe_model
        pieces = spread(say.text, len(chunks)) if spaced else [""] * len(chunks)
        if say.transcript == "before":
            self._send_transcript(say.text)
        for i, (chunk, piece) in enumerate(zip(chunks, pieces, strict=True)):
            wait_s = begin_s + chunk.starts_ms / 1000 / say.speed - self._connection.clock()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            if not self._connection.open:
                return
            if piece and own_frame:
                self._send_transcript(piece)
            frame = audio_frame(chunk.data, piece if piece and not own_frame else None)
            turn.playing_until_s = max(self._connection.clock(), turn.playing_until_s) + chunk.length_ms / 1000
            turn.late = [audio_frame(late.data) for late in chunks[i + 1 : i + 1 + say.late_chunks]]
            record.audio_ms += chunk.length_ms
            record.energy += chunk.energy
            self._connection.put(frame, record.audio_sent)
            if i == 0 and turn.reply.heard_when == "during":
                self._send_caller_transcript(turn)
        turn.late = []
        if say.transcript == "after":
            self._send_transcript(say.text)

    def _send_transcript(self, text: str) -> None:
        if self._transcribe_model:
            self._connection.send(wire.model_transcript(text))

    async def _finish(self, turn: _Turn, idle: bool) -> None:
        """Send generationComplete, then turnComplete at the end of the audio in real time."""
        self._connection.send(wire.generation_complete(), turn.record.generation_completed)
        await asyncio.sleep(max(0.0, turn.playing_until_s - self._connection.clock()))
        turn.generated = False
        self._turn_complete(turn.record.audio_ms, idle)

    def _turn_complete(self, audio_ms: float, idle: bool) -> None:
        status = ("IDLE" if idle else "IN_PROGRESS") if self._profile.extended_thinking else None
        self._record.usage.append(self._usage(audio_ms))
        self._connection.send(wire.turn_complete(self._record.usage[-1], status))

    def _usage(self, audio_ms: float) -> dict[str, Any]:
        """Usage of a turn: the whole context is billed at every turn, except what compression has removed."""
        context = self._conversation
        if self._compression is not None:
            above = self._compression.trigger_tokens or 0.8 * self._profile.context_tokens
            target = self._compression.sliding_window.target_tokens or above / 2
            if context.audio_tokens + context.text_tokens + context.image_tokens > above:
                left = max(0.0, target - context.text_tokens) / (context.audio_tokens + context.image_tokens)
                context.audio_tokens *= left
                context.image_tokens = int(context.image_tokens * left)
        audio, text = round(context.audio_tokens), round(context.text_tokens)
        answer = round(audio_ms / 1000 * AUDIO_TOKENS_PER_S)
        return wire.usage_metadata(text, audio, answer, context.image_tokens, vertex=self._vertex)

    def _offer_handle(self) -> None:
        if self._turn is None and not self._open_calls():
            self._idle()

    # -- tools --------------------------------------------------------------------------------------------

    def declare(self, declared: Iterable[Function]) -> None:
        """The functions of this session from now on."""
        rule = self._profile.blocking
        self._blocking = {
            function.name: rule == "only"
            or (rule == "default" and function.behavior != "NON_BLOCKING")
            or (rule == "opt in" and function.behavior == "BLOCKING")
            for function in declared
        }

    def _new_call(self, call: CallTool, repeats: int = 0) -> ToolCallSent:
        blocking = self._blocking.get(call.name, self._profile.blocking in ("default", "only"))
        call_id = call.id or f"function-call-{secrets.randbits(63)}"
        return ToolCallSent(call_id, call.name, dict(call.args), blocking, self._connection.clock(), repeats)

    def _send_calls(self, calls: Sequence[ToolCallSent]) -> None:
        self._record.tool_calls += calls

        def sent(at_s: float) -> None:
            for call in calls:
                call.at_s = at_s

        self._connection.send(wire.tool_calls((call.id, call.name, call.args) for call in calls), sent)

    async def _call_tools(self, turn: _Turn, calls: Sequence[ToolCallSent]) -> None:
        """Send calls, wait for the results of blocking ones, then play the replies scripted for them."""
        loop = asyncio.get_running_loop()
        waiting = {call.id: loop.create_future() for call in calls if call.blocking}
        self._waiting |= waiting
        self._send_calls(calls)
        if not waiting:
            return
        await asyncio.wait(waiting.values())
        for call in calls:
            answered = call.blocking and call.state == "answered" and self._turn is turn
            if answered and (found := self._find(Trigger("tool", call.name))):
                await self._act(turn, found[1].do)

    def _open_calls(self) -> list[ToolCallSent]:
        return [call for call in self._record.tool_calls if call.state == "open"]

    def _cancel_calls(self, all_of_them: bool) -> None:
        calls = [call for call in self._open_calls() if all_of_them or call.blocking]
        for call in calls:
            call.state, call.cancelled_at_s = "cancelled", self._connection.clock()
            if waiting := self._waiting.pop(call.id, None):
                waiting.cancel()
        if calls:
            self._connection.send(wire.tool_call_cancellation([call.id for call in calls]))
            self._offer_handle()

    def tool_answer(self, answer: FunctionResponse) -> None:
        """Handle a result. Raises BadMessage if it matches no call (unless the script ignores that)."""
        now_s = self._connection.clock()
        # Some clients put the scheduling into the response.
        scheduling = answer.scheduling or answer.response.get("scheduling") or "WHEN_IDLE"
        call = next((call for call in self._record.tool_calls if call.id == answer.id), None)
        state = call.state if call else "unknown"
        self._record.tool_answers.append(
            ToolAnswer(now_s, answer.id or "", answer.name or "", answer.response, str(scheduling), state)
        )
        self._conversation.text_tokens += len(json.dumps(answer.response)) / 4
        if call is None or call.state != "open":
            crossed = call is not None and now_s - (call.cancelled_at_s or 0.0) < _CROSSING_S
            if not crossed:
                self._report_stray(answer, state)
            return
        if answer.name and answer.name != call.name:
            self._violation(f"result named {answer.name} for a call of {call.name}")
        if scheduling not in ("WHEN_IDLE", "INTERRUPT", "SILENT"):
            raise BadMessage(f"Invalid value at 'function_responses.scheduling': {scheduling!r}")
        if call.blocking or not answer.will_continue:
            call.state = "answered"
        waiting = self._waiting.pop(call.id, None)
        if _is_empty(answer.response) and call.repeats < _REPEATS:
            again = self._new_call(CallTool(call.name, call.args), call.repeats + 1)
            if waiting is not None:
                self._waiting[again.id] = waiting
            self._send_calls([again])
        elif waiting is not None:
            waiting.set_result(None)
        elif scheduling == "SILENT":
            self._offer_handle()
        elif scheduling == "INTERRUPT" and not (self.caller_speaks and self._profile.waits_for_caller):
            self.interrupt()
            self._pending.appendleft(Trigger("tool", call.name))
            self._play_pending(even_over_caller=True)
        else:
            self.trigger(Trigger("tool", call.name))

    def _report_stray(self, answer: FunctionResponse, state: str) -> None:
        what = f"result of {answer.name or 'an unnamed function'} for a call that is {state}"
        if self._script.unknown_tool_id == "close":
            raise BadMessage(f"Request contains an invalid argument. A {what}.")
        self._violation(what)

    # -- faults and lifetimes -----------------------------------------------------------------------------

    def _begin_fault(self, index: int) -> None:
        self._progress.faults_done.add(index)
        self._connection.tasks.begin(self._fault(self._script.faults[index]))

    async def _fault(self, fault: Fault) -> None:
        for action in fault.do:
            if isinstance(action, SendInterrupted):
                self.interrupt(phantom=True)
                self._play_pending()
            else:
                await self._do(action)

    async def _do(self, action: Action) -> None:
        """An action that is no part of the model's speech."""
        match action:
            case Wait(ms):
                await asyncio.sleep(ms / 1000)
            case Stall(ms):
                self._connection.stall(ms)
                await asyncio.sleep(ms / 1000)
            case Mute():
                self._muted = True
            case Send():
                self._connection.put(raw_frame(action))
            case Oversize(size_bytes):
                self._connection.send(wire.thought("x" * size_bytes))
            case CancelTools():
                self._cancel_calls(all_of_them=True)
            case SendGoAway():
                self._go_away(action)
            case Close():
                self._connection.close(action)
            case Abort():
                self._connection.abort()
            case _:
                raise TypeError(f"{type(action).__name__} is part of a reply")

    def _go_away(self, action: SendGoAway) -> None:
        self._connection.send(wire.go_away(action.time_left_s), self._record.go_aways.append)
        if action.then_close:
            self._later(action.time_left_s, lambda: self._connection.close(self._script.end_of_life))


def find_reply(progress: Progress, trigger: Trigger) -> tuple[int | None, Reply] | None:
    """The reply for this trigger and its index in the script, marked as used."""
    for index, reply in enumerate(progress.script.replies):
        if index not in progress.used and _matches(reply, trigger):
            progress.used.add(index)
            return index, reply
    default = progress.script.default
    if default is not None and trigger.kind == "caller" and _matches(default, trigger):
        return None, default
    return None


def _matches(reply: Reply, trigger: Trigger) -> bool:
    if reply.on == "any":
        return trigger.kind in ("caller", "text", "tool")
    kind, _, detail = reply.on.partition(":")
    if kind != trigger.kind:
        return False
    if kind == "text":
        return detail in trigger.detail
    if kind == "tool":
        return detail == trigger.detail
    return kind != "caller" or trigger.speech_ms >= reply.min_speech_ms


def spread(text: str, count: int) -> list[str]:
    """A text distributed over the chunks by words; every piece but the first begins with a space."""
    pieces = [""] * count
    words = text.split()
    for i, word in enumerate(words):
        pieces[i * count // len(words)] += word if i == 0 else " " + word
    return pieces


def _is_empty(response: dict[str, Any]) -> bool:
    return all(value in _EMPTY for key, value in response.items() if key != "scheduling")


def raw_frame(send: Send) -> bytes:
    return send.message.encode() if isinstance(send.message, str) else pretty(send.message)
