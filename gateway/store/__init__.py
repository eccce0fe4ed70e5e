"""Where the records of ended calls are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from offhook.gateway.store.record import CallRecord

__all__ = ["Records"]


class Records(Protocol):
    """Records of ended calls, by the carrier's call ID."""

    def keep(self, record: CallRecord) -> object:
        """Add a record, or replace the one of the same call. Returns at once."""
        ...

    def recent(self, limit: int) -> Sequence[CallRecord]:
        """The newest records at hand, newest first, at most `limit`."""
        ...

    async def get(self, call_id: str) -> CallRecord | None:
        """The record of one call, None when it is not kept."""
        ...

    def __len__(self) -> int:
        """How many records are kept."""
        ...
