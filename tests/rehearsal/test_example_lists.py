"""The example that keeps lists: names as people say them, nothing twice, and a snapshot for a page."""

from __future__ import annotations

import json
from itertools import count
from typing import Any, cast

import pytest

from offhook.gateway.rehearsal.examples import lists
from offhook.gateway.rehearsal.examples.database import Database
from offhook.gateway.rehearsal.examples.lists import (
    SCHEMA,
    add_to_list,
    assign,
    create_list,
    merge_lists,
    read_list,
    show_lists,
    snapshot,
    tick_off,
)
from offhook.gateway.tools import ToolContext, ToolError


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "database", Database(":memory:", SCHEMA))


class Call:
    """What the tools use of a call's context."""

    numbers = count(1)

    def __init__(self, key: str = "") -> None:
        self.idempotency_key = key or f"CA1:{next(self.numbers)}"


def context(key: str = "") -> ToolContext:
    return cast(ToolContext, Call(key))


def items(name: str) -> list[str]:
    return [item["text"] for item in read_list(name)["items"]]


def test_list_is_created_extended_ticked_off_and_read() -> None:
    create_list("shopping list", context(), items=["milk", " oat  bread ", "Milk"])
    result = add_to_list("the shopping list", ["eggs", "milk"], context())
    assert result == {"list": "shopping", "added": ["eggs"], "already_there": ["milk"], "items_now": 3}
    assert tick_off("shopping", "the eggs", context()) == {"list": "shopping", "open": 2}
    assert items("shopping") == ["milk", "oat bread", "eggs"]
    assert show_lists() == [{"name": "shopping", "kind": "shopping", "open": 2}]


@pytest.mark.parametrize("name", ["groceries", "Groceries", "my groceries list", "grocerys", "shopping"])
def test_a_list_is_found_by_similar_names(name: str) -> None:
    create_list("groceries", context(), kind="shopping")
    create_list("novels", context(), kind="reading")
    assert read_list(name)["name"] == "groceries"


def test_missing_list_or_item_names_existing_ones() -> None:
    with pytest.raises(ToolError, match="none yet"):
        read_list("anything")
    create_list("work", context(), kind="work", items=["tax return"])
    with pytest.raises(ToolError, match="The lists are: work"):
        read_list("holiday")
    with pytest.raises(ToolError, match="On it: tax return"):
        tick_off("work", "garden", context())
    with pytest.raises(ToolError, match="a list Work already"):
        create_list("Work", context())


def test_merged_lists_lose_nothing_and_repeat_nothing() -> None:
    create_list("party", context(), items=["lemons", "eggs", "ice"])
    create_list("shopping", context(), items=["milk", "Eggs", "ice"])
    assign("party", "Sam", context(), item="eggs")
    tick_off("party", "ice", context())
    tick_off("shopping", "eggs", context())
    merged = merge_lists("party", "shopping", context())
    assert merged["items"] == [
        {"text": "lemons", "done": False, "person": ""},
        {"text": "milk", "done": False, "person": ""},
        {"text": "Eggs", "done": False, "person": "Sam"},  # open on one of the two
        {"text": "ice", "done": False, "person": ""},
    ]
    assert [one["name"] for one in show_lists()] == ["shopping"]
    with pytest.raises(ToolError, match="same list"):
        merge_lists("shopping", "my shopping list", context())


def test_item_or_all_open_items_are_assigned() -> None:
    create_list("work", context(), kind="work", items=["report", "slides", "room"])
    tick_off("work", "room", context())
    assign("work", "Ann", context(), item="slides")
    assert [item["person"] for item in read_list("work")["items"]] == ["", "Ann", ""]
    assign("work", "Sam", context())
    assert [item["person"] for item in read_list("work")["items"]] == ["Sam", "Sam", ""]


def test_a_repeat_with_the_same_key_has_no_effect() -> None:
    first = create_list("shopping", context("k1"), items=["milk"])
    assert create_list("shopping", context("k1"), items=["milk"]) == first
    added = add_to_list("shopping", ["eggs"], context("k2"))
    assert add_to_list("shopping", ["eggs"], context("k2")) == added == {**added, "added": ["eggs"]}


def test_the_snapshot_is_json_with_every_list_and_item() -> None:
    create_list("novels", context(), kind="reading", items=["Middlemarch"])
    found: Any = json.loads(json.dumps(snapshot()))
    assert found == [
        {"name": "novels", "kind": "reading", "items": [{"text": "Middlemarch", "done": False, "person": ""}]}
    ]
