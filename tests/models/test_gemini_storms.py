"""Random troubles, many links at once: every link goes on or gives up, within its bounds, and leaves nothing."""

import asyncio
import random
import re
from itertools import pairwise

from link_rig import Sink, settings_for

from gateway.agent import Agent, ModelSettings
from gateway.conversation.commands import Scheduling
from gateway.conversation.events import ModelDown, ModelFailed, ModelReady, ReplyComplete, TurnComplete
from gateway.models.gemini import Models
from gateway.models.gemini_link import UPLINK_MAX_FRAMES
from gateway.models.gemini_recovery import Patience
from gateway.rehearsal import model_script as m
from gateway.rehearsal.model_server import ModelServer

LINKS = 40
LASTS_S = 2.0
# Small enough for storms to end in the test's time, a session that lives 0.3 s counts as sound.
PATIENCE = Patience(total_s=1.5, attempts=6, delays_s=(0.0, 0.01, 0.02, 0.04), stable_s=0.3)


def trouble(rng: random.Random) -> tuple[m.Action, ...]:
    one = rng.choice(
        [
            m.Close(1000, "The operation was cancelled."),
            m.Close(1007, "Request contains an invalid argument."),
            m.Close(1008, "The operation was aborted."),
            m.Close(1011, "Internal error encountered."),
            m.Close(1011, "Deadline expired before operation could complete."),
            m.Close(1013, "Try again later."),
            m.Abort(),
            m.Stall(rng.uniform(50, 400)),
            m.Send("{" * rng.randrange(1, 40)),
            m.Send({"brandNew": {"x": 1}, "serverContent": {"modelTurn": 7}}),
            m.Oversize(1_200_000),
            m.Interrupted(),
            m.GoAway(rng.uniform(0.05, 0.3)),
            m.CancelTools(),
            m.Mute(),
        ]
    )
    return (one,)


def script_of(seed: int) -> m.Script:
    rng = random.Random(seed)

    def reply(on: str) -> m.Reply:
        actions: list[m.Action] = [m.Say("So it goes", length_ms=rng.uniform(20, 400), delay_ms=0, speed=20)]
        if rng.random() < 0.4:
            actions.append(m.CallTool("look", {"at": seed}))
        if rng.random() < 0.4:
            actions.insert(rng.randrange(len(actions) + 1), trouble(rng)[0])
        return m.Reply(on, tuple(actions))

    def refusal() -> m.Close:
        return m.Close(rng.choice((1007, 1008, 1011)), "no")

    return m.Script(
        replies=tuple(reply(on) for on in ("start", "text", "text", "text", "tool:look", "resume")),
        faults=tuple(m.Fault(rng.uniform(0, 1.5), trouble(rng)) for _ in range(rng.randrange(4))),
        refuse_resumes=tuple(refusal() for _ in range(rng.choice((0, 0, 1, 2)))),
        refuse=refusal() if rng.random() < 0.1 else None,
        setup_delay_ms=rng.choice((0, 0, 0, 20, 400)),
        unknown_tool_id="close",
    )


async def one_call(models: Models, seed: int) -> tuple[Sink, object]:
    rng = random.Random(-seed - 1)
    loop = asyncio.get_running_loop()
    sink = Sink()
    agent = Agent(name="a", instructions="Script {{caller}}.", model=ModelSettings(setup_timeout_s=0.3))
    tool = type("Look", (), {"name": "look", "description": "Look.", "parameters": {}, "blocking": False})
    link = models.link(agent, [tool], sink, {"caller": str(seed)}, loop.time)
    running = loop.create_task(link.run())
    answered = 0
    ends_s = loop.time() + LASTS_S
    while loop.time() < ends_s and not running.done():
        link.send_audio(bytes(640), loop.time())
        assert link._audio_waiting <= UPLINK_MAX_FRAMES
        luck = rng.random()
        if luck < 0.02:
            link.ask("Go on.")
        elif luck < 0.025:
            link.rotate()
        elif luck < 0.028:
            link.reconnect()
        elif luck < 0.1 and answered < len(sink.tool_calls):
            call_id, name, _ = sink.tool_calls[answered]
            answered += 1
            link.answer_tool(call_id, name, {"seen": True}, rng.choice(list(Scheduling)))
        await asyncio.sleep(0.02)
    async with asyncio.timeout(5):
        await link.close()
        await running
    return sink, link


async def test_every_link_goes_on_or_gives_up():
    def script_for(setup):
        return script_of(int(re.search(r"Script (\d+)", str(setup))[1]))

    before = asyncio.all_tasks()
    async with ModelServer(script_for, keep_audio=False) as server:
        models = Models(settings_for(server), patience=PATIENCE)
        calls = await asyncio.gather(*(one_call(models, seed) for seed in range(LINKS)))
        assert not [task for task in asyncio.all_tasks() - before if task.get_name().startswith("gemini")]
        # Our own faults: a message out of order, an answer to nobody, history given twice. Nobody's are a result
        # that was on its way when the model changed its mind, and a resume that overtook our close at a server
        # that had stopped reading.
        innocent = ("cancelled", "still in use")
        assert not [v.what for v in server.violations if not any(word in v.what for word in innocent)]
        assert not server.failures
    for seed, (sink, link) in enumerate(calls):
        told = [type(e) for e in sink.events if isinstance(e, ModelReady | ModelDown | ModelFailed)]
        ready = told[0] is ModelReady if told else False
        assert told.count(ModelFailed) <= 1, seed
        assert ModelFailed not in told[:-1], f"{seed}: giving up is the last word"
        for this, following in pairwise(told):
            assert this is not following, f"{seed}: up and down take turns"
        assert ready or told in ([], [ModelFailed]), seed
        ends = [e.generation for e in sink.events if isinstance(e, TurnComplete)]
        assert ends == sorted(ends), seed
        assert all(e.generation <= sink.generation for e in sink.events if isinstance(e, ReplyComplete)), seed
        times = [e.at_s for e in sink.events]
        assert times == sorted(times), seed
        # A trouble costs at most `attempts`; there are no more troubles than sound sessions, and one before.
        troubles = 1 + told.count(ModelDown)
        assert link.counts["connections"] <= troubles * PATIENCE.attempts, seed
    assert any(sink.of(ModelFailed) for sink, _ in calls), "some storms are too much"
    assert sum(len(sink.of(ModelReady)) > 1 for sink, _ in calls) > LINKS / 4, "many are survived"
