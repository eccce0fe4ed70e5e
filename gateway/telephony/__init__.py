"""The calls of the process, in no carrier's words."""
