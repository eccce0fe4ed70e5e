"""A tool for test_secrets_served: it gives away all it knows, in every way a tool can."""

from __future__ import annotations

import logging
import os
from typing import Any

from offhook import ToolContext, ToolError

log = logging.getLogger(__name__)


def leak(what: str, context: ToolContext) -> Any:
    """Give away all there is."""
    key = os.environ["SHOP_API_KEY"]
    log.debug("the shop was asked with %s and %r", what, {"key": key})
    context.remember("key", key)
    if what == "raise":
        raise RuntimeError(f"401 for key {key}")
    if what == "tell":
        raise ToolError(f"The shop refused {key}.", f"GET https://shop.example/?key={key}: 401")
    return {"asked": what, key: key, "rows": [f"{key} {'x' * 1000}"] * 100}
