"""The playout ledger: how much of each reply was received, sent to the line, and heard by the caller.

All audio that is sent and not cleared forms one **queue**: the far end's, played in order at `rate_hz` samples a
second. Each reply has a `base`: the queue position of its sample 0. What has been heard follows from marks and,
between them, from the clock: an `anchor` says which queue position was being played when.

    heard <= placed <= sent <= received       for every reply, at every time

`placed` is what stands in the queue now; a clear takes it back to `heard`, and playing on (after a dismissed
barge-in, or on a new stream) puts the rest there again, so that each unheard sample is played once. The other
three only grow while the reply is open.

The clock is that of the clear: a position is "being played" at `t` when a clear sent at `t` would stop playback
there. Audio sent to an empty queue is played from the moment it is sent, in that sense: the clear takes the same
path. A mark's echo comes one **round trip** later than its place on this clock; the shortest one seen is the
path's length, and an echo later than that comes from a far end that fell behind.

Replies are numbered, and the numbers only grow: `newest` is the highest one seen, and replies up to `dead` are
dropped wherever they turn up. Times are seconds, positions samples. All functions are pure.
"""

from __future__ import annotations

from math import floor
from typing import Final, NamedTuple

from offhook.gateway.conversation.units import FRAME, RATE_HZ

__all__ = [
    "Ledger",
    "Reply",
    "acknowledge_clear",
    "clear",
    "complete",
    "ends_at_s",
    "find",
    "heard",
    "is_audible",
    "kill",
    "line_heard",
    "line_played",
    "lose_queue",
    "mark_returned",
    "mark_sent",
    "place",
    "receive",
    "saw",
    "settle",
    "without_replies",
]

ROUND_TRIP_MAX_S: Final = 0.3  # a longer one measures a stall rather than the path


class Reply(NamedTuple):
    """One reply's quantities, in samples from its beginning."""

    generation: int
    received: int = 0
    sent: int = 0
    placed: int = 0
    heard: int = 0
    base: int = 0
    marked: int = 0  # the last mark stands after this sample
    audible: int | None = None  # the reply's first voice stands before this sample
    complete: bool = False
    protected: bool = False


class Ledger(NamedTuple):
    """The queue, and the replies that are not over."""

    replies: tuple[Reply, ...] = ()
    queued_to: int = 0  # queue position after the last sample placed
    anchor: int = 0
    anchor_s: float = 0.0
    epoch: int = 0  # times the queue was emptied: by a clear, or lost with its stream
    cleared_s: float = 0.0  # when the last one was
    round_trip_s: float = ROUND_TRIP_MAX_S  # until the first echo
    clear_pending: bool = False  # the last clear has not been acknowledged
    newest: int = 0  # highest reply number seen
    dead: int = 0  # replies up to this number are dropped
    rate_hz: int = RATE_HZ


def find(ledger: Ledger, generation: int) -> Reply | None:
    """The open reply of this generation."""
    for reply in ledger.replies:
        if reply.generation == generation:
            return reply
    return None


def line_heard(ledger: Ledger, at_s: float) -> int:
    """The queue position that is being played at `at_s`, by marks and clock; never beyond what was sent."""
    return max(ledger.anchor, min(ledger.queued_to, line_played(ledger, at_s)))


def line_played(ledger: Ledger, at_s: float) -> int:
    """The queue position that is being played at `at_s` by the clock alone: it may lie before the anchor, or beyond
    what was sent.
    """
    return ledger.anchor + floor((at_s - ledger.anchor_s) * ledger.rate_hz + 0.5)


def is_audible(ledger: Ledger, at_s: float) -> bool:
    """Whether sent audio is still unheard."""
    return ledger.anchor < ledger.queued_to and line_heard(ledger, at_s) < ledger.queued_to


def ends_at_s(ledger: Ledger) -> float:
    """When, by the clock, the last sample placed will have been heard."""
    return ledger.anchor_s + (ledger.queued_to - ledger.anchor) / ledger.rate_hz


