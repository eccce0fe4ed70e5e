"""A link against the rehearsal model, through the real SDK: what it reports to the call, what the model receives."""

import asyncio
import logging
import random
import re
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest

from offhook.gateway.agent.spec import Agent, ModelSettings, TurnDetection
from offhook.gateway.conversation.commands import Speak
from offhook.gateway.conversation.events import (
    GoAway,
    ModelDown,
    ModelFailed,
    ModelInterrupted,
    ModelReady,
    ReplyComplete,
    ToolWithdrawn,
    TurnComplete,
)
from offhook.gateway.errors import ModelRefused, OperatorError
from offhook.gateway.models import LinkCount
from offhook.gateway.models.gemini import client
from offhook.gateway.models.gemini.client import GeminiModel
from offhook.gateway.models.gemini.outbox import UPLINK_MAX_FRAMES
from offhook.gateway.models.gemini.public import PublicSession
from offhook.gateway.models.gemini.recovery import Patience
from offhook.gateway.models.gemini.settings import GeminiSettings
from offhook.gateway.models.gemini.setup import MODELS
from offhook.gateway.rehearsal.model import script as m
from offhook.gateway.rehearsal.model.server import ModelServer
from tests.models.gemini.link_rig import AGENT, KEY, NO_SAMPLES, Sink, brief_of, eventually, linked, settings_for

HASTE = Patience(total_s=3.0, delays_s=(0.0, 0.02, 0.04, 0.08, 0.16), stable_s=0.5)
LOCAL = Agent(name="reception", turn_detection=TurnDetection(mode="local"))
BOOK = SimpleNamespace(
    name="book",
    description="Book a table.",
    parameters={"type": "object", "properties": {"people": {"type": "integer"}}},
    blocking=False,
)


def says(text: str, on: str = "start", **more) -> m.Reply:
    return m.Reply(on, (m.Say(text, **({"length_ms": 100, "delay_ms": 0, "speed": 50} | more)),))


def frames(count: int, seed: int = 1) -> list[bytes]:
    return [random.Random(seed * 1000 + i).randbytes(640) for i in range(count)]


# --- a conversation


async def test_a_greeting_is_received_whole_and_in_order():
    async with linked(m.Script(replies=(says("Good morning to you"),))) as rig:
        complete = await rig.sink.until_event(TurnComplete)
        assert complete.generation == 1
        assert [type(event) for event in rig.sink.events] == [ModelReady, ReplyComplete, TurnComplete]
        assert not rig.sink.of(ModelReady)[0].resumed
        assert rig.sink.texts == {1: "Good morning to you"}
        assert len(rig.sink.audio[1]) == 2 * 24 * 100
        kinds = [kind for kind, _ in rig.sink.heard]
        assert kinds.index("usage") < len(kinds) - 1, "a turn's usage is told before its end"
        assert rig.sink.usages[0].audio_out > 0
        assert [len(seconds) for seconds in rig.sink.segments.values()] == [1]
        times = [event.at_s for event in rig.sink.events]
        assert times == sorted(times)
        assert abs(times[-1] - asyncio.get_running_loop().time()) < 5
    [session] = rig.server.sessions
    assert (session.close_code, session.closed_by) == (1000, "client")
    assert session.path.startswith("/ws/google.ai.generativelanguage.v1beta.")


async def test_the_caller_is_heard_bit_for_bit():
    sent = frames(30)
    async with linked(m.Script()) as rig:
        for pcm in sent:
            rig.say(pcm, asyncio.get_running_loop().time())
        [session] = rig.server.sessions
        await eventually(lambda: session.audio_bytes == 30 * 640)
        assert bytes(session.audio) == b"".join(sent)
        assert session.audio_rate_hz == 16_000
        await eventually(lambda: len(rig.sink.segments["uplink_forward"]) == 30)
        assert all(0 <= seconds < 1 for seconds in rig.sink.segments["uplink_forward"])


async def test_prompts_notes_and_the_callers_words():
    replies = (
        says("Certainly", on="text:cake"),
        m.Reply("text:more", (m.Say("x", length_ms=40),), heard=(" so", " much")),
    )
    async with linked(m.Script(replies=replies)) as rig:
        rig.link.note("The shop closes at six.")
        rig.link.prompt("Offer cake.")
        await rig.sink.until_event(TurnComplete)
        rig.link.prompt("Offer more.")
        await rig.sink.until_event(TurnComplete, 2)
        assert rig.sink.caller == " so much"
        said = [(t.how, t.text, t.turn_complete) for t in rig.server.sessions[0].texts]
        assert said == [
            ("content", "The shop closes at six.", False),
            ("realtime", "Offer cake.", False),
            ("realtime", "Offer more.", False),
        ]


async def test_heard_is_a_note_and_cancel_reply_is_nothing():
    async with linked(m.Script(replies=(says("Yes", on="text:done"),))) as rig:
        rig.link.heard(1, 800, 'The caller heard only: "Good"')
        rig.link.heard(1, 800, None)
        rig.link.cancel_reply(1)
        rig.link.prompt("done")
        await rig.sink.until_event(TurnComplete)
        assert [t.text for t in rig.server.sessions[0].texts] == ['The caller heard only: "Good"', "done"]


async def test_a_note_that_would_close_a_session_is_omitted():
    agent = Agent(name="a", model=ModelSettings(name="gemini-3.1-flash-live-preview"))
    async with linked(m.Script(replies=(says("Yes", on="text"),)), agent) as rig:
        rig.link.note("A note.")
        rig.link.prompt("Go on.")
        await rig.sink.until_event(TurnComplete)
        assert [t.text for t in rig.server.sessions[0].texts] == ["Go on."]
        assert rig.sink.counts[LinkCount.NOTE_OMITTED] == 1


