"""One line for who waits: what will happen is said at each start."""

import sys

from tqdm import tqdm


def say(sentence: str) -> None:
    """Print it beside the results, above open bars."""
    tqdm.write(f"mgie: {sentence}", file=sys.stderr)
