"""The seam to tools: what an agent can do, and how one run of it is asked for and answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from gateway.conversation.events import Outcome, ToolPolicy
from gateway.errors import PeerError

__all__ = ["Tool", "ToolCall", "ToolError", "ToolHost", "ToolResult", "ToolSource"]


class ToolError(PeerError):
    """A tool failed: the message is a plain sentence for the model, `record` the operator's fuller account."""

    def __init__(self, message: str, record: str = "") -> None:
        super().__init__(message)
        self.record = record


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One run: `idempotency_key` is call, model session and function-call id, the same for a repeat."""

    call_id: str
    name: str
    arguments: dict[str, Any]
    idempotency_key: str
    facts: dict[str, Any] = field(default_factory=dict)  # call_sid, caller, dialled, simulated, variables


@dataclass(frozen=True, slots=True)
class ToolResult:
    """How a run ended. `response` is what the model is told; `record` is the operator's fuller account."""

    outcome: Outcome
    response: dict[str, Any]
    record: str = ""


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

        `whisper` is said to whoever answers, before the caller is there; `warm`: the agent briefs them first.
        """

    def send_digits(self, digits: str) -> bool:
        """Press these keys (0-9 A-D # *; `w` waits half a second); False where the carrier cannot."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One thing an agent can do. `run` is a coroutine function; cancelling its task must really stop it."""

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
    outside_effects: bool = False


class ToolSource(Protocol):
    """Tools that need something kept open for the process's life: an HTTP session, an MCP server.

    `start` is told before the first call and must not fail because a far server is down; `close` after the last.
    `tools` may change in between; a call sees the tools there were when it began.
    """

    @property
    def tools(self) -> Mapping[str, Tool]: ...

    async def start(self) -> None: ...

    async def close(self) -> None: ...
