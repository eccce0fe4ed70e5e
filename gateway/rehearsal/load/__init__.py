"""Capacity: `offhook load` finds how many calls a gateway carries."""
