"""Schedules: which process moves to its next sync point, and who is killed where. One strategy per file."""
