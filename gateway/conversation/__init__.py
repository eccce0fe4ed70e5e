"""One call's conversation: what happened, what to do, and the table between them.

Pure: no asyncio, no sockets, no clock. Read `events`, `commands`, then the table in `machine`.
"""

__all__: list[str] = []
