"""The size of a JPEG picture, read from its header alone (ITU-T T.81, annex B)."""

from __future__ import annotations

__all__ = ["jpeg_size"]

_START = b"\xff\xd8\xff"
_SCAN, _END = 0xDA, 0xD9
_ALONE = frozenset((0x01, *range(0xD0, 0xD8)))  # markers without a segment
_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # of those, these are tables


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) in pixels, both above 0; None where `data` is not a JPEG picture, or has no frame header before
    its first scan. What follows the header is not looked at.
    """
    if not data.startswith(_START):
        return None
    at, size = 2, len(data)
    while at + 1 < size and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill
            at += 1
        elif marker in _ALONE:
            at += 2
        elif marker in (_SCAN, _END):
            return None
        elif marker in _FRAME:
            height, width = int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
            return (width, height) if at + 9 <= size and width and height else None
        else:
            length = int.from_bytes(data[at + 2 : at + 4], "big")
            if length < 2:
                return None
            at += 2 + length
    return None
