"""The call's side of a model link, as a recorder, and the rehearsal model on the other."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from offhook.gateway.agent.spec import Agent
from offhook.gateway.conversation.events import Event, ModelReady
from offhook.gateway.models.gemini.client import GeminiSettings, Models
from offhook.gateway.models.gemini.link import GeminiLink
from offhook.gateway.models.gemini.recovery import PATIENCE, Patience
from offhook.gateway.rehearsal.model.script import Script
from offhook.gateway.rehearsal.model.server import ModelServer
from tests.rig.model import model_environ

AGENT = Agent(name="reception", instructions="Be kind to {{caller}}.")
KEY = "rehearsal-key-that-must-not-show"


class Sink:
    """What a call is told, in order: `heard` holds (kind, value) pairs, audio per generation in `audio`."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []
        self.events: list[Event] = []
        self.audio: dict[int, bytes] = defaultdict(bytes)
        self.texts: dict[int, str] = defaultdict(str)
        self.caller = ""
        self.tool_calls: list[tuple[str, str, dict[str, Any]]] = []
        self.usage: list[dict[str, int]] = []
        self.segments: dict[str, list[float]] = defaultdict(list)
        self.generation = 0
        self._news = asyncio.Event()

    def _note(self, kind: str, value: Any) -> None:
        self.heard.append((kind, value))
        self._news.set()

    def model_event(self, event: Event) -> None:
        self.events.append(event)
        self._note("event", event)

    def model_audio(self, generation: int, pcm: bytes) -> None:
        self.audio[generation] += pcm
        self._note("audio", generation)

    def model_text(self, generation: int, text: str) -> None:
        self.texts[generation] += text
        self._note("text", generation)

    def caller_text(self, text: str, finished: bool) -> None:
        self.caller += text
        self._note("caller", text)

    def model_tool_call(self, call_id: str, name: str, arguments: dict[str, Any]) -> None:
        self.tool_calls.append((call_id, name, arguments))
        self._note("tool", call_id)

    def model_usage(self, usage: dict[str, int]) -> None:
        self.usage.append(usage)
        self._note("usage", usage)

    def model_segment(self, name: str, seconds: float) -> None:
        self.segments[name].append(seconds)

    def next_generation(self) -> int:
        self.generation += 1
        return self.generation

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, condition: Callable[[], Any], timeout_s: float = 5.0) -> None:
        """Wait for what the link tells; fails loudly with what it has told."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pytest.fail(f"not within {timeout_s} s; heard {[k for k, _ in self.heard]}, {self.events}")

    async def until_event(self, kind: type[Event], count: int = 1, timeout_s: float = 5.0) -> Any:
        await self.until(lambda: len(self.of(kind)) >= count, timeout_s)
        return self.of(kind)[count - 1]


@dataclass
class Rig:
    """One link against one rehearsal model."""

    server: ModelServer
    models: Models
    link: GeminiLink
    sink: Sink
    running: asyncio.Task[None]

    async def finished(self) -> None:
        async with asyncio.timeout(5):
            await self.running


async def eventually(condition: Callable[[], Any], timeout_s: float = 5.0) -> None:
    """For what the rehearsal model notes, of which nobody is told."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


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
    use_socket: bool = True,
    environ: dict[str, str] | None = None,
    ready: bool = True,
    violations: bool = False,
    **server_options: Any,
) -> AsyncIterator[Rig]:
    """A running link, closed and checked at the end: nothing left of it, no fault of its own."""
    before = asyncio.all_tasks()
    async with ModelServer(script, **server_options) as server:
        models = Models(settings_for(server, **(environ or {})), patience=patience, use_socket=use_socket)
        sink = Sink()
        loop = asyncio.get_running_loop()
        link = models.link(agent, tools, sink, {"caller": "+15550100"}, loop.time)
        running = loop.create_task(link.run())
        rig = Rig(server, models, link, sink, running)
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
            await models.close()
        ours = [t for t in asyncio.all_tasks() - before if t.get_name().startswith("gemini")]
        assert not ours
        assert not server.failures
        if not violations:
            assert not server.violations
