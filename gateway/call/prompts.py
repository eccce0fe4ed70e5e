"""Every sentence the gateway itself says to a model, as functions of values. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from offhook.gateway.agent.spec import Agent
from offhook.gateway.conversation.commands import Prompt

__all__ = ["heard_note", "key_note", "late_result_note", "moved_tool", "operator_note", "say", "take_up", "text_of"]

RESULT_MAX = 2_000  # characters of a result that no reply waits for


def text_of(prompt: Prompt, agent: Agent, last_words: str = "") -> str:
    """What the model is prompted with, the agent file's words where it has some."""
    match prompt:
        case Prompt.GREETING:
            return _announced(agent.recording.announce, agent.greeting.text)
        case Prompt.NUDGE:
            return "The caller is waiting for your answer. Answer now."
        case Prompt.GO_ON:
            return "Your last words broke off. Say the rest of them now, and nothing that was already said."
        case Prompt.TAKE_UP:
            return take_up("")
        case Prompt.IDLE:
            return agent.idle.prompt
        case Prompt.IDLE_GOODBYE:
            return agent.idle.goodbye
        case Prompt.TIME_WARNING:
            return agent.limits.warning
        case Prompt.COST_WARNING:
            return "This call has to end soon. Tell the caller, and bring what you are doing to an end."
        case Prompt.LAST_WORDS:
            return say(last_words)


def _announced(announcement: str, greeting: str) -> str:
    return f"Say this first, word for word: {announcement}\nThen: {greeting}" if announcement else greeting


def take_up(heard_text: str) -> str:
    """The line broke while the agent was speaking, and is back: the caller heard this much of the reply."""
    if heard_text:
        return (
            f'The line broke while you were speaking. The caller heard: "{heard_text}" Go on from there now, and say '
            "nothing that was already said."
        )
    return "The line broke while you were speaking. Go on now from where you were, and do not greet again."


def moved_tool(tool: str, response: Any, *, done: bool) -> str:
    """What is known of a tool call that was running when the line broke."""
    if done:
        return _ended_note(tool, "ran to its end", response)
    return (
        f"The tool {tool} was running when the line broke. Whether it was carried out is not known: say so if it "
        "matters, and do not call it again unless the caller wants that."
    )


def tool_again(tool: str) -> str:
    """A tool call that was running when the line broke, and takes effect once however often it runs."""
    return f"The tool {tool} was interrupted and runs again now: its result follows. Do not call it meanwhile."


def result_of_again(tool: str, response: Any) -> str:
    """The result that was announced so."""
    return _ended_note(tool, "has ended", response)


def say(text: str) -> str:
    """Have the model speak `text` as it stands."""
    return f"Say this to the caller now, word for word: {text}"


def heard_note(heard_text: str, *, ask: bool) -> str:
    """What the caller heard of a reply that was interrupted; `ask`: the agent offers to repeat the rest."""
    if heard_text:
        note = f'The caller interrupted you and heard only: "{heard_text}"'
    else:
        note = "The caller interrupted you before hearing any of your last words."
    return f"{note} If what they missed matters, ask whether you should repeat it." if ask else note


def key_note(key: str) -> str:
    """The caller pressed a key that no tool waits for."""
    return f"The caller pressed the key {key}."


def operator_note(text: str) -> str:
    """What the operator wants the model to take into account."""
    return f"A note from your supervisor, which the caller does not hear: {text}"


def late_result_note(tool: str, response: Any) -> str:
    """A tool call that the model withdrew ran to its end all the same: without this it may be made again."""
    return _ended_note(tool, "was called off too late: it ran to its end", response)


def _ended_note(tool: str, how: str, response: Any) -> str:
    result = msgspec.json.encode(response).decode()[:RESULT_MAX]
    return f"The tool {tool} {how}. Its result: {result}"
