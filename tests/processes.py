"""Commands as processes of their own, alone or to meet: forked from the tests', so that they need not read
all modules again."""

import os
import socket
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

from mgie.cli import main
from mgie.train import train  # noqa: F401  (before anything is forked)
from mgie.training.world import World

Do = list[str] | Callable[[], int]
"""Words of the command line, or a function."""

# Autograd looks for devices once, at its first backward pass; what is forked after it found one cannot go
# backward.
torch.ones(1, requires_grad=True).sum().backward()


class Started:
    """A command as a process in a group of its own, as a scheduler and torchrun start it; or a function that
    gives an exit code. On the CPU: what is forked cannot use its parent's GPU."""

    def __init__(self, do: Do, notes: Path, *, rank: int = 0, count: int = 1, port: int = 0):
        self.notes = notes.with_suffix(f".{rank}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # newer Pythons warn of threads that a fork leaves behind
            self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                tqdm.set_lock(threading.RLock())  # its own is shared: killed, the child would keep it
                os.setsid()
                warnings.simplefilter("ignore")  # as outside of tests
                os.environ["CUDA_VISIBLE_DEVICES"] = ""
                sys.stdout = sys.stderr = self.notes.open("w", buffering=1)
                if count > 1:
                    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
                    os.environ |= {name: str(value) for name, value in ranks.items()}
                    os.environ["MASTER_ADDR"] = "127.0.0.1"
                code = do() if callable(do) else main(do)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)  # never back into the tests

    @property
    def said(self) -> str:
        return self.notes.read_text() if self.notes.exists() else ""

    @property
    def children(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def kill_group(self, number: int) -> None:
        os.killpg(self.pid, number)

    def code(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def free_port() -> int:
    """Where processes of this machine can meet."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def together(do: Do, notes: Path, count: int = 2) -> list[Started]:
    """The same in several processes that meet."""
    port = free_port()
    return [Started(do, notes, rank=rank, count=count, port=port) for rank in range(count)]


def in_processes(count: int, do: Callable[[World], None], folder: Path) -> None:
    """Do it in so many that have met, and leave together; what they leave for a test is in `folder`."""

    def one() -> int:
        with World(folder, threads=1) as world:
            do(world)
        return 0

    runs = together(one, folder / "said", count)
    assert [run.code() for run in runs] == [0] * count, "\n".join(run.said for run in runs)
