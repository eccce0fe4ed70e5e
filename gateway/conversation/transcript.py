"""What was said, by whom, and what of it was heard: lines ordered by when they stood on the line.

Transcripts come on their own time: the caller's words after they were spoken, the agent's ahead of its audio.
So each piece is kept with its place in the media, and put in order when it is read. Pure values; times in
seconds on the call's clock, samples at 8 kHz.

How far a reply was heard is a number of samples; the words of it are found by where each piece of text arrived
in the reply's audio. Where all text arrives at once that tells nothing, and the words are spread evenly.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Final, NamedTuple

__all__ = [
    "CallerSpoke",
    "Passage",
    "Piece",
    "ReplySaid",
    "Sounded",
    "Transcript",
    "agent_said",
    "caller_said",
    "heard_text",
    "lines",
    "reply_text",
]

WORD_MAX: Final = 24  # characters: what is longer is no word, but writing without spaces


class Piece(NamedTuple):
    """Some words of a reply, and how much of its audio had arrived when they did."""

    text: str
    received: int


class ReplySaid(NamedTuple):
    """The words of one reply."""

    generation: int
    pieces: tuple[Piece, ...]


class CallerSpoke(NamedTuple):
    """One stretch of the caller's speech; `last` is its newest piece."""

    at_s: float
    text: str
    last: str
    open: bool


class Transcript(NamedTuple):
    """All that was said so far, each side in the order of its pieces' arrival."""

    replies: tuple[ReplySaid, ...] = ()
    caller: tuple[CallerSpoke, ...] = ()


class Sounded(NamedTuple):
    """A reply on the line: when its first sample was sent, and what became of it in samples."""

    at_s: float
    heard: int
    received: int


class Passage(NamedTuple):
    """One line to read. `heard_text`: of the agent's words those that the caller heard."""

    at_s: float
    who: str  # "caller" or "agent"
    text: str
    heard_text: str | None = None


def agent_said(t: Transcript, generation: int, text: str, received_samples: int) -> Transcript:
    """A piece of the agent's words came, when this much of the reply's audio had."""
    piece = Piece(text, received_samples)
    caller = t.caller
    if caller and caller[-1].open:  # the agent answers: what the caller says next is another line
        caller = (*caller[:-1], caller[-1]._replace(open=False))
    for i, reply in enumerate(t.replies):
        if reply.generation == generation:
            grown = reply._replace(pieces=(*reply.pieces, piece))
            return Transcript((*t.replies[:i], grown, *t.replies[i + 1 :]), caller)
    return Transcript((*t.replies, ReplySaid(generation, (piece,))), caller)


def caller_said(t: Transcript, text: str, at_s: float, finished: bool) -> Transcript:
    """A piece of the caller's words came. `at_s`: when the speech that it belongs to began.

    `finished` is best effort (models differ): a piece of the same speech joins its line all the same. A piece of
    several words that repeats the one before is left out: some models send one twice.
    """
    last = t.caller[-1] if t.caller else None
    if last is not None:
        if text.strip() == last.last.strip() and len(text.split()) > 1:
            return t
        if last.open or last.at_s == at_s:
            joined = CallerSpoke(last.at_s, last.text + text, text, not finished)
            return t._replace(caller=(*t.caller[:-1], joined))
    return t._replace(caller=(*t.caller, CallerSpoke(at_s, text, text, not finished)))


def reply_text(t: Transcript, generation: int) -> str:
    """All words of this reply; empty when there are none."""
    for reply in t.replies:
        if reply.generation == generation:
            return "".join(piece.text for piece in reply.pieces).strip()
    return ""


def heard_text(t: Transcript, generation: int, heard_samples: int, received_samples: int) -> str:
    """The words of this reply that the caller heard, when `heard_samples` of `received_samples` were played.

    Ends at a word's end: a word that was cut is not counted as heard.
    """
    for reply in t.replies:
        if reply.generation == generation:
            return _cut(reply.pieces, heard_samples, received_samples)
    return ""


def lines(t: Transcript, sounded: Mapping[int, Sounded]) -> list[Passage]:
    """Everything that stood on the line, in the order of the media; a reply that never sounded did not."""
    found = [Passage(c.at_s, "caller", c.text.strip()) for c in t.caller if c.text.strip()]
    for reply in t.replies:
        on_line = sounded.get(reply.generation)
        text = reply_text(t, reply.generation)
        if on_line is not None and text:
            found.append(Passage(on_line.at_s, "agent", text, _cut(reply.pieces, on_line.heard, on_line.received)))
    return sorted(found, key=lambda line: line.at_s)  # stable: at the same time the caller first


def _cut(pieces: tuple[Piece, ...], heard: int, received: int) -> str:
    text = "".join(piece.text for piece in pieces)
    if heard >= received > 0:
        return text.strip()
    if heard <= 0 or received <= 0:
        return ""
    end = int(_characters_at(_places(pieces, received), heard))
    start = stop = end
    while start > 0 and not text[start - 1].isspace():
        start -= 1
    while stop < len(text) and not text[stop].isspace():
        stop += 1
    cut_word = start < end < stop <= start + WORD_MAX
    return text[: start if cut_word else end].strip()


def _places(pieces: tuple[Piece, ...], received: int) -> list[tuple[int, int]]:
    """Points (sample, characters spoken by then), rising, from the reply's beginning to its end."""
    total = sum(len(piece.text) for piece in pieces)
    places = [(0, 0)]
    if 2 * (pieces[-1].received - pieces[0].received) >= received:
        ahead = pieces[0].received == 0  # a text comes before its audio, or behind it
        spoken = 0
        for piece in pieces:
            before, spoken = spoken, spoken + len(piece.text)
            places.append((max(places[-1][0], min(received, piece.received)), before if ahead else spoken))
    places.append((received, total))
    return places


def _characters_at(places: list[tuple[int, int]], sample: int) -> float:
    for (from_sample, from_characters), (to_sample, to_characters) in pairwise(places):
        if from_sample <= sample < to_sample:
            share = (sample - from_sample) / (to_sample - from_sample)
            return from_characters + share * (to_characters - from_characters)
    return places[-1][1]
