"""The rehearsal model's side of a test: which script a session plays."""

from __future__ import annotations

from typing import Any

__all__ = ["id_after"]


def id_after(keyword: str, setup: dict[str, Any]) -> str:
    """The identifier in a session's instructions: "x" for `keyword` "plan" and the instructions "plan x."."""
    if not setup:  # refused before it
        return ""
    text: str = setup.get("instructions") or setup["systemInstruction"]["parts"][0]["text"]
    return text.partition(f"{keyword} ")[2].partition(".")[0]
