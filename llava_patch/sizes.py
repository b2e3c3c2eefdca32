"""No model is larger than the files of its weights, whatever its configuration asks."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from llava_patch.errors import WeightsError

MOST_TENSORS = 5000
"""Tensors of one model; the largest published ones of their kind have some 2000."""


@contextmanager
def no_larger_than(files: Sequence[Path] | None, where: str | Path) -> Iterator[None]:
    """Stop the block that builds a model as soon as it has more values than the files have bytes.

    Each value takes a byte at least. Without files, tensors alone are counted. Raises WeightsError, also
    where the block makes another error of it.
    """
    held = None if files is None else sum(path.stat().st_size for path in files)
    values = tensors = 0
    builder = threading.get_ident()

    def over() -> bool:
        return tensors > MOST_TENSORS or (held is not None and values > held)

    def count(_module: nn.Module, _name: str, parameter: Tensor | None) -> None:
        nonlocal values, tensors
        if parameter is None or threading.get_ident() != builder:
            return
        values, tensors = values + parameter.numel(), tensors + 1
        if over():
            raise ValueError("too large")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    except Exception as error:
        if not over():
            raise
        asked = f"more than {MOST_TENSORS} tensors" if tensors > MOST_TENSORS else f"{values} values and more"
        has = "no such model is published" if held is None else f"the files of its weights have {held} bytes"
        raise WeightsError(
            f"{where}: its config.json asks for {asked}, but {has}; fetch the files that belong together."
        ) from error
    finally:
        hook.remove()
