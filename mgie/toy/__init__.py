"""The world that the project makes itself, its judge, and the small base that learnt from it."""
