"""A gateway made slower: Python imports this at its start when this folder is on its path.

Every call of the process sends the agent's audio 30 ms late.
"""

from __future__ import annotations

import sys

if "serve" in sys.orig_argv:
    from offhook.gateway.cli.planted.mutations import SLOWER
    from offhook.gateway.cli.planted.seams import planted

    there = planted([SLOWER])
    there.__enter__()  # for as long as the process runs
