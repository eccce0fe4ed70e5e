"""JPEG pictures of a size, whose contents nobody looks at."""

from __future__ import annotations

__all__ = ["JFIF", "jpeg_of"]

JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x02\x00\x00\x01\x00\x01\x00\x00"


def jpeg_of(width: int, height: int, *, head: bytes = JFIF, size_bytes: int = 0, frame: int = 0xC0) -> bytes:
    """`head`: segments before the frame header; `frame`: its marker; `size_bytes`: how long it is at least."""
    sides = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    start = b"\xff\xd8" + head + bytes((0xFF, frame)) + b"\x00\x0b\x08" + sides + b"\x01\x01\x11\x00"
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
    return start + scan + b"\x55" * max(20, size_bytes - len(start) - len(scan) - 2) + b"\xff\xd9"
