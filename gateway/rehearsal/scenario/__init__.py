"""Scenarios: YAML, its schema, expectations."""
