"""A link against the rehearsal model, through the real SDK: what the call is told, what the model got."""

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
from offhook.gateway.conversation.commands import Scheduling
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
from offhook.gateway.models.gemini.client import GeminiSettings, Models
from offhook.gateway.models.gemini.link import UPLINK_MAX_FRAMES
from offhook.gateway.models.gemini.recovery import Patience
from offhook.gateway.models.gemini.wire import SdkWire, SocketWire
from offhook.gateway.rehearsal.model import script as m
from offhook.gateway.rehearsal.model.server import ModelServer
from tests.models.gemini.link_rig import AGENT, KEY, Sink, eventually, linked, settings_for

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


both_paths = pytest.mark.parametrize("use_socket", [True, False], ids=["socket", "sdk"])


# --- a conversation


@both_paths
async def test_a_greeting_arrives_whole_numbered_and_in_order(use_socket):
    async with linked(m.Script(replies=(says("Good morning to you"),)), use_socket=use_socket) as rig:
        complete = await rig.sink.until_event(TurnComplete)
        assert complete.generation == 1
        assert [type(event) for event in rig.sink.events] == [ModelReady, ReplyComplete, TurnComplete]
        assert not rig.sink.of(ModelReady)[0].resumed
        assert rig.sink.texts == {1: "Good morning to you"}
        assert len(rig.sink.audio[1]) == 2 * 24 * 100
        kinds = [kind for kind, _ in rig.sink.heard]
        assert kinds.index("usage") < len(kinds) - 1, "a turn's usage is told before its end"
        assert rig.sink.usage[0]["responseTokensDetails.AUDIO"] > 0
        assert [len(seconds) for seconds in rig.sink.segments.values()] == [1]
        times = [event.at_s for event in rig.sink.events]
        assert times == sorted(times)
        assert abs(times[-1] - asyncio.get_running_loop().time()) < 5
    [session] = rig.server.sessions
    assert (session.close_code, session.closed_by) == (1000, "client")
    assert session.path.startswith("/ws/google.ai.generativelanguage.v1beta.")


@both_paths
async def test_the_caller_is_heard_bit_for_bit(use_socket):
    sent = frames(30)
    async with linked(m.Script(), use_socket=use_socket) as rig:
        for pcm in sent:
            rig.link.send_audio(pcm, asyncio.get_running_loop().time())
        [session] = rig.server.sessions
        await eventually(lambda: session.audio_bytes == 30 * 640)
        assert bytes(session.audio) == b"".join(sent)
        assert session.audio_rate_hz == 16_000
        await eventually(lambda: len(rig.sink.segments["uplink_forward"]) == 30)
        assert all(0 <= seconds < 1 for seconds in rig.sink.segments["uplink_forward"])


@both_paths
async def test_asking_telling_and_the_callers_words(use_socket):
    replies = (
        says("Certainly", on="text:cake"),
        m.Reply("text:more", (m.Say("x", length_ms=40),), heard=(" so", " much")),
    )
    async with linked(m.Script(replies=replies), use_socket=use_socket) as rig:
        rig.link.tell("The shop closes at six.")
        rig.link.ask("Offer cake.")
        await rig.sink.until_event(TurnComplete)
        rig.link.ask("Offer more.")
        await rig.sink.until_event(TurnComplete, 2)
        assert rig.sink.caller == " so much"
        said = [(t.how, t.text, t.turn_complete) for t in rig.server.sessions[0].texts]
        assert said == [
            ("content", "The shop closes at six.", False),
            ("realtime", "Offer cake.", False),
            ("realtime", "Offer more.", False),
        ]


async def test_telling_is_left_out_where_it_would_close_the_session():
    agent = Agent(name="a", model=ModelSettings(name="gemini-3.1-flash-live-preview"))
    async with linked(m.Script(replies=(says("Yes", on="text"),)), agent) as rig:
        rig.link.tell("A note.")
        rig.link.ask("Go on.")
        await rig.sink.until_event(TurnComplete)
        assert [t.text for t in rig.server.sessions[0].texts] == ["Go on."]
        assert rig.link.counts["context_left_out"] == 1


