"""What makes training on a CPU faster, and what does not: memory, tiny numbers, bfloat16."""

import ctypes
import platform
from collections.abc import Iterator

import torch

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Names of glibc's mallopt(3)."""
LARGEST = 32 << 20
"""Bytes: glibc takes no larger threshold for memory of its own mapping (malloc.h, HEAP_MAX_SIZE / 2)."""


def cpu_ways(*, bf16: bool) -> Iterator[str]:
    """Keep memory from now on; sentences about what was done, and about what will be slow."""
    if keep_memory():
        yield "freed memory is kept for the next step (glibc's mallopt): this process may look large."
    if bf16 and not has_bfloat16():
        yield (
            "this CPU has no arithmetic in bfloat16 (neither AVX512-BF16 nor AMX): train.precision=bf16 will "
            "be slower here than fp32."
        )


def keep_memory() -> bool:
    """Tell glibc to keep what tensors free, which it would give back to the system after every one, to be
    cleared and mapped again. Whether it could be told; other C libraries are left alone."""
    if platform.libc_ver()[0] != "glibc":
        return False
    told = ctypes.CDLL(None).mallopt
    return bool(told(MMAP_THRESHOLD, LARGEST) and told(TRIM_THRESHOLD, 2**31 - 1))


def flush_denormals() -> bool:
    """Take numbers too small for float32's full precision (below 1.2e-38) as zero from now on, in this thread
    and those that it starts: False where that was so before, or cannot be.

    A processor needs a hundred times as long for them, and gates of a GELU that are closed are such: backward
    passes of a trained UNet take half the time without them.
    """
    return bool((torch.tensor(1e-38) * 0.1).item()) and torch.set_flush_denormal(True)


def has_bfloat16() -> bool:
    """Whether this CPU multiplies in bfloat16 by itself."""
    found = torch.backends.cpu.get_cpu_capability()
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    asked = (getattr(torch.cpu, name, None) for name in names)
    return any(ask() for ask in asked if ask) or "SVE" in found
