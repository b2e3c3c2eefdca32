"""The four ways a request can fail, and one sentence for each error."""

import errno
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from llava_patch.errors import ConfigError, DataError, DeviceError, UserError, WeightsError

__all__ = ["ConfigError", "DataError", "DeviceError", "UserError", "WeightsError"]

FULL_DISK = ("No space left on device", "] . unexpected pos", "PytorchStreamWriter failed writing file")
"""How libraries in native code, safetensors and torch.save, report a full disk: in words only."""

REASONS = {
    errno.ENOSPC: "the disk is full; make room and run the same command again.",
    errno.EDQUOT: "the disk quota is used up; make room and run the same command again.",
    errno.EACCES: "no permission; choose another place or change its permissions.",
    errno.EPERM: "no permission; choose another place or change its permissions.",
    errno.EROFS: "the disk is read-only; choose another place.",
    errno.ENOENT: "there is no such file or folder; check the path.",
    errno.ENOTDIR: "a file stands where a folder is needed; check the path.",
    errno.EISDIR: "this is a folder where a file is needed; name a file.",
    errno.EEXIST: "this exists already; choose another name.",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one.",
}
"""What the system refuses, as the end of a sentence."""


def explain(error: Exception) -> str | None:
    """One sentence for an error that the user can mend; None for one that is ours."""
    full = any(words in str(error) for words in FULL_DISK)
    code = errno.ENOSPC if full else getattr(error, "errno", None)
    if code in REASONS and not isinstance(error, UserError):
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        return where + REASONS[code]
    # Others of the system's, and what the libraries say of a hub id or a file that is not to be had.
    known = isinstance(error, (UserError, OSError))
    return " ".join(str(error).split()) or type(error).__name__ if known else None


def mended(message: str, prefix: str = "") -> str:
    """A parser's message about a value as the beginning of a sentence: what came, and what was expected."""
    key = re.search(r'Parser key "([\w.]+)":', message)
    if key and (wrong := re.search(r"Problem with given class_path.*?\n(.*)", message, re.DOTALL)):
        # An option of a record: what is said of it is said inside.
        if unknown := re.search(r"Option '([\w.]+)' is not accepted", wrong[1]):
            return f"there is no {prefix}{key[1]}.{unknown[1]}: expected one of those that --help lists"
        message = wrong[1].replace('Parser key "', f'Parser key "{key[1]}.', 1)
        key = re.search(r'Parser key "([\w.]+)":', message)
    given = re.search(r"(?:Given|Got) value: (.*)", message)
    if key and given and "Expected a dot import path" in message:
        return f"{prefix}{key[1]} is {given[1]}: expected its options one by one, as --help lists them"
    kinds = re.findall(r"Expected an? (?:typing\.)?(?:<class '(\w+)'>|(\w+\[.*?\])|(\w+))", message)
    kinds = [
        _in_words(kind) for kind in dict.fromkeys("".join(names) for names in kinds) if kind != "NoneType"
    ]
    if key and given and kinds:
        return f"{prefix}{key[1]} is {given[1].rstrip('.')[:100]}: expected {' or '.join(kinds)}"
    message = " ".join(message.split()).rstrip(".")
    if foreign := re.search(r"unrecognized arguments: ([^-].*)", message):
        return f"there is no place for {foreign[1]!r}: expected options such as --optim.lr 1e-3"
    return message.replace("the following arguments are required: ", "something is missing: ")[:400]


def _in_words(kind: str) -> str:
    """A type of Python as people say it."""
    name, _, inside = kind.partition("[")
    if name == "Literal":
        return " or ".join(re.findall(r"'([^']*)'", inside))
    several = "a list such as [a, b]"
    return {
        "int": "a whole number", "float": "a number", "bool": "true or false", "str": "words",
        "tuple": several, "list": several, "dict": "names and values such as {a: 1}",
    }.get(name.lower(), kind)  # fmt: skip


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
