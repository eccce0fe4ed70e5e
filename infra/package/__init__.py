"""Offhook: a telephony voice agent gateway. This file is `offhook/__init__.py`: what users of the package import.

The package has one import name, `offhook`, so that `gateway.py`, `media.py` or `metrics.py` beside an agent file
stay the user's own. The wheel holds `offhook/gateway`, `offhook/media` and `offhook/metrics`; in a checkout
`make setup` links the folders into `.venv/checkout/offhook`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from offhook.gateway import __version__

if TYPE_CHECKING:
    from offhook.gateway.tools import ToolContext, ToolError, tool

__all__ = ["ToolContext", "ToolError", "__version__", "tool"]


def __getattr__(name: str) -> Any:
    """Imported when asked for: `offhook.media` alone does not load the gateway."""
    if name in ("ToolContext", "ToolError", "tool"):
        from offhook.gateway import tools

        return getattr(tools, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
