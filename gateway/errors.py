"""What can go wrong, by whose fault it is.

    OffhookError
    ├── OperatorError    settings, agent file, command line: says what to change
    │   └── FileError    a file that people write, with the line and field
    │       └── AgentFileError
    ├── PeerError        the carrier, the model or a tool broke its protocol or went away
    │   ├── Malformed    a message that cannot be read; counted, survived
    │   └── ModelRefused the model would not start a session (with its close code)
    └── (anything else)  ours: a bug

Foreign exceptions are translated into these once, at the edge that meets them. No message holds a secret.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "AgentFileError",
    "FileError",
    "Malformed",
    "ModelRefused",
    "OffhookError",
    "OperatorError",
    "PeerError",
    "cancelled_from_outside",
    "forget_frames",
    "nearest",
]


class OffhookError(Exception):
    """Base of all errors raised on purpose."""


class OperatorError(OffhookError):
    """The operator can fix this: the message says how."""


class FileError(OperatorError):
    """A file that cannot be used, as `path:line: field: what is wrong: what to do`.

    `line` and `column` count from 1; `field` is empty where the file as a whole is meant.
    """

    def __init__(
        self, path: str, what: str, *, line: int | None = None, column: int | None = None, field: str = ""
    ) -> None:
        where = f"{path}:{line}" if line else path
        super().__init__(f"{where}: {field}: {what}" if field else f"{where}: {what}")
        self.path, self.line, self.column, self.field, self.what = path, line, column, field, what


class AgentFileError(FileError):
    """An agent file that cannot be used."""


class PeerError(OffhookError):
    """A peer (carrier, model, tool) broke its protocol or went away."""


class Malformed(PeerError):
    """A message that cannot be read. `reason` is a closed word for the metric, `what` says it in full."""

    def __init__(self, peer: str, reason: str, what: str) -> None:
        super().__init__(f"{peer}: {what}")
        self.peer, self.reason, self.what = peer, reason, what


class ModelRefused(PeerError):
    """The model closed before its session was set up; `code` is the WebSocket close code or HTTP status."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the model refused the session ({code}: {reason})")
        self.code, self.reason = code, reason


def nearest(name: object, known: Iterable[str]) -> str:
    """`did you mean X? ` for a word that is almost a known one, else nothing: to be put into a message."""
    found = get_close_matches(str(name), list(known), n=1, cutoff=0.6)
    return f"did you mean {found[0]}? " if found else ""


def forget_frames(error: BaseException | None) -> None:
    """Drop the frames that an exception holds, and those before it. Where an object keeps the exception that was raised
    in its own method, each holds the other until a full collection.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__context__


def cancelled_from_outside() -> bool:
    """In a handler of `CancelledError`: whether this task was cancelled, and not something that it awaited."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
