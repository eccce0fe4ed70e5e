"""HTTP: limits, access, the console."""
