"""The built-in tools: ending and transferring a call, keys, facts, language, messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from offhook.gateway.agent.builtins import Options
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.conversation.events import ToolPolicy
from offhook.gateway.tools import Secret, Tool, ToolCall, ToolError, ToolHost

__all__ = ["builtin_tool"]

MAX_KEYS = 64


def builtin_tool(name: str, options: Options) -> Tool:
    """A built-in tool of this name."""
    return _MAKERS[name](options)


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _text(description: str, most: int, choices: tuple[str, ...] = ()) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string", "description": description}
    return {**schema, "enum": list(choices)} if choices else {**schema, "minLength": 1, "maxLength": most}


def _end_call(options: Options) -> Tool:
    async def run(call: ToolCall, host: ToolHost) -> Any:
        host.end_call("", call.call_id)
        return "Say goodbye now if you have not."

    return Tool("end_call", "End the call, once the caller and you have said goodbye.", _object(), run)


def _transfer_call(options: Options) -> Tool:
    names = tuple(options.targets)

    async def run(call: ToolCall, host: ToolHost) -> Any:
        target = options.targets[call.arguments.get("target", names[0])]
        host.transfer(target, call.call_id, whisper=options.whisper, warm=options.warm)
        if options.say:
            return f"Say this now, word for word, and nothing else: {options.say}"
        return "Tell the caller in a few words that you are connecting them now, if you have not."

    parameters = _object(target=_text("Whom to connect the caller with.", 0, names)) if len(names) > 1 else _object()
    about = f"Connect the caller with somebody else: {', '.join(names)}. You leave the call."
    return Tool("transfer_call", about, parameters, run)


def _send_dtmf(options: Options) -> Tool:
    async def run(call: ToolCall, host: ToolHost) -> Any:
        if not host.send_digits(call.arguments["digits"]):
            raise ToolError("Keys cannot be pressed in this call.")
        return None

    keys = {"type": "string", "description": "Keys: 0 to 9, * and #; w waits half a second.", "maxLength": MAX_KEYS}
    parameters = _object(digits={**keys, "pattern": "^[0-9A-D*#w]+$"})
    return Tool("send_dtmf", "Press keys on the telephone, as for a menu you are listening to.", parameters, run)


def _after_the_last(pressed: asyncio.Queue[str], terminator: str, host: ToolHost) -> None:
    """The length ended the entry: a terminator behind it belongs to it, whether it is here already or about to come."""
    if terminator and (pressed.empty() or pressed.get_nowait() != terminator):
        host.ignore_key(terminator)


def _collect_digits(options: Options) -> Tool:
    most = options.length or MAX_KEYS

    async def run(call: ToolCall, host: ToolHost) -> Any:
        digits, ended = "", options.length is None
        with host.keys(secret=options.secret) as pressed:
            while len(digits) < most:
                try:
                    async with asyncio.timeout(options.wait_s):
                        key = await pressed.get()
                except TimeoutError:
                    ended = False
                    break
                if options.terminator and key == options.terminator:
                    ended = True
                    break
                digits += key
            else:
                ended = True
                _after_the_last(pressed, options.terminator, host)
        if not digits:
            raise ToolError("The caller pressed no key.", "no key")
        complete = ended and (options.length is None or len(digits) == options.length)
        shown: Any = Secret(digits) if options.secret else digits
        return {"digits": shown, "count": len(digits), "complete": complete}

    wanted = f"{options.length} digits" if options.length else "digits"
    ends = f", ended with {options.terminator}" if options.terminator and not options.length else ""
    about = f"Wait for {wanted} that the caller enters with the telephone's keys{ends}. Ask for them first."
    return Tool(
        "collect_digits",
        about,
        _object(),
        run,
        on_barge_in=ToolPolicy.FINISH,  # a caller who speaks while pressing keys still presses them
        timeout_s=min(300.0, options.wait_s * (most + 1)),
    )


def _remember(options: Options) -> Tool:
    async def run(call: ToolCall, host: ToolHost) -> Any:
        host.remember(call.arguments["key"], call.arguments["value"])
        return None

    parameters = _object(key=_text("What it is, as in: name.", 60), value=_text("The fact.", 500))
    about = "Note a fact about the caller or the call that must not be forgotten."
    return Tool("remember", about, parameters, run, silent=True, on_barge_in=ToolPolicy.FINISH)


def _set_language(options: Options) -> Tool:
    async def run(call: ToolCall, host: ToolHost) -> Any:
        language = call.arguments["language"]
        # The model's session keeps its setup; a new session reads the facts.
        host.remember("language", f"speak {language} with this caller, whatever else is said about language")
        return f"From now on speak {language}, until the caller wants another language."

    parameters = _object(language=_text("The language, as in de-DE.", 35, options.languages))
    about = "Speak another language from now on, because the caller does or asks for it."
    return Tool("set_language", about, parameters, run, on_barge_in=ToolPolicy.FINISH)


def _take_message(options: Options) -> Tool:
    async def run(call: ToolCall, host: ToolHost) -> Any:
        host.take_message(call.arguments["recipient"], call.arguments["message"])
        return "The message is kept."

    parameters = _object(
        recipient=_text("Whom it is for.", 100, options.recipients),
        message=_text("What to tell them, with the caller's name and number if they gave them.", 4_000),
    )
    about = "Take a message for somebody who cannot be reached."
    return Tool("take_message", about, parameters, run, on_barge_in=ToolPolicy.FINISH)


def _leave_message(options: Options) -> Tool:
    async def run(call: ToolCall, host: ToolHost) -> Any:
        host.last_words(options.say, Ending.AGENT_HUNG_UP)
        return None

    about = (
        "An answering machine has answered, not a person: leave the message and hang up. "
        "Use it when its greeting is over; say nothing yourself."
    )
    return Tool("leave_message", about, _object(), run, silent=True, on_barge_in=ToolPolicy.FINISH)


def _stop_recording(options: Options) -> Tool:
    async def run(call: ToolCall, host: ToolHost) -> Any:
        if not host.stop_recording():
            raise ToolError("This call is not recorded.", "nothing to stop")
        return "The recording is stopped and removed. Tell the caller so, and go on."

    about = "Stop and remove the recording of this call, because the caller does not agree to be recorded."
    return Tool("stop_recording", about, _object(), run, on_barge_in=ToolPolicy.FINISH)


_MAKERS: dict[str, Callable[[Options], Tool]] = {
    "end_call": _end_call,
    "transfer_call": _transfer_call,
    "send_dtmf": _send_dtmf,
    "collect_digits": _collect_digits,
    "remember": _remember,
    "set_language": _set_language,
    "take_message": _take_message,
    "leave_message": _leave_message,
    "stop_recording": _stop_recording,
}