async def test_late_audio_belongs_to_the_interrupted_turn():
    script = m.Script(
        replies=(
            says("A long story begins here", length_ms=4000, speed=2, late_chunks=2, chunk_ms=(100,)),
            says("Yes?", on="caller"),
        )
    )
    async with linked(script, LOCAL) as rig:
        await rig.sink.until(lambda: len(rig.sink.audio[1]) > 4800)
        rig.link.turn_started()
        await rig.sink.until_event(TurnComplete)
        [interrupted] = rig.sink.of(ModelInterrupted)
        assert interrupted.generation == 1
        place = rig.sink.heard.index(("event", interrupted))
        late = [(kind, value) for kind, value in rig.sink.heard[place + 1 :] if kind == "audio"]
        assert late == [("audio", 1), ("audio", 1)], "late audio is the old turn's"
        assert not rig.sink.of(ReplyComplete)
        rig.link.turn_ended()
        complete = await rig.sink.until_event(ReplyComplete)
        assert complete.generation == 2
        assert rig.sink.texts[2] == "Yes?"


async def test_a_turns_bounds_keep_their_place_in_the_audio():
    sent = frames(6)
    async with linked(m.Script(), LOCAL) as rig:
        rig.say(sent[0])
        rig.link.turn_started()
        for pcm in sent[1:5]:
            rig.say(pcm)
        rig.link.turn_ended()
        rig.say(sent[5])
        [session] = rig.server.sessions
        await eventually(lambda: session.audio_bytes == 6 * 640)
        (start_s, start), (end_s, end) = session.activity
        assert (start, end) == ("activityStart", "activityEnd")
        arrived = [at_s for at_s, _ in session.audio_arrivals]
        assert arrived[0] <= start_s <= arrived[1]
        assert arrived[4] <= end_s <= arrived[5]


async def test_extended_thinking_makes_two_replies_of_a_turn():
    agent = Agent(name="a", model=ModelSettings(name="gemini-3.8-live-extended-thinking"))
    script = m.Script(
        replies=(m.Reply("start", (m.Say("One moment", length_ms=60), m.Say("Here it is", length_ms=60))),)
    )
    async with linked(script, agent) as rig:
        end = await rig.sink.until_event(TurnComplete)
        assert end.generation == 2
        assert [event.generation for event in rig.sink.of(ReplyComplete)] == [1, 2]
        assert rig.sink.texts == {1: "One moment", 2: "Here it is"}
        assert len(rig.sink.of(TurnComplete)) == 1


async def test_an_empty_turn_and_a_phantom_interruption():
    script = m.Script(
        replies=(
            says("Hello"),
            m.Reply("text:empty", (m.EmptyTurn(),)),
            m.Reply("text:phantom", (m.SendInterrupted(),)),
        )
    )
    async with linked(script) as rig:
        await rig.sink.until_event(TurnComplete)
        rig.link.prompt("empty")
        assert (await rig.sink.until_event(TurnComplete, 2)).generation == 2
        rig.link.prompt("phantom")
        assert (await rig.sink.until_event(ModelInterrupted)).generation == 2
        assert rig.sink.turn == 2, "and it is no turn of its own"


# --- tools


async def test_a_tool_call_gets_one_result_and_a_reply():
    script = m.Script(
        replies=(
            m.Reply("start", (m.CallTool("book", {"people": 2}, id="c1"),)),
            says("Booked", on="tool:book"),
        )
    )
    async with linked(script, tools=[BOOK]) as rig:
        await rig.sink.until(lambda: rig.sink.tool_calls)
        assert rig.sink.tool_calls == [("c1", "book", {"people": 2})]
        rig.link.tool_result("c1", "book", {"table": 7}, Speak.WHEN_IDLE)
        rig.link.tool_result("c1", "book", {"table": 8}, Speak.WHEN_IDLE)
        await rig.sink.until(lambda: "Booked" in rig.sink.texts.values())
        [answer] = rig.server.sessions[0].tool_answers
        assert (answer.response, answer.scheduling) == ({"table": 7}, "WHEN_IDLE")
        assert rig.sink.counts[LinkCount.RESULT_DROPPED] == 1


async def test_a_withdrawn_call_gets_no_result():
    script = m.Script(
        replies=(m.Reply("start", (m.CallTool("book", {}, id="c1"),)),), faults=(m.Fault(0.1, (m.CancelTools(),)),)
    )
    async with linked(script, tools=[BOOK]) as rig:
        withdrawn = await rig.sink.until_event(ToolWithdrawn)
        assert withdrawn.call_id == "c1"
        rig.link.tool_result("c1", "book", {"table": 7}, Speak.WHEN_IDLE)
        rig.link.prompt("Go on.")
        [session] = rig.server.sessions
        await eventually(lambda: session.texts)
        assert not session.tool_answers


async def test_a_call_lost_with_its_session_is_withdrawn():
    script = m.Script(
        replies=(
            says("Hello"),
            m.Reply("text:book", (m.CallTool("book", {}, id="c1"), m.Close(1011, "Internal error encountered."))),
        )
    )
    async with linked(script, tools=[BOOK], patience=HASTE) as rig:
        await rig.sink.until_event(TurnComplete)
        await rig.sink.until(lambda: rig.link.handle)
        rig.link.prompt("book")
        await rig.sink.until_event(ModelReady, 2)
        assert [event.call_id for event in rig.sink.of(ToolWithdrawn)] == ["c1"]
        rig.link.tool_result("c1", "book", {"table": 7}, Speak.WHEN_IDLE)
        rig.link.prompt("Are you there?")
        await eventually(lambda: rig.server.sessions[1].texts)
        assert not rig.server.sessions[1].tool_answers


