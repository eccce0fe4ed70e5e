"""The calls of the process, in terms that hold for every carrier."""

from __future__ import annotations

__all__: list[str] = []
