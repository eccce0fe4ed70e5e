"""What commands have in common: how their coroutines run, and what a missing extra is answered with."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from offhook.gateway.errors import OperatorError

__all__ = ["rehearsal", "run"]

T = TypeVar("T")


@contextlib.contextmanager
def rehearsal() -> Iterator[None]:
    """Translate a missing optional dependency of the rehearsal into an `OperatorError`."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise OperatorError(f"rehearsals need {error.name}: pip install 'offhook[rehearsal]'") from None


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine, on uvloop where it is installed."""
    gc.freeze()
    gc.enable()
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)