async def test_a_call_cancelled_here_gets_a_silent_result():
    """The service gives no newer handle while a call waits for its result."""
    script = m.Script(
        replies=(
            m.Reply("start", (m.CallTool("book", {}, id="c1"), m.Say("One moment", length_ms=40))),
            says("Still here", on="text:on"),
        )
    )
    async with linked(script, tools=[BOOK]) as rig:
        await rig.sink.until_event(TurnComplete)
        old = rig.link.handle
        rig.link.tool_cancelled("c1")
        rig.link.tool_cancelled("c1")
        await eventually(lambda: rig.link.handle is not old)
        [answer] = rig.server.sessions[0].tool_answers
        assert (answer.response["status"], answer.scheduling, answer.call) == ("cancelled", "SILENT", "open")
        assert rig.link.handle.calls == frozenset()
        rig.link.prompt("on")
        await rig.sink.until_event(TurnComplete, 2)
        assert rig.sink.texts[2] == "Still here", "and nothing was said of it"


async def test_a_cancelled_call_withdrawn_too_gets_no_result():
    script = m.Script(
        replies=(m.Reply("start", (m.CallTool("book", {}, id="c1"),)),), faults=(m.Fault(0.1, (m.CancelTools(),)),)
    )
    async with linked(script, tools=[BOOK]) as rig:
        await rig.sink.until(lambda: rig.sink.tool_calls)
        rig.link.tool_cancelled("c1")
        await rig.sink.until_event(ToolWithdrawn)
        assert not rig.link._cancelled
        rig.link.tool_cancelled("c1")
        assert not rig.link._cancelled, "nor later"


async def test_a_rotation_first_reports_cancelled_calls():
    script = m.Script(replies=(m.Reply("start", (m.CallTool("book", {}, id="c1"), m.Say("One moment", length_ms=40))),))
    async with linked(script, tools=[BOOK]) as rig:
        await rig.sink.until_event(TurnComplete)
        rig.link.tool_cancelled("c1")
        rig.link.rotate()
        assert (await rig.sink.until_event(ModelReady, 2)).resumed
        first, second = rig.server.sessions
        assert len(first.tool_answers) == 1
        assert second.setup["sessionResumption"]["handle"] == first.handles[-1]
        assert len(first.handles) == 2
        assert not rig.sink.of(ToolWithdrawn)


async def test_a_turn_is_cut_when_it_breaks_off_by_itself():
    words = "We have a table at eight, and another one at half past nine, by the window, if you prefer that."
    script = m.Script(
        replies=(
            says(words, length_ms=6000, cut_ms=700),
            says(words, on="text:whole", length_ms=6000, speed=200),
            says(words, on="text:interrupted", length_ms=6000, chunk_ms=(100,), speed=2, transcript="before"),
        )
    )
    async with linked(script, LOCAL) as rig:
        assert (await rig.sink.until_event(TurnComplete)).cut
        rig.link.prompt("whole")
        assert not (await rig.sink.until_event(TurnComplete, 2, timeout_s=10)).cut
        rig.link.prompt("interrupted")
        await rig.sink.until(lambda: len(rig.sink.audio[3]) > 4800)
        rig.link.turn_started()
        assert not (await rig.sink.until_event(TurnComplete, 3)).cut
        assert rig.sink.counts[LinkCount.TURN_CUT] == 1


# --- what the model may send and must not end a call


async def test_unknown_empty_and_long_frames_are_survived():
    script = m.Script(
        replies=(
            m.Reply(
                "start",
                (
                    m.Send({"brandNew": {"x": 1}}),
                    m.Send({}),
                    m.Send({"serverContent": {"brandNew": 1}}),
                    m.Oversize(3_000_000),
                    m.Say("Still here", length_ms=40),
                ),
            ),
        )
    )
    async with linked(script) as rig:
        await rig.sink.until_event(TurnComplete)
        assert rig.sink.texts == {1: "Still here"}
        assert len(rig.sink.of(ModelReady)) == 1
        assert rig.sink.counts[LinkCount.UNKNOWN_FIELD] == 2


async def test_a_message_too_big_is_not_requested_again(monkeypatch, caplog):
    monkeypatch.setattr(client, "MESSAGE_MAX_BYTES", 2**20)
    too_big = m.Reply("start", (m.Oversize(2_000_000),))
    async with linked(lambda _: m.Script(replies=(too_big,)), patience=HASTE) as rig:
        await rig.sink.until_event(ModelFailed)
        assert 1 < len(rig.server.sessions) <= 3  # nothing but one fresh session is tried
        assert {session.close_code for session in rig.server.sessions} == {1009}
        assert rig.sink.counts[LinkCount.MALFORMED, "too_large"] == len(rig.server.sessions)
        assert "connection lost: 1009 message too big: above 1 MiB" in rig.link.faults
    assert any("message too big" in record.getMessage() for record in caplog.records)


async def test_frames_that_are_not_json_are_counted():
    script = m.Script(replies=(m.Reply("start", (m.Send("{"), m.Send("7"), m.Say("Still here", length_ms=40))),))
    async with linked(script) as rig:
        await rig.sink.until_event(TurnComplete)
        assert rig.sink.counts[LinkCount.MALFORMED, "not_json"] == 1
        assert rig.sink.counts[LinkCount.MALFORMED, "not_an_object"] == 1


async def test_audio_of_a_refused_type_is_in_the_record():
    part = {"inlineData": {"mimeType": "audio/pcm;rate=16000", "data": "AQID"}}
    sent = m.Send({"serverContent": {"modelTurn": {"parts": [part]}}})
    script = m.Script(replies=(m.Reply("start", (sent, sent, m.Say("Still here", length_ms=40))),))
    async with linked(script) as rig:
        await rig.sink.until_event(TurnComplete)
        assert rig.sink.counts[LinkCount.BAD_FIELD] == 2
        assert list(rig.link.faults) == ["inlineData.mimeType that cannot be used: audio/pcm;rate=16000"]


