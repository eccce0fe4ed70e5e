"""What an agent file may hold: frozen values, each with its default.

The file's keys are the fields below; `load` refuses unknown keys, and settings that contradict each other, with
the fix. A default that depends on another field is a constant here, applied in `policy` and nowhere else.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from offhook.gateway.agent.builtins import Options
from offhook.gateway.agent.tools import HttpTool, McpServer

__all__ = [
    "LOCAL_END_SILENCE_MS",
    "LOCAL_PRE_ROLL_MS",
    "Agent",
    "BargeInSettings",
    "Fallback",
    "Greeting",
    "Idle",
    "LimitSettings",
    "ModelSettings",
    "OutboundSettings",
    "RecordingSettings",
    "Repair",
    "RetentionSettings",
    "ToolSettings",
    "TurnDetection",
    "filler_line",
]

Ms = Annotated[int, msgspec.Meta(ge=0, le=600_000)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
Mode = Literal["hold", "stop", "model", "off"]

LOCAL_END_SILENCE_MS = 700  # `turn_detection.end_silence_ms` with mode: local
LOCAL_PRE_ROLL_MS = 300  # `turn_detection.pre_roll_ms` with mode: local


class _Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class BargeInSettings(_Spec, frozen=True):
    """How the caller interrupts the agent."""

    mode: Mode = "hold"
    min_speech_ms: Annotated[int, msgspec.Meta(ge=20, le=600_000)] = 60  # this much speech stops playback (hold, stop)
    min_barge_in_ms: Ms = 600  # this much confirms it without the model (hold)
    verdict_timeout_ms: Ms = 400  # silence after a shorter one, before playback resumes (hold)
    dtmf: bool = False  # a key press interrupts, too
    detector: Literal["energy", "silero"] = "energy"


class Repair(_Spec, frozen=True):
    """What the model receives about words the caller did not hear."""

    mode: Literal["note", "ask", "none"] = "note"


class TurnDetection(_Spec, frozen=True):
    """Who decides that the caller's turn is over: the model, or the gateway's own detector."""

    mode: Literal["model", "local"] = "model"
    end_silence_ms: Ms | None = None  # silence that ends a turn; unset: the model's choice, or LOCAL_END_SILENCE_MS
    pre_roll_ms: Ms | None = None  # local only: audio sent from before the onset; unset: LOCAL_PRE_ROLL_MS
    start_sensitivity: Literal["high", "low"] | None = None  # model only
    end_sensitivity: Literal["high", "low"] | None = None  # model only
    eagerness: Literal["low", "medium", "high", "auto"] | None = None  # model only: its semantic detection
    prefix_padding_ms: Ms | None = None  # model only


class Greeting(_Spec, frozen=True):
    """The agent's first reply: `text` is a prompt for the model, `sound` a file played at once."""

    text: str = ""
    sound: str = ""  # WAV file, relative to the agent file
    protected: bool = False  # cannot be interrupted


class Idle(_Spec, frozen=True):
    """A silent caller, counted from the end of playback, for the goodbye again from the end of the prompt.

    0 switches a step off.
    """

    prompt_after_s: Seconds = 10.0
    prompt: str = "The caller has been silent. Ask briefly whether they are still there."
    goodbye_after_s: Seconds = 20.0
    goodbye: str = "The caller is still silent. Say a short goodbye."


class LimitSettings(_Spec, frozen=True):
    """Bounds of one call."""

    call_s: Seconds = 3600.0
    warning_s: Seconds = 60.0  # before the limit, 0: no warning
    warning: str = "The call has to end within a minute. Tell the caller."
    # USD by the price table. Near it the model receives `warning`; the turn that exceeds it is the last.
    cost: Annotated[float, msgspec.Meta(gt=0)] | None = None
    cost_per_day: Annotated[float, msgspec.Meta(gt=0)] | None = None  # USD in 24 hours: then callers get the fallback
    tools_at_once: Annotated[int, msgspec.Meta(ge=1, le=50)] = 4


class RecordingSettings(_Spec, frozen=True):
    """Recording is off by default; consent is the operator's duty."""

    enabled: bool = False
    announce: str = ""  # said first, before the greeting: that the call is recorded
    directory: str = "recordings"


class RetentionSettings(_Spec, frozen=True):
    """How long this agent's calls stay in the store. What is unset has no limit."""

    days: Annotated[float, msgspec.Meta(gt=0)] | None = None
    megabytes: Annotated[float, msgspec.Meta(gt=0)] | None = None  # of records and recordings; the oldest go first


