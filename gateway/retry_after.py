"""`Retry-After` of an HTTP answer (RFC 9110, 10.2.3): seconds, or a date. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

__all__ = ["retry_after_s"]


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds that an answer's sender wants no further request; 0 without the header or where it cannot be read.

    A date counts from the answer's own `Date`, so that neither clock has to be right. Not bounded: the caller knows
    how long it can wait.
    """
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]*)?", value):
        return float(value)
    try:
        until, now = parsedate_to_datetime(value), parsedate_to_datetime(headers.get("Date", ""))
        wait_s = (until - now).total_seconds()
    except (ValueError, TypeError, OverflowError):  # no date; one without a zone beside one with
        return 0.0
    return max(0.0, wait_s) if math.isfinite(wait_s) else 0.0
