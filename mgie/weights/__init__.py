"""Weights on disk: checkpoints of runs, releases, and the layouts others publish."""
