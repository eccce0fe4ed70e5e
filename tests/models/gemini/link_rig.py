"""A link between a sink that records and the rehearsal model."""

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from offhook.gateway.agent.spec import Agent
from offhook.gateway.conversation.events import Event, ModelReady
from offhook.gateway.models import AudioFormats, CallBrief, LinkCount, Speaker, Usage
from offhook.gateway.models.gemini.client import GeminiModel
from offhook.gateway.models.gemini.link import GeminiLink
from offhook.gateway.models.gemini.recovery import PATIENCE, Patience
from offhook.gateway.models.gemini.settings import GeminiSettings
from offhook.gateway.rehearsal.model.reached import model_environ
from offhook.gateway.rehearsal.model.script import Script
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.media.formats import PCM16_16K, PCM16_24K

AGENT = Agent(name="reception", instructions="Be kind to {{caller}}.")
AS_IT_IS = AudioFormats(caller=PCM16_16K, agent=PCM16_24K)  # what the model takes and gives: nothing is converted
NO_SAMPLES = np.zeros(0, dtype=np.int16)
KEY = "rehearsal-key-that-must-not-show"


class Sink:
    """Keeps what the link reports, in order: `heard` holds (kind, value) pairs, `audio` each turn's audio."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []
        self.events: list[Event] = []
        self.audio: dict[int, bytes] = defaultdict(bytes)
        self.texts: dict[int, str] = defaultdict(str)
        self.caller = ""
        self.tool_calls: list[tuple[str, str, dict[str, Any]]] = []
        self.usages: list[Usage] = []
        self.counts: Counter[LinkCount | tuple[LinkCount, str]] = Counter()  # with a reason where there is one
        self.segments: dict[str, list[float]] = defaultdict(list)
        self.turn = 0
        self.failures: list[tuple[str, BaseException]] = []
        self._news = asyncio.Event()

    def _note(self, kind: str, value: Any) -> None:
        self.heard.append((kind, value))
        self._news.set()

    def event(self, event: Event) -> None:
        self.events.append(event)
        self._note("event", event)

    def reply_audio(self, turn: int, codes: bytes) -> None:
        assert codes
        self.audio[turn] += codes
        self._note("audio", turn)

    def words(self, who: Speaker, turn: int | None, text: str, final: bool) -> None:
        if who is Speaker.CALLER:
            assert turn is None
            self.caller += text
            self._note("caller", text)
        else:
            assert turn is not None
            self.texts[turn] += text
            self._note("text", turn)

    def tool_call(self, call_id: str, name: str, arguments: dict[str, Any]) -> None:
        self.tool_calls.append((call_id, name, arguments))
        self._note("tool", call_id)

    def usage(self, usage: Usage) -> None:
        self.usages.append(usage)
        self._note("usage", usage)

    def count(self, what: LinkCount, by: float = 1, reason: str = "") -> None:
        self.counts[(what, reason) if reason else what] += int(by)

    def segment(self, name: str, seconds: float) -> None:
        self.segments[name].append(seconds)

    def next_turn(self) -> int:
        self.turn += 1
        return self.turn

    def agent_has_floor(self) -> bool:
        return False

    def task_failed(self, part: str, error: BaseException) -> None:
        self.failures.append((part, error))
        self._note("failure", part)

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, condition: Callable[[], Any], timeout_s: float = 60.0) -> None:
        """Wait for what the link reports; fails with what it has reported."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pytest.fail(f"not within {timeout_s} s; heard {[k for k, _ in self.heard]}, {self.events}")

    async def until_event(self, kind: type[Event], count: int = 1, timeout_s: float = 60.0) -> Any:
        await self.until(lambda: len(self.of(kind)) >= count, timeout_s)
        return self.of(kind)[count - 1]


@dataclass
class Rig:
    """One link against one rehearsal model."""

    server: ModelServer
    model: GeminiModel
    link: GeminiLink
    sink: Sink
    running: asyncio.Task[None]

    def say(self, pcm: bytes, received_s: float = 0.0) -> None:
        """PCM16 16 kHz of the caller, for a link with the formats `AS_IT_IS`."""
        self.link.caller_audio(pcm, NO_SAMPLES, received_s)

    async def finished(self) -> None:
        async with asyncio.timeout(5):
            await self.running


async def eventually(condition: Callable[[], Any], timeout_s: float = 60.0) -> None:
    """For what the rehearsal model records, which is not signalled."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


def brief_of(agent: Agent = AGENT, **more: Any) -> CallBrief:
    """On the running loop's clock."""
    more.setdefault("formats", AS_IT_IS)
    return CallBrief(agent=agent, clock=asyncio.get_running_loop().time, **more)


def settings_for(server: ModelServer, **more: str) -> GeminiSettings:
    own = {"GEMINI_API_KEY": KEY, "GOOGLE_VERTEX_BASE_URL": server.url}
    return GeminiSettings.read(model_environ(server) | own | more)


@contextlib.asynccontextmanager
async def linked(
    script: Script | Callable[[dict[str, Any]], Script],
    agent: Agent = AGENT,
    tools: Iterable[Any] = (),
    *,
    patience: Patience = PATIENCE,
    formats: AudioFormats = AS_IT_IS,
    environ: dict[str, str] | None = None,
    ready: bool = True,
    violations: bool = False,
    **server_options: Any,
) -> AsyncIterator[Rig]:
    """A running link, closed and checked at the end: nothing left of it, no fault of its own."""
    before = asyncio.all_tasks()
    async with ModelServer(script, **server_options) as server:
        model = GeminiModel(settings_for(server, **(environ or {})), patience=patience)
        sink = Sink()
        loop = asyncio.get_running_loop()
        brief = brief_of(agent, tools=tuple(tools), variables={"caller": "+15550100"}, formats=formats)
        link = model.link(brief, sink)
        running = loop.create_task(link.run())
        rig = Rig(server, model, link, sink, running)
        try:
            if ready:
                await sink.until_event(ModelReady)
            yield rig
            async with asyncio.timeout(5):
                await link.close()
            await rig.finished()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await model.close()
        ours = [t for t in asyncio.all_tasks() - before if t.get_name().startswith("gemini")]
        assert not ours
        assert not server.failures
        if not violations:
            assert not server.violations
