"""The mutations of `offhook faults --planted`: each a function that breaks one thing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
import numpy as np

from offhook.gateway.agent.spec import Agent
from offhook.gateway.call.call import Call
from offhook.gateway.call.line import Span
from offhook.gateway.cli.planted.seams import Mutation, Seams
from offhook.gateway.conversation import commands as c
from offhook.gateway.conversation import events as e
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.models import Speaker
from offhook.media.mulaw import decode, encode

__all__ = ["MUTATIONS", "SLOWER"]

LATE_CLEAR_S = 0.3
LATE_ANSWER_S = 2.0
SLOWER_S = 0.030
TAIL_SAMPLES = 3_200  # 400 ms
OLD_SAMPLES = 800  # 100 ms
GAP_S, GAP_AT_SAMPLE = 2.5, 4_000
WRONG_NUMBER = "+15550999"
CLOCK_WRONG_S = 0.4


def _nothing(*_: Any) -> None:
    pass


def _twice(go: Callable[..., None], *arguments: Any) -> None:
    go(*arguments)
    go(*arguments)


def _later(delay_s: float) -> Callable[..., None]:
    return lambda go, *arguments: _after(delay_s, go, *arguments)


def _after(delay_s: float, go: Callable[..., None], *arguments: Any) -> None:
    asyncio.get_running_loop().call_later(delay_s, go, *arguments)


def _louder(codes: bytes, gain: float) -> bytes:
    return encode(np.clip(decode(codes) * gain, -32_768, 32_767).astype(np.int16))


# -- the line


def no_clear(call: Call, seams: Seams) -> None:
    seams.command(call, c.Clear, _nothing)


def late_clear(call: Call, seams: Seams) -> None:
    seams.command(call, c.Clear, _later(LATE_CLEAR_S))


def old_audio_behind_clear(call: Call, seams: Seams) -> None:
    last: list[tuple[Span, bytes]] = []

    def remember(go: Callable[..., None], play: c.Play) -> None:
        codes = call.speaking.playout.span(play.generation, play.from_sample, play.to_sample)[:OLD_SAMPLES]
        last[:] = [(Span(play.generation, play.from_sample, play.from_sample + len(codes)), codes)]
        go(play)

    def clear(go: Callable[..., None], command: c.Clear) -> None:
        go(command)
        if last and call.line is not None:
            call.line.play(*last[0])

    call._do[c.Play] = partial(remember, call._do[c.Play])
    seams.command(call, c.Clear, clear)


def lost_tail(call: Call, seams: Seams) -> None:
    held: dict[int, bytes] = {}

    def all_but_the_tail(go: Callable[..., None], turn: int, codes: bytes) -> None:
        codes = held.get(turn, b"") + codes
        held[turn] = codes[-TAIL_SAMPLES:]
        if len(codes) > TAIL_SAMPLES:
            go(turn, codes[:-TAIL_SAMPLES])

    seams.method(call, "reply_audio", all_but_the_tail)


def reply_twice(call: Call, seams: Seams) -> None:
    seams.method(call, "reply_audio", _twice)


def gap_in_reply(call: Call, seams: Seams) -> None:
    def late(command: c.Play | c.SendMark) -> bool:
        return (command.sample if isinstance(command, c.SendMark) else command.from_sample) >= GAP_AT_SAMPLE

    seams.command(call, c.Play, _later(GAP_S), late)
    seams.command(call, c.SendMark, _later(GAP_S), late)


def late_answer(call: Call, seams: Seams) -> None:
    seams.command(call, c.Play, _later(LATE_ANSWER_S))
    seams.command(call, c.SendMark, _later(LATE_ANSWER_S))


def slower(call: Call, seams: Seams) -> None:
    seams.command(call, c.Play, _later(SLOWER_S))
    seams.command(call, c.SendMark, _later(SLOWER_S))


def not_played_again(call: Call, seams: Seams) -> None:
    seams.command(call, c.Replay, _nothing)


def marks_unread(call: Call, seams: Seams) -> None:
    seams.method(call, "mark_heard", _nothing)


def keys_dropped(call: Call, seams: Seams) -> None:
    seams.method(call, "key_pressed", _nothing)


# -- samples


def caller_too_quiet(call: Call, seams: Seams) -> None:
    seams.method(call, "caller_audio", lambda go, codes, *rest: go(_louder(codes, 0.1), *rest))


def caller_wrong_law(call: Call, seams: Seams) -> None:
    """Mu-law taken for A-law: every second bit inverted."""
    seams.method(call, "caller_audio", lambda go, codes, *rest: go(bytes(b ^ 0x55 for b in codes), *rest))


def caller_frames_lost(call: Call, seams: Seams) -> None:
    seen = [0]

    def all_but_every_tenth(go: Callable[..., None], codes: bytes, *rest: Any) -> None:
        seen[0] += 1
        if seen[0] % 10:
            go(codes, *rest)

    seams.method(call, "caller_audio", all_but_every_tenth)


def agent_too_loud(call: Call, seams: Seams) -> None:
    seams.method(call, "reply_audio", lambda go, turn, codes: go(turn, _louder(codes, 4.0)))


# -- the model


def caller_words_lost(call: Call, seams: Seams) -> None:
    seams.method(call, "words", _nothing, lambda who, *_: who is Speaker.CALLER)


def agent_words_lost(call: Call, seams: Seams) -> None:
    seams.method(call, "words", _nothing, lambda who, *_: who is Speaker.AGENT)


def interruption_not_reported(call: Call, seams: Seams) -> None:
    seams.command(call, c.ReportHeard, _nothing)


def greeting_twice(call: Call, seams: Seams) -> None:
    seams.command(call, c.SendPrompt, _twice, lambda command: command.prompt is c.Prompt.GREETING)


def no_greeting(call: Call, seams: Seams) -> None:
    seams.command(call, c.SendPrompt, _nothing, lambda command: command.prompt is c.Prompt.GREETING)


def usage_not_counted(call: Call, seams: Seams) -> None:
    seams.method(call, "usage", _nothing)


def silent_model_not_prompted(call: Call, seams: Seams) -> None:
    seams.command(call, c.SendPrompt, _nothing, lambda command: command.prompt is c.Prompt.NUDGE)


# -- tools


def tool_twice(call: Call, seams: Seams) -> None:
    def requested(go: Callable[..., None], call_id: str, *rest: Any) -> None:
        go(call_id, *rest)
        go(f"{call_id}-again", *rest)

    seams.method(call, "tool_call", requested)


def tool_result_lost(call: Call, seams: Seams) -> None:
    seams.command(call, c.AnswerTool, _nothing)


def tool_not_cancelled(call: Call, seams: Seams) -> None:
    seams.command(call, c.CancelTool, _nothing)


def filler_never(call: Call, seams: Seams) -> None:
    seams.command(call, c.PlayFiller, _nothing)


def wrong_number(call: Call, seams: Seams) -> None:
    seams.method(call.tools, "transfer", lambda go, _, *rest, **named: go(WRONG_NUMBER, *rest, **named))


def goodbye_cut(call: Call, seams: Seams) -> None:
    seams.method(call.tools, "end_call", lambda go, *_: call._end_now(Ending.AGENT_HUNG_UP))


# -- clocks


def wrong_end_of_speech(call: Call, seams: Seams) -> None:
    def wrong(go: Callable[..., None], event: e.CallerSpeechEnded) -> None:
        go(e.CallerSpeechEnded(event.at_s, event.offset_s - CLOCK_WRONG_S))

    seams.timed(call, e.CallerSpeechEnded, wrong)


def wrong_onset(call: Call, seams: Seams) -> None:
    def wrong(go: Callable[..., None], command: c.BargeIn, at_s: float) -> None:
        go(replace(command, onset_s=command.onset_s - CLOCK_WRONG_S), at_s)

    seams.timed(call, c.BargeIn, wrong)


def silence_never_prompted(call: Call, seams: Seams) -> None:
    seams.command(call, c.SendPrompt, _nothing, lambda command: command.prompt is c.Prompt.IDLE)


def time_limit_ignored(call: Call, seams: Seams) -> None:
    seams.command(call, c.SetTimer, _nothing, lambda command: command.event is e.TimeLimit)


# -- the end


def place_kept(call: Call, seams: Seams) -> None:
    seams.method(call._teardown, "_on_over", _nothing)
    call._teardown._release = _nothing


def session_kept(call: Call, seams: Seams) -> None:
    async def go_on() -> None:
        pass

    seams.method(call.model, "closers", lambda go: [])
    call.model.ended = go_on  # type: ignore[method-assign]


# -- agents


def _with(part: str, **changes: Any) -> Callable[[Agent], Agent]:
    """A change of one part of an agent's file."""

    def changed(agent: Agent) -> Agent:
        return msgspec.structs.replace(agent, **{part: msgspec.structs.replace(getattr(agent, part), **changes)})

    return changed


