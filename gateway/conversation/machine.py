"""The conversation machine: `step(policy, state, event) -> (state, commands)`.

It decides everything about turns and does nothing itself. Time comes in with the event; a timer is a command, its
firing an event. The shell (`offhook.gateway.call`) carries commands out at once and in order. Read this page, then
`TABLE`: for each phase it names the handler of each event. An event without meaning there is ignored by name
(`ignore`); a test refuses a missing pair.

**Replies.** A reply is one stretch of the agent's audio: a turn of the model, a greeting from a file, a filler. Each
has a number, its *generation*, given out where it is made; numbers only grow. Events of the model carry them, so
that audio which arrives late is not taken for something new. The machine knows positions in a reply, the shell has
the bytes.

**The ledger** (`ledger`) keeps of each open reply how much was received, sent, placed in the far end's queue, and
heard. Audio comes from the model faster than it is played, and is sent on at once; what the caller has *heard* is
known from marks that the far end returns and, between them, from the clock. A reply is over when it is complete and
heard to its end: from then on the caller's silence counts.

**The floor.** The phase says who has it. CONNECTING: there is no stream yet. LISTENING: the caller, or neither
side. THINKING: the model, which owes a reply (`State.due`). SPEAKING: the agent is heard. HELD and STOPPING: the
caller is taking the floor from the agent. CLOSING: a goodbye is awaited or heard. ENDED: nothing happens any more.

**Barge-in.** When the caller speaks over the agent (mode `hold`) the far end's queue is emptied at once and the
unheard tail kept: HELD, a *suspected* barge-in. The verdict follows. *Confirmed*: the model reports an interruption,
or the caller goes on speaking for `min_barge_in_s`; the reply is dead, as is everything up to its number wherever it
turns up, tools that yield are cancelled, the model is sent what was heard, and STOPPING lasts until the far end
confirms the clear. *Dismissed*: the caller fell silent and the model reported nothing, it was a cough or an "uh-huh";
the tail is played on from the first unheard sample. The call's first reply may be protected: nothing stops it, and
the model gets silence meanwhile (`State.caller_muted`). `CancelReply` stops the agent without a barge-in: an
answering machine is met, for example; the record counts none, and no interruption is reported to the model.

**The line away.** Streams are lost, and calls are moved: `LineAway` says that the stream is gone and another may come.
`State.line` is independent of the phase, for the rest of the conversation goes on: the model speaks and is kept, tools
run, the caller's goodbye counts down. What the far end had queued is lost; what had been heard by then is all that was.
Nothing is sent until `LineBack`, and neither the end of playback nor the caller's silence is timed. Then the unheard
part of each open reply is sent again, once. The shell bounds the wait: `StreamLost` ends the call.

**Another process.** A call survives its process: `Resumed` begins it here in the state of a call whose line is away and
whose link is connecting (`handlers.resumed`). What the caller heard and what is owed decides who speaks next.

**The link.** The connection to the model comes and goes as well (`State.link`). What was received of a reply is heard
to its end, and the rest is due when the link is back. A connection that is about to close (`GoAway`) is
changed in a quiet moment, or in its last.

**A deaf model.** A model that owes a reply and brings none is prompted, then reconnected, then given up. The time
counts from the end of the first turn without a reply (`Due.since_s`), whatever the caller says after it, until audible
audio or a tool call: the model is prompted `silent_after_s` after that, or sooner once a second turn has no reply
either; reconnected `NUDGED_S` later; given up `GIVE_UP_S` after that, with a connection or without. A model that
transcribes the caller, or is interrupted, hears: it is left time until the caller pauses (`Due.alive`). Where the
gateway's own detector is deaf (`LoudWithoutSpeech`) a reply is due too.

**Silence.** A caller who waits, in THINKING with a line, hears nothing for `silent_after_s` at most, counted from the
end of playback or of the caller's own words (`State.quiet_s`): then comes a filler, as a reply of its own that answers
nothing. What is due stays due. The measures against a deaf model, the link's recovery and the tools go on behind it.

**Tools** run beside the phases; each call gets exactly one outcome. While one runs that the conversation waits for, its
own limit bounds THINKING.

**Endings.** There is one way out: `End`, the last command. A request to end waits until what is being said has been
heard. If the reason is the agent's or the caller's silence, the caller can keep the call alive by speaking into the
goodbye; the gateway's own reasons stand. `SayAndEnd` has the agent say given words instead of everything else, and
ends the call once the turn that follows has been heard. Warnings of a limit wait for a quiet moment.

Every phase has a bounded way on, if nothing else ever happens:

    LISTENING  IdleTimeout, or EndpointTimeout, or the caller falls silent; else the call's TimeLimit
    THINKING   ModelSilent; while the link is down ConnectTimeout
    SPEAKING   PlayoutTimeout
    HELD       BargeInLasted while the caller speaks, then VerdictTimeout
    STOPPING   ClearTimeout
    CLOSING    GoodbyeTimeout

LISTENING and SPEAKING while the line is away, and CONNECTING, are bounded by the shell: `StreamLost`.
"""

from __future__ import annotations

