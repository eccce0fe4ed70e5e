"""Which clock a test's event loop keeps: the quick one, unless the test is marked `wall_clock`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from quick_clock import QuickLoop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.get_closest_marker("wall_clock"):
        return {"wall": asyncio.new_event_loop}
    return {"quick": QuickLoop}
