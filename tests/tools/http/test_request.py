"""What a model's arguments can and cannot do to a request, and what is taken out of an answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhook.gateway.agent.tools import HttpTool
from offhook.gateway.tools import ToolError
from offhook.gateway.tools.http.request import arguments_named, request_of, select

ORDER = HttpTool(url="https://api.example.com/orders/{order_id}/lines")


def url_of(spec: HttpTool, **arguments: Any) -> str:
    return str(request_of(spec, arguments, {}).url)


def test_an_argument_in_the_path_is_percent_encoded() -> None:
    assert url_of(ORDER, order_id="A 17/b?x#y&z%ü") == (
        "https://api.example.com/orders/A%2017%2Fb%3Fx%23y%26z%25%C3%BC/lines"
    )


@pytest.mark.parametrize(
    "value",
    [
        "..",
        ".",
        "../..",
        "..\\..",
        "%2e%2e",
        "%252e%252e%252fadmin",
        "x/../../admin",
        "a\r\nHost: evil",
        "\x00",
        "",
        "\ud800",
    ],
)
def test_a_value_that_changes_the_path_is_refused(value: str) -> None:
    with pytest.raises(ToolError):
        url_of(ORDER, order_id=value)


def test_two_values_that_form_dot_dot_are_refused() -> None:
    with pytest.raises(ToolError):
        url_of(HttpTool(url="https://api.example.com/files/{a}{b}/x"), a=".", b=".")


@given(st.dictionaries(st.sampled_from(["order_id", "other"]), st.text()))
def test_no_argument_leaves_the_host_or_the_folder(arguments: dict[str, str]) -> None:
    try:
        request = request_of(ORDER, arguments, {})
    except ToolError:
        return
    assert request.url.host == "api.example.com"
    assert request.url.raw_path.startswith("/orders/")
    assert request.url.raw_path.count("/") == 3
    assert str(request.url).isascii()
    assert " " not in str(request.url)


def test_unmapped_arguments_go_into_the_query_of_a_get() -> None:
    assert url_of(ORDER, order_id=7, page=2, open=True, tag=["a b", "c&d"], none=None) == (
        "https://api.example.com/orders/7/lines?page=2&open=true&tag=a%20b&tag=c%26d"
    )


def test_unmapped_arguments_go_into_the_body_of_a_post() -> None:
    request = request_of(
        HttpTool(url="https://api.example.com/{a}", method="POST"), {"a": "x", "people": 4, "names": ["J"]}, {}
    )
    assert json.loads(request.body or b"") == {"people": 4, "names": ["J"]}
    assert request.url.path == "/x"


def test_mapped_query_and_body_omit_missing_arguments() -> None:
    spec = HttpTool(
        url="https://api.example.com/bookings",
        method="POST",
        query={"source": "phone", "on": "{day}T00:00", "note": "{note}"},
        body={
            "party": {"size": "{people}", "name": "Mx {name}"},
            "note": "{note}",
            "by": "{{caller}}",
            "list": ["{day}"],
        },
    )
    request = request_of(
        spec, {"day": "2026-05-01", "people": 4, "name": "Lee", "extra": "dropped"}, {"caller": "+4912"}
    )
    assert request.url.query_string == "source=phone&on=2026-05-01T00:00"
    assert json.loads(request.body or b"") == {
        "party": {"size": 4, "name": "Mx Lee"},
        "by": "+4912",
        "list": ["2026-05-01"],
    }
    assert arguments_named(spec) == ["day", "note", "people", "name"]


def test_variables_are_encoded_and_add_no_header() -> None:
    spec = HttpTool(url="https://api.example.com/{{tenant}}/x", headers={"X-Caller": "{{caller}}"})
    request = request_of(spec, {}, {"tenant": "a/b", "caller": "+49"})
    assert request.url.raw_path == "/a%2Fb/x"
    assert request.headers == {"X-Caller": "+49"}
    with pytest.raises(ToolError):
        request_of(spec, {}, {"tenant": "a", "caller": "x\r\nX-Admin: 1"})
    with pytest.raises(ToolError):
        request_of(spec, {}, {"tenant": "..", "caller": "x"})


def test_a_value_is_never_expanded_a_second_time() -> None:
    assert url_of(ORDER, order_id="{{caller}}") == "https://api.example.com/orders/%7B%7Bcaller%7D%7D/lines"


def test_an_address_without_end_is_refused() -> None:
    with pytest.raises(ToolError, match="too long"):
        url_of(ORDER, order_id="9" * 10_000)


@pytest.mark.parametrize(
    ("path", "found"),
    [("order", {"items": [{"name": "tea"}, 2]}), ("order.items[0].name", "tea"), ("order.items[1]", 2), ("a-b", None)],
)
def test_a_part_of_the_answer_is_selected(path: str, found: Any) -> None:
    assert select({"order": {"items": [{"name": "tea"}, 2]}, "a-b": None}, path) == found


def test_a_list_at_the_top_is_selected_from() -> None:
    assert select([[1, 2], [3]], "[0][1]") == 2


@pytest.mark.parametrize("path", ["other", "order.items[2]", "order[0]", "order.items.name"])
def test_a_missing_part_is_an_error(path: str) -> None:
    with pytest.raises(LookupError):
        select({"order": {"items": [1, 2]}}, path)
