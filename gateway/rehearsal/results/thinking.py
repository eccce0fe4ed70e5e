"""What a caller who thinks did, and how the call was judged: parts of a call's report."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["JudgedLine", "Judgement", "Statement", "ThinkingReport"]


class JudgedLine(msgspec.Struct, kw_only=True):
    """One line of what the judge reads. `tool`: what the agent did between its words, by the gateway's record."""

    at_ms: float
    who: Literal["caller", "agent", "tool"]
    text: str


class Statement(msgspec.Struct, kw_only=True):
    """Whether a statement is true of the call, and why."""

    text: str
    met: bool
    reason: str


class Judgement(msgspec.Struct, kw_only=True):
    """A text model's verdict. `problem`: why there is none; then it is no pass. `cost_usd` None: no known price."""

    model: str
    statements: list[Statement] = []
    problem: str = ""
    cost_usd: float | None = None

    @property
    def passed(self) -> bool:
        return not self.problem and bool(self.statements) and all(one.met for one in self.statements)


class ThinkingReport(msgspec.Struct, kw_only=True):
    """The caller: a model, and the call as it was judged.

    `ended`: hung_up, call_over, or the bound that was reached: turns, seconds, cost; failed: the model was lost.
    `why`: in the caller's words, or the problem. `rehearsed`: the rehearsal model played the caller and the judge by
    their scripts; costs are then what the same tokens would cost.
    """

    persona: str
    goal: str
    model: str
    rehearsed: bool
    ended: str
    why: str = ""
    turns: int = 0
    cost_usd: float | None = None
    transcript: list[JudgedLine] = []
    judgement: Judgement | None = None
