"""How well a run uses its machine: samples a second, waiting, memory, share of the peak."""

import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from mgie.training.world import World

Item = TypeVar("Item")
GIB = 1 << 30

PEAKS = {
    "B200": 2250, "H200": 989, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "GH200": 989, "A100": 312,
    "A800": 312, "L40S": 362, "L40": 181, "L4": 121, "A40": 150, "A10G": 70, "A10": 125, "A6000": 155,
    "6000 Ada": 364, "RTX 5090": 210, "RTX 4090": 165, "RTX 4080": 97, "RTX 3090": 71,
}  # fmt: skip
"""10^12 floating-point operations a second in bfloat16 of dense matrices, summed in float32, as the makers'
data sheets have them; by a part of the card's name, the first one that fits."""

FACTORS = {"mm": (0, 1), "addmm": (1, 2), "bmm": (0, 1), "baddbmm": (1, 2), "convolution": (0, 1)}
"""Which arguments an operation multiplies."""


class Work(TorchDispatchMode):
    """Counts the operations of a forward pass, and those of the backward pass that belongs to it.

    A product costs as much again for each of its factors that a gradient goes to; what is recomputed in the
    backward pass is not counted (model FLOPs, PaLM, Chowdhery et al. 2022, appendix B). Counted are products
    of matrices, convolutions and torch's own attention.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Do what was asked for, and count it."""
        del types
        result = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        name = packet.__name__
        if name in FACTORS and packet in flop_registry:
            count = flop_registry[packet](*args, **(kwargs or {}), out_val=result)
            to = sum(args[place].requires_grad for place in FACTORS[name])
            self.operations += count * (1 + to * torch.is_grad_enabled())
        elif "scaled_dot_product" in name:
            q, k, v = args[:3]
            count = 2 * q.numel() * k.shape[-2] + 2 * q.shape[:-1].numel() * k.shape[-2] * v.shape[-1]
            back = torch.is_grad_enabled() and any(each.requires_grad for each in (q, k, v))
            self.operations += count * (3 if back else 1)
        return result


class Pace:
    """Measured from one log line to the next; what is done between steps (saves, previews) is left out."""

    def __init__(self, world: World, *, done: int, peak: float | None = None):
        """`done`: samples of the run until now. `peak`: 10^12 operations a second that a device can do; None:
        what PEAKS has of it."""
        self.world, self.samples = world, done
        self.peak = peak_of(world.device) if peak is None else peak
        self._per_sample: float | None = None
        self._seconds = self._waited = 0.0
        self._mark = time.monotonic()

    def waiting(self, steps: Iterable[Item]) -> Iterator[Item]:
        """The same steps; how long each is waited for is noted."""
        given, nothing = iter(steps), object()
        while True:
            self._mark = began = time.monotonic()
            step: Any = next(given, nothing)
            self._waited += time.monotonic() - began
            if step is nothing:
                return
            yield step

    @contextmanager
    def counting(self, samples: int) -> Iterator[None]:
        """Around a forward pass of so many samples: of the first one of this process the operations are
        counted, for all that come."""
        if self._per_sample is not None:
            yield
            return
        with Work() as work:
            yield
        self._per_sample = work.operations / max(1, samples)

    def stepped(self) -> None:
        """A step was taken: what comes until the next one is none of its time, but for `read`."""
        now = time.monotonic()
        self._seconds, self._mark = self._seconds + now - self._mark, now

    def read(self, samples: int) -> dict[str, float]:
        """By name, since the last reading: samples_per_second of all processes; data_wait, the share of the
        time in [0, 1] that the process waited for data that did so longest; memory_gib, the peak of the one
        that had most until now; tflops, 10^12 operations a second of a device; mfu, its share of the peak in
        [0, 1], where that is known. Call it on every process, when the device has done all that it was told.
        """
        self.stepped()
        seconds, waited, done = self._seconds, self._waited, samples - self.samples
        self._seconds, self._waited, self.samples = 0.0, 0.0, samples
        everyones = self.world.from_all((waited, memory_peak(self.world.device)))
        rate = done / max(seconds, 1e-9)
        told = {
            "samples_per_second": round(rate, 2),
            "data_wait": round(min(1.0, max(each[0] for each in everyones) / max(seconds, 1e-9)), 3),
            "memory_gib": round(max(each[1] for each in everyones) / GIB, 2),
        }
        if self._per_sample is not None:
            tera = self._per_sample * rate / self.world.size / 1e12
            told["tflops"] = float(f"{tera:.4g}")
            if self.peak:
                told["mfu"] = float(f"{tera / self.peak:.3g}")
        return told


def peak_of(device: torch.device) -> float | None:
    """What PEAKS has of a card; None where it has nothing, as of a CPU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((float(peak) for part, peak in PEAKS.items() if part in name), None)


def memory_peak(device: torch.device) -> int:
    """Bytes that this process had at once, at most: of tensors on a GPU, of everything on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
