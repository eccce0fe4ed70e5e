"""What caller and agent say in these tests, and agents with tools, shared by several modules."""

from __future__ import annotations

from offhook.gateway.rehearsal.model.script import Reply
from offhook.gateway.rehearsal.model.script import Say as Speak
from tests.rig.sounds import sound

__all__ = ["GOODBYE", "GREETING", "HELLO", "LONG", "SATURDAY", "WAIT", "YES", "agent"]

GREETING = Reply("text", (Speak("Thank you for calling. How can I help you?", sound("agent_thank_you")),))
LONG = Speak(
    "Of course. Let me look for a table on Friday evening. We are nearly full that night, so please give me a moment "
    "while I go through the book.",
    sound("of_course"),
)
SATURDAY = Speak("Saturday for two is no problem.", sound("saturday"))
GOODBYE = Speak("It is booked. Goodbye!", sound("it_is_booked"))
HELLO, WAIT, YES = (str(sound(part)) for part in ("hello_i_would", "oh_sorry", "yes_please"))


def agent(*tools: str) -> str:
    """An agent's YAML with a greeting and these tools, each the inside of a YAML flow mapping."""
    return "greeting: {text: Greet.}\ntools:\n" + "\n".join(f"- {{{tool}}}" for tool in tools)
