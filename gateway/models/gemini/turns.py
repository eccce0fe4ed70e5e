"""Which of the model's turns a message belongs to; pure.

The wire names no turns, so they are numbered here, at the edge, by this rule:

- A turn begins with its first content (audio, words, a written part, a tool call) or, empty as it may be,
  with its `generationComplete` or `turnComplete`. It gets a new number then.
- It ends with `turnComplete`. Until then everything belongs to it, also audio after `interrupted`: late
  chunks of a stopped reply must not be taken for the next one, and the next one must not inherit the stop.
- `interrupted` while no turn is open refers to the last one (the service models playback and may detect the
  caller late). The `turnComplete` after it ends that turn again and is not an empty new one.
- With extended thinking a `turnComplete` that is IN_PROGRESS ends a number, not the turn: what follows is a
  reply of its own, with a new number, and the last `turnComplete` may be bare: it then ends the last number.
- A lost connection ends whatever was open.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Turns", "broke_off"]

FASTEST_CHARACTERS_S = 30.0  # speech has 12 to 20 characters a second, in scripts of whole words fewer
LEAST_CHARACTERS = 60  # transcripts of shorter turns prove nothing


def broke_off(characters: int, audio_s: float) -> bool:
    """Whether a turn ended before its transcript was spoken: speech is not that fast.

    Cautious on purpose: the model is prompted for the rest, and after a wrong guess it repeats something. A missing
    `generationComplete` or full stop is no sign; the service leaves out both.
    """
    return characters >= LEAST_CHARACTERS and 0 < audio_s < characters / FASTEST_CHARACTERS_S


@dataclass(frozen=True, slots=True)
class Turns:
    """`generation` is the open turn's number or else the last one's, 0 before the first."""

    generation: int = 0
    open: bool = False
    excused: bool = False  # a bare turnComplete to come belongs to `generation`

    def begun(self, generation: int) -> Turns:
        """Content came while no turn was open: it is the first of turn `generation`."""
        if self.open or generation <= self.generation:
            raise ValueError(f"turn {generation} cannot begin: {self}")
        return Turns(generation, open=True)

    def interrupted(self) -> Turns:
        """`interrupted` came; it speaks of `generation`."""
        return self if self.open else Turns(self.generation, excused=self.generation > 0)

    def ended(self, more: bool = False) -> Turns:
        """`turnComplete` came for `generation`, which is open or excused. `more`: IN_PROGRESS."""
        return Turns(self.generation, excused=more)

    def lost(self) -> Turns:
        """The connection is gone."""
        return Turns(self.generation)