@both_paths
async def test_an_interruption_belongs_to_its_turn_and_so_does_what_comes_late(use_socket):
    script = m.Script(
        replies=(
            says("A long story begins here", length_ms=4000, speed=2, late_chunks=2, chunk_ms=(100,)),
            says("Yes?", on="caller"),
        )
    )
    async with linked(script, LOCAL, use_socket=use_socket) as rig:
        await rig.sink.until(lambda: len(rig.sink.audio[1]) > 4800)
        rig.link.activity_start()
        await rig.sink.until_event(TurnComplete)
        [interrupted] = rig.sink.of(ModelInterrupted)
        assert interrupted.generation == 1
        place = rig.sink.heard.index(("event", interrupted))
        late = [(kind, value) for kind, value in rig.sink.heard[place + 1 :] if kind == "audio"]
        assert late == [("audio", 1), ("audio", 1)], "late audio is the old turn's"
        assert not rig.sink.of(ReplyComplete)
        rig.link.activity_end()
        complete = await rig.sink.until_event(ReplyComplete)
        assert complete.generation == 2
        assert rig.sink.texts[2] == "Yes?"


async def test_activity_stands_where_it_was_put_among_the_audio():
    sent = frames(6)
    async with linked(m.Script(), LOCAL) as rig:
        rig.link.send_audio(sent[0])
        rig.link.activity_start()
        for pcm in sent[1:5]:
            rig.link.send_audio(pcm)
        rig.link.activity_end()
        rig.link.send_audio(sent[5])
        [session] = rig.server.sessions
        await eventually(lambda: session.audio_bytes == 6 * 640)
        (start_s, start), (end_s, end) = session.activity
        assert (start, end) == ("activityStart", "activityEnd")
        arrived = [at_s for at_s, _ in session.audio_arrivals]
        assert arrived[0] <= start_s <= arrived[1]
        assert arrived[4] <= end_s <= arrived[5]


async def test_extended_thinking_makes_two_replies_of_one_turn():
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


async def test_an_empty_turn_and_a_phantom_interruption_are_told_as_such():
    script = m.Script(
        replies=(
            says("Hello"),
            m.Reply("text:empty", (m.EmptyTurn(),)),
            m.Reply("text:phantom", (m.Interrupted(),)),
        )
    )
    async with linked(script) as rig:
        await rig.sink.until_event(TurnComplete)
        rig.link.ask("empty")
        assert (await rig.sink.until_event(TurnComplete, 2)).generation == 2
        rig.link.ask("phantom")
        assert (await rig.sink.until_event(ModelInterrupted)).generation == 2
        assert rig.sink.generation == 2, "and it is no turn of its own"


# --- tools


@both_paths
async def test_a_tool_is_asked_for_answered_once_and_spoken_of(use_socket):
    script = m.Script(
        replies=(
            m.Reply("start", (m.CallTool("book", {"people": 2}, id="c1"),)),
            says("Booked", on="tool:book"),
        )
    )
    async with linked(script, tools=[BOOK], use_socket=use_socket) as rig:
        await rig.sink.until(lambda: rig.sink.tool_calls)
        assert rig.sink.tool_calls == [("c1", "book", {"people": 2})]
        rig.link.answer_tool("c1", "book", {"table": 7}, Scheduling.WHEN_IDLE)
        rig.link.answer_tool("c1", "book", {"table": 8}, Scheduling.WHEN_IDLE)
        await rig.sink.until(lambda: "Booked" in rig.sink.texts.values())
        [answer] = rig.server.sessions[0].tool_answers
        assert (answer.response, answer.scheduling) == ({"table": 7}, "WHEN_IDLE")
        assert rig.link.counts["tool_answers_dropped"] == 1


