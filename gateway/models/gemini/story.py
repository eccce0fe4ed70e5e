"""The call so far: the transcript that a session is given when it does not know the conversation; pure.

It is given in the system instruction, which may change from connection to connection: content sent after a resume
has closed sessions. It stays there for the sessions that are resumed from this one, as the session's own memory
does not hold it.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable

from offhook.gateway.models import LinkMemory, Speaker

__all__ = ["CallSoFar", "transcript_text"]

MAX_LINES = 30
MAX_CHARACTERS = 6_000
SAME_PIECE_MIN_CHARACTERS = 12  # shorter pieces of transcript do repeat in speech

Line = tuple[Speaker, str]


class CallSoFar:
    """The last lines of the conversation, and which of them the present session must be given.

    `keep_turns`: how many turns of each side a fresh session is given; 0 for `MAX_LINES` lines.
    """

    def __init__(self, keep_turns: int = 0) -> None:
        self._lines: deque[Line] = deque(maxlen=2 * keep_turns or MAX_LINES)
        self._since_handle: deque[Line] = deque(maxlen=MAX_LINES)  # what the newest handle does not know
        self._given: tuple[Line, ...] = ()
        self._turn_ended = False  # the agent's next words are a line of their own

    def kept(self) -> LinkMemory:
        """All of it, for another process."""

        def plain(lines: Iterable[Line]) -> list[tuple[str, str]]:
            return [(who.value, text) for who, text in lines]

        return LinkMemory(lines=plain(self._lines), since_handle=plain(self._since_handle), given=plain(self._given))

    def restore(self, memory: LinkMemory) -> None:
        """Go on from another process's."""
        self._lines.extend((Speaker(who), text) for who, text in memory.lines)
        self._since_handle.extend((Speaker(who), text) for who, text in memory.since_handle)
        self._given = tuple((Speaker(who), text) for who, text in memory.given)
        self._turn_ended = True

    def agent_words(self, text: str) -> None:
        """A piece of the agent's transcript."""
        self._add(Speaker.AGENT, text)

    def caller_words(self, text: str) -> bool:
        """A piece of the caller's transcript; False, and nothing is kept, when it was received before."""
        who, last = self._lines[-1] if self._lines else (Speaker.AGENT, "")
        same = who is Speaker.CALLER and last.strip() == text.strip()
        if same and len(text) >= SAME_PIECE_MIN_CHARACTERS:
            return False
        self._add(Speaker.CALLER, text)
        return True

    def turn_ended(self) -> None:
        """The agent's turn is complete."""
        self._turn_ended = True

    def handle_received(self) -> None:
        """A session that is resumed from here on knows everything up to now."""
        self._since_handle.clear()

    def begin_session(self, *, resumed: bool) -> str:
        """What the next session is given: all of it for a fresh one, what its handle does not know for a resumed."""
        self._given = (*self._given, *self._since_handle)[-MAX_LINES:] if resumed else tuple(self._lines)
        self._since_handle.clear()
        return transcript_text(self._given)

    @property
    def given(self) -> bool:
        """Whether the present session was given anything."""
        return bool(self._given)

    def _add(self, who: Speaker, text: str) -> None:
        for lines in (self._lines, self._since_handle):
            continues = lines and lines[-1][0] is who and not (who is Speaker.AGENT and self._turn_ended)
            before = lines.pop()[1] if continues else ""
            lines.append((who, (before + text)[-MAX_CHARACTERS:]))
        self._turn_ended = False


def transcript_text(lines: Iterable[Line]) -> str:
    """The last lines of a transcript as text for the model, `MAX_CHARACTERS` at most."""
    names = {Speaker.AGENT: "You", Speaker.CALLER: "Caller"}
    kept: list[str] = []
    room = MAX_CHARACTERS
    for who, text in reversed(tuple(lines)):
        line = f"{names[who]}: {json.dumps(text.strip(), ensure_ascii=False)}"
        room -= len(line)
        if text.strip() and room >= 0:
            kept.append(line)
    return "\n".join(reversed(kept))
