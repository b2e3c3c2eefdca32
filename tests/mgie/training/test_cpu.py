"""Training on a CPU: memory is kept, tiny numbers are zero, and what will be slow is said."""

import platform
import subprocess
import sys

import pytest

from mgie.training import cpu
from mgie.training.cpu import cpu_ways, has_bfloat16, keep_memory

FREED = """
import os, resource, torch
from mgie.training.cpu import keep_memory

def step():
    given = [torch.ones(10**6) for _ in range(40)]  # 160 MB

for keep in (False, True):
    if os.fork() == 0:
        assert not keep or keep_memory()
        step()  # the first one's pages are all new
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(5):
            step()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, flush=True)
        os._exit(0)
    os.wait()
"""
"""Pages that the system has to clear and map again in five steps, before glibc has learnt by itself."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_is_freed_is_kept_for_the_next_step():
    """Measured: 79074 pages, and 4884."""
    words = [sys.executable, "-c", FREED]
    told = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    plain, kept = map(int, told.split())
    assert 4 * kept < plain


TINY = """
import torch
from pathlib import Path
from mgie.training.world import World

def left():
    return torch.full((10**6,), 1e-38).mul(0.1).count_nonzero().item()

for threads in (1, 2):
    with World(Path("run"), threads=threads):
        print(left(), end=" ")
    print((torch.tensor(1e-38) * 0.1).item() > 0)
"""


def test_while_training_tiny_numbers_are_zero():
    """Also in the threads that compute, and no longer than that."""
    words = [sys.executable, "-c", TINY]
    told = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert told.split() == ["0", "True", "0", "True"]


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_memory() and not list(cpu_ways(bf16=False))


def test_a_slow_type_is_told(monkeypatch):
    monkeypatch.setattr(cpu, "keep_memory", lambda: False)
    monkeypatch.setattr(cpu, "has_bfloat16", lambda: False)
    (told,) = cpu_ways(bf16=True)
    assert "train.precision=bf16 will be slower here than fp32" in told and not list(cpu_ways(bf16=False))
    monkeypatch.undo()
    assert isinstance(has_bfloat16(), bool)
