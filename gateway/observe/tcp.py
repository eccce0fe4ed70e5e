"""Measurements of a TCP connection out of the kernel."""

from __future__ import annotations

import socket
import struct
from typing import Any

__all__ = ["round_trip_s"]

_RTT_AT = 68  # tcpi_rtt in Linux's struct tcp_info, microseconds
_TCP_INFO = getattr(socket, "TCP_INFO", None)  # Linux only


def round_trip_s(sock: Any) -> float | None:
    """The smoothed round trip of a TCP connection to its next hop, in seconds; None where it cannot be read.

    `sock`: a transport's `get_extra_info("socket")`. One system call, about a microsecond.
    """
    if sock is None or _TCP_INFO is None:
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _RTT_AT + 4)
    except (OSError, ValueError):  # no TCP, or closed: uvloop then has no descriptor to ask
        return None
    if len(info) < _RTT_AT + 4:
        return None
    (rtt_us,) = struct.unpack_from("=I", info, _RTT_AT)
    return rtt_us / 1e6 if rtt_us else None
