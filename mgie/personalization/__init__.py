"""One's own subjects, learnt from a few photos each, and put into one picture (MuDI)."""