def heard(ledger: Ledger, reply: Reply, at_s: float) -> int:
    """How many samples of the reply the caller has heard."""
    return max(reply.heard, min(reply.placed, line_heard(ledger, at_s) - reply.base))


def receive(
    ledger: Ledger, generation: int, samples: int, audible: int | None = None, protected: bool = False
) -> Ledger:
    """More of a reply was received; a generation that is not open opens a new reply."""
    replies = ledger.replies
    for i, (number, received, sent, placed, known, base, marked, voice, whole, safe) in enumerate(replies):
        if number == generation:
            received += samples
            voice = voice if audible is None else audible
            grown = Reply(number, received, sent, placed, known, base, marked, voice, whole, safe or protected)
            return Ledger._make(((*replies[:i], grown, *replies[i + 1 :]), *ledger[1:]))
    opened = Reply(generation, samples, audible=audible, protected=protected)
    return saw(Ledger._make(((*replies, opened), *ledger[1:])), generation)


def saw(ledger: Ledger, generation: int) -> Ledger:
    """This number has been given out: it is not that of a new reply any more."""
    return ledger._replace(newest=generation) if generation > ledger.newest else ledger


def kill(ledger: Ledger, up_to: int) -> Ledger:
    """Replies up to this number are dead."""
    return ledger._replace(dead=up_to) if up_to > ledger.dead else ledger


def complete(ledger: Ledger, up_to: int, *, only: bool = False) -> Ledger:
    """No more will come of the replies up to this generation (`only`: of this one)."""
    replies = tuple(
        r._replace(complete=True) if (r.generation == up_to if only else r.generation <= up_to) else r
        for r in ledger.replies
    )
    return ledger._replace(replies=replies)


def place(ledger: Ledger, at_s: float) -> tuple[Ledger, list[tuple[Reply, int]]]:
    """Put everything received into the queue, in order: each reply to send of now, and from which sample on."""
    spans: list[tuple[Reply, int]] = []
    replies, queued_to, anchor, anchor_s = ledger[:4]
    rate_hz = ledger.rate_hz
    placed: list[Reply] = []
    for reply in replies:
        generation, received, _, start, known, base, marked, audible, whole, safe = reply
        if start == received:
            placed.append(reply)
            continue
        position = anchor + int((at_s - anchor_s) * rate_hz + 0.5)
        if position >= queued_to:  # the queue is empty: this is played from now
            position = anchor = queued_to
            anchor_s = at_s
        if base != queued_to - start:
            # It goes on after other audio. What is heard of it so far must be noted: its positions move.
            known = max(known, min(start, max(anchor, position) - base))
            base = queued_to - start
        reply = Reply(generation, received, received, received, known, base, marked, audible, whole, safe)
        placed.append(reply)
        spans.append((reply, start))
        queued_to += received - start
    if not spans:
        return ledger, spans
    return Ledger._make((tuple(placed), queued_to, anchor, anchor_s, *ledger[4:])), spans


def mark_sent(ledger: Ledger, generation: int, sample: int) -> Ledger:
    """A mark was sent after this sample."""
    replies = [r._replace(marked=sample) if r.generation == generation else r for r in ledger.replies]
    return Ledger._make((tuple(replies), *ledger[1:]))


