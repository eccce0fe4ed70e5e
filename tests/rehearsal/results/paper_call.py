"""A call on paper: what the carrier and the gateway recorded of one call, with figures chosen by hand.

Place 0 is at 100 s, the stream started 10 ms before. The greeting (1 s) is heard whole; the caller asks; the second
reply (4 s) is cut after 1 s; the third (2 s) is heard whole, with a break of 60 ms.
"""

from __future__ import annotations

from offhook.gateway.rehearsal.phone.truth import (
    CallTruth,
    ClearReceived,
    Interval,
    MarkReceived,
    MediaReceived,
    Played,
    StreamTruth,
    Utterance,
)
from offhook.gateway.rehearsal.results.measured import call_report
from offhook.gateway.store.record import BargeInRecord, CallRecord, ToolRecord, TurnRecord

__all__ = [
    "BEGAN_S",
    "CUT_OFF",
    "GREETING",
    "LAST",
    "mark",
    "media",
    "paper_record",
    "paper_report",
    "paper_truth",
    "spoken",
]


BEGAN_S = 100.0
GREETING, CUT_OFF, LAST = (0, 8_000), (8_000, 40_000), (40_000, 56_000)


def spoken(text: str, onset_s: float, end_s: float, *, over: bool = False, kind: str = "say") -> Utterance:
    return Utterance(
        text=text,
        kind=kind,
        onset_s=BEGAN_S + onset_s,
        end_s=BEGAN_S + end_s,
        onset_place=round(onset_s * 8000),
        end_place=round(end_s * 8000),
        over_agent=over,
    )


def mark(name: str, position: int, at_s: float) -> MarkReceived:
    return MarkReceived(at_s=BEGAN_S + at_s, position=position, name=name)


def media(at_s: float, span: tuple[int, int]) -> MediaReceived:
    return MediaReceived(at_s=BEGAN_S + at_s, position=span[0], samples=span[1] - span[0])


def paper_truth() -> CallTruth:
    return CallTruth(
        call_sid="CApaper",
        began_s=BEGAN_S,
        ended_s=BEGAN_S + 11.0,
        ended_by="twiml_hangup",
        streams=[StreamTruth(stream_sid="MZ1", url="", dialled_s=BEGAN_S - 0.1, started_s=BEGAN_S - 0.01, frames=550)],
        media=[media(0.2, GREETING), media(3.5, (8_000, 24_000)), media(3.6, (24_000, 40_000)), media(7.0, LAST)],
        marks=[
            mark("r1.8000.0", 8_000, 0.2),
            mark("r2.16000.0", 24_000, 3.5),
            mark("r2.32000.0", 40_000, 3.6),
            mark("c1", 40_000, 4.62),
            mark("r3.16000.1", 56_000, 7.0),
        ],
        clears=[
            ClearReceived(
                at_s=BEGAN_S + 4.62, position=16_000, discarded=24_000, stopped_s=BEGAN_S + 4.64, while_audible=True
            )
        ],
        played=[
            Played(position=0, place=1_600, samples=8_000),
            Played(position=8_000, place=28_160, samples=8_000),
            Played(position=40_000, place=56_160, samples=8_000),
            Played(position=48_000, place=64_640, samples=8_000),
        ],
        agent=[
            Interval(start_s=BEGAN_S + 0.2, end_s=BEGAN_S + 1.2, open=False),
            Interval(start_s=BEGAN_S + 3.52, end_s=BEGAN_S + 4.64, open=False, cut=True),
            Interval(start_s=BEGAN_S + 7.02, end_s=BEGAN_S + 9.1, open=False),
        ],
        spoken=[spoken("a table", 1.5, 2.9), spoken("no, two", 4.5, 6.0, over=True)],
    )


def paper_record() -> CallRecord:
    return CallRecord(
        call_sid="CApaper",
        end_reason="agent_hung_up",
        turns=[
            TurnRecord(number=1, generation=1, reply_text="Hello.", received_ms=1000, heard_ms=1000),
            TurnRecord(
                number=2,
                generation=2,
                reply_text="Let me look it up for you.",
                heard_text="Let me",
                interrupted=True,
                received_ms=4000,
                heard_ms=1000,
                segments={"turn_gap": 620.0, "model_first_audio": 600.0},
            ),
            TurnRecord(
                number=3, generation=3, reply_text="Two it is.", received_ms=2000, segments={"turn_gap": 1020.0}
            ),
        ],
        barge_ins=[
            BargeInRecord(
                generation=2,
                onset_ms=4511,
                decided_ms=4625,
                clear_sent_ms=4626,
                stopped_ms=4632,
                verdict="confirmed_by_model",
            )
        ],
        tool_calls=[
            ToolRecord(call_id="1", name="look", requested_ms=3000, finished_ms=4600, outcome="cancelled"),
            ToolRecord(call_id="2", name="end_call", requested_ms=8000, finished_ms=8001, outcome="done"),
        ],
    )


def paper_report(truth: CallTruth | None = None, record: CallRecord | None = None):
    return call_report(truth or paper_truth(), record or paper_record(), scenario="paper")
