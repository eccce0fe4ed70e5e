"""The conversation machine: `step(policy, state, event) -> (state, commands)`.

It decides everything about turns and does nothing itself. Time comes in with the event; a timer is a command,
its firing an event. The shell carries commands out at once and in order.

The theory in short. A **reply** is numbered (its generation) where it is made: a turn of the model, a greeting
from a file, a filler. Its audio is sent ahead; the ledger knows what was heard. When the caller speaks over the
agent (mode `hold`) the carrier's queue is emptied at once and the unheard tail kept (HELD) until a **verdict**:
the model says `interrupted`, or the caller goes on speaking: the reply is dead, and everything up to its number
is dropped wherever it turns up; or the caller falls silent and the model says nothing: the tail is played on.
Tool calls live beside the phases; each gets exactly one outcome. There is one way out: `End`, the last command.

Every phase has a bounded way on, if nothing else ever happens:

    LISTENING  IdleTimeout, or EndpointTimeout, or the caller falls silent; else the call's TimeLimit
    THINKING   ModelSilent; while the link is down ConnectTimeout
    SPEAKING   PlayoutTimeout
    HELD       BargeInLasted while the caller speaks, then VerdictTimeout
    STOPPING   ClearTimeout
    CLOSING    GoodbyeTimeout

CONNECTING is bounded by the server: a call that no stream claims is told StreamLost.

`TABLE` says for each phase what each event means. What is ignored is ignored by name (`ignore`); a test refuses
a missing pair.
"""

from __future__ import annotations

from offhook.gateway.conversation import commands as c
from offhook.gateway.conversation import events as e
from offhook.gateway.conversation.handlers import barge_in, closing, link, replies, tools
from offhook.gateway.conversation.handlers.floor import Handler, ignore
from offhook.gateway.conversation.state import Phase, Policy, State

__all__ = ["EVENTS", "TABLE", "step"]


def step(policy: Policy, state: State, event: e.Event) -> tuple[State, tuple[c.Command, ...]]:
    """What `event` means in `state`. Pure; raises KeyError for an event type that is not in the vocabulary."""
    out: list[c.Command] = []
    state = TABLE[state.phase][type(event)](policy, state, event, out.append)
    return state, tuple(out)


# --- the table

# What means the same wherever the stream is up.
_COMMON: dict[type[e.Event], Handler] = {
    e.StreamStarted: ignore,  # a second start: the stream is up already
    e.StreamStopped: link.stream_stopped,
    e.StreamLost: link.stream_lost,
    e.ClearAcknowledged: replies.clear_acknowledged,
    e.ClearTimeout: replies.clear_timeout,
    e.ModelReady: link.model_ready,
    e.ModelDown: link.model_down,
    e.ModelFailed: link.model_failed,
    e.ConnectTimeout: link.connect_timeout,
    e.GoAway: link.go_away,
    e.GoAwayDeadline: link.go_away_deadline,
    e.ToolRequested: tools.tool_requested,
    e.ToolFinished: tools.tool_finished,
    e.ToolWithdrawn: tools.tool_withdrawn,
    e.EndRequested: closing.end_requested,
    e.EndpointTimeout: barge_in.endpoint,
    e.TimeWarning: closing.time_warning,
    e.TimeLimit: closing.time_limit,
    e.TurnComplete: replies.turn_complete,
    # While the agent is heard, the words it answers may still be written down.
    e.CallerTranscribed: ignore,
    # Timers of other phases may fire once more while they are being stopped.
    e.VerdictTimeout: ignore,
    e.BargeInLasted: ignore,
    e.ModelSilent: ignore,
    e.FillerDue: ignore,
    e.IdleTimeout: ignore,
    e.GoodbyeTimeout: ignore,
    e.PlayoutTimeout: ignore,
}

_AGENT_SILENT: dict[type[e.Event], Handler] = {
    **_COMMON,
    e.CallerSpeechStarted: barge_in.speech_started,
    e.CallerSpeechEnded: barge_in.speech_ended,
    e.CallerTranscribed: barge_in.caller_transcribed,
    e.ModelInterrupted: barge_in.interrupted,
    e.ReplyAudio: replies.reply_begins,
    e.ReplyComplete: replies.complete_after_stall,
    e.MarkReturned: ignore,  # all that was sent has been heard
}

