"""The metrics of several workers as one page: every series gets the label `worker`, and Prometheus adds them up."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable

__all__ = ["joined"]

LABEL = "worker"
FAMILY = re.compile(rb"^# HELP ", re.MULTILINE)
HEADER = re.compile(rb"(?:#[^\n]*\n)*")
SERIES = re.compile(rb"^([A-Za-z_:][\w:]*)(?:\{|(?= ))", re.MULTILINE)
END = b"# EOF\n"


async def joined(pages: Iterable[tuple[str, bytes]]) -> bytes:
    """One page of these workers' pages, in the text format or OpenMetrics; each family once, with the series of all.

    The event loop is yielded to after every family.
    """
    headers: dict[bytes, bytes] = {}
    series: dict[bytes, list[bytes]] = {}
    ends = b""
    for worker, page in pages:
        if page.endswith(END):
            page, ends = page.removesuffix(END), END
        label = f'{LABEL}="{worker}"'.encode()
        for family in FAMILY.split(page)[1:]:
            text = b"# HELP " + family
            header = HEADER.match(text)
            assert header is not None
            name = family.partition(b" ")[0]
            headers.setdefault(name, header[0])
            series.setdefault(name, []).append(_labelled(text[header.end() :], label))
            await asyncio.sleep(0)
    return b"".join(part for name, header in headers.items() for part in (header, *series[name])) + ends


def _labelled(lines: bytes, label: bytes) -> bytes:
    def add(found: re.Match[bytes]) -> bytes:
        more = b"," if found[0].endswith(b"{") else b"}"
        return found[1] + b"{" + label + more

    return SERIES.sub(add, lines)