def never_hangs_up(agent: Agent) -> Agent:
    return msgspec.structs.replace(agent, tools=tuple(tool for tool in agent.tools if tool.builtin != "end_call"))


def _mutation(function: Callable[[Call, Seams], None], about: str, *named_by: str) -> Mutation:
    return Mutation(function.__name__.replace("_", "-"), about, frozenset(named_by), call=function)


def _of_agent(name: str, change: Callable[[Agent], Agent], about: str, *named_by: str) -> Mutation:
    return Mutation(name, about, frozenset(named_by), agent=change)


MUTATIONS: tuple[Mutation, ...] = (
    _mutation(no_clear, "playback is not stopped when the caller interrupts", "barge_in_stopped_within_ms"),
    _mutation(late_clear, "playback is stopped 300 ms late", "barge_in_stopped_within_ms"),
    _mutation(old_audio_behind_clear, "100 ms of the dropped reply follow the clear", "barge_in_stopped_within_ms"),
    _mutation(not_played_again, "after a dismissed barge-in the rest of the reply is lost", "all_heard", "whole"),
    _mutation(lost_tail, "the last 400 ms of each reply are lost", "whole"),
    _mutation(reply_twice, "each chunk of a reply is sent twice", "whole"),
    _mutation(gap_in_reply, "a reply breaks off for 2.5 s", "no_gap"),
    _mutation(late_answer, "all of the agent's audio is 2 s late", "answered_within_ms", "greeting_within_ms"),
    _mutation(marks_unread, "marks of the carrier are ignored", "segments_within_ms"),
    _mutation(keys_dropped, "the caller's keys are ignored", "told_model"),
    _mutation(caller_too_quiet, "the caller's samples are 20 dB too low", "caller_audio"),
    _mutation(caller_wrong_law, "the caller's mu-law is read as A-law", "caller_audio"),
    _mutation(caller_frames_lost, "every tenth frame of the caller is lost", "caller_audio"),
    _mutation(agent_too_loud, "the agent's samples are 12 dB too high", "agent_level"),
    _mutation(caller_words_lost, "the caller's words are not in the transcript", "caller_text"),
    _mutation(agent_words_lost, "the agent's words are not in the transcript", "heard_text"),
    _mutation(interruption_not_reported, "the model is not told what the caller heard", "told_model"),
    _mutation(greeting_twice, "the model is asked for the greeting twice", "told_model"),
    _mutation(no_greeting, "the model is not asked for the greeting", "told_model", "greeting_within_ms"),
    _mutation(silent_model_not_prompted, "a silent model is not prompted again", "told_model", "waited_within_ms"),
    _mutation(usage_not_counted, "the model's tokens are not counted", "counted"),
    _mutation(tool_twice, "each tool is called twice", "tool_called"),
    _mutation(tool_result_lost, "the model never gets a tool's result", "tool_answers"),
    _mutation(tool_not_cancelled, "a barge-in does not stop a running tool", "tool_cancelled", "tool_answers"),
    _mutation(filler_never, "nothing covers the wait for a slow tool", "answered_within_ms", "waited_within_ms"),
    _mutation(wrong_number, "the caller is put through to another number", "transferred_to"),
    _mutation(goodbye_cut, "the agent hangs up in its goodbye", "goodbye_heard"),
    _mutation(wrong_end_of_speech, "the turn gap's clock starts 400 ms early", "clocks"),
    _mutation(wrong_onset, "the barge-in's clock starts 400 ms early", "clocks"),
    _mutation(silence_never_prompted, "a silent caller is never asked", "told_model"),
    _mutation(time_limit_ignored, "a call outlasts its limit", "end_reason", "ended_within_s"),
    _mutation(place_kept, "a call that is over keeps its place", "released"),
    _mutation(session_kept, "the model's session outlives the call", "released"),
    _of_agent("agent-never-hangs-up", never_hangs_up, "the agent cannot end the call", "end_reason"),
    _of_agent(
        "agent-is-deaf", _with("barge_in", mode="off"), "the agent lets nobody interrupt", "barge_in_stopped_within_ms"
    ),
    _of_agent(
        "notice-not-protected", _with("greeting", protected=False), "the notice can be interrupted", "heard_text"
    ),
    _of_agent("recording-not-announced", _with("recording", announce=""), "nobody says that it records", "told_model"),
    _of_agent("no-fallback-line", _with("fallback", say="Goodbye."), "the fallback says something else", "announced"),
)

SLOWER = _mutation(slower, "all of the agent's audio is 30 ms late")
