"""Planted faults: `offhook faults`."""
