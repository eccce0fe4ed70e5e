"""The stretches of latency Offhook measures: where each starts and ends, and the buckets it is counted in.

One histogram per segment, never one histogram with a `segment` label: a sum over different segments means
nothing. Every start and end is read from one monotonic clock inside one process, except where the help says
otherwise. A segment whose end never came is absent and counted as incomplete, never observed as zero.

Buckets grow by 5 % for the headline segments (so an interpolated percentile is within 5 % whatever the data
look like) and by 10 % for the rest (within 2 % on smooth data). Service-level thresholds are exact
boundaries, so "share of turns within 1.2 s" is counted, not interpolated.
"""

from dataclasses import dataclass
from math import ceil, log

__all__ = [
    "ANSWER_TO_GREETING",
    "BARGEIN_CLEAR_SENT",
    "BARGEIN_DETECT",
    "BARGEIN_SILENCE",
    "BARGEIN_STOP",
    "BY_NAME",
    "ENDPOINT_DELAY",
    "EVENT_LOOP_LAG",
    "LINK_RTT",
    "MIC_TO_UPLINK",
    "MODEL_FIRST_AUDIO",
    "MODEL_FIRST_EVENT",
    "MODEL_RECONNECT_GAP",
    "MODEL_SETUP",
    "OUTPUT_ONSET_PLAYED",
    "OUTPUT_ONSET_SENT",
    "OUTSIDE",
    "SEGMENTS",
    "STREAM_SETUP",
    "TOOL_CALL",
    "TOOL_TO_AUDIO",
    "TURN_GAP",
    "UPLINK_FORWARD",
    "UPLINK_GAP",
    "UPLINK_RELATIVE_DELAY",
    "WEBHOOK_RESPONSE",
    "Segment",
]

# A carrier's guide to core latency (README, "What was measured") puts the mouth-to-ear turn gap at 1,115 ms (limit
# 1,400) where the platform's share is 885 ms (limit 1,100): the difference is what no gateway can see.
OUTSIDE = (
    "Outside these figures: both phone legs and the carrier's edge. A carrier's own figures imply 230 to 300 ms more "
    "from mouth to ear."
)

GROWTH_HEADLINE = 1.05
GROWTH = 1.10


# eq=False: compared and hashed by identity, because segments are dictionary keys on the call path.
@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """One measured stretch, exported as `offhook_<name>_seconds`.

    `lower_s` and `upper_s` are the outermost finite bucket boundaries; `thresholds_s` are further exact
    boundaries; `target_s` is the default service-level threshold (one of them) where the segment has one.
    `label` names the only label, `values` its closed set (further ones may be configured for tools);
    an unknown value is counted as "other". `per_frame` segments keep the worst frame of each second of a
    call. A `rig_only` segment is known to rehearsals alone and never exported by a gateway.
    """

    name: str
    start: str
    end: str
    lower_s: float
    upper_s: float
    note: str = ""
    headline: bool = False
    target_s: float | None = None
    thresholds_s: tuple[float, ...] = ()
    label: str | None = None
    values: tuple[str, ...] = ()
    per_frame: bool = False
    rig_only: bool = False

    @property
    def metric(self) -> str:
        """The exported metric's name."""
        return f"offhook_{self.name}_seconds"

    @property
    def help(self) -> str:
        """Start, end and what to beware of, in one line."""
        worst = " Worst frame of each second of a call." if self.per_frame else ""
        note = f" {self.note}" if self.note else ""
        return f"{self.start} -> {self.end}.{worst}{note}"

    def buckets_s(self) -> tuple[float, ...]:
        """Finite bucket boundaries in seconds, ascending; neighbours differ by the growth at most."""
        growth = GROWTH_HEADLINE if self.headline else GROWTH
        steps = ceil(log(self.upper_s / self.lower_s) / log(growth))
        ratio = (self.upper_s / self.lower_s) ** (1 / steps)
        # Five significant digits keep the `le` labels short and the same on every machine.
        bounds = {float(f"{self.lower_s * ratio**i:.5g}") for i in range(steps + 1)}
        bounds.update(self.thresholds_s)
        if self.target_s is not None:
            bounds.add(self.target_s)
        return tuple(sorted(bounds))


