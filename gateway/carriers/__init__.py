"""Telephone carriers: each folder translates one carrier's words; it never decides.

There is one carrier, Twilio, and so no `Protocol` yet: the second one will show what is common. What a
carrier gives the call: `messages.parse`, `messages.Outbound` and the mark names for the media socket, `twiml`
to answer webhooks with, `signature` and `tokens` to know who is asking, `rest` to steer a live call.
"""

from __future__ import annotations

__all__: list[str] = []