from offhook.gateway.conversation import commands as c
from offhook.gateway.conversation import events as e
from offhook.gateway.conversation.handlers import barge_in, closing, line, link, replies, resumed, tools
from offhook.gateway.conversation.handlers.floor import Handler, ignore
from offhook.gateway.conversation.state import Phase, Policy, State

__all__ = ["EVENTS", "TABLE", "step"]


def step(policy: Policy, state: State, event: e.Event) -> tuple[State, tuple[c.Command, ...]]:
    """What `event` means in `state`. Pure; raises KeyError for an event type that is not in the vocabulary."""
    out: list[c.Command] = []
    state = TABLE[state.phase][type(event)](policy, state, event, out.append)
    return state, tuple(out)


# What has the same meaning in every phase of a call.
_COMMON: dict[type[e.Event], Handler] = {
    e.StreamStarted: ignore,  # the call has started
    e.Resumed: ignore,  # likewise
    e.StreamStopped: link.stream_stopped,
    e.StreamLost: link.stream_lost,
    e.LineAway: line.away,
    e.LineBack: line.back,
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
    e.CancelReply: barge_in.cancel_unheard,
    e.SayAndEnd: closing.say_and_end,
    e.EndpointTimeout: barge_in.endpoint,
    e.TimeWarning: closing.time_warning,
    e.CostWarning: closing.cost_warning,
    e.TimeLimit: closing.time_limit,
    e.TurnComplete: replies.turn_complete,
    e.CallerTranscribed: ignore,  # of the turn that the agent is replying to
    e.LoudWithoutSpeech: ignore,  # a reply is due or heard
    # Timers of other phases may fire once more while they are being stopped.
    **dict.fromkeys((e.VerdictTimeout, e.BargeInLasted, e.ModelSilent, e.FillerDue, e.IdleTimeout), ignore),
    **dict.fromkeys((e.GoodbyeTimeout, e.PlayoutTimeout), ignore),
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

# The agent is heard, by the clock at least.
_PLAYING: dict[type[e.Event], Handler] = {
    **_COMMON,
    e.LineAway: line.away_playing,
    e.LineBack: line.back_playing,
    e.CancelReply: barge_in.cancel_heard,
    e.ReplyComplete: replies.reply_complete,
    e.MarkReturned: replies.mark_returned,
    e.PlayoutTimeout: replies.playout_timeout,
    e.DigitPressed: barge_in.digit_over_agent,
}

TABLE: dict[Phase, dict[type[e.Event], Handler]] = {
    Phase.CONNECTING: {
        **dict.fromkeys((*_COMMON, e.CallerSpeechStarted, e.CallerSpeechEnded), ignore),
        **dict.fromkeys((e.ModelInterrupted, e.ReplyComplete, e.MarkReturned, e.DigitPressed), ignore),
        e.StreamStarted: link.stream_started,
        e.Resumed: resumed.resumed,
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
        e.SayAndEnd: closing.say_and_end_connecting,
    },
    Phase.LISTENING: {
        **_AGENT_SILENT,
        e.LineBack: line.back_listening,
        e.ModelSilent: link.model_silent_listening,
        e.LoudWithoutSpeech: barge_in.loud_listening,
        e.TurnComplete: replies.turn_complete_listening,
        e.IdleTimeout: closing.idle,
        e.DigitPressed: barge_in.digit_listening,
    },
    Phase.THINKING: {
        **_AGENT_SILENT,
        e.CallerSpeechEnded: ignore,  # a caller who speaks has the floor: LISTENING
        e.EndpointTimeout: ignore,
        e.TurnComplete: replies.turn_complete_thinking,
        e.ModelSilent: link.model_silent,
        e.FillerDue: tools.filler_due,
        e.DigitPressed: barge_in.digit_thinking,
    },
    Phase.SPEAKING: {
        **_PLAYING,
        e.ModelSilent: link.model_silent_speaking,
        e.CallerSpeechStarted: barge_in.speech_over_agent,
        e.CallerSpeechEnded: barge_in.speech_ended_over_agent,
        e.ModelInterrupted: barge_in.interrupted_over_agent,
        e.BargeInLasted: barge_in.lasted_over_agent,
        e.ReplyAudio: replies.reply_goes_on,
    },
    Phase.HELD: {
        **_COMMON,
        e.CancelReply: barge_in.cancel_heard,
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
        e.LineAway: line.away_stopping,
        e.LineBack: ignore,  # a line that is away confirms nothing, and nothing is waited for
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
        **_PLAYING,
        e.CallerSpeechStarted: barge_in.speech_while_closing,
        e.CallerSpeechEnded: barge_in.speech_ended_closing,
        e.ModelInterrupted: barge_in.interrupted_closing,
        e.BargeInLasted: barge_in.lasted_closing,
        e.ReplyAudio: replies.reply_while_closing,
        e.GoodbyeTimeout: closing.goodbye_timeout,
    },
    Phase.ENDED: dict.fromkeys((*_COMMON, *_AGENT_SILENT, e.DigitPressed), ignore),
}

EVENTS: tuple[type[e.Event], ...] = tuple(TABLE[Phase.LISTENING])
