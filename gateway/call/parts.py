"""The parts of one call, for those of them that deal with all the others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from offhook.gateway.call.hearing import Hearing
from offhook.gateway.call.model_side import ModelSide
from offhook.gateway.call.recorder import Recorder
from offhook.gateway.call.speaking import Speaking
from offhook.gateway.call.tools import CallTools

__all__ = ["Parts", "release"]


class Parts(NamedTuple):
    """One call's. `recorder`: None for a call that is not recorded."""

    speaking: Speaking
    hearing: Hearing
    tools: CallTools
    model: ModelSide
    recorder: Recorder | None


def release(whole: object, parts: Iterable[object], *, kept: Iterable[str]) -> None:
    """Part the whole from its parts, which hold each other, so that all of them are freed here, and not by a
    collection, which stops all calls for longer the more of them there are. `kept`: attributes that remain readable.
    """
    for part in parts:
        vars(part).clear()
    values = {name: vars(whole)[name] for name in kept}
    vars(whole).clear()
    vars(whole).update(values)
