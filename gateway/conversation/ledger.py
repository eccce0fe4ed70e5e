"""The playout ledger: what of each reply was received, sent to the carrier, and heard by the caller.

All that is sent and not cleared forms one **line**: the carrier's queue, played in order at 8,000 samples a
second. Each reply knows where on the line its sample 0 stands (`base`). What has been heard is known from marks
and, between them, from the clock: an `anchor` says which line position was being played when.

    heard <= placed <= sent <= received       for every reply, at every time

`placed` is what stands on the line now; a clear takes it back to `heard`, and playing on (after a dismissed
barge-in) puts the rest there again, so that each unheard sample is played once. `sent` only grows.

Times are seconds, positions 8 kHz samples. All functions are pure.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "RATE_HZ",
    "Ledger",
    "Reply",
    "Span",
    "acknowledge_clear",
    "clear",
    "complete",
    "ends_at_s",
    "find",
    "heard",
    "is_audible",
    "line_heard",
    "mark_returned",
    "place",
    "receive",
    "replace_reply",
    "settle",
]

RATE_HZ = 8_000
FRAME = 160  # 20 ms: what is resumed begins on a frame, as the carrier plays whole frames
ROUND_TRIP_MAX_S = 0.3  # a slower acknowledgement says more about a stall than about the way


class Reply(NamedTuple):
    """One reply's quantities, in samples from its beginning."""

    generation: int
    received: int = 0
    sent: int = 0
    placed: int = 0
    heard: int = 0
    base: int = 0
    marked: int = 0  # the last mark stands behind this sample
    audible: int | None = None  # the reply's first voice stands before this sample
    complete: bool = False
    protected: bool = False


class Ledger(NamedTuple):
    """The line and the replies on it that are not over."""

    replies: tuple[Reply, ...] = ()
    queued_to: int = 0  # line position behind the last sample placed
    anchor: int = 0
    anchor_s: float = 0.0
    epoch: int = 0  # clears sent
    cleared_s: float = 0.0  # when the last one was
    round_trip_s: float = 0.0  # of the last clear; marks come back half of it late


class Span(NamedTuple):
    """Samples of a reply to be sent now."""

    generation: int
    from_sample: int
    to_sample: int


def find(ledger: Ledger, generation: int) -> Reply | None:
    """The open reply of this generation."""
    for reply in ledger.replies:
        if reply.generation == generation:
            return reply
    return None


def line_heard(ledger: Ledger, at_s: float) -> int:
    """The line position that is being played at `at_s`, by marks and clock; never beyond what was sent."""
    played = ledger.anchor + int((at_s - ledger.anchor_s) * RATE_HZ)
    return max(ledger.anchor, min(ledger.queued_to, played))


def is_audible(ledger: Ledger, at_s: float) -> bool:
    """Whether sent audio is still unheard."""
    return line_heard(ledger, at_s) < ledger.queued_to


def ends_at_s(ledger: Ledger) -> float:
    """When, by the clock, the last sample placed on the line will have been heard."""
    return ledger.anchor_s + (ledger.queued_to - ledger.anchor) / RATE_HZ


def heard(ledger: Ledger, reply: Reply, at_s: float) -> int:
    """How many samples of the reply the caller has heard."""
    return max(reply.heard, min(reply.placed, line_heard(ledger, at_s) - reply.base))


def receive(
    ledger: Ledger, generation: int, samples: int, *, audible: int | None = None, protected: bool = False
) -> Ledger:
    """More of a reply is at hand; a generation not seen before opens a new reply."""
    reply = find(ledger, generation)
    if reply is None:
        opened = Reply(generation, samples, audible=audible, protected=protected)
        return ledger._replace(replies=(*ledger.replies, opened))
    grown = reply._replace(received=reply.received + samples, audible=reply.audible if audible is None else audible)
    return replace_reply(ledger, grown)


