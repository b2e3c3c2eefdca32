"""What people choose on a blind page, and how far they agree."""