class Fallback(_Spec, frozen=True):
    """What the caller gets when no agent can answer: a line or a recording, then a human, a queue or a hang-up."""

    say: str = "Sorry, nobody can take your call right now. Please try again later."  # not before a human or a queue
    play: str = ""  # URL of a sound file that the carrier plays instead of `say`
    dial: str = ""  # number, SIP or client address
    enqueue: str = ""  # queue name


class OutboundSettings(_Spec, frozen=True):
    """Calls this agent places: the number it shows, and what it does when a machine answers."""

    caller_id: str = ""  # one of the account's numbers, E.164; the first of `numbers` unless given
    ring_s: Annotated[int, msgspec.Meta(ge=5, le=600)] = 30
    detect_machine: bool = True
    on_machine: Literal["hang_up", "leave_message", "talk"] = "hang_up"
    message: str = ""  # leave_message: the model's prompt for the message to the machine


class ModelSettings(_Spec, frozen=True):
    """The model and its own settings. In the file a text alone is its name."""

    provider: str = ""  # empty: by `name`, else the process's default
    name: str = ""  # empty: the provider's default
    temperature: float | None = None
    thinking_level: Literal["minimal", "low", "medium", "high"] | None = None
    thinking_budget: int | None = None
    noise_reduction: Literal["near_field", "far_field"] | None = None  # the provider's own, before it hears the caller
    transcription: str | None = None  # model that transcribes the caller; unset: the provider's default
    compress_at_tokens: Annotated[int, msgspec.Meta(ge=1000)] = 16_000
    compress_to_tokens: Annotated[int, msgspec.Meta(ge=500)] = 8_000
    # After twice as many turns the call moves, in a quiet moment, to a fresh session that receives the last
    # `keep_turns` of them and the facts remembered. Every turn is billed for the whole context. 0: never.
    keep_turns: Annotated[int, msgspec.Meta(ge=0, le=200)] = 0
    silent_after_ms: Annotated[int, msgspec.Meta(ge=1_000, le=600_000)] = (
        6_000  # no reply after the caller's turn: the filler; prompt again, then reconnect
    )
    filler: str = "tone"  # what a caller who waits hears instead of more silence than that: "tone", or a WAV file
    setup_timeout_s: Seconds = 10.0


class ToolSettings(_Spec, frozen=True):
    """One tool of the agent: Python (`function: module:name`), `http`, `mcp`, or `builtin`. See `tools`."""

    name: str = ""
    function: str = ""
    builtin: str = ""
    options: Options = Options()  # of a built-in tool
    http: HttpTool | None = None
    mcp: McpServer | None = None
    description: str = ""
    parameters: dict[str, Any] | None = None
    blocking: bool = False
    on_barge_in: Literal["cancel", "finish"] = "cancel"
    announce: Literal["speak", "silent"] = "speak"
    timeout_s: Seconds = 20.0
    filler: str = ""  # "", "tone", a WAV file, or a line (with spaces) to say; after filler_after_ms of tool silence
    filler_after_ms: Ms = 1_500
    outside_effects: bool = False  # blocked in rehearsals unless the scenario allows it


class Agent(_Spec, frozen=True):
    """One agent: its name and voice, how it talks, what it may do."""

    name: str
    numbers: tuple[str, ...] = ()  # dialled numbers (E.164), short codes, SIP addresses; empty: any
    model: ModelSettings = ModelSettings()
    voice: str = ""  # empty: the provider's default
    language: str = "en-US"
    timezone: str = ""  # of {{now}}: an IANA name such as Europe/Berlin; empty: the machine's
    instructions: str = ""
    greeting: Greeting = Greeting()
    tools: tuple[ToolSettings, ...] = ()
    barge_in: BargeInSettings = BargeInSettings()
    repair: Repair = Repair()
    turn_detection: TurnDetection = TurnDetection()
    pictures: bool = False  # callers may show the model pictures, where their line has a way to
    idle: Idle = Idle()
    limits: LimitSettings = LimitSettings()
    recording: RecordingSettings = RecordingSettings()
    listen_in: bool = False  # operators may hear calls live from the console, where OFFHOOK_LISTENERS allows any
    retention: RetentionSettings = RetentionSettings()
    redact: tuple[str, ...] = ()  # card, iban, or a regular expression: masked in records before they are kept
    fallback: Fallback = Fallback()
    outbound: OutboundSettings = OutboundSettings()
    variables: dict[str, str] = {}
    board: str = ""  # module:function of yours; the console shows the lists it returns
    directory: str = "."  # of the agent file; relative paths start here
    file: str = ""  # the agent file, as it was named


def filler_line(filler: str) -> str:
    """The filler if it is a line for the model to say, "" if it is the name of a sound."""
    return filler if " " in filler.strip() and not filler.lower().endswith(".wav") else ""
