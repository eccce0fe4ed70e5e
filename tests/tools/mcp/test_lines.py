"""Lines of a bounded length out of a stream of bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

if TYPE_CHECKING:
    from offhook.gateway.tools.mcp.transport import Lines


@pytest.fixture(scope="module")
def bounded() -> type[Lines]:
    """With the `mcp` package beside it: a second, for the worker that runs this file."""
    from offhook.gateway.tools.mcp.transport import Lines

    return Lines


@given(lines=st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=8), data=st.data())
def test_lines_are_the_same_for_any_chunks(bounded: type[Lines], lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines) + b"unfinished"
    split, found = bounded(10), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += split.push(stream[:size])
        stream = stream[size:]
    assert found == [(line[:10], len(line) > 10) for line in lines]
