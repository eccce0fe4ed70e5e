"""The newest records, in memory: all there is unless a store is configured."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice

from offhook.gateway.store.record import CallRecord

__all__ = ["MAX_RECORDS", "MemoryRecords"]

MAX_RECORDS = 1_000  # some 10 kB each: 10 MB


class MemoryRecords:
    """Implements `Records`. Beyond `max_records` the oldest record is dropped."""

    def __init__(self, max_records: int = MAX_RECORDS) -> None:
        self._max = max_records
        self._records: OrderedDict[str, CallRecord] = OrderedDict()

    def keep(self, record: CallRecord) -> bool:
        """Add or replace a record; whether its call is a new one."""
        is_new = record.call_sid not in self._records
        self._records[record.call_sid] = record
        self._records.move_to_end(record.call_sid)
        while len(self._records) > self._max:
            self._records.popitem(last=False)
        return is_new

    def recent(self, limit: int) -> Sequence[CallRecord]:
        return list(islice(reversed(self._records.values()), limit))

    async def get(self, call_id: str) -> CallRecord | None:
        return self._records.get(call_id)

    def forget(self, call_id: str) -> None:
        """Drop a call's record, if it is there."""
        self._records.pop(call_id, None)

    def __len__(self) -> int:
        return len(self._records)
