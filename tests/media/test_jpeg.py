"""The size of a picture, from its header."""

from __future__ import annotations

import pytest

from offhook.media.jpeg import jpeg_size
from tests.rig.pictures import JFIF, jpeg_of

THUMBNAIL = b"\xff\xe1" + (2 + 400).to_bytes(2, "big") + jpeg_of(160, 120).ljust(400, b"\0")


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (jpeg_of(768, 432), (768, 432)),
        (jpeg_of(768, 432, frame=0xC2), (768, 432)),  # progressive
        (jpeg_of(768, 432, head=JFIF + THUMBNAIL), (768, 432)),  # not the one within
        (jpeg_of(640, 480, head=b"\xff\xff\xff\xc4\x00\x04\0\0"), (640, 480)),  # fill, and a table before the frame
        (jpeg_of(0, 480), None),
        (jpeg_of(640, 480)[:20], None),
        (jpeg_of(640, 480, head=b"\xff\xe0\x00\x01"), None),  # a length below its own two bytes
        (jpeg_of(640, 480, frame=0xDA), None),  # a scan without a frame
        (b"\x89PNG\r\n\x1a\n" + jpeg_of(640, 480), None),
        (b"", None),
    ],
)
def test_size_is_that_of_the_frame(data: bytes, size: tuple[int, int] | None) -> None:
    assert jpeg_size(data) == size
