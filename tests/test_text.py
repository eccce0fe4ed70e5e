"""Text of peers, made safe to show."""

from __future__ import annotations

import pytest

from offhook.gateway.text import safe_name, visible, visible_in


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Grüße, 東京 👩‍🚀", "Grüße, 東京 👩‍🚀"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\r\nb\tc\x00\x7f\x9b", "a\\r\\nb\\tc\\x00\\x7f\\x9b"),
        ("a\u2028b\u202ec\ud800", "a\\u2028b\\u202ec\\ud800"),
    ],
)
def test_control_characters_are_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_lines_may_stay() -> None:
    assert visible("a\n\tb\r\x1b", lines=True) == "a\n\tb\\r\\x1b"
    assert visible_in({"a\n": ["\x1b", 1, None]}) == {"a\\n": ["\\x1b", 1, None]}


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/etc/x", "a/b", "a\\b", "c:x", "a\nb", ".hidden", "x" * 101])
def test_a_path_is_no_name(name: str) -> None:
    assert not safe_name(name)
    assert safe_name("change of mind.2")
