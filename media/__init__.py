"""Telephone audio: exact, instant, and knowing nothing of calls. Stdlib and numpy."""
