"""What is alive: which node has which call, and what another node needs to go on with it.

A *node* is one gateway process with a name; a call has one owner at a time, and its *epoch* counts its owners. Every
value here is a hint that may be stale or gone, and each action stays safe without it: what must not happen twice is
decided by the store in one step (`claim`, `write`, `end`, `burn`), and what cannot be decided, because the store is
away, fails open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import NamedTuple, Protocol

import msgspec

from offhook.gateway.errors import PeerError

__all__ = [
    "BEAT_S",
    "DEAD_AFTER_S",
    "FETCHED_S",
    "HAND_OVER_S",
    "MOVES_WITHIN_S",
    "QUIET_S",
    "Begin",
    "CallStage",
    "Claim",
    "Held",
    "LiveStore",
    "Node",
    "StoreAway",
    "ToolRun",
    "Write",
    "Written",
]

BEAT_S = 1.0  # each node's beat
DEAD_AFTER_S = 5.0  # a node whose last beat is older may be dead: its leases end, others may take its calls
QUIET_S = 2.0  # a call that is handed over gets this long to fall silent
FETCHED_S = 4.0  # until the carrier has asked another process what follows a call that was handed over
HAND_OVER_S = QUIET_S + FETCHED_S + 1.0  # all of a node's calls
MOVES_WITHIN_S = 60.0  # a call that was claimed repeatedly within this may itself be what ends its owners
CALL_LIFE_S = 18_000.0  # a carrier's longest call, four hours, and one more
ENDED_LIFE_S = 3_600.0  # an ended call is remembered against late requests
TOOL_LIFE_S = 86_400.0


class StoreAway(PeerError):
    """The store did not answer, or not in time."""


class CallStage(Enum):
    """How far a call has come, for its owner and whoever takes it over."""

    RINGING = "ringing"  # a node answers its webhook
    LIVE = "live"
    HANDOVER = "handover"  # its owner has let go of it in order: the model's session is closed
    ENDED = "ended"


class Held(NamedTuple):
    """Who has a call."""

    owner: str
    epoch: int
    stage: CallStage


class Claim(NamedTuple):
    """A call that has just been taken over: `epoch` is the new owner's, `owner` and `stage` are of before.

    `head` and `log` as written last; empty for a call of which nothing was written. `moves`: claims within
    `MOVES_WITHIN_S`, with this one; those of a call that its owner handed over do not count.
    """

    owner: str
    epoch: int
    stage: CallStage
    head: bytes
    log: tuple[bytes, ...]
    moves: int


class Write(NamedTuple):
    """A checkpoint: `head` replaces the one before, `log` is appended to the first `log_at` entries."""

    call_id: str
    owner: str
    epoch: int
    stage: CallStage
    head: bytes
    log: tuple[bytes, ...] = ()
    log_at: int = 0


class Written(Enum):
    """What became of a checkpoint."""

    KEPT = "kept"
    FENCED = "fenced"  # another node has the call, or it has ended: nothing was written
    BEHIND = "behind"  # the store has another number of log entries: write all of them


class ToolRun(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tool run with outside effects, by its idempotency key. `result`: sealed, base64, once it is done."""

    done: bool = False
    result: str = ""


class Begin(NamedTuple):
    """Whether a tool run may begin. `fenced`: another node has the call, or it has ended. `before`: the run with the
    same key that was noted earlier; None: there was none, and this one is noted.
    """

    fenced: bool
    before: ToolRun | None = None


class Node(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A gateway process, as it reports itself. `address`: where its peers reach it, `http://host:port`.

    `boot`: differs after a restart under the same name. `age_s`: since its last beat, by the store's clock.
    """

    name: str
    address: str = ""
    boot: str = ""
    version: str = ""
    capacity: int = 0
    calls: int = 0
    draining: bool = False
    age_s: float = 0.0


class LiveStore(Protocol):
    """Shared by all nodes. Every method raises `StoreAway`."""

    async def open(self) -> None:
        """Before the first call. Raises `OperatorError` for settings that cannot work."""

    async def close(self) -> None:
        """After the last call."""

    async def ring(self, call_id: str, owner: str) -> Held:
        """A call rings: `owner` has it, unless another node was first. Harmless when repeated."""

    async def holder(self, call_id: str) -> Held | None:
        """Who has the call; None for one that is not known."""

    async def write(self, writes: Sequence[Write]) -> list[Written]:
        """Checkpoints of several calls, each refused (`FENCED`) when its call has a higher epoch or has ended.

        One of a call that is not known is written: the store was emptied.
        """

    async def claim(self, call_id: str, owner: str, *, expect_epoch: int | None = None) -> Claim | None:
        """Take a call over: its epoch grows by one. None for a call that is not known or has ended, or whose epoch is
        not `expect_epoch`: of several nodes that expect the same one only the first gets it.
        """

    async def end(self, call_id: str, owner: str, epoch: int) -> bool:
        """The call is over; False when another node has it, or has ended it: then it is not this node's to record.

        Repeated by the same owner the answer is the same: the first one may have been lost.
        """

    async def burn(self, token_id: str, life_s: float) -> bool:
        """Use up a one-time token; False when it was used before. Remembered for `life_s`."""

    async def admit(self, call_id: str, caps: Mapping[str, int]) -> str:
        """Take a place in every scope, or in none: "" or the scope that is full. Renewed by `beat`, ended by `end`.

        A place whose node does not beat ends after `DEAD_AFTER_S`.
        """

    async def tool_run(self, call_id: str, key: str) -> ToolRun | None:
        """What is known of the tool run with this idempotency key."""

    async def begin_tool(self, call_id: str, epoch: int, key: str) -> Begin:
        """A tool run with outside effects is to begin: noted in the same step, unless the call has a higher epoch or
        has ended, or the key is known. One of a call that is not known may begin: the store was emptied.
        """

    async def note_tool(self, call_id: str, key: str, run: ToolRun) -> None:
        """A tool run is done."""

    async def beat(self, node: Node, call_ids: Sequence[str], scopes: Sequence[str] = ()) -> list[Node]:
        """This node lives, and these are its calls; all nodes whose beat is not forgotten, this one among them.

        Its calls have their places in these scopes, though they were admitted elsewhere or the store was emptied.
        """

    async def leave(self, name: str) -> None:
        """This node stops."""

    async def calls_of(self, name: str) -> list[tuple[str, int]]:
        """The calls that a node has and that have not ended, with their epochs."""
