"""The interface of tools: what an agent can do, one call of it, and its result.

For tools written as Python functions: `tool` marks a function, `ToolContext` gives it access to the call, `ToolError`
is raised to send the model a message of its own.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, Protocol, TypeVar, overload

from offhook.gateway.conversation.endings import Ending
from offhook.gateway.conversation.events import Outcome, ToolPolicy
from offhook.gateway.errors import OperatorError, PeerError
from offhook.gateway.tools.breaker import Breaker
from offhook.gateway.tools.schema import Arguments

__all__ = [
    "MARK",
    "LateOutcome",
    "Repeat",
    "Secret",
    "Tool",
    "ToolCall",
    "ToolContext",
    "ToolError",
    "ToolHost",
    "ToolMark",
    "ToolResult",
    "ToolSource",
    "tool",
]

MARK = "__offhook_tool__"  # the attribute of a marked function that holds its ToolMark
Function = TypeVar("Function", bound=Callable[..., Any])


class ToolError(PeerError):
    """A tool failed: the message is a plain sentence for the model, `record` the details for the operator.

    `reason` is a value of the metric's closed list (TOOL_FAILURES).
    """

    def __init__(self, message: str, record: str = "", reason: str = "tool_error") -> None:
        super().__init__(message)
        self.record, self.reason = record, reason


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One tool call. `idempotency_key` is call, model session and function-call id, the same for a repeat."""

    call_id: str
    name: str
    arguments: dict[str, Any]
    idempotency_key: str
    # call_sid, caller, dialled, direction, simulated, variables; effects: tools that may act though simulated
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToolResult:
    """How a tool call ended. `response` is sent to the model; `record` has the details for the operator.

    `failure`: why it failed or timed out, a value of the metric's closed list (TOOL_FAILURES).
    """

    outcome: Outcome
    response: dict[str, Any]
    record: str = ""
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Secret:
    """A part of a tool's result that is sent to no one: the model gets a placeholder, to pass to other tools."""

    value: str

    def __repr__(self) -> str:
        return "Secret(...)"


class LateOutcome(Enum):
    """The late outcome of a run that was cancelled or timed out, and could not be stopped."""

    RUNNING = "running"  # it continues; its result is not awaited
    FINISHED = "finished"
    FAILED = "failed"


class Repeat(Enum):
    """What a second run of the same tool call would do: decides whether one is made when a process ended during the
    first.
    """

    SAFE = "safe"  # a run changes nothing outside the call
    BY_KEY = "by_key"  # runs with the same idempotency key take effect once
    NEVER = "never"  # it could take effect twice


class ToolHost(Protocol):
    """The running call, as its tools see it. All methods return at once."""

    def say(self, text: str) -> None:
        """Have the agent say this."""

    def remember(self, key: str, value: str) -> None:
        """Keep a fact for the rest of the call, across model sessions."""

    def end_call(self, reason: str, call_id: str) -> None:
        """Hang up once the goodbye was heard."""

    def transfer(self, target: str, call_id: str, *, whisper: str = "", warm: bool = False) -> None:
        """Connect the caller with `target` (a number, a SIP address) once what is being said was heard.

        `whisper` is said to the person who answers before the caller is connected; `warm`: the agent briefs
        them first.
        """

    def send_digits(self, digits: str) -> bool:
        """Press these keys (0-9 A-D # *; `w` waits half a second); False where the carrier cannot."""

    def keys(self, *, secret: bool) -> AbstractContextManager[asyncio.Queue[str]]:
        """The caller's key presses while the context is open; none of them is reported to the model.

        `secret`: meanwhile the model hears silence, and so does the recording.
        """

    def ignore_key(self, key: str) -> None:
        """Drop this key, once, if it is the caller's next and comes within 3 s: it belongs to the entry before."""

    def take_message(self, recipient: str, text: str) -> None:
        """Keep a message for `recipient` in the call's record."""

    def stop_recording(self) -> bool:
        """Stop the call's recording and remove it; False where there is none."""

    def last_words(self, text: str, ending: Ending) -> None:
        """Have the agent say this instead of what it is saying; then the call ends."""

    def afterwards(self, call: ToolCall, state: LateOutcome, what: Any) -> None:
        """An abandoned run continues, or has ended late: for the record, not for the model."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One thing an agent can do. `run` is a coroutine function; cancelling its task must really stop it.

    Raises `OperatorError` for `parameters` that are not a JSON schema.
    """

    name: str
    description: str
    parameters: dict[str, Any]  # JSON schema of the arguments
    run: Callable[[ToolCall, ToolHost], Awaitable[Any]]
    blocking: bool = False
    on_barge_in: ToolPolicy = ToolPolicy.CANCEL
    silent: bool = False
    timeout_s: float = 20.0
    filler: str = ""
    filler_after_ms: int = 1_500
    entry: int | None = None  # its place in the agent file's `tools`; one entry may make several tools
    outside_effects: bool = False  # not run in a simulated call, unless `facts["effects"]` names it or "*"
    repeat: Repeat = Repeat.SAFE
    breaker: Breaker | None = field(default=None, repr=False, compare=False)  # of all calls' runs of it
    arguments: Arguments = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "arguments", Arguments(self.parameters))
        except ValueError as error:
            raise OperatorError(f"tool {self.name}: parameters: this is not a JSON schema: {error}") from None