async def test_a_withdrawn_call_is_told_and_its_result_kept_back():
    script = m.Script(
        replies=(m.Reply("start", (m.CallTool("book", {}, id="c1"),)),), faults=(m.Fault(0.1, (m.CancelTools(),)),)
    )
    async with linked(script, tools=[BOOK]) as rig:
        withdrawn = await rig.sink.until_event(ToolWithdrawn)
        assert withdrawn.call_id == "c1"
        rig.link.answer_tool("c1", "book", {"table": 7}, Scheduling.WHEN_IDLE)
        rig.link.ask("Go on.")
        [session] = rig.server.sessions
        await eventually(lambda: session.texts)
        assert not session.tool_answers


async def test_a_call_lost_with_its_session_is_withdrawn_and_its_late_result_dropped():
    script = m.Script(
        replies=(
            says("Hello"),
            m.Reply("text:book", (m.CallTool("book", {}, id="c1"), m.Close(1011, "Internal error encountered."))),
        )
    )
    async with linked(script, tools=[BOOK], patience=HASTE) as rig:
        await rig.sink.until_event(TurnComplete)
        await rig.sink.until(lambda: rig.link.handle)
        rig.link.ask("book")
        await rig.sink.until_event(ModelReady, 2)
        assert [event.call_id for event in rig.sink.of(ToolWithdrawn)] == ["c1"]
        rig.link.answer_tool("c1", "book", {"table": 7}, Scheduling.WHEN_IDLE)
        rig.link.ask("Are you there?")
        await eventually(lambda: rig.server.sessions[1].texts)
        assert not rig.server.sessions[1].tool_answers


async def test_a_call_cancelled_here_is_said_to_be_so_that_the_conversation_stays_resumable():
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
        rig.link.cancel_tool("c1")
        rig.link.cancel_tool("c1")
        await eventually(lambda: rig.link.handle is not old)
        [answer] = rig.server.sessions[0].tool_answers
        assert (answer.response["status"], answer.scheduling, answer.call) == ("cancelled", "SILENT", "open")
        assert rig.link.handle.calls == frozenset()
        rig.link.ask("on")
        await rig.sink.until_event(TurnComplete, 2)
        assert rig.sink.texts[2] == "Still here", "and nothing was said of it"


async def test_a_call_that_the_model_takes_back_itself_is_not_answered():
    script = m.Script(
        replies=(m.Reply("start", (m.CallTool("book", {}, id="c1"),)),), faults=(m.Fault(0.1, (m.CancelTools(),)),)
    )
    async with linked(script, tools=[BOOK]) as rig:
        await rig.sink.until(lambda: rig.sink.tool_calls)
        rig.link.cancel_tool("c1")
        await rig.sink.until_event(ToolWithdrawn)
        assert not rig.link._cancelled
        rig.link.cancel_tool("c1")
        assert not rig.link._cancelled, "nor later"


async def test_a_rotation_first_says_what_was_cancelled_and_takes_the_handle_that_follows():
    script = m.Script(replies=(m.Reply("start", (m.CallTool("book", {}, id="c1"), m.Say("One moment", length_ms=40))),))
    async with linked(script, tools=[BOOK]) as rig:
        await rig.sink.until_event(TurnComplete)
        rig.link.cancel_tool("c1")
        rig.link.rotate()
        assert (await rig.sink.until_event(ModelReady, 2)).resumed
        first, second = rig.server.sessions
        assert len(first.tool_answers) == 1
        assert second.setup["sessionResumption"]["handle"] == first.handles[-1]
        assert len(first.handles) == 2
        assert not rig.sink.of(ToolWithdrawn)


async def test_a_sentence_that_breaks_off_is_told_as_such_and_an_interrupted_one_is_not():
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
        rig.link.ask("whole")
        assert not (await rig.sink.until_event(TurnComplete, 2, timeout_s=10)).cut
        rig.link.ask("interrupted")
        await rig.sink.until(lambda: len(rig.sink.audio[3]) > 4800)
        rig.link.activity_start()
        assert not (await rig.sink.until_event(TurnComplete, 3)).cut
        assert rig.link.counts["turns_cut"] == 1


