"""What one caller and the calls of one day may use: refused callers, calls by number, cost. Pure.

All of it is this process's memory: replicas have bounds of their own, and a restart forgets. `now_s` is one clock that
only grows.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass

from offhook.gateway.errors import OperatorError
from offhook.gateway.numbers import EXAMPLE, Address, AddressKind, read_address

__all__ = ["NO_BOUNDS", "Bounds", "CallerCalls", "DailyCost", "RefusedCallers"]

HOUR_S = 3_600.0
DAY_HOURS = 24
MAX_CALLERS = 10_000  # numbers remembered; past it the one that has not called for longest is forgotten
MAX_NAME = 64  # characters of a caller's address that are compared
WITHHELD = "withheld"


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of incoming calls, but `cost_per_day_usd` of all. 0: none.

    `refused`: as `OFFHOOK_REFUSED_CALLERS` has them. An agent's own cost per day stands in its file.
    """

    caller_calls: int = 0
    caller_calls_per_h: int = 0
    refused: tuple[str, ...] = ()
    cost_per_day_usd: float = 0.0


NO_BOUNDS = Bounds()


class RefusedCallers:
    """Callers that are refused: addresses, prefixes of numbers such as `+1900*`, and `withheld`.

    Raises `OperatorError` for an entry that is none of these.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        self._names: set[str] = set()
        prefixes = []
        self._withheld = False
        for entry in entries:
            address = read_address(entry)
            if entry.endswith("*"):
                prefixes.append(_prefix(entry))
            elif address.kind is AddressKind.WITHHELD or entry.lower() == WITHHELD:
                self._withheld = True
            elif address.kind is AddressKind.UNREADABLE:
                raise OperatorError(f"OFFHOOK_REFUSED_CALLERS: {entry[:60]!r} {address.fix}")
            else:
                self._names.update(address.names[:1])
        self._prefixes = tuple(prefixes)

    def __contains__(self, caller: Address) -> bool:
        if not any(caller.names):
            return self._withheld
        return any(name in self._names or name.startswith(self._prefixes) for name in caller.names)


def _prefix(entry: str) -> str:
    prefix = re.sub(r"[\s().-]", "", entry[:-1])
    if re.fullmatch(r"\+[1-9][0-9]{0,14}", prefix) is None:
        raise OperatorError(
            f"OFFHOOK_REFUSED_CALLERS: {entry[:60]!r} is no prefix of numbers: write + and digits before the *, as in "
            f"+1900*, or a whole number such as {EXAMPLE}"
        )
    return prefix


class CallerCalls:
    """Calls at once and in the last hour, by the caller's number.

    All callers who withhold their number are one caller: whoever exceeds a bound could withhold it.
    """

    def __init__(self, at_once: int, per_hour: int) -> None:
        self._at_once, self._per_hour = at_once, per_hour
        self._active: Counter[str] = Counter()
        self._began_s: OrderedDict[str, deque[float]] = OrderedDict()  # by each caller's newest call

    def __len__(self) -> int:
        """Callers remembered."""
        return len(self._active.keys() | self._began_s.keys())

    @staticmethod
    def name_of(caller: Address) -> str:
        """What a caller's calls are counted by."""
        return next(filter(None, caller.names), WITHHELD)[:MAX_NAME]

    def is_at_once(self, name: str) -> bool:
        """Whether this caller has as many calls as it may have at once."""
        return 0 < self._at_once <= self._active[name] if name in self._active else False

    def is_in_hour(self, name: str, now_s: float) -> bool:
        """Whether this caller has had as many calls as it may have in an hour."""
        self._forget(now_s)
        began_s = self._began_s.get(name)
        if began_s is None or not self._per_hour:
            return False
        while began_s and began_s[0] <= now_s - HOUR_S:
            began_s.popleft()
        return len(began_s) >= self._per_hour

    def begin(self, name: str, now_s: float) -> None:
        """A call of this caller is admitted."""
        self._active[name] += 1
        if self._per_hour:
            self._began_s.setdefault(name, deque(maxlen=self._per_hour)).append(now_s)
            self._began_s.move_to_end(name)
            self._forget(now_s)

    def end(self, name: str) -> None:
        """One of its calls is over."""
        self._active[name] -= 1
        if self._active[name] <= 0:
            del self._active[name]

    def _forget(self, now_s: float) -> None:
        while self._began_s:
            name, began_s = next(iter(self._began_s.items()))
            if len(self._began_s) <= MAX_CALLERS and began_s[-1] > now_s - HOUR_S:
                return
            del self._began_s[name]


class DailyCost:
    """USD of ended calls in the last 24 hours, kept by the hour."""

    def __init__(self) -> None:
        self._hours: deque[tuple[int, float]] = deque(maxlen=DAY_HOURS)

    def add(self, usd: float, now_s: float) -> None:
        hour = int(now_s // HOUR_S)
        if self._hours and self._hours[-1][0] == hour:
            usd += self._hours.pop()[1]
        self._hours.append((hour, usd))

    def total(self, now_s: float) -> float:
        after = int(now_s // HOUR_S) - DAY_HOURS
        return sum(usd for hour, usd in self._hours if hour > after)
