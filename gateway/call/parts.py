"""The parts of one call, for those of them that deal with all the others."""

from __future__ import annotations

from typing import NamedTuple

from offhook.gateway.call.hearing import Hearing
from offhook.gateway.call.model_side import ModelSide
from offhook.gateway.call.recorder import Recorder
from offhook.gateway.call.speaking import Speaking
from offhook.gateway.call.tools import CallTools

__all__ = ["Parts"]


class Parts(NamedTuple):
    """One call's. `recorder`: None for a call that is not recorded."""

    speaking: Speaking
    hearing: Hearing
    tools: CallTools
    model: ModelSide
    recorder: Recorder | None
