"""Judges: models that look at pictures and answer by a rubric, and how far to believe them."""