# --- what the model may send and must not end a call


@both_paths
async def test_new_messages_empty_frames_and_long_ones_are_survived(use_socket):
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
    async with linked(script, use_socket=use_socket) as rig:
        await rig.sink.until_event(TurnComplete)
        assert rig.sink.texts == {1: "Still here"}
        assert len(rig.sink.of(ModelReady)) == 1
        assert rig.link.counts["unknown_keys"] == (2 if use_socket else 1)


async def test_frames_that_are_no_json_are_counted_and_survived():
    script = m.Script(replies=(m.Reply("start", (m.Send("{"), m.Send("7"), m.Say("Still here", length_ms=40))),))
    async with linked(script) as rig:
        await rig.sink.until_event(TurnComplete)
        assert rig.link.counts["malformed"] == 2
        assert rig.link.counts["malformed:not_json"] == rig.link.counts["malformed:not_an_object"] == 1


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
            rig.link.send_audio(pcm)
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
        assert rig.link.counts["audio_dropped"] == 0
        assert "systemInstruction" in new.setup


async def test_a_rotation_waits_for_the_handle_that_knows_the_last_turn():
    script = m.Script(replies=(says("Hello"), says("And more", on="text", length_ms=400, speed=4)))
    async with linked(script) as rig:
        await rig.sink.until(lambda: rig.link.handle)
        first = rig.link.handle
        rig.link.ask("Go on.")
        await rig.sink.until(lambda: 2 in rig.sink.texts)
        rig.link.rotate()
        await rig.sink.until_event(ModelReady, 2)
        assert rig.server.sessions[1].setup["sessionResumption"]["handle"] != first.value
        assert len(rig.sink.of(TurnComplete)) == 2, "the turn was heard to its end"


async def test_going_away_is_told_with_its_time_and_age_brings_the_same_advice():
    script = m.Script(faults=(m.Fault(0.0, (m.GoAway(50.0, then_close=False),)),))
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


@both_paths
@pytest.mark.parametrize("name", LOSSES)
async def test_a_lost_session_is_got_back(name, use_socket):
    fault, how = LOSSES[name]
    script = m.Script(replies=(says("Good morning"), m.Reply("text:now", (fault,)), says("Yes?", on="text:after")))

    def scripts(setup):
        return script if "already under way" not in str(setup) else m.Script(replies=(says("Yes?", on="text:after"),))

    async with linked(scripts, patience=HASTE, use_socket=use_socket) as rig:
        await rig.sink.until_event(TurnComplete)
        await rig.sink.until(lambda: rig.link.handle)
        rig.link.ask("now")
        ready = await rig.sink.until_event(ModelReady, 2)
        assert ready.resumed, "it knows the call so far, one way or the other"
        rig.link.ask("after")
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


async def test_what_was_said_after_the_handle_is_told_to_the_resumed_session_and_not_forgotten():
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
        rig.link.ask("now")
        await rig.sink.until_event(ModelReady, 2)
        handle = rig.link.handle
        rig.link.ask("again")
        await rig.sink.until(lambda: rig.link.handle is not handle)
        rig.link.ask("once more")
        await rig.sink.until_event(ModelReady, 3)
        instructions = [s.setup["systemInstruction"]["parts"][0]["text"] for s in rig.server.sessions]
        assert ["Two cakes then" in text for text in instructions] == [False, True, True]
        assert not any("Good morning" in text or "Still two" in text for text in instructions), "the handle knows"
        assert [s.resumed_from for s in rig.server.sessions] == [None, 0, 1]


async def test_before_anything_was_said_a_fresh_session_knows_nothing():
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
        rig.link.ask("now")
        assert (await rig.sink.until_event(ModelReady, 2)).resumed
        handles = [s.setup.get("sessionResumption", {}).get("handle") for s in rig.server.sessions]
        assert [bool(h) for h in handles] == [False, True, True, False]
        assert rig.link.counts["connections"] == 4
        assert "Good morning" in str(rig.server.sessions[-1].setup)


