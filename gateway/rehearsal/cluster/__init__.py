"""Faults of a fleet: `offhook faults --cluster`. Real processes, and checks that read only what they leave behind."""
