"""Telephone carriers: each folder translates one carrier's words; it never decides.

A carrier implements `Carrier` and reports to the `Switchboard` (`offhook.gateway.telephony`); its media socket feeds a
call, the `LineSink`, and gives it a `Line` (`offhook.gateway.call.line`). `stream_line` is the line of every carrier
whose media socket speaks JSON.
"""

from __future__ import annotations

from offhook.gateway.telephony.carrier import Carrier, CarrierBusy, Feature, Hold, Keys, Kind, NextStep

__all__ = ["Carrier", "CarrierBusy", "Feature", "Hold", "Keys", "Kind", "NextStep"]
