"""Work done a few items ahead, on threads. Decoding releases the interpreter: it is done side by side."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch_map(work: Callable[[Item], Result], items: Iterable[Item], *, workers: int) -> Iterator[Result]:
    """`map`, in order, on so many threads, reading only a few items ahead. With one worker: `map`."""
    if workers <= 1:
        yield from map(work, items)
        return
    pool, items = ThreadPoolExecutor(workers), iter(items)
    try:
        waiting = deque(pool.submit(work, item) for item in itertools.islice(items, 2 * workers))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(work, item) for item in itertools.islice(items, 1))
    finally:
        pool.shutdown(cancel_futures=True)