_TURN_S = (0.3, 0.5, 0.8, 0.885, 1.0, 1.1, 1.2, 1.4, 2.0)  # 0.885 and 1.1: that guide's platform target and limit
_LAST_SPEECH = "last speech frame of the caller's turn received (hangover taken off)"
_SPOKEN_OVER = "caller's speech onset over the agent (back-dated; not before the reply's first audio)"
_SILENT = "playback stopped at the carrier (its acknowledgement of the clear, or the mark after it)"
_ONSET = "mark after the first 20 ms of audible audio echoed"
_PLAYED_NOTE = "Upper bound of the carrier's start of playing; the way to the phone is not in it."

UPLINK_RELATIVE_DELAY = Segment(
    "uplink_relative_delay",
    "carrier's timestamp of a frame's end",
    "frame received by the gateway",
    lower_s=0.002,
    upper_s=5.0,
    note="Less the call's own minimum: shows jitter, queueing and stalls, not the fixed one-way delay.",
    headline=True,
    target_s=0.1,
    thresholds_s=(0.02, 0.06),
    per_frame=True,
)
UPLINK_FORWARD = Segment(
    "uplink_forward",
    "caller's frame received",
    "send to the model's socket returned",
    lower_s=0.0005,
    upper_s=5.0,
    note="Decoding, resampling, detection, batching and backpressure. Of two quiet frames in one message, the later.",
    target_s=0.02,
    thresholds_s=(0.005, 0.04, 0.1),
    per_frame=True,
)
LINK_RTT = Segment(
    "link_rtt",
    "segment sent by the kernel",
    "its acknowledgement (TCP_INFO, smoothed)",
    lower_s=0.0005,
    upper_s=5.0,
    note="Only as far as the next TCP hop, which may be a load balancer.",
    label="leg",
    values=("carrier", "model"),
)
MIC_TO_UPLINK = Segment(
    "mic_to_uplink",
    "sample spoken into the simulated microphone",
    "frame received by the gateway",
    lower_s=0.002,
    upper_s=5.0,
    note="Rehearsals only, where both ends share a clock.",
    rig_only=True,
)
MODEL_FIRST_AUDIO = Segment(
    "model_first_audio",
    _LAST_SPEECH,
    "first model audio of the reply received",
    lower_s=0.02,
    upper_s=10.0,
    note="Endpointing is in it.",
    headline=True,
    target_s=0.8,
    thresholds_s=_TURN_S,
)
MODEL_FIRST_EVENT = Segment(
    "model_first_event",
    _LAST_SPEECH,
    "first event of the reply, of any kind, received",
    lower_s=0.02,
    upper_s=10.0,
    note="Sets thinking and tools apart from audio.",
)
ENDPOINT_DELAY = Segment(
    "endpoint_delay",
    _LAST_SPEECH,
    "end of the turn decided by the gateway",
    lower_s=0.02,
    upper_s=5.0,
    note="Absent where the model decides: it sends no such event.",
)
OUTPUT_ONSET_SENT = Segment(
    "output_onset_sent",
    "first model audio of the reply received",
    "first audible sample of it sent to the carrier",
    lower_s=0.002,
    upper_s=5.0,
    note="Leading silence, skipped by level, is in it.",
    headline=True,
    target_s=0.1,
    thresholds_s=(0.02, 0.05, 0.25),
)
OUTPUT_ONSET_PLAYED = Segment(
    "output_onset_played",
    _LAST_SPEECH,
    _ONSET,
    lower_s=0.02,
    upper_s=10.0,
    note=f"The frame's own 20 ms taken off. {_PLAYED_NOTE}",
    headline=True,
    target_s=1.2,
    thresholds_s=_TURN_S,
)
BARGEIN_SILENCE = Segment(
    "bargein_silence",
    _SPOKEN_OVER,
    _SILENT,
    lower_s=0.02,
    upper_s=5.0,
    note="bargein_detect and bargein_stop are its parts. Absent where the gateway detected no onset: a key, or an "
    "interruption that only the model reported.",
    headline=True,
    target_s=0.3,
    thresholds_s=(0.1, 0.15, 0.2, 0.25, 0.4, 0.5, 1.0),
)
BARGEIN_STOP = Segment(
    "bargein_stop",
    "barge-in decided",
    _SILENT,
    lower_s=0.002,
    upper_s=5.0,
    note="The second part of bargein_silence.",
    target_s=0.3,
    thresholds_s=(0.05, 0.1, 0.2, 0.5),
)
BARGEIN_CLEAR_SENT = Segment(
    "bargein_clear_sent",
    "barge-in decided",
    "send of the clear returned",
    lower_s=0.0005,
    upper_s=5.0,
    note="The gateway's own share of stopping.",
    target_s=0.02,
)
BARGEIN_DETECT = Segment(
    "bargein_detect",
    _SPOKEN_OVER,
    "barge-in decided",
    lower_s=0.005,
    upper_s=5.0,
    note="The first part of bargein_silence.",
    thresholds_s=(0.1, 0.2, 0.3),
)
TURN_GAP = Segment(
    "turn_gap",
    _LAST_SPEECH,
    "reply's first audible audio played (basis played) or, where no mark came back, sent (basis sent)",
    lower_s=0.02,
    upper_s=10.0,
    note=OUTSIDE,
    headline=True,
    target_s=1.2,
    thresholds_s=_TURN_S,
    label="basis",
    values=("played", "sent"),
)
ANSWER_TO_GREETING = Segment(
    "answer_to_greeting",
    "voice webhook received",
    f"first reply's {_ONSET}",
    lower_s=0.02,
    upper_s=20.0,
    note=_PLAYED_NOTE,
    target_s=2.5,
)
WEBHOOK_RESPONSE = Segment(
    "webhook_response",
    "voice webhook received",
    "its answer handed to the socket",
    lower_s=0.0005,
    upper_s=20.0,
    target_s=0.5,
    note="The carrier gives up after 15 s.",
    thresholds_s=(15.0,),
)
STREAM_SETUP = Segment(
    "stream_setup",
    "TwiML sent",
    "start message of its stream received",
    lower_s=0.005,
    upper_s=20.0,
)
MODEL_SETUP = Segment(
    "model_setup",
    "model session dialled",
    "its setupComplete received",
    lower_s=0.005,
    upper_s=20.0,
    target_s=2.0,
)
TOOL_CALL = Segment(
    "tool_call",
    "tool call received from the model",
    "its outcome known",
    lower_s=0.005,
    upper_s=60.0,
    label="tool",
    thresholds_s=(1.0, 3.0, 10.0),
)
TOOL_TO_AUDIO = Segment(
    "tool_to_audio",
    "tool result sent to the model",
    "next model audio received",
    lower_s=0.005,
    upper_s=10.0,
)
MODEL_RECONNECT_GAP = Segment(
    "model_reconnect_gap",
    "last frame exchanged with the old model session",
    "first frame exchanged with the new one",
    lower_s=0.005,
    upper_s=30.0,
    target_s=2.0,
    thresholds_s=(0.3,),
)
EVENT_LOOP_LAG = Segment(
    "event_loop_lag",
    "timer due",
    "timer run by the event loop",
    lower_s=0.0005,
    upper_s=5.0,
    target_s=0.02,
    thresholds_s=(0.005, 0.01, 0.05, 0.1),
)
UPLINK_GAP = Segment(
    "uplink_gap",
    "a caller's frame received",
    "the next one received",
    lower_s=0.02,
    upper_s=20.0,
    thresholds_s=(0.1, 0.5, 1.0, 8.0),
    per_frame=True,
)

SEGMENTS: tuple[Segment, ...] = (
    TURN_GAP,
    UPLINK_RELATIVE_DELAY,
    UPLINK_FORWARD,
    LINK_RTT,
    MIC_TO_UPLINK,
    ENDPOINT_DELAY,
    MODEL_FIRST_EVENT,
    MODEL_FIRST_AUDIO,
    OUTPUT_ONSET_SENT,
    OUTPUT_ONSET_PLAYED,
    BARGEIN_SILENCE,
    BARGEIN_DETECT,
    BARGEIN_CLEAR_SENT,
    BARGEIN_STOP,
    ANSWER_TO_GREETING,
    WEBHOOK_RESPONSE,
    STREAM_SETUP,
    MODEL_SETUP,
    TOOL_CALL,
    TOOL_TO_AUDIO,
    MODEL_RECONNECT_GAP,
    EVENT_LOOP_LAG,
    UPLINK_GAP,
)

BY_NAME: dict[str, Segment] = {segment.name: segment for segment in SEGMENTS}
