"""Lines of a bounded length out of a stream of bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from offhook.gateway.tools.mcp.transport import Lines


@given(st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=8), st.data())
def test_lines_are_the_same_for_any_chunks(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines) + b"unfinished"
    split, found = Lines(10), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += split.push(stream[:size])
        stream = stream[size:]
    assert found == [(line[:10], len(line) > 10) for line in lines]
