"""How many calls: `offhook load`."""