async def test_a_stuck_session_is_dropped_and_resumed():
    script = m.Script(replies=(says("Hello"), m.Reply("text:stall", (m.Stall(20_000),))))
    async with linked(script) as rig:
        await rig.sink.until(lambda: rig.link.handle)
        rig.link.ask("stall")
        await eventually(lambda: rig.server.sessions[0].texts)
        await asyncio.sleep(0.05)
        began_s = asyncio.get_running_loop().time()
        rig.link.reconnect()
        await rig.sink.until_event(ModelReady, 2)
        assert asyncio.get_running_loop().time() - began_s < 2.5


async def test_a_gap_keeps_one_second_of_the_caller_and_drops_the_oldest():
    sent = frames(UPLINK_MAX_FRAMES + 30)
    async with ModelServer(m.Script()) as server:
        models = Models(settings_for(server))
        sink = Sink()
        link = models.link(Agent(name="a"), (), sink, {}, asyncio.get_running_loop().time)
        for i, pcm in enumerate(sent):
            link.send_audio(pcm)
            if i == 40:
                link.ask("kept, whatever is dropped")
        running = asyncio.create_task(link.run())
        await eventually(lambda: server.sessions and server.sessions[0].audio_bytes == UPLINK_MAX_FRAMES * 640)
        assert bytes(server.sessions[0].audio) == b"".join(sent[-UPLINK_MAX_FRAMES:])
        assert link.counts["audio_dropped_down"] == 30
        assert [t.text for t in server.sessions[0].texts] == ["kept, whatever is dropped"]
        await link.close()
        await running


async def test_a_caller_who_speaks_over_the_gap_is_announced_to_the_new_session():
    script = m.Script(replies=(says("Hello"), says("Right", on="caller")))
    async with linked(script, LOCAL) as rig:
        await rig.sink.until(lambda: rig.link.handle)
        rig.link.activity_start()
        rig.link.send_audio(bytes(640))
        await eventually(lambda: rig.server.sessions[0].activity)
        rig.link.rotate()
        await rig.sink.until_event(ModelReady, 2)
        rig.link.send_audio(bytes(640))
        rig.link.activity_end()
        await rig.sink.until(lambda: "Right" in rig.sink.texts.values())
        assert [name for _, name in rig.server.sessions[1].activity] == ["activityStart", "activityEnd"]


async def test_caller_audio_goes_out_on_the_spot_and_waits_behind_what_waits():
    sent = frames(4)
    async with linked(m.Script(), LOCAL) as rig:
        await asyncio.sleep(0)  # the writer has begun
        rig.link.send_audio(sent[0])
        assert not rig.link._audio_waiting, "nothing waits: no task switch"
        rig.link.activity_start()
        rig.link.send_audio(sent[1])
        assert rig.link._audio_waiting == 1, "behind activityStart"
        [session] = rig.server.sessions
        await eventually(lambda: session.audio_bytes == 2 * 640)
        rig.link.send_audio(sent[2])
        rig.link.activity_end()
        rig.link.send_audio(sent[3])
        await eventually(lambda: session.audio_bytes == 4 * 640)
        assert bytes(session.audio) == b"".join(sent)


async def test_a_peer_that_no_longer_reads_is_left(monkeypatch):
    """Its buffers fill, then the outbox; the oldest audio goes, and after a while so does the connection."""
    monkeypatch.setattr("offhook.gateway.models.gemini.link.SEND_STALL_MAX_S", 0.2)
    script = m.Script(replies=(says("Hello"), m.Reply("text:stall", (m.Stall(20_000),))))
    async with linked(script) as rig:
        await rig.sink.until(lambda: rig.link.handle)
        rig.link.ask("stall")
        await eventually(lambda: rig.server.sessions[0].texts)
        second = bytes(32_000)
        async with asyncio.timeout(10):
            while len(rig.sink.of(ModelReady)) < 2:
                rig.link.send_audio(second)
                await asyncio.sleep(0.002)
        assert rig.link.counts["audio_dropped"] > 0
        assert rig.link._audio_waiting <= UPLINK_MAX_FRAMES