async def test_a_chunk_cut_inside_a_sample_is_put_together():
    def part(data: str) -> m.Send:
        return m.Send(
            {"serverContent": {"modelTurn": {"parts": [{"inlineData": {"mimeType": "audio/pcm", "data": data}}]}}}
        )

    done = m.Send({"serverContent": {"turnComplete": True}})
    script = m.Script(replies=(m.Reply("start", (part("AQID"), part("BA"), part("BQ"), done, part("Bgc="))),))
    async with linked(script) as rig:
        await rig.sink.until(lambda: 2 in rig.sink.audio)
        assert rig.sink.audio == {1: b"\x01\x02\x03\x04", 2: b"\x06\x07"}


# --- one connection after another


async def test_a_rotation_loses_nothing_and_greets_once():
    sent = frames(60)
    async with linked(m.Script(replies=(says("Hello"),))) as rig:
        await rig.sink.until(lambda: rig.link.handle)
        for i, pcm in enumerate(sent):
            rig.say(pcm)
            if i == 20:
                rig.link.rotate()
            await asyncio.sleep(0.002)
        assert (await rig.sink.until_event(ModelReady, 2)).resumed
        await eventually(lambda: sum(s.audio_bytes for s in rig.server.sessions) == 60 * 640)
        old, new = rig.server.sessions
        assert bytes(old.audio + new.audio) == b"".join(sent)
        assert new.resumed_from == 0
        assert old.closed_at_s <= new.opened_at_s, "the old socket first"
        assert (old.close_code, old.closed_by) == (1000, "client")
        assert len(rig.sink.texts) == 1
        [gap_s] = rig.sink.segments["model_reconnect_gap"]
        assert gap_s < 0.3
        assert not rig.sink.counts[LinkCount.DROPPED_FULL]
        assert "systemInstruction" in new.setup


async def test_a_rotation_waits_for_the_last_turns_handle():
    script = m.Script(replies=(says("Hello"), says("And more", on="text", length_ms=400, speed=4)))
    async with linked(script) as rig:
        await rig.sink.until(lambda: rig.link.handle)
        first = rig.link.handle
        rig.link.prompt("Go on.")
        await rig.sink.until(lambda: 2 in rig.sink.texts)
        rig.link.rotate()
        await rig.sink.until_event(ModelReady, 2)
        assert rig.server.sessions[1].setup["sessionResumption"]["handle"] != first.value
        assert len(rig.sink.of(TurnComplete)) == 2, "the turn was heard to its end"


async def test_goaway_has_its_time_and_age_advises_too():
    script = m.Script(faults=(m.Fault(0.0, (m.SendGoAway(50.0, then_close=False),)),))
    async with linked(script, patience=Patience(advise_rotation_s=0.1, advised_time_left_s=9.0)) as rig:
        await rig.sink.until_event(GoAway, 2)
        assert [event.time_left_s for event in rig.sink.of(GoAway)] == [50.0, 9.0]


LOSSES = {
    "lifetime": (m.Close(1011, "Deadline expired before operation could complete."), "resumed"),
    "cancelled": (m.Close(1000, "The operation was cancelled."), "resumed"),
    "backend": (m.Close(1011, "Internal error encountered."), "resumed"),
    "aborted": (m.Close(1008, "The operation was aborted."), "resumed"),
    "torn": (m.Abort(), "resumed"),
    "invalid": (m.Close(1007, "Request contains an invalid argument."), "fresh"),
}


@pytest.mark.parametrize("name", LOSSES)
async def test_a_lost_session_is_got_back(name):
    fault, how = LOSSES[name]
    script = m.Script(replies=(says("Good morning"), m.Reply("text:now", (fault,)), says("Yes?", on="text:after")))

    def scripts(setup):
        return script if "already under way" not in str(setup) else m.Script(replies=(says("Yes?", on="text:after"),))

    async with linked(scripts, patience=HASTE) as rig:
        await rig.sink.until_event(TurnComplete)
        await rig.sink.until(lambda: rig.link.handle)
        rig.link.prompt("now")
        ready = await rig.sink.until_event(ModelReady, 2)
        assert ready.resumed, "it knows the call so far, one way or the other"
        rig.link.prompt("after")
        await rig.sink.until_event(TurnComplete, 2)
        assert [type(e) for e in rig.sink.events if isinstance(e, (ModelReady, ModelDown))] == [
            ModelReady,
            ModelDown,
            ModelReady,
        ]
        new = rig.server.sessions[1]
        instruction = new.setup["systemInstruction"]["parts"][0]["text"]
        if how == "resumed":
            assert new.resumed_from == 0
            assert "Good morning" not in instruction, "a resumed session is told nothing twice"
        else:
            assert new.resumed_from is None
            assert 'You: "Good morning"' in instruction
            assert "Do not greet again" in instruction
        assert list(rig.sink.texts.values()) == ["Good morning", "Yes?"]
        assert rig.link.faults[0].startswith("connection lost: ")


async def test_a_resumed_session_gets_words_after_its_handle():
    script = m.Script(
        replies=(
            says("Good morning"),
            m.Reply("text:now", (m.Say("Two cakes then", length_ms=40, delay_ms=0), m.Wait(50), m.Abort())),
            says("Still two", on="text:again"),
            m.Reply("text:once more", (m.Abort(),)),
        )
    )
    async with linked(script, patience=HASTE) as rig:
        await rig.sink.until(lambda: rig.link.handle)
        rig.link.prompt("now")
        await rig.sink.until_event(ModelReady, 2)
        handle = rig.link.handle
        rig.link.prompt("again")
        await rig.sink.until(lambda: rig.link.handle is not handle)
        rig.link.prompt("once more")
        await rig.sink.until_event(ModelReady, 3)
        instructions = [s.setup["systemInstruction"]["parts"][0]["text"] for s in rig.server.sessions]
        assert ["Two cakes then" in text for text in instructions] == [False, True, True]
        assert not any("Good morning" in text or "Still two" in text for text in instructions), "the handle knows"
        assert [s.resumed_from for s in rig.server.sessions] == [None, 0, 1]


