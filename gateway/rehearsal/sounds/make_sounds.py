"""Makes the bundled recordings and their index `lines.json`: `python gateway/rehearsal/sounds/make_sounds.py`.

Needs espeak-ng. Recordings whose line is not listed any more are removed. The recordings are synthetic speech of
our own texts, under the repository's licence.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from offhook.gateway.rehearsal.phone.voice import SOUNDS, VOICES, speak
from offhook.media.wav import write_wav

__all__ = ["LINES", "main"]

LINES: dict[str, tuple[str, ...]] = {
    "agent": (
        "Thank you for calling the Blue Heron. How can I help you?",
        "Of course. Let me look for a table on Friday evening. We are nearly full that night, so please "
        "give me a moment while I go through the book.",
        "Saturday for two is no problem. I have a table by the window at half past seven. Shall I book it?",
        "It is booked. Thank you for calling the Blue Heron. Goodbye!",
        "Harbour Street dental practice, how can I help?",
        "On Tuesday I have half past eight, or ten o'clock. Which suits you?",
        "You are booked for Tuesday at ten, with Doctor Okafor. Your reference is one, zero, zero, one.",
        "Yes. Shall I move it to two o'clock?",
        "It is moved to two o'clock on Tuesday. Goodbye!",
        "Certainly. Let me look at Tuesday morning for you. We are rather full in the mornings, so please give me "
        "a moment while I go through the book.",
        "Yes. I have two o'clock on Tuesday. Shall I book it, and for whom?",
        "That is booked, Tuesday at two. Your reference is one, zero, zero, one. Goodbye!",
        "Hello, I am listening.",
        "Milk, eggs and bread are on your shopping list.",
        "The party list has lemons and eggs.",
        "Blue Heron, how can I help?",
        "All right, you are down for two.",
        "Done. Four things to buy, and Sam will see to them. Goodbye!",
    ),
    "caller": (
        "Hello, I would like a table for four on Friday evening, please.",
        "Oh, sorry, wait. Could we make that Saturday, for two?",
        "Yes, please. That is perfect, thank you. Bye!",
        "Uh-huh.",
        "Hi there, I need a check-up on Tuesday morning.",
        "Ten o'clock, please. My name is Jo Marsh.",
        "Wait, is there anything in the afternoon?",
        "That is better, yes. Thanks, bye!",
        "That would be lovely. My name is Jo Marsh. Thanks, bye!",
        "Put milk, eggs and bread on my shopping list.",
        "And a list for the party, with lemons and eggs.",
        "Make it one list, and give it to Sam. Bye!",
        "Hello?",
        "A table for two, please.",
        "Wait, stop!",
        "I would like to speak to a human, please.",
    ),
}


def main() -> None:
    """Speak every line into its own file."""
    index: dict[str, dict[str, str]] = {}
    for voice, texts in LINES.items():
        for text in texts:
            tokens = re.sub(r"[^a-z0-9 ]", "", text.lower().replace("-", " ")).split()
            name = f"{voice}_{'_'.join(tokens[:6])}.wav"
            samples, rate_hz = speak(text, voice), VOICES[voice][3]
            write_wav(SOUNDS / name, samples, rate_hz)
            index.setdefault(voice, {})[text] = name
            print(f"{len(samples) / rate_hz:5.2f} s  {name}")
    (SOUNDS / "lines.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    kept = {name for names in index.values() for name in names.values()}
    for stray in Path(SOUNDS).glob("*.wav"):
        if stray.name not in kept:
            stray.unlink()
            print(f"removed {stray.name}", file=sys.stderr)


if __name__ == "__main__":
    main()
