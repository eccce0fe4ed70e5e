"""Whole frames out of any chunks; silence only at the end."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offhook.media.framing import Framer


@given(st.lists(st.binary(max_size=700)), st.integers(1, 200))
@settings(deadline=None)
def test_any_chunks_become_whole_frames_in_order(chunks: list[bytes], frame_bytes: int) -> None:
    framer = Framer(frame_bytes)
    pushed = [framer.push(chunk) for chunk in chunks]
    assert all(len(frames) % frame_bytes == 0 for frames in pushed)
    assert framer.pending_bytes < frame_bytes
    whole, end = b"".join(pushed), framer.flush()
    everything = b"".join(chunks)
    assert whole == everything[: len(whole)]
    assert len(everything) - len(whole) < frame_bytes
    rest = everything[len(whole) :]
    assert end == (rest + b"\xff" * (frame_bytes - len(rest)) if rest else b"")


def test_a_flushed_framer_starts_clean() -> None:
    framer = Framer()
    assert framer.push(b"a" * 100) == b""
    assert framer.flush() == b"a" * 100 + b"\xff" * 60
    assert framer.flush() == b""
    assert framer.push(b"b" * 160) == b"b" * 160


def test_a_frame_has_bytes() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Framer(0)
