"""The four ways a user's request can fail: one family for both packages."""

import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from llava_patch.errors import ConfigError, DataError, DeviceError, UserError, WeightsError

__all__ = ["ConfigError", "DataError", "DeviceError", "UserError", "WeightsError"]


def mended(message: str, prefix: str = "") -> str:
    """A parser's message about a value as the beginning of a sentence: what came, and what was expected."""
    key = re.search(r'Parser key "([\w.]+)":', message)
    given = re.search(r"(?:Given|Got) value: (.*)", message)
    kinds = re.findall(r"Expected an? (?:typing\.)?(?:<class '(\w+)'>|(\w+\[.*?\])|(\w+))", message)
    kinds = [kind for kind in dict.fromkeys("".join(names) for names in kinds) if kind != "NoneType"]
    if key and given and kinds:
        return f"{prefix}{key[1]} is {given[1].rstrip('.')[:100]}: expected {' or '.join(kinds)}"
    message = " ".join(message.split()).rstrip(".")
    return message.replace("the following arguments are required: ", "something is missing: ")[:400]


@contextmanager
def one_kind_of_interrupt() -> Iterator[None]:
    """KeyboardInterrupt wherever Ctrl-C came: libraries in native code make other errors of it."""
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        signal.default_int_handler(number, frame)

    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ours = ours and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield
    except Exception as error:
        if came:
            raise KeyboardInterrupt from error
        raise
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
