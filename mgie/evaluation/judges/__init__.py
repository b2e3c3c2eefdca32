"""Judges: models that look at pictures and answer by a rubric, and what may be believed of them."""
