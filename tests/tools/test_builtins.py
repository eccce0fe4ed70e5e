"""Built-in tools: what each asks of the call, and what the agent file may say of them."""

from __future__ import annotations

from typing import Any

import pytest

from offhook.gateway.agent.builtins import BUILTINS, Options
from offhook.gateway.agent.load import parse_agent
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.conversation.events import Outcome, ToolPolicy
from offhook.gateway.errors import AgentFileError, OperatorError
from offhook.gateway.tools import Secret
from offhook.gateway.tools.build import build_tools
from offhook.gateway.tools.builtins import builtin_tool
from offhook.gateway.tools.http.client import HttpClient
from tests.tools.hosts import Desk

TARGETS = {"sales": "+15550123", "home": "sip:ana@pbx.example"}


def desk(name: str, **options: Any) -> Desk:
    return Desk(builtin_tool(name, Options(**options)))


@pytest.mark.parametrize("name", BUILTINS)
def test_every_builtin_has_a_description(name: str) -> None:
    tool = builtin_tool(name, Options(targets=TARGETS, say="Hello."))
    assert tool.name == name
    assert tool.description
    assert not tool.outside_effects  # in a rehearsal the carrier is simulated, too


async def test_the_call_ends_once_the_goodbye_was_heard() -> None:
    here = desk("end_call")
    await here.ask("end_call")
    assert here.host.asked == [("end_call", "call-1")]


async def test_a_transfer_goes_to_named_targets_alone() -> None:
    here = desk("transfer_call", targets=TARGETS, whisper="A caller.", warm=True)
    for target in ("+15550123", "boss", ""):
        assert (await here.ask("transfer_call", target=target)).outcome is Outcome.FAILED
    assert here.host.asked == []
    await here.ask("transfer_call", target="home")
    assert here.host.asked == [("transfer", "sip:ana@pbx.example", "A caller.", True)]
    only = desk("transfer_call", targets={"sales": "+15550123"})
    await only.ask("transfer_call")
    assert only.host.asked == [("transfer", "+15550123", "", False)]


async def test_keys_are_pressed_where_they_can_be() -> None:
    here = desk("send_dtmf")
    assert (await here.ask("send_dtmf", digits="12w#")).outcome is Outcome.DONE
    assert (await here.ask("send_dtmf", digits="+1")).outcome is Outcome.FAILED
    here.host.can_press = False
    assert (await here.ask("send_dtmf", digits="1")).response["message"] == "Keys cannot be pressed in this call."
    assert here.host.asked == [("press", "12w#"), ("press", "1")]


@pytest.mark.parametrize(
    ("options", "keys", "result"),
    [
        ({}, "123#", {"digits": "123", "count": 3, "complete": True}),
        ({"terminator": "*"}, "1#2*", {"digits": "1#2", "count": 3, "complete": True}),
        ({"length": 3}, "123#", {"digits": "123", "count": 3, "complete": True}),
        ({"length": 3}, "1234", {"digits": "123", "count": 3, "complete": True}),
        ({"length": 3}, "12#", {"digits": "12", "count": 2, "complete": False}),
        ({"length": 3, "wait_s": 1.0}, "12", {"digits": "12", "count": 2, "complete": False}),
        ({"length": 4, "secret": True}, "4711", {"digits": "secret-1", "count": 4, "complete": True}),
    ],
)
async def test_digits_are_collected(options: dict[str, Any], keys: str, result: dict[str, Any]) -> None:
    here = desk("collect_digits", **options)
    for key in keys:
        here.host.pressed.put_nowait(key)
    assert (await here.ask("collect_digits")).response["result"] == result
    by_length = options.get("length") == result["count"]
    ignored = [("ignore key", "#")] if by_length and "#" not in keys else []
    assert here.host.asked == [("keys", options.get("secret", False)), *ignored, ("no more keys",)]


async def test_a_missing_key_is_reported() -> None:
    result = await desk("collect_digits", wait_s=1.0).ask("collect_digits")
    assert result.response["message"] == "The caller pressed no key."


def test_collecting_digits_survives_speech_in_between() -> None:
    tool = builtin_tool("collect_digits", Options(length=10, wait_s=8.0))
    assert tool.on_barge_in is ToolPolicy.FINISH
    assert tool.timeout_s == 88.0
    built = build_tools(
        parse_agent("name: a\ntools: [{builtin: collect_digits, options: {length: 10}}]"), {}, HttpClient()
    )
    assert built.tools["collect_digits"].timeout_s == 88.0


async def test_facts_language_and_messages_are_kept() -> None:
    remember, language = desk("remember"), desk("set_language", languages=("de-DE",))
    await remember.ask("remember", key="name", value="Ana")
    assert remember.host.remembered == {"name": "Ana"}
    assert (await language.ask("set_language", language="fr-FR")).outcome is Outcome.FAILED
    assert "speak de-DE" in (await language.ask("set_language", language="de-DE")).response["result"]
    message = desk("take_message", recipients=("Bo",))
    assert (await message.ask("take_message", recipient="Ana", message="Hi.")).outcome is Outcome.FAILED
    await message.ask("take_message", recipient="Bo", message="Hi.")
    assert message.host.asked == [("message", "Bo", "Hi.")]
    machine = desk("leave_message", say="Call us back.")
    await machine.ask("leave_message")
    assert machine.host.asked == [("last words", "Call us back.", Ending.AGENT_HUNG_UP)]


def test_a_secret_shows_nothing_of_itself() -> None:
    assert "4711" not in repr(Secret("4711"))


async def test_a_recording_is_stopped_where_there_is_one() -> None:
    stops = desk("stop_recording")
    stops.host.can_press = True
    assert (await stops.ask("stop_recording")).outcome is Outcome.DONE
    stops.host.can_press = False
    assert (await stops.ask("stop_recording")).outcome is Outcome.FAILED


@pytest.mark.parametrize(
    ("tool", "says"),
    [
        ("{builtin: fly}", r"a:2: tools\[0\].builtin: is one of end_call,"),
        ("{builtin: transfer_call}", r"options.targets: is needed"),
        ("{builtin: transfer_call, options: {targets: {x: 5550100}}}", r"options.targets.x: expected `str`"),
        ("{builtin: transfer_call, options: {targets: {x: '0800'}}}", r"options.targets.x: is a short code"),
        ("{builtin: end_call, options: {secret: true}}", "options.secret: does not apply to end_call"),
        ("{builtin: collect_digits, options: {terminator: '##'}}", "options.terminator: is one key"),
        ("{builtin: collect_digits, options: {terminator: ''}}", "options.length: is needed"),
        ("{builtin: leave_message}", "options.say: is needed"),
        ("{function: 'm:f', options: {say: Hi there}}", "options: belongs to builtin"),
        ("{function: 'm:f', builtin: end_call}", r"tools\[0\]: takes one of them"),
        ("{builtin: stop_recording}", "tools: stop_recording has nothing to stop"),
        ("{name: x}", r"tools\[0\]: is empty"),
        ("{function: 'm:f', blocking: true, filler: One moment.}", "filler: cannot be said while the model waits"),
    ],
)
def test_an_invalid_agent_file_is_reported_with_a_line(tool: str, says: str) -> None:
    with pytest.raises(AgentFileError, match=says):
        parse_agent(f"name: x\ntools: [{tool}]", path="a")


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(OperatorError, match="two tools are named end_call"):
        build_tools(
            parse_agent("name: a\ntools: [{builtin: end_call}, {builtin: remember, name: end_call}]"), {}, HttpClient()
        )
