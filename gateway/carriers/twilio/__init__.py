"""Twilio Programmable Voice with Media Streams."""

from __future__ import annotations

__all__: list[str] = []
