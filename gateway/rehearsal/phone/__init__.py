"""The simulated carrier, its account and its callers."""
