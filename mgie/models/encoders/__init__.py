"""Instruction encoders: what the user wants, as a condition for the denoiser. `base.py` is the door."""