def complete(ledger: Ledger, generation: int | None = None) -> Ledger:
    """No more will come of this reply (of every reply, when no generation is given)."""
    replies = tuple(r._replace(complete=True) if generation in (None, r.generation) else r for r in ledger.replies)
    return ledger._replace(replies=replies)


def place(ledger: Ledger, at_s: float) -> tuple[Ledger, list[Span]]:
    """Put everything received on the line, in order: the spans to send now."""
    spans: list[Span] = []
    for reply in ledger.replies:
        if reply.placed == reply.received:
            continue
        if not is_audible(ledger, at_s):  # the queue is empty: this is played as it arrives
            ledger = ledger._replace(anchor=ledger.queued_to, anchor_s=at_s)
        span = Span(reply.generation, reply.placed, reply.received)
        spans.append(span)
        # Where other audio was placed in between, the base moves; what lay before it has been heard or cleared.
        base = ledger.queued_to - reply.placed
        placed = reply._replace(placed=reply.received, sent=reply.received, base=base, heard=heard(ledger, reply, at_s))
        ledger = replace_reply(ledger, placed)._replace(queued_to=ledger.queued_to + reply.received - reply.placed)
    return ledger, spans


def mark_returned(ledger: Ledger, generation: int, sample: int, epoch: int, at_s: float) -> Ledger:
    """A mark's echo: everything on the line before it has been heard.

    An echo from before the last clear proves nothing, nor does one for what was never placed.
    """
    reply = find(ledger, generation)
    if reply is None or epoch != ledger.epoch or sample > reply.placed:
        return ledger
    position = reply.base + sample
    if position < ledger.anchor:  # late or repeated
        return ledger
    replies = tuple(r._replace(heard=max(r.heard, min(r.placed, position - r.base))) for r in ledger.replies)
    # The echo was half a round trip on its way, and a clear sent now takes the other half: count from then.
    return ledger._replace(replies=replies, anchor=position, anchor_s=at_s - ledger.round_trip_s)


def clear(ledger: Ledger, at_s: float) -> Ledger:
    """The carrier's queue is being emptied: what is heard now is all that will be, until it is placed again."""
    position = line_heard(ledger, at_s)
    replies = []
    for reply in ledger.replies:
        known = max(reply.heard, min(reply.placed, position - reply.base))
        # Nearest frame: the carrier plays whole ones, and the rest must begin where it stopped.
        known = max(reply.heard, min(reply.placed, (known + FRAME // 2) // FRAME * FRAME))
        replies.append(reply._replace(heard=known, placed=known, marked=known))
    return ledger._replace(
        replies=tuple(replies),
        queued_to=position,
        anchor=position,
        anchor_s=at_s,
        epoch=ledger.epoch + 1,
        cleared_s=at_s,
    )


def acknowledge_clear(ledger: Ledger, epoch: int, at_s: float) -> Ledger:
    """The mark behind the last clear came back: learn the way's length."""
    if epoch != ledger.epoch:
        return ledger
    return ledger._replace(round_trip_s=min(ROUND_TRIP_MAX_S, max(0.0, at_s - ledger.cleared_s)))


def settle(ledger: Ledger, at_s: float | None = None) -> tuple[Ledger, list[Reply]]:
    """Take off the replies that are complete and heard to their end.

    Marks alone are believed, unless `at_s` is given: then the clock is, too (the marks did not come).
    """
    over: list[Reply] = []
    open_: list[Reply] = []
    for reply in ledger.replies:
        if at_s is not None:
            reply = reply._replace(heard=heard(ledger, reply, at_s))
        (over if reply.complete and reply.heard >= reply.received else open_).append(reply)
    if not over and at_s is None:
        return ledger, over
    return ledger._replace(replies=tuple(open_)), over


def replace_reply(ledger: Ledger, reply: Reply) -> Ledger:
    """The ledger with this reply in the place of the one of its generation."""
    replies = tuple(reply if r.generation == reply.generation else r for r in ledger.replies)
    return ledger._replace(replies=replies)
