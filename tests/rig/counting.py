"""An agent that counts, for calls that only listen."""

from __future__ import annotations

from offhook.gateway.rehearsal.model.script import Script, script_from

__all__ = ["AGENT", "COUNTING", "REST", "counting_script"]

# The call's id stands in the instructions of its model sessions.
AGENT = "name: counting\ninstructions: 'plan {{call_sid}}.'\ngreeting: {text: Greet the caller.}\n"
COUNTING = " ".join(f"number{n}" for n in range(1, 31)) + "."
REST = "and so on to the end."


def counting_script() -> Script:
    """A long greeting; and one reply to whatever the model is told when the call has moved."""
    rest = {"on": "text", "do": [{"say": REST, "delay_ms": 50}]}
    return script_from({"replies": [{"on": "text", "do": [{"say": COUNTING}]}, rest]})