async def test_fresh_session_without_transcript_gets_none():
    closes = iter([m.Close(1007, "")])

    def scripts(setup):
        close = next(closes, None)
        return m.Script(replies=(m.Reply("start", (close,)),) if close else ())

    async with linked(scripts, patience=HASTE) as rig:
        assert not (await rig.sink.until_event(ModelReady, 2)).resumed
        assert "under way" not in str(rig.server.sessions[1].setup)


async def test_a_refused_handle_is_tried_again_and_then_left():
    script = m.Script(
        replies=(says("Good morning"), m.Reply("text:now", (m.Abort(),))),
        refuse_resumes=(m.Close(1011, "Internal error encountered."), m.Close(1007, "invalid")),
    )
    async with linked(script, patience=HASTE) as rig:
        await rig.sink.until(lambda: rig.link.handle)
        rig.link.prompt("now")
        assert (await rig.sink.until_event(ModelReady, 2)).resumed
        handles = [s.setup.get("sessionResumption", {}).get("handle") for s in rig.server.sessions]
        assert [bool(h) for h in handles] == [False, True, True, False]
        assert len(rig.server.sessions) == 4
        assert "Good morning" in str(rig.server.sessions[-1].setup)


async def test_a_stuck_session_is_dropped_and_resumed():
    script = m.Script(replies=(says("Hello"), m.Reply("text:stall", (m.Stall(20_000),))))
    async with linked(script) as rig:
        await rig.sink.until(lambda: rig.link.handle)
        rig.link.prompt("stall")
        await eventually(lambda: rig.server.sessions[0].texts)
        await asyncio.sleep(0.05)
        began_s = asyncio.get_running_loop().time()
        rig.link.reconnect()
        await rig.sink.until_event(ModelReady, 2)
        assert asyncio.get_running_loop().time() - began_s < 2.5


async def test_a_gap_keeps_the_last_second_of_the_caller():
    sent = frames(UPLINK_MAX_FRAMES + 30)
    async with ModelServer(m.Script()) as server:
        model = GeminiModel(settings_for(server))
        sink = Sink()
        link = model.link(brief_of(), sink)
        for i, pcm in enumerate(sent):
            link.caller_audio(pcm, NO_SAMPLES, 0.0)
            if i == 40:
                link.prompt("kept, whatever is dropped")
        running = asyncio.create_task(link.run())
        await eventually(lambda: server.sessions and server.sessions[0].audio_bytes == UPLINK_MAX_FRAMES * 640)
        assert bytes(server.sessions[0].audio) == b"".join(sent[-UPLINK_MAX_FRAMES:])
        assert sink.counts[LinkCount.DROPPED_DOWN] == 30
        assert [t.text for t in server.sessions[0].texts] == ["kept, whatever is dropped"]
        await link.close()
        await running


async def test_a_new_session_gets_the_open_local_turn():
    script = m.Script(replies=(says("Hello"), says("Right", on="caller")))
    async with linked(script, LOCAL) as rig:
        await rig.sink.until(lambda: rig.link.handle)
        rig.link.turn_started()
        rig.say(bytes(640))
        await eventually(lambda: rig.server.sessions[0].activity)
        rig.link.rotate()
        await rig.sink.until_event(ModelReady, 2)
        rig.say(bytes(640))
        rig.link.turn_ended()
        await rig.sink.until(lambda: "Right" in rig.sink.texts.values())
        assert [name for _, name in rig.server.sessions[1].activity] == ["activityStart", "activityEnd"]


async def test_audio_is_sent_at_once_unless_something_waits():
    sent = frames(4)
    async with linked(m.Script(), LOCAL) as rig:
        await asyncio.sleep(0)  # the writer has begun
        rig.say(sent[0])
        assert not rig.link._outbox.frames, "nothing waits: no task switch"
        rig.link.turn_started()
        rig.say(sent[1])
        assert rig.link._outbox.frames == 1, "behind activityStart"
        [session] = rig.server.sessions
        await eventually(lambda: session.audio_bytes == 2 * 640)
        rig.say(sent[2])
        rig.link.turn_ended()
        rig.say(sent[3])
        await eventually(lambda: session.audio_bytes == 4 * 640)
        assert bytes(session.audio) == b"".join(sent)


async def test_a_peer_that_no_longer_reads_is_left(monkeypatch):
    """Its buffers fill, then the outbox; the oldest audio goes, and after a while so does the connection."""
    monkeypatch.setattr("offhook.gateway.models.gemini.outbox.SEND_STALL_MAX_S", 0.2)
    script = m.Script(replies=(says("Hello"), m.Reply("text:stall", (m.Stall(20_000),))))
    async with linked(script) as rig:
        await rig.sink.until(lambda: rig.link.handle)
        rig.link.prompt("stall")
        await eventually(lambda: rig.server.sessions[0].texts)
        second = bytes(32_000)
        async with asyncio.timeout(10):
            while len(rig.sink.of(ModelReady)) < 2:
                rig.say(second)
                await asyncio.sleep(0.002)
        assert rig.sink.counts[LinkCount.DROPPED_FULL] > 0
        assert rig.link._outbox.frames <= UPLINK_MAX_FRAMES


async def test_the_kernel_limits_unacknowledged_audio():
    """Caller audio never pauses, so bytes without acknowledgement are a dead line."""
    async with ModelServer(m.Script()) as server:
        model = GeminiModel(settings_for(server))
        async with model.session("gemini-3.8-live", {"response_modalities": ["AUDIO"]}, asyncio.timeout(5)) as wired:
            sock = wired._ws.transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000


