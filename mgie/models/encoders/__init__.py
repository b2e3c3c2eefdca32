"""Instruction encoders: what the user wants, as a condition. `base.py` is the door."""
