"""What the files of a run's log are called; knowing it needs no library."""

LINES, HELD_OUT = "log.jsonl", "validation.jsonl"
"""Figures of its steps, and losses of held-out pairs."""
