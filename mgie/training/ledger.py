"""How much memory a step would take: every tensor is booked, none is computed."""

import copy
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class Ledger(TorchDispatchMode):
    """Books the bytes of all tensors that come to be inside, until they are freed.

    Above a FakeTensorMode they have sizes and no values; without one they are real.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Book what an operation gives that was not there before."""
        del types
        result = func(*args, **(kwargs or {}))
        for each in tree_flatten(result)[0]:
            if isinstance(each, Tensor):
                self.book(each)
        return result

    def book(self, tensor: Tensor) -> None:
        """Count its storage once, as long as it is there."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, size)

    def forget(self, tensor: Tensor) -> None:
        """Its storage is never counted."""
        self._known.add(tensor.untyped_storage()._cdata)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def peak_of(step: Callable[[Any], Any], model: nn.Module) -> int:
    """Bytes that `step(model)` has at once, at most, beside the weights of `model`; with their gradients.

    Nothing is computed. `model` is on the meta device, and stays as it is: a copy of it is stepped.
    """
    twin = copy.deepcopy(model)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.random.fork_rng(devices=[]):
        twin.to_empty(device="cpu")
        with Ledger() as ledger:
            for tensor in (*twin.parameters(), *twin.buffers()):
                ledger.forget(tensor)
            step(twin)
        return ledger.peak