async def test_a_half_open_connection_is_noticed_by_the_kernel():
    """Caller audio never pauses, so bytes without acknowledgement are a dead line."""
    async with ModelServer(m.Script()) as server:
        models = Models(settings_for(server))
        async with models.session("gemini-3.8-live", {"response_modalities": ["AUDIO"]}, asyncio.timeout(5)) as wired:
            sock = wired._ws.transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000


def test_a_line_that_dies_without_a_word_is_noticed_and_replaced():
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
            rig.link.send_audio(sent[spoken])
            spoken += 1
            ends = len(rig.sink.of(TurnComplete))
            if len(rig.sink.of(GoAway)) > rotated and ends == asked + 1:
                rig.link.rotate()  # a quiet moment
                rotated += 1
            elif ends == asked + 1 and len(rig.sink.of(ModelReady)) == rotated + 1:
                rig.link.ask(f"{asked}.")
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
        assert rig.link.counts["fresh"] == 1
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


async def test_a_refused_one_is_tried_once_more_without_the_field_that_has_caused_it():
    setups, _, _ = await failed(m.Script(refuse=m.Close(1008, "not supported")))
    assert ["sessionResumption" in setup for setup in setups] == [True, False]


async def test_a_wrong_key_does_not_show():
    _, faults, _ = await failed(m.Script(refuse=m.Close(1007, f"API key {KEY} not valid.")))
    assert KEY not in str(faults)
    assert "API key *** not valid" in faults[0]


@both_paths
async def test_a_model_that_never_answers_the_setup_is_left_in_time(use_socket):
    agent = Agent(name="a", model=ModelSettings(setup_timeout_s=0.2))
    setups, faults, took_s = await failed(m.Script(setup_delay_ms=60_000), agent, use_socket=use_socket)
    assert len(setups) == 3
    assert faults[0] == "no session: 0 no answer to the setup in time"
    assert took_s < 8


async def test_a_first_message_that_is_no_setup_is_no_session():
    setups, faults, _ = await failed(m.Script(instead_of_setup=m.Send({"goAway": {"timeLeft": "1s"}})))
    assert len(setups) == 3
    assert "not setupComplete" in faults[0]


async def test_nobody_there():
    async with ModelServer(m.Script()) as server:
        models = Models(settings_for(server), patience=Patience(total_s=0.5, delays_s=(0.0, 0.01)))
    sink = Sink()
    link = models.link(Agent(name="a"), (), sink, {}, asyncio.get_running_loop().time)
    await link.run()
    assert [type(event) for event in sink.events] == [ModelFailed]
    assert link.counts["connections"] == 8
    assert link.faults[0].startswith("no session: 1006 network: ")


async def test_a_certificate_nobody_trusts_is_not_asked_twice():
    async with ModelServer(m.Script()) as server:
        models = Models(GeminiSettings(api_key=KEY, base_url=server.url))
        sink = Sink()
        link = models.link(Agent(name="a"), (), sink, {}, asyncio.get_running_loop().time)
        await link.run()
    assert link.counts["connections"] == 1
    assert link.faults[0].startswith("no session: 1015 its certificate is not trusted")


async def test_sessions_that_fall_over_at_once_are_one_trouble():
    """A storm is bounded however often the sessions come up in between."""
    falls = (m.Close(1011, "Internal error encountered."),)
    script = m.Script(replies=(m.Reply("start", falls), *[m.Reply("resume", falls)] * 20))
    async with linked(script, patience=HASTE) as rig:
        await rig.sink.until_event(ModelFailed)
        await rig.finished()
        assert rig.link.counts["connections"] <= 1 + HASTE.attempts


# --- the end


