"""`Retry-After`: seconds, or a date beside the answer's own."""

from __future__ import annotations

import pytest

from offhook.gateway.retry_after import retry_after_s

NOW = "Wed, 21 Oct 2026 07:28:00 GMT"


@pytest.mark.parametrize(
    ("value", "date", "wait_s"),
    [
        ("3", "", 3.0),
        (" 120 ", "", 120.0),
        ("1.5", "", 1.5),
        ("Wed, 21 Oct 2026 07:28:07 GMT", NOW, 7.0),
        ("Wednesday, 21-Oct-26 07:28:07 GMT", NOW, 7.0),  # RFC 850
        ("Wed Oct 21 07:28:07 2026", "Wed Oct 21 07:28:00 2026", 7.0),  # asctime
        ("Wed, 21 Oct 2026 07:27:00 GMT", NOW, 0.0),  # past
        ("Wed, 21 Oct 2026 07:28:07 GMT", "", 0.0),
        ("Wed, 21 Oct 2026 07:28:07 GMT", "now", 0.0),
        ("-3", "", 0.0),
        ("soon", NOW, 0.0),
        ("9" * 400, "", 0.0),
        ("\u0663", "", 0.0),
        ("", NOW, 0.0),
    ],
)
def test_seconds_and_dates_are_read(value: str, date: str, wait_s: float) -> None:
    assert retry_after_s({"Retry-After": value, "Date": date}) == wait_s
