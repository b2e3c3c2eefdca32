"""Published protocols: what they measure, how their data lie, and their rows of numbers."""