def mark_returned(ledger: Ledger, generation: int, sample: int, epoch: int, at_s: float) -> Ledger:
    """A mark's echo: everything queued before it has been heard.

    An echo from before the last clear proves nothing, nor does one for what was never placed.
    """
    reply = find(ledger, generation)
    if reply is None or epoch != ledger.epoch or sample > reply.placed:
        return ledger
    position = reply.base + sample
    news = False
    replies = ledger.replies
    for r in replies:
        if min(r.placed, position - r.base) > r.heard:
            news = True
    if news:
        replies = tuple(r._replace(heard=max(r.heard, min(r.placed, position - r.base))) for r in replies)
    _, queued_to, anchor, anchor_s, epoch, cleared_s, round_trip_s, *_ = ledger
    if position <= anchor:  # late, repeated, or of what was played before a gap: nothing new about the clock
        return Ledger._make((replies, *ledger[1:])) if news else ledger
    late_s = at_s - anchor_s - (position - anchor) / ledger.rate_hz
    if 0 <= late_s <= round_trip_s:
        return Ledger._make((replies, queued_to, anchor, anchor_s, epoch, cleared_s, late_s, *ledger[7:]))
    round_trip_s = min(round_trip_s, max(0.0, late_s))
    shifted = (replies, queued_to, position, at_s - round_trip_s, epoch, cleared_s, round_trip_s)
    return Ledger._make((*shifted, *ledger[7:]))


def clear(ledger: Ledger, at_s: float) -> Ledger:
    """The queue is being emptied: what is heard now is all that will be, until the rest is placed again."""
    position = line_heard(ledger, at_s)
    frame = _frame(ledger)
    replies = []
    for reply in ledger.replies:
        known = max(reply.heard, min(reply.placed, position - reply.base))
        # The far end plays whole frames: the one begun when the clear arrives is heard to its end, and the rest
        # must begin after it.
        begun = (known + frame - 1) // frame * frame
        known = max(reply.heard, min(reply.placed, begun))
        replies.append(reply._replace(heard=known, placed=known, marked=known))
    return ledger._replace(
        replies=tuple(replies),
        queued_to=position,
        anchor=position,
        anchor_s=at_s,
        epoch=ledger.epoch + 1,
        cleared_s=at_s,
        clear_pending=True,
    )


def lose_queue(ledger: Ledger, at_s: float) -> Ledger:
    """The queue is lost with its stream: marks sent on it prove nothing, and no clear is acknowledged any more.

    The frame that was being played is counted as unheard: it is sent again whole.
    """
    position = line_heard(ledger, at_s)
    frame = _frame(ledger)
    replies = []
    for reply in ledger.replies:
        known = heard(ledger, reply, at_s)
        if known < reply.placed:
            known = max(reply.heard, known // frame * frame)
        replies.append(reply._replace(heard=known, placed=known, marked=known))
    return ledger._replace(
        replies=tuple(replies),
        queued_to=position,
        anchor=position,
        anchor_s=at_s,
        epoch=ledger.epoch + 1,
        clear_pending=False,
    )


def _frame(ledger: Ledger) -> int:
    """Samples of 20 ms."""
    return FRAME * ledger.rate_hz // RATE_HZ


def acknowledge_clear(ledger: Ledger, epoch: int, at_s: float) -> Ledger:
    """The mark sent after the last clear came back: the queue was empty. Measures the round trip."""
    if epoch != ledger.epoch:
        return ledger
    round_trip_s = min(ROUND_TRIP_MAX_S, max(0.0, at_s - ledger.cleared_s))
    return ledger._replace(round_trip_s=round_trip_s, clear_pending=False)


def settle(ledger: Ledger, at_s: float | None = None) -> tuple[Ledger, tuple[Reply, ...]]:
    """Close the replies that are complete and heard to their end.

    By marks alone, unless `at_s` is given: then by the clock, too (the marks did not come).
    """
    replies = ledger.replies
    if at_s is not None:
        replies = tuple(r._replace(heard=heard(ledger, r, at_s)) for r in replies)
    over = tuple(r for r in replies if r.complete and r.heard >= r.received)
    if over:
        replies = tuple(r for r in replies if r not in over)
    if replies == ledger.replies:
        return ledger, over
    return Ledger._make((replies, *ledger[1:])), over


def without_replies(ledger: Ledger) -> Ledger:
    """All replies are over; the queue and its clock stay."""
    return Ledger._make(((), *ledger[1:]))