def test_a_silently_dead_connection_is_replaced():
    """No close, no reset, nothing: what a lost route or a pulled plug looks like."""
    alone = ["unshare", "--map-root-user", "--net"]
    try:
        subprocess.run([*alone, "ip", "link", "set", "lo", "up"], check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no network of its own to be had here (unshare, ip)")
    script = ("-m", "tests.models.gemini.half_open")
    ran = subprocess.run([*alone, sys.executable, *script], check=False, capture_output=True, text=True, timeout=90)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert re.search(r"noticed after ([1-9]|1\d)\.\d s\nheard again", ran.stdout), ran.stdout


async def test_sixty_five_minutes_in_six_and_a_half_seconds():
    """The service's lifetimes 600 times as short: every connection is left in a pause, and nothing is lost."""
    lasts_s, pause_s = 6.5, 0.02
    replies = (says("Good morning"), *(says(f"Answer {n}", on=f"text:{n}.", length_ms=40) for n in range(200)))
    sent = frames(1000, seed=7)
    async with linked(m.Script(replies=replies, go_away_s=240), LOCAL, time_scale=600) as rig:
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + lasts_s
        asked = spoken = rotated = 0
        while loop.time() < ends_s:
            rig.say(sent[spoken])
            spoken += 1
            ends = len(rig.sink.of(TurnComplete))
            if len(rig.sink.of(GoAway)) > rotated and ends == asked + 1:
                rig.link.rotate()  # a quiet moment
                rotated += 1
            elif ends == asked + 1 and len(rig.sink.of(ModelReady)) == rotated + 1:
                rig.link.prompt(f"{asked}.")
                asked += 1
            await asyncio.sleep(pause_s)
        await rig.sink.until(lambda: len(rig.sink.of(TurnComplete)) == asked + 1)
        await eventually(lambda: sum(s.audio_bytes for s in rig.server.sessions) == spoken * 640)
        assert b"".join(bytes(s.audio) for s in rig.server.sessions) == b"".join(sent[:spoken])
        assert list(rig.sink.texts.values()) == ["Good morning", *(f"Answer {n}" for n in range(asked))]
        assert rotated >= 5
        assert [s.closed_by for s in rig.server.sessions[:-1]] == ["client"] * rotated
        assert all(len(pcm) == 2 * 24 * (100 if n == 1 else 40) for n, pcm in rig.sink.audio.items()), "each one whole"
        gaps_ms = [1000 * gap_s for gap_s in rig.sink.segments["model_reconnect_gap"]]
        lived_min = [(s.closed_at_s - s.ready_at_s) * 10 for s in rig.server.sessions[:-1]]  # of the service's minutes
        print(
            f"{asked} answers over {rotated + 1} connections of {max(lived_min):.1f} minutes at most; "
            f"gaps {', '.join(f'{gap:.0f}' for gap in gaps_ms)} ms"
        )
        assert max(gaps_ms) < 300
        assert max(lived_min) < 10.5, "none was left to the service to end"
        assert all(s.resumed_from is not None for s in rig.server.sessions[1:])
        assert not rig.link.faults


# --- no session at all


async def failed(script, agent=LOCAL, patience=HASTE, **more):
    """A link that must give up: (its connections' setups, its faults, seconds it took)."""
    began_s = asyncio.get_running_loop().time()
    async with linked(script, agent, patience=patience, ready=False, **more) as rig:
        await rig.sink.until_event(ModelFailed)
        await rig.finished()
        assert not rig.sink.of(ModelReady)
    return [s.setup for s in rig.server.sessions], list(rig.link.faults), asyncio.get_running_loop().time() - began_s


async def test_an_invalid_setup_is_tried_once():
    setups, faults, _ = await failed(m.Script(refuse=m.Close(1007, "Request contains an invalid argument.")))
    assert len(setups) == 1
    assert faults[0] == "no session: 1007 Request contains an invalid argument."


async def test_a_refused_declaration_is_no_session():
    tool = SimpleNamespace(name="2fa_send", description="Send a code.", parameters={}, blocking=False)
    setups, faults, _ = await failed(m.Script(), tools=(tool,), violations=True)
    assert len(setups) == 1
    assert faults[0].startswith("no session: 1007 Request contains an invalid argument. tools[0].function_declarations")


@pytest.mark.parametrize("model", MODELS)
async def test_every_model_takes_a_rich_declaration(model):
    schema = {
        "properties": {
            "when": {"anyOf": [{"type": "string", "format": "date"}, {"type": "integer", "minimum": 0}], "default": 1},
            "who": {"type": ["string", "null"], "maxLength": 3, "enum": ["a", "", None]},
            "list": {"type": "array", "prefixItems": [{"type": "string"}, {"type": "number"}], "maxItems": 2},
            "any": True,
            "map": {"type": "object", "additionalProperties": {"type": "string"}},
        },
        "required": ["when", "gone"],
    }
    tool = SimpleNamespace(name="book", description="Book.", parameters=schema, blocking=False)
    async with linked(m.Script(), Agent(name="a", model=ModelSettings(name=model)), tools=(tool,)) as rig:
        [setup] = [session.setup for session in rig.server.sessions]
    [declared] = setup["tools"][0]["functionDeclarations"]
    assert ("parametersJsonSchema" in declared) is ("2.5" not in model)


async def test_a_refused_setup_is_tried_without_resumption():
    setups, _, _ = await failed(m.Script(refuse=m.Close(1008, "not supported")))
    assert ["sessionResumption" in setup for setup in setups] == [True, False]


async def test_a_wrong_key_does_not_show():
    _, faults, _ = await failed(m.Script(refuse=m.Close(1007, f"API key {KEY} not valid.")))
    assert KEY not in str(faults)
    assert "API key *** not valid" in faults[0]


async def test_an_unanswered_setup_ends_in_time():
    agent = Agent(name="a", model=ModelSettings(setup_timeout_s=0.2))
    setups, faults, took_s = await failed(m.Script(setup_delay_ms=60_000), agent)
    assert len(setups) == 3
    assert faults[0] == "no session: 0 no answer to the setup in time"
    assert took_s < 8


async def test_a_first_message_without_setup_is_no_session():
    setups, faults, _ = await failed(m.Script(instead_of_setup=m.Send({"goAway": {"timeLeft": "1s"}})))
    assert len(setups) == 3
    assert "not setupComplete" in faults[0]


async def test_a_closed_port_ends_after_all_attempts():
    async with ModelServer(m.Script()) as server:
        model = GeminiModel(settings_for(server), patience=Patience(total_s=0.5, delays_s=(0.0, 0.01)))
    sink = Sink()
    link = model.link(brief_of(), sink)
    await link.run()
    assert [type(event) for event in sink.events] == [ModelFailed]
    assert sink.counts[LinkCount.SESSION_FAILED, "unreachable"] == 8
    assert link.faults[0].startswith("no session: 1006 network: ")


async def test_an_untrusted_certificate_is_not_tried_twice():
    async with ModelServer(m.Script()) as server:
        model = GeminiModel(GeminiSettings(api_key=KEY, base_url=server.url))
        sink = Sink()
        link = model.link(brief_of(), sink)
        await link.run()
    assert sink.counts == {(LinkCount.SESSION_FAILED, "refused"): 1}
    assert link.faults[0].startswith("no session: 1015 its certificate is not trusted")


async def test_sessions_lost_at_once_are_one_trouble():
    """A storm is bounded however often the sessions come up in between."""
    falls = (m.Close(1011, "Internal error encountered."),)
    script = m.Script(replies=(m.Reply("start", falls), *[m.Reply("resume", falls)] * 20))
    async with linked(script, patience=HASTE) as rig:
        await rig.sink.until_event(ModelFailed)
        await rig.finished()
        assert len(rig.server.sessions) <= 1 + HASTE.attempts


# --- the end


async def test_closing_twice_before_and_after_is_harmless():
    async with ModelServer(m.Script()) as server:
        model = GeminiModel(settings_for(server))
        link = model.link(brief_of(), Sink())
        await link.close()
        await link.run()
        assert not server.sessions
    async with linked(m.Script()) as rig:
        await asyncio.gather(rig.link.close(), rig.link.close())
        assert not rig.sink.of(ModelDown), "an end that was asked for is no loss"
        rig.say(bytes(640))
        rig.link.rotate()


async def test_closing_does_not_wait_for_a_setup():
    async with linked(m.Script(setup_delay_ms=60_000), ready=False) as rig:
        await eventually(lambda: rig.server.sessions and rig.server.sessions[0].setup_at_s)
        began_s = asyncio.get_running_loop().time()
        await rig.link.close()
        assert asyncio.get_running_loop().time() - began_s < 2
        assert not rig.sink.events


async def test_closing_does_not_wait_for_a_retry():
    async with linked(m.Script(refuse=m.Close(1013, "busy")), ready=False, patience=Patience(delays_s=(30.0,))) as rig:
        await asyncio.sleep(0.05)
        began_s = asyncio.get_running_loop().time()
        await rig.link.close()
        assert asyncio.get_running_loop().time() - began_s < 1


async def test_closing_does_not_wait_for_a_rotation():
    script = m.Script(replies=(says("Hello"), says("A long one", on="text", length_ms=9000, speed=1)))
    async with linked(script) as rig:
        await rig.sink.until(lambda: rig.link.handle)
        rig.link.prompt("Go on.")
        await rig.sink.until(lambda: 2 in rig.sink.audio)
        rig.link.rotate()
        await asyncio.sleep(0.02)
        began_s = asyncio.get_running_loop().time()
        await rig.link.close()
        assert asyncio.get_running_loop().time() - began_s < 0.5
        assert len(rig.server.sessions) == 1


async def test_a_cancelled_link_closes_with_1000():
    async with linked(m.Script()) as rig:
        rig.running.cancel()
        await asyncio.gather(rig.running, return_exceptions=True)
        [session] = rig.server.sessions
        await eventually(lambda: session.closed_at_s)
        assert session.close_code == 1000
        assert not rig.sink.of(ModelDown)
        rig.running = asyncio.create_task(asyncio.sleep(0))


async def test_closing_in_the_middle_of_a_flood_of_audio():
    script = m.Script(replies=(says("A very long story", length_ms=60_000, speed=1000, chunk_ms=(20,)),))
    async with linked(script) as rig:
        await rig.sink.until(lambda: rig.sink.audio[1])
        began_s = asyncio.get_running_loop().time()
        await rig.link.close()
        assert asyncio.get_running_loop().time() - began_s < 0.9, (
            "the close handshake was not held up by what was still coming"
        )
        await eventually(lambda: rig.server.sessions[0].closed_at_s)
        assert rig.server.sessions[0].close_code == 1000


async def test_no_secret_reaches_a_log(caplog):
    caplog.set_level(logging.DEBUG)
    script = m.Script(replies=(says("Hello"), m.Reply("text:now", (m.Abort(),))))
    async with linked(script, patience=HASTE) as rig:
        await rig.sink.until(lambda: rig.link.handle)
        handle = rig.link.handle.value
        rig.link.prompt("now")
        await rig.sink.until_event(ModelReady, 2)
        assert handle not in repr(rig.link.handle)
    said = "\n".join(f"{record.getMessage()} {record.args}" for record in caplog.records)
    assert "connection lost" in said, "the log was watched"
    assert KEY not in said
    assert handle not in said
    assert KEY not in repr(rig.model.settings)


async def test_sink_exception_is_reported_session_replaced():
    class Broken(Sink):
        def words(self, who, turn, text, final):
            raise ZeroDivisionError

    async with ModelServer(m.Script(replies=(says("Hello"),))) as server:
        sink = Broken()
        link = GeminiModel(settings_for(server)).link(brief_of(), sink)
        running = asyncio.create_task(link.run())
        await sink.until_event(ModelReady, 2)
        [(part, error)] = sink.failures
        assert (part, type(error)) == ("link_reader", ZeroDivisionError)
        await link.close()
        await running
        assert len(server.sessions) == 2


async def test_a_session_that_always_fails_is_given_up():
    class Broken(Sink):
        def event(self, event):
            super().event(event)
            if isinstance(event, ModelReady):
                raise ZeroDivisionError

    async with ModelServer(m.Script()) as server:
        sink = Broken()
        link = GeminiModel(settings_for(server)).link(brief_of(), sink)
        async with asyncio.timeout(10):
            await link.run()
        assert sink.of(ModelFailed)
        assert 1 < len(sink.failures) <= 8


# --- the process's client


async def test_a_stopped_gateway_closes_its_client():
    from offhook.gateway.app import Gateway
    from offhook.gateway.config import settings_from

    async with ModelServer(m.Script()) as server:
        environ = {
            "GOOGLE_GEMINI_BASE_URL": server.url,
            "SSL_CERT_FILE": server.ca_path,
            "GEMINI_API_KEY": KEY,
            "OFFHOOK_INSECURE": "1",
            "OFFHOOK_PORT": "0",
        }
        gateway = Gateway(settings_from(environ), [AGENT], environ, asyncio.get_running_loop().time)
        async with gateway.listening():
            assert (await gateway.models["gemini"].token(AGENT, (), {"caller": "x"})).startswith("auth_tokens/")
            await gateway.drain()
            assert server._runner.server.connections, "kept for the next request"
        await eventually(lambda: not server._runner.server.connections)


@pytest.mark.parametrize(
    ("environ", "cure"),
    [
        ({}, "GEMINI_API_KEY"),
        ({"GOOGLE_GENAI_USE_VERTEXAI": "1"}, "GOOGLE_CLOUD_PROJECT"),
        ({"GOOGLE_GENAI_USE_VERTEXAI": "true", "GOOGLE_CLOUD_PROJECT": "p"}, "GOOGLE_CLOUD_LOCATION"),
    ],
)
def test_settings_that_are_not_enough_say_what_to_set(environ, cure):
    with pytest.raises(OperatorError, match=cure):
        GeminiSettings.read(environ)


def test_settings_are_read_as_the_sdk_reads_them():
    read = GeminiSettings.read
    assert read({"GEMINI_API_KEY": "a", "GOOGLE_API_KEY": "b"}).api_key == "b"
    assert read({"GEMINI_API_KEY": "a", "GOOGLE_GENAI_API_VERSION": "beta"}).api_version == ""
    assert read({"GEMINI_API_KEY": "a", "GOOGLE_CLOUD_PROJECT": "p"}).project == ""
    vertex = {"GOOGLE_GENAI_USE_VERTEXAI": "true", "GOOGLE_CLOUD_PROJECT": "p", "GOOGLE_CLOUD_LOCATION": "l"}
    assert read(vertex | {"GOOGLE_API_KEY": "b"}).api_key == "", "beside a project the SDK refuses a key"


def test_missing_certificate_is_an_operator_error():
    with pytest.raises(OperatorError, match="SSL_CERT_FILE"):
        GeminiModel(GeminiSettings(api_key="a", ca_file="/nowhere.pem"))


async def test_the_api_version_is_ours_unless_set():
    async with ModelServer(m.Script()) as server:
        for environ in ({}, {"GOOGLE_GENAI_API_VERSION": "v1alpha"}):
            model = GeminiModel(settings_for(server, **environ))
            async with model.session("gemini-3.8-live", {"response_modalities": ["AUDIO"]}, asyncio.timeout(5)):
                pass
        assert [re.search(r"\.(v1\w+)\.", session.path)[1] for session in server.sessions] == ["v1beta", "v1alpha"]


async def test_a_call_by_the_sdks_public_calls_alone(monkeypatch):
    """What is left with a google-genai that renames its socket."""
    monkeypatch.setattr(client, "socket_of", PublicSession)
    sent = [bytes((n, 0)) * 320 for n in range(30)]  # soft: these go after the prompt, and must not interrupt
    async with linked(m.Script(replies=(says("Certainly", on="text:cake"), says("More", on="text:more")))) as rig:
        [session] = rig.server.sessions
        for pcm in sent:
            rig.say(pcm, asyncio.get_running_loop().time())
        for turn, (prompt, text) in enumerate((("Offer cake.", "Certainly"), ("Offer more.", "More")), start=1):
            rig.link.prompt(prompt)
            await rig.sink.until_event(TurnComplete, turn)
            assert rig.sink.texts[turn] == text
            assert rig.sink.audio[turn]
        await eventually(lambda: bytes(session.audio) == b"".join(sent))
    assert (session.close_code, session.closed_by) == (1000, "client")


async def test_warming_up_needs_no_network():
    async with ModelServer(m.Script()) as server:
        model = GeminiModel(settings_for(server))
        await model.warm_up()
        assert not server.sessions
        assert not server.failures


async def test_a_token_is_bound_to_the_agents_setup():
    async with ModelServer(m.Script()) as server:
        model = GeminiModel(settings_for(server))
        agent = Agent(name="a", voice="Puck", instructions="Only weather.")
        token = await model.token(agent, (), {})
        assert token.startswith("auth_tokens/")
        await model.close()
        browser = GeminiModel(settings_for(server, GEMINI_API_KEY=token, GOOGLE_GENAI_API_VERSION="v1beta"))
        config = {"response_modalities": ["AUDIO"], "system_instruction": "Anything goes."}
        async with browser.session("gemini-3.8-live", config, asyncio.timeout(5)):
            pass
        [session] = server.sessions
        assert "Only weather." in str(session.setup)
        assert "Anything goes" not in str(session.setup)
        with pytest.raises(ModelRefused):
            async with browser.session("gemini-3.8-live", config, asyncio.timeout(5)):
                pass
