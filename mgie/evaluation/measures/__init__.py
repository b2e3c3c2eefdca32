"""One output and what it is held against become numbers: pixels, features, texts, means."""
