"""Webhooks to the operator's own systems: what happened with a call, signed, delivered at least once."""
