"""Functions as tools: what the model is told of them, and what they get."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import sys
import threading
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pytest

from offhook.gateway.agent.load import parse_agent
from offhook.gateway.conversation.events import Outcome, ToolPolicy
from offhook.gateway.errors import OperatorError
from offhook.gateway.tools import Tool, ToolContext, ToolError, tool
from offhook.gateway.tools.build import board_of
from offhook.gateway.tools.function import described, function_tool, functions_named
from tests.tools.hosts import Desk

pytestmark = pytest.mark.wall_clock(calm=True)  # threads keep it


class Size(enum.Enum):
    SMALL = "small"
    LARGE = "large"


@dataclasses.dataclass
class Guest:
    name: str
    age: int = 30


class Wish(TypedDict):
    dish: str


class Place(msgspec.Struct):
    street: str
    city: str = "Berlin"


@tool
async def book(
    day: datetime.date,
    people: int,
    guests: list[Guest],
    size: Size = Size.SMALL,
    wish: Wish | None = None,
    place: Place | None = None,
    seat: Literal["inside", "outside"] = "inside",
    note: Annotated[str, "Anything else."] = "",
    tags: list[str] = [],  # noqa: B006 - a default the tool must not share between runs
    *,
    context: ToolContext,
) -> dict[str, Any]:
    """Book a table.

    Only after the caller agreed to day
    and time.

    Args:
        day: The day, as in 2026-11-30.
        people: How many will come,
            the caller included.
        seat (str): Where.

    Returns:
        The booking.
    """
    tags.append("new")
    return {"day": day, "people": people, "first": guests[0].name, "size": size, "tags": tags, "by": context.caller}


BOOK = function_tool(book)


def test_a_declaration_has_name_purpose_and_parameters() -> None:
    assert BOOK.name == "book"
    assert BOOK.description == "Book a table.\nOnly after the caller agreed to day and time."
    properties = BOOK.parameters["properties"]
    assert list(properties) == ["day", "people", "guests", "size", "wish", "place", "seat", "note", "tags"]
    assert BOOK.parameters["required"] == ["day", "people", "guests"]
    assert properties["day"] == {"description": "The day, as in 2026-11-30.", "type": "string", "format": "date"}
    assert properties["people"] == {"description": "How many will come, the caller included.", "type": "integer"}
    assert properties["guests"]["items"]["properties"]["age"] == {"type": "integer", "default": 30}
    assert properties["size"] == {"type": "string", "enum": ["large", "small"], "default": "small"}
    assert properties["wish"]["properties"] == {"dish": {"type": "string"}}
    assert properties["place"]["required"] == ["street"]
    assert properties["seat"]["description"] == "Where."
    assert properties["note"] == {"description": "Anything else.", "type": "string", "default": ""}


def test_the_schema_refers_to_nothing() -> None:
    assert "$" not in str(BOOK.parameters)
    assert "title" not in str(BOOK.parameters)


async def test_arguments_have_the_hinted_types() -> None:
    desk = Desk(BOOK)
    for _ in range(2):  # the second run finds the default as the first did
        result = await desk.ask("book", day="2026-11-30", people="4", guests=[{"name": "Ana"}], size="large")
        assert result.outcome is Outcome.DONE
        assert result.response == {
            "status": "ok",
            "result": {
                "day": "2026-11-30",
                "people": 4,
                "first": "Ana",
                "size": "large",
                "tags": ["new"],
                "by": "+15550101",
            },
        }


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"people": 2, "guests": []}, "day is missing."),
        ({"day": "2026-11-30", "people": "two", "guests": []}, "people must be a whole number, not 'two'."),
        ({"day": "2026-11-30", "people": 2.5, "guests": []}, "people must be a whole number, not 2.5."),
        ({"day": "2026-11-30", "people": 2, "guests": "Ana"}, "guests must be a list, not 'Ana'."),
        ({"day": "2026-11-30", "people": 2, "guests": [{"age": 3}]}, "guests[0].name is missing."),
        ({"day": "2026-11-30", "people": 2, "guests": [], "size": "huge"}, "size must be one of large, small, not 'h"),
        ({"day": "2026-11-30", "people": 2, "guests": [], "hour": 7}, "There is no parameter 'hour': the parameters"),
        (
            {"day": "next Friday", "people": 2, "guests": []},
            "day must be a date such as 2026-03-31, not 'next Friday'.",
        ),
        (["2026-11-30"], "The arguments must be an object"),
    ],
)
async def test_wrong_arguments_are_explained_to_the_model(arguments: Any, told: str) -> None:
    desk = Desk(BOOK)
    result = await desk.result(desk.start("book", arguments))
    assert result.outcome is Outcome.FAILED
    assert result.response["status"] == "error"
    assert result.response["message"].startswith(told)
    assert result.response["retryable"] is True
    assert result.record == f"wrong arguments: {result.response['message']}"


async def test_a_sync_function_in_a_thread_reaches_the_call() -> None:
    threads = []

    def look(context: ToolContext, what: str) -> str:
        threads.append(threading.current_thread())
        context.say("One moment.")
        context.remember("looked for", what)
        return f"{what} in {context.variables['shop']} for {context.call_sid}, {context.idempotency_key}"

    desk = Desk(function_tool(look))
    assert list(function_tool(look).parameters["properties"]) == ["what"]
    result = await desk.ask("look", what="a chair")
    assert result.response["result"] == "a chair in north for CA1, CA1:1:call-1"
    assert threads[0] is not threading.main_thread()
    await desk.until(lambda: desk.host.said)
    assert desk.host.said == ["One moment."]
    assert desk.host.remembered == {"looked for": "a chair"}


def test_a_decorator_adds_to_the_signature() -> None:
    @tool(name="cancel_table", description="Cancel it.", on_barge_in="finish", outside_effects=True)
    def cancel(number: int) -> None:
        """For the programmer."""

    made = function_tool(cancel)
    assert (made.name, made.description) == ("cancel_table", "Cancel it.")
    assert made.on_barge_in is ToolPolicy.FINISH
    assert made.outside_effects
    assert cancel(3) is None  # still the function it was


class Node(msgspec.Struct):
    children: list[Node]


def test_a_recursive_parameter_is_declared_one_level() -> None:
    def endless(node: Node) -> None: ...

    (inner,) = [function_tool(endless).parameters["properties"]["node"]["properties"]["children"]["items"]]
    assert inner["description"].startswith("The same as Node above")


def unlisted(*names: str) -> None: ...
def unnamed(name: str, /) -> None: ...
def untyped(lock: threading.Thread) -> None: ...
def misspelt(day: Dey) -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (unlisted, "the model cannot fill"),
        (unnamed, "the model cannot fill"),
        (untyped, "types a model cannot fill"),
        (misspelt, "type hints cannot be read"),
    ],
)
def test_a_function_no_model_can_call_is_refused_early(function: Any, says: str) -> None:
    with pytest.raises(OperatorError, match=f"tool {function.__name__}: .*{says}"):
        function_tool(function)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        (
            "no_such_module:f",
            "there is no module no_such_module: put no_such_module.py beside",
        ),
        ("tests.tools.hosts:f", "there is no function f in tests.tools.hosts: it has "),
        ("tests.tools.hosts", "no function there has @tool"),
    ],
)
def test_a_missing_function_is_reported(path: str, says: str) -> None:
    with pytest.raises(OperatorError, match=says):
        functions_named(path, ".")


def test_a_module_yields_its_decorated_functions() -> None:
    assert functions_named(__name__, ".") == [book]


@pytest.mark.parametrize(
    ("docstring", "text", "about"),
    [
        ("", "", {}),
        ("One line.", "One line.", {}),
        ("Two\nlines.\n\nAnd more.", "Two lines.\nAnd more.", {}),
        ("Do it.\n\nArgs:\n    a: One.\n    b (int): Two\n        lines: of it.\n\nRaises:\n    c: No.\n", "Do it.",
         {"a": "One.", "b": "Two lines: of it."}),
        ("Args:\n    a: One.", "", {"a": "One."}),
        ("Do it.\n\nParameters\n----------\na : int\n    One.\n\nReturns\n-------\nint\n", "Do it.", {"a": "One."}),
        ("Do it.\n\n:param a: One.\n:returns: Two.", "Do it.", {"a": "One."}),
        ("Do it: now.\n\nArgs:\n    *a: One.", "Do it: now.", {"a": "One."}),
    ],
)  # fmt: skip
def test_docstrings_are_read(docstring: str, text: str, about: dict[str, str]) -> None:
    assert described(docstring) == (text, about)


async def test_a_tool_may_choose_its_result_for_the_model() -> None:
    def full(day: str) -> None:
        raise ToolError("That day is full.", "the book has no free line")

    result = await Desk(made := function_tool(full)).ask("full", day="Friday")
    assert isinstance(made, Tool)
    assert result.response == {"status": "error", "message": "That day is full.", "retryable": False}
    assert result.record == "the book has no free line"


def book_at(
    start: datetime.time,
    until: datetime.datetime | None = None,
    breaks: list[datetime.time] = [],  # noqa: B006
    by: Annotated[datetime.time | None, "The latest."] = None,
) -> str:
    """Book at a time of day."""
    return f"{start} {until} {breaks and breaks[0]} {by}"


@pytest.mark.parametrize(
    ("arguments", "booked"),
    [
        ({"start": "14:30"}, "14:30:00 None [] None"),
        ({"start": "9:05", "until": "2026-12-01T14:30"}, "09:05:00 2026-12-01 14:30:00 [] None"),
        ({"start": "14:30:15", "breaks": ["15:00"], "by": "16:00"}, "14:30:15 None 15:00:00 16:00:00"),
        ({"start": "14:30", "until": "2026-12-01 14:30Z"}, "14:30:00 2026-12-01 14:30:00+00:00 [] None"),
    ],
)
async def test_a_time_may_be_given_without_seconds(arguments: dict[str, Any], booked: str) -> None:
    result = await Desk(function_tool(book_at)).ask("book_at", **arguments)
    assert result.response.get("result") == booked, result.response


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"start": "half past two"}, "start must be a time of day such as 14:30"),
        ({"start": "14:30", "until": "tomorrow"}, "until must be a date and time such as 2026-03-31T14:30:00"),
    ],
)
async def test_a_wrong_time_is_refused_with_its_form(arguments: dict[str, Any], says: str) -> None:
    result = await Desk(function_tool(book_at)).ask("book_at", **arguments)
    assert says in result.response["message"]
    assert result.response["retryable"]


def test_the_model_sees_the_format_of_a_time() -> None:
    properties = function_tool(book_at).parameters["properties"]
    assert properties["start"] == {"type": "string", "format": "time"}
    assert properties["by"]["description"] == "The latest."


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_board_of_odd_types_is_plain(is_async: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"odd_board_{is_async}.py").write_text(
        f"import numpy as np\n{'async ' if is_async else ''}def snapshot():\n"
        "    yield {'name': 'a', 'items': [{'text': 'x', 'done': np.bool_(True)}]}\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    agent = parse_agent(f"name: a\nboard: odd_board_{is_async}:snapshot\n")
    board = board_of(agent)
    assert board is not None
    assert await board() == [{"name": "a", "items": [{"text": "x", "done": True}]}]