async def test_closing_twice_before_and_after_is_harmless():
    async with ModelServer(m.Script()) as server:
        models = Models(settings_for(server))
        link = models.link(Agent(name="a"), (), Sink(), {}, asyncio.get_running_loop().time)
        await link.close()
        await link.run()
        assert not server.sessions
    async with linked(m.Script()) as rig:
        await asyncio.gather(rig.link.close(), rig.link.close())
        assert not rig.sink.of(ModelDown), "an end that was asked for is no loss"
        rig.link.send_audio(bytes(640))
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
        rig.link.ask("Go on.")
        await rig.sink.until(lambda: 2 in rig.sink.audio)
        rig.link.rotate()
        await asyncio.sleep(0.02)
        began_s = asyncio.get_running_loop().time()
        await rig.link.close()
        assert asyncio.get_running_loop().time() - began_s < 0.5
        assert len(rig.server.sessions) == 1


async def test_a_cancelled_link_closes_with_1000_and_tells_no_loss():
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
        rig.link.ask("now")
        await rig.sink.until_event(ModelReady, 2)
        assert handle not in repr(rig.link.handle)
    said = "\n".join(f"{record.getMessage()} {record.args}" for record in caplog.records)
    assert "connection lost" in said, "the log was watched"
    assert KEY not in said
    assert handle not in said
    assert KEY not in repr(rig.models.settings)


async def test_a_bug_of_the_calls_is_not_taken_for_a_loss():
    class Broken(Sink):
        def model_text(self, generation, text):
            raise ZeroDivisionError

    async with ModelServer(m.Script(replies=(says("Hello"),))) as server:
        link = Models(settings_for(server)).link(Agent(name="a"), (), Broken(), {}, asyncio.get_running_loop().time)
        with pytest.raises(ZeroDivisionError):
            await link.run()
        assert len(server.sessions) == 1
        await eventually(lambda: server.sessions[0].close_code == 1000)


# --- the process's client


async def test_the_processes_client_is_closed_when_the_gateway_stops():
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
            assert (await gateway.models.token(AGENT, (), {"caller": "x"})).startswith("auth_tokens/")
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


def test_a_certificate_that_is_not_there_is_the_operators():
    with pytest.raises(OperatorError, match="SSL_CERT_FILE"):
        Models(GeminiSettings(api_key="a", ca_file="/nowhere.pem"))


async def test_the_fast_path_is_the_one_taken_and_the_version_is_ours():
    async with ModelServer(m.Script()) as server:
        for use_socket, kind in ((True, SocketWire), (False, SdkWire)):
            models = Models(settings_for(server), use_socket=use_socket)
            async with models.session(
                "gemini-3.8-live", {"response_modalities": ["AUDIO"]}, asyncio.timeout(5)
            ) as wired:
                assert type(wired) is kind
        models = Models(settings_for(server, GOOGLE_GENAI_API_VERSION="v1alpha"))
        async with models.session("gemini-3.8-live", {"response_modalities": ["AUDIO"]}, asyncio.timeout(5)):
            pass
        assert ".v1beta." in server.sessions[0].path
        assert ".v1alpha." in server.sessions[2].path


async def test_warming_up_needs_nobody():
    async with ModelServer(m.Script()) as server:
        models = Models(settings_for(server))
        await models.warm_up()
        assert not server.sessions
        assert not server.failures


async def test_a_token_lets_a_browser_in_with_this_agents_setup_alone():
    async with ModelServer(m.Script()) as server:
        models = Models(settings_for(server))
        agent = Agent(name="a", voice="Puck", instructions="Only weather.")
        token = await models.token(agent, (), {})
        assert token.startswith("auth_tokens/")
        await models.close()
        browser = Models(settings_for(server, GEMINI_API_KEY=token, GOOGLE_GENAI_API_VERSION="v1beta"))
        config = {"response_modalities": ["AUDIO"], "system_instruction": "Anything goes."}
        async with browser.session("gemini-3.8-live", config, asyncio.timeout(5)):
            pass
        [session] = server.sessions
        assert "Only weather." in str(session.setup)
        assert "Anything goes" not in str(session.setup)
        with pytest.raises(ModelRefused):
            async with browser.session("gemini-3.8-live", config, asyncio.timeout(5)):
                pass
