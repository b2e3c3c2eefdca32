"""Benchmarks of what controls promise: regions, layouts, subjects, pictures in instructions."""
