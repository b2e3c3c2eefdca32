"""One worker with a bounded queue: requests have a place, a time limit, and an end."""

import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from mgie.errors import ConfigError, DataError, DeviceError

GONE = 60.0
"""Seconds after which nobody waits any more who has not asked how it goes."""
PATIENCE = 5.0
"""Seconds that closing waits for what is at work; its thread does not outlive the program."""
OURS = "something went wrong here and was noted where the page runs: try again, or try other settings."
"""What a page says of an error that its user cannot mend; the rest is for whoever runs it."""
CANCELLED = "cancelled."
MEMORY = "there was not enough memory for this: choose a smaller size, or fewer steps and pictures."


class Stopped(Exception):
    """Raised within the work of a request that nobody waits for any more."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """How far a request is."""

    stage: str = "waiting"
    """waiting, looking, painting or done."""
    ahead: int = 0
    """Requests that come before this one."""
    said: str | None = None
    """What the model said of the edit; None until then."""
    forced: bool = False
    number: int = 0
    """Which of the pictures is painted, from 0."""
    count: int = 1
    """Pictures of this request."""
    step: int = 0
    steps: int = 0
    preview: bytes | None = field(default=None, repr=False)
    """A small picture of what is there already, as a file."""
    result: Any = None
    error: str | None = None
    """Why there is no result, as a sentence."""

    @property
    def done(self) -> bool:
        """Whether nothing more will be told."""
        return self.stage == "done"


class Ticket:
    """A request from its asking to its end. What is `told` is replaced as a whole, so any thread may read."""

    def __init__(self, owner: str, work: Callable[["Ticket"], Any], *, seconds: float):
        """`work` is done once, within so many seconds, for whoever `owner` is."""
        self.owner, self.work, self.seconds = owner, work, seconds
        self.told = Told()
        self._seen, self._until, self._cancelled = time.monotonic(), float("inf"), False

    def tell(self, **changes: Any) -> None:
        """Say how far it is."""
        self.told = replace(self.told, **changes)

    def look(self) -> Told:
        """How far it is, for somebody who waits."""
        self._seen = time.monotonic()
        return self.told

    def cancel(self) -> None:
        """Nobody wants it any more."""
        self._cancelled = True

    @property
    def unwanted(self) -> bool:
        """Whether nobody waits."""
        return self._cancelled or time.monotonic() - self._seen > GONE

    def begin(self) -> None:
        """From here on the seconds count."""
        self._until = time.monotonic() + self.seconds
        self.tell(stage="looking", ahead=0)

    def check(self) -> None:
        """End the work where nobody waits, or its time is over. Raises Stopped and DeviceError."""
        if self.unwanted:
            raise Stopped
        if time.monotonic() > self._until:
            raise DeviceError(
                f"the edit took longer than {self.seconds:g} seconds, which is all that one request gets "
                "here: take fewer steps, fewer pictures or a smaller size."
            )

    def end(self, result: Any = None, error: str | None = None) -> None:
        """Nothing more happens."""
        self.tell(stage="done", result=result, error=error, preview=None)


class Worker:
    """Does requests one after the other, in a thread of its own."""

    def __init__(self, *, waiting: int, seconds: float):
        """At most so many wait; each has so many seconds once it has begun."""
        self.waiting, self.seconds = waiting, seconds
        self._queue: deque[Ticket] = deque()
        self._now: Ticket | None = None
        self._changed = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._run, name="mgie-web-worker", daemon=True)
        self._thread.start()

    def submit(self, owner: str, work: Callable[[Ticket], Any]) -> Ticket:
        """A place in the queue. Raises DeviceError where there is none."""
        ticket = Ticket(owner, work, seconds=self.seconds)
        with self._changed:
            self._sweep()
            if not self._open:
                raise DeviceError("the page is being closed: start it again.")
            if len(self._queue) >= self.waiting:
                raise DeviceError(
                    f"{len(self._queue)} edits are waiting already, as many as this page takes: try again in "
                    "a minute."
                )
            self._queue.append(ticket)
            self._number()
            self._changed.notify()
        return ticket

    def cancel(self, owner: str) -> int:
        """Cancel all requests of an owner; how many there were."""
        with self._changed:
            own = [each for each in (self._now, *self._queue) if each is not None and each.owner == owner]
            for ticket in own:
                ticket.cancel()
            self._sweep()
        return len(own)

    def close(self) -> None:
        """Cancel everything, and wait for the thread; not for a step that takes longer than PATIENCE."""
        with self._changed:
            self._open = False
            for ticket in (self._now, *self._queue):
                if ticket is not None:
                    ticket.cancel()
            self._sweep()
            self._changed.notify()
        self._thread.join(PATIENCE)

    def _sweep(self) -> None:
        """Free the places that nobody waits in."""
        for ticket in [each for each in self._queue if each.unwanted]:
            self._queue.remove(ticket)
            ticket.end(error=CANCELLED)
        self._number()

    def _number(self) -> None:
        for place, ticket in enumerate(self._queue):
            ticket.tell(ahead=place + (self._now is not None))

    def _run(self) -> None:
        while True:
            with self._changed:
                self._now = None
                self._changed.wait_for(lambda: self._queue or not self._open)
                if not self._open:
                    return
                self._now = ticket = self._queue.popleft()
                self._sweep()
            try:
                ticket.begin()
                ticket.check()
                ticket.end(result=ticket.work(ticket))
            except Stopped:
                ticket.end(error=CANCELLED)
            except Exception as error:  # one request never ends the others'
                ticket.end(error=sentence(error))


def sentence(error: BaseException) -> str:
    """What the user of a page is told of an error: no path, and nothing of our insides. What is ours is noted
    on the terminal."""
    if isinstance(error, ConfigError | DataError | DeviceError):
        return " ".join(str(error).split())
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return MEMORY
    traceback.print_exception(error, file=sys.stderr)
    return OURS
