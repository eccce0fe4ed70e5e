"""Which clock a test's event loop keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from quick_clock import QuickLoop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The wall's clock, or the quick one for tests marked so."""
    if item.get_closest_marker("quick_clock"):
        return {"quick": QuickLoop}
    return {"wall": asyncio.new_event_loop}
