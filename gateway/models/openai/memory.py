"""The call so far: what a session that takes over is given, as items of text; pure.

Each line has its speaker. Of a reply that was interrupted the words that were heard are kept, as the service keeps its
audio and drops its transcript.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from offhook.gateway.models import LinkMemory, Speaker

__all__ = ["CallSoFar", "SaidLine"]

MAX_LINES = 30
MAX_CHARACTERS = 6_000
RESTORED = -1  # the turn of a reply that another process' session said


@dataclass(slots=True)
class SaidLine:
    """`turn`: the agent's reply, None for the caller; `item`: of the caller's turn, whose transcript comes later."""

    turn: int | None
    text: str
    item: str = ""


class CallSoFar:
    """`keep_turns`: how many turns of each side a new session is given; 0 for `MAX_LINES` lines."""

    def __init__(self, keep_turns: int = 0) -> None:
        self._lines: deque[SaidLine] = deque(maxlen=2 * keep_turns or MAX_LINES)

    def agent_words(self, turn: int, text: str) -> None:
        """A piece of a reply's transcript."""
        for line in reversed(self._lines):
            if line.turn == turn:
                line.text = (line.text + text)[-MAX_CHARACTERS:]
                return
        self._lines.append(SaidLine(turn, text))

    def caller_spoke(self, item: str) -> None:
        """One of the caller's turns is over; this is its place among the lines."""
        self._lines.append(SaidLine(None, "", item))

    def caller_words(self, item: str, text: str) -> None:
        """The transcript of one of the caller's turns."""
        for line in reversed(self._lines):
            if line.turn is None and line.item == item:
                line.text = text[-MAX_CHARACTERS:]
                return
        self._lines.append(SaidLine(None, text[-MAX_CHARACTERS:], item))

    def cut(self, turn: int, share: float) -> None:
        """Only this share of a reply was heard."""
        for line in self._lines:
            if line.turn == turn:
                end = round(len(line.text) * share)
                if end < len(line.text):  # whole words
                    line.text = line.text[: end + 1].rpartition(" ")[0]

    def kept(self) -> LinkMemory:
        """All of it, for another process: a session cannot be resumed there, its words can be given again."""
        of_role = {"user": Speaker.CALLER, "assistant": Speaker.AGENT}
        return LinkMemory(lines=[(of_role[role].value, text) for role, text in self.items()])

    def restore(self, memory: LinkMemory) -> None:
        """Go on from another process's."""
        agent = Speaker.AGENT.value
        self._lines.extend(SaidLine(RESTORED if who == agent else None, text) for who, text in memory.lines)

    def items(self) -> list[tuple[str, str]]:
        """(role, text), oldest first, `MAX_CHARACTERS` at most in all."""
        kept: list[tuple[str, str]] = []
        room = MAX_CHARACTERS
        for line in reversed(self._lines):
            text = line.text.strip()
            room -= len(text)
            if text and room >= 0:
                kept.append(("user" if line.turn is None else "assistant", text))
        return kept[::-1]