@dataclass(frozen=True, slots=True)
class ToolMark:
    """The options of `@tool` for a function."""

    name: str = ""
    description: str = ""
    on_barge_in: Literal["cancel", "finish"] = "cancel"
    outside_effects: bool = False
    idempotent: bool = False


@overload
def tool(function: Function, /) -> Function: ...


@overload
def tool(
    *,
    name: str = "",
    description: str = "",
    on_barge_in: Literal["cancel", "finish"] = "cancel",
    outside_effects: bool = False,
    idempotent: bool = False,
) -> Callable[[Function], Function]: ...


def tool(function: Any = None, /, **said: Any) -> Any:
    """Mark a function as a tool: `function: module` in an agent file takes all marked ones of the module.

    Name and description default to the function's own. `on_barge_in="finish"`: it is not cancelled when the
    caller interrupts. `outside_effects`: it changes something beyond this call, and is not run in rehearsals.
    `idempotent`: it takes effect once per `ToolContext.idempotency_key`, so that a run whose process ended may be
    repeated.
    """
    mark = ToolMark(**said)

    def marked(function: Any) -> Any:
        setattr(function, MARK, mark)
        return function

    return marked if function is None else marked(function)


class ToolContext:
    """The call that a tool belongs to; the gateway fills a parameter annotated with this. Thread-safe.

    `cancelled` is set once the result is not awaited any more: a function in a thread should check it between steps,
    and stop.
    """

    def __init__(self, call: ToolCall, host: ToolHost, loop: asyncio.AbstractEventLoop) -> None:
        self._host, self._loop = host, loop
        self.call_sid: str = call.facts.get("call_sid", "")
        self.caller: str = call.facts.get("caller", "")
        self.dialled: str = call.facts.get("dialled", "")
        self.direction: str = call.facts.get("direction", "inbound")
        self.simulated: bool = call.facts.get("simulated", False)
        self.variables: Mapping[str, str] = call.facts.get("variables", {})
        self.idempotency_key = call.idempotency_key
        self.cancelled = threading.Event()

    def say(self, text: str) -> None:
        """Have the agent say this now; the tool goes on meanwhile."""
        self._request(self._host.say, text)

    def remember(self, key: str, value: str) -> None:
        """Keep a fact for the rest of the call, also where the model loses its memory."""
        self._request(self._host.remember, key, value)

    def _request(self, method: Callable[..., None], *arguments: str) -> None:
        if not self.cancelled.is_set():  # the call does not take requests of a cancelled tool
            with suppress(RuntimeError):  # the loop is gone: the process stops
                self._loop.call_soon_threadsafe(method, *arguments)


class ToolSource(Protocol):
    """Tools that need something kept open for the life of the process, such as a connection to an MCP server.

    `start` runs before the first call and must not fail because a remote server is down; `close` runs after the last.
    `tools` may change in between; a call uses the tools that existed when it began.
    """

    @property
    def name(self) -> str: ...

    @property
    def tools(self) -> Mapping[str, Tool]: ...

    async def start(self) -> None: ...

    async def close(self) -> None: ...
