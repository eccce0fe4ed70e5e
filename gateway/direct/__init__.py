"""Direct sessions: a page of the console talks to the model itself; the gateway issues its token and runs its tools.

There is no call: no barge-in of ours, no recording, no segments. What the gateway sees is in the session's record.
"""

from offhook.gateway.direct.routes import DirectSessions

__all__ = ["DirectSessions"]
