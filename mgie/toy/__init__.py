"""The world the project makes itself, its judge, and the small base learnt from it."""