TABLE: dict[Phase, dict[type[e.Event], Handler]] = {
    Phase.CONNECTING: {
        **dict.fromkeys((*_COMMON, e.CallerSpeechStarted, e.CallerSpeechEnded), ignore),
        **dict.fromkeys((e.ModelInterrupted, e.ReplyComplete, e.MarkReturned, e.DigitPressed), ignore),
        e.StreamStarted: link.stream_started,
        e.StreamStopped: link.stream_stopped,
        e.StreamLost: link.stream_never_started,
        e.ModelReady: link.model_ready_connecting,
        e.ModelDown: link.model_down_connecting,
        e.ModelFailed: link.model_failed_connecting,
        e.ReplyAudio: replies.reply_before_stream,
        e.ToolRequested: tools.tool_before_stream,
        e.GoAway: link.go_away,
        e.GoAwayDeadline: link.go_away_deadline,
        e.EndRequested: closing.end_requested_connecting,
    },
    Phase.LISTENING: {
        **_AGENT_SILENT,
        e.TurnComplete: replies.turn_complete_listening,
        e.IdleTimeout: closing.idle,
        e.DigitPressed: barge_in.digit_listening,
    },
    Phase.THINKING: {
        **_AGENT_SILENT,
        e.CallerSpeechEnded: ignore,  # whoever speaks has the word: LISTENING
        e.EndpointTimeout: ignore,
        e.TurnComplete: replies.turn_complete_thinking,
        e.ModelSilent: link.model_silent,
        e.FillerDue: tools.filler_due,
        e.DigitPressed: barge_in.digit_thinking,
    },
    Phase.SPEAKING: {
        **_COMMON,
        e.CallerSpeechStarted: barge_in.speech_over_agent,
        e.CallerSpeechEnded: barge_in.speech_ended_over_agent,
        e.ModelInterrupted: barge_in.interrupted_over_agent,
        e.BargeInLasted: barge_in.lasted_over_agent,
        e.ReplyAudio: replies.reply_goes_on,
        e.ReplyComplete: replies.reply_complete,
        e.MarkReturned: replies.mark_returned,
        e.PlayoutTimeout: replies.playout_timeout,
        e.DigitPressed: barge_in.digit_over_agent,
    },
    Phase.HELD: {
        **_COMMON,
        e.CallerSpeechStarted: barge_in.speech_while_held,
        e.CallerSpeechEnded: barge_in.speech_ended_held,
        e.ModelInterrupted: barge_in.interrupted_held,
        e.BargeInLasted: barge_in.lasted_held,
        e.VerdictTimeout: barge_in.verdict_timeout,
        e.ReplyAudio: replies.reply_while_held,
        e.ReplyComplete: replies.complete_while_held,
        e.TurnComplete: replies.turn_complete_held,
        e.MarkReturned: ignore,  # an echo from before the clear proves nothing; there are no others
        e.DigitPressed: barge_in.digit_over_agent,
    },
    Phase.STOPPING: {
        **_COMMON,
        e.CallerSpeechStarted: barge_in.speech_while_stopping,
        e.CallerSpeechEnded: barge_in.speech_ended_stopping,
        e.ModelInterrupted: barge_in.interrupted,
        e.ReplyAudio: replies.reply_begins,
        e.ReplyComplete: ignore,
        e.MarkReturned: ignore,
        e.ClearAcknowledged: replies.stopping_acknowledged,
        e.ClearTimeout: replies.stopping_timeout,
        e.DigitPressed: ignore,
    },
    Phase.CLOSING: {
        **_COMMON,
        e.CallerSpeechStarted: barge_in.speech_while_closing,
        e.CallerSpeechEnded: barge_in.speech_ended_closing,
        e.ModelInterrupted: barge_in.interrupted_closing,
        e.BargeInLasted: barge_in.lasted_closing,
        e.ReplyAudio: replies.reply_while_closing,
        e.ReplyComplete: replies.reply_complete,
        e.MarkReturned: replies.mark_returned,
        e.PlayoutTimeout: replies.playout_timeout,
        e.DigitPressed: barge_in.digit_over_agent,
        e.GoodbyeTimeout: closing.goodbye_timeout,
    },
    Phase.ENDED: dict.fromkeys((*_COMMON, *_AGENT_SILENT, e.DigitPressed), ignore),
}

EVENTS: tuple[type[e.Event], ...] = tuple(TABLE[Phase.LISTENING])
