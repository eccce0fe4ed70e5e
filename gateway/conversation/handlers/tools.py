"""Tool calls beside the phases: one outcome each."""

from __future__ import annotations

from offhook.gateway.conversation import commands as c
from offhook.gateway.conversation import events as e
from offhook.gateway.conversation.handlers.floor import (
    Emit,
    all_complete,
    awaited_tools,
    listen,
    model_replied,
    patience_s,
    playback_overdue_s,
    think,
    watch_playout,
    watch_silence,
)
from offhook.gateway.conversation.state import Phase, Policy, RunningTool, State

__all__ = [
    "filler_due",
    "find_tool",
    "tool_before_stream",
    "tool_finished",
    "tool_requested",
    "tool_withdrawn",
]


def tool_requested(p: Policy, s: State, ev: e.ToolRequested, emit: Emit) -> State:
    if any(t.call_id == ev.call_id for t in s.tools):
        return s  # the same request again: one run
    tool = RunningTool(ev.call_id, ev.policy, ev.silent, ev.filler_after_s, ev.at_s + ev.limit_s)
    # A model that requests a tool is neither deaf nor silent.
    s = model_replied(s, emit).with_due(tool_asked=True)._replace(tools=(*s.tools, tool))
    emit(c.RunTool(ev.call_id))
    if s.phase is Phase.SPEAKING and not all_complete(s):  # the filler's time counts from the end of playback
        watch_playout(s, max(ev.at_s, playback_overdue_s(p, s)), emit)
    if s.phase is Phase.THINKING or (s.phase is Phase.LISTENING and not s.caller.speaking and not s.caller.turn_open):
        return think(p, s, ev.at_s, emit)
    return s


def tool_before_stream(p: Policy, s: State, ev: e.ToolRequested, emit: Emit) -> State:
    """There is no caller yet: nothing is done."""
    emit(c.CancelTool(ev.call_id))
    return s


def find_tool(s: State, call_id: str) -> RunningTool | None:
    return next((t for t in s.tools if t.call_id == call_id), None)


def tool_finished(p: Policy, s: State, ev: e.ToolFinished, emit: Emit) -> State:
    tool = find_tool(s, ev.call_id)
    if tool is None:
        return s  # cancelled before: its result is dropped
    s = s._replace(tools=tuple(t for t in s.tools if t is not tool))
    speak = _speak(s, tool)
    emit(c.AnswerTool(ev.call_id, ev.outcome, speak))
    if not s.due.failed_prompts:
        s = s.with_due_anew(reply=s.due.reply)  # what is due, is due from now
    return _after_tool(p, s, ev.at_s, emit, spoken_of=speak not in (None, c.Speak.SILENT))


def _after_tool(p: Policy, s: State, at_s: float, emit: Emit, *, spoken_of: bool) -> State:
    if s.phase is not Phase.THINKING or awaited_tools(s):
        return s
    # A tool that is not spoken of changes nothing: either the caller has had a reply, or still waits for it.
    return think(p, s, at_s, emit) if spoken_of or not s.agent_replied else listen(p, s, at_s, emit)


def _speak(s: State, tool: RunningTool) -> c.Speak | None:
    """When the model speaks of a result: at once if neither side speaks, else when there is room; withdrawn: never."""
    if tool.withdrawn:
        return None
    if tool.silent or (s.ending is not None and s.agent_replied):  # the goodbye is said, or being said
        return c.Speak.SILENT
    if s.phase in (Phase.THINKING, Phase.CLOSING):
        return c.Speak.NOW
    if s.phase is Phase.LISTENING and not s.caller.speaking and not s.caller.turn_open:
        return c.Speak.NOW
    return c.Speak.WHEN_IDLE


def tool_withdrawn(p: Policy, s: State, ev: e.ToolWithdrawn, emit: Emit) -> State:
    """The model does not want the result: a run that yields is cancelled, that of one that must finish is not sent."""
    tool = find_tool(s, ev.call_id)
    if tool is None or tool.withdrawn:
        return s
    if tool.policy is e.ToolPolicy.FINISH:
        s = s._replace(tools=tuple(t._replace(withdrawn=True) if t is tool else t for t in s.tools))
    else:
        emit(c.CancelTool(tool.call_id))
        s = s._replace(tools=tuple(t for t in s.tools if t is not tool))
    return _after_tool(p, s, ev.at_s, emit, spoken_of=False)


def filler_due(p: Policy, s: State, ev: e.FillerDue, emit: Emit) -> State:
    """That of the first tool that has one, else the agent's. Again after as much silence as a caller may meet."""
    tool = next((t for t in awaited_tools(s) if t.filler_after_s is not None), None)
    emit(c.PlayFiller(tool.call_id if tool is not None else ""))
    if tool is not None:
        filled = tool._replace(filler_after_s=patience_s(p))
        s = s._replace(tools=tuple(filled if t is tool else t for t in s.tools))
    s = s._replace(quiet_s=ev.at_s)  # one that cannot be heard changes nothing
    watch_silence(p, s, ev.at_s, emit)
    return s
