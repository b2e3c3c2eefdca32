"""The worker: places, limits, cancelling; one request never harms another."""

import threading
import time

import pytest

from mgie.errors import DataError, DeviceError
from mgie.web.worker import CANCELLED, OURS, Ticket, Worker, sentence


@pytest.fixture
def worker():
    made = Worker(waiting=2, seconds=5.0)
    yield made
    made.close()


def wait(ticket: Ticket, seconds: float = 10):
    until = time.monotonic() + seconds
    while not ticket.look().done:
        assert time.monotonic() < until, "it never ended"
        time.sleep(0.005)
    return ticket.told


class Held:
    """Work that goes on until it is let go, or its ticket ends it."""

    def __init__(self):
        self.begun, self.let_go = threading.Event(), threading.Event()

    def __call__(self, ticket: Ticket) -> str:
        self.begun.set()
        while not self.let_go.wait(0.005):
            ticket.check()
        return "done"


def test_a_request_is_done_and_tells_its_result(worker):
    told = wait(worker.submit("a", lambda ticket: ticket.owner * 3))
    assert (told.result, told.error, told.stage) == ("aaa", None, "done")


def test_more_than_may_wait_are_told_to_come_again(worker):
    held = Held()
    first = worker.submit("a", held)
    assert held.begun.wait(5)
    second, third = (worker.submit("b", lambda _: 1) for _ in range(2))
    assert [each.told.ahead for each in (second, third)] == [1, 2]
    with pytest.raises(DeviceError, match="2 edits are waiting already"):
        worker.submit("c", lambda _: 1)
    held.let_go.set()
    assert [wait(each).result for each in (first, second, third)] == ["done", 1, 1]
    assert wait(worker.submit("c", lambda _: 2)).result == 2


def test_who_cancels_ends_what_runs_and_frees_what_waits(worker):
    held = Held()
    running = worker.submit("a", held)
    assert held.begun.wait(5)
    waiting, other = worker.submit("a", Held()), worker.submit("b", lambda _: "other")
    assert worker.cancel("a") == 2
    assert wait(running).error == wait(waiting).error == CANCELLED
    assert wait(other).result == "other"


def test_what_takes_too_long_is_ended_with_a_sentence():
    worker = Worker(waiting=2, seconds=0.05)
    told = wait(worker.submit("a", Held()))
    assert told.error is not None and "took longer than 0.05 seconds" in told.error
    assert wait(worker.submit("a", lambda _: 1)).result == 1
    worker.close()


def test_nobody_waits_for_who_does_not_look(worker, monkeypatch):
    monkeypatch.setattr("mgie.web.worker.GONE", 0.05)
    ticket = worker.submit("a", Held())
    time.sleep(0.3)
    assert ticket.told.error == CANCELLED


def test_an_error_of_ours_shows_nothing_of_our_insides(worker, capsys):
    def wrong(_: Ticket):
        raise RuntimeError("in /home/somebody/secret.py")

    assert wait(worker.submit("a", wrong)).error == OURS
    assert "/home/somebody/secret.py" in capsys.readouterr().err  # for whoever runs the page
    assert wait(worker.submit("a", lambda _: 1)).result == 1


def test_an_error_of_the_users_is_told():
    assert (
        sentence(DataError("the picture is broken:\n  save it anew."))
        == "the picture is broken: save it anew."
    )
    assert sentence(OSError(2, "gone", "/etc/secret")) == OURS
    assert "memory" in sentence(MemoryError())


def test_closing_ends_everything():
    worker, held = Worker(waiting=3, seconds=60.0), Held()
    tickets = [worker.submit("a", held), worker.submit("b", Held())]
    worker.close()
    assert [each.told.error for each in tickets] == [CANCELLED] * 2
    with pytest.raises(DeviceError, match="closed"):
        worker.submit("a", held)
