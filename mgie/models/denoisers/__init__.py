"""Denoisers: what paints the edit. `base.py` is the door."""
