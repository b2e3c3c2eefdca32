"""Exactly these tensors into a module, or one error that lists what differs.

A module is built on the meta device, in the types that it is to have; no initialiser runs after its files
are read. Tensors are copied and taken out of each file one by one: nothing is in memory twice, and no file
stays mapped behind the module.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from llava_patch.errors import WeightsError

LISTED = 8
"""How many tensors an error names before it counts the others."""

Shards = Iterable[tuple[str | Path, MutableMapping[str, Tensor]]]
"""Files of tensors, as `each_shard` reads them: where they come from, and what is in it."""

Dtypes = torch.dtype | Mapping[str, torch.dtype]
"""The type of all of a module, or of those of its parts that are named; "" is all of it."""

_Module = TypeVar("_Module", bound=nn.Module)


SMALL = 100_000
"""Parameters of a block that is not worth a message of its own between processes."""

Unread = list[tuple[nn.Parameter, Tensor]]
"""Parameters on the meta device, each with the tensor of a mapped file that it shall be."""
_unread: ContextVar[Unread | None] = ContextVar("unread", default=None)


@contextmanager
def leaving_blocks_unread() -> Iterator[Unread]:
    """Inside, parameters of repeated blocks (`blocks`) stay on the meta device, and are noted with the mapped
    tensors of their files, of which nothing is read: whoever owns a share of one reads just that."""
    unread: Unread = []
    before = _unread.set(unread)
    try:
        yield unread
    finally:
        _unread.reset(before)


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The repeated blocks of a module: what is in its lists, and in those of its parts, but not further in;
    only those that are not small."""
    for child in module.children():
        if not isinstance(child, nn.ModuleList):
            yield from blocks(child)
            continue
        for block in child:
            if block is not None and sum(each.numel() for each in block.parameters()) >= SMALL:
                yield block


def typed(module: _Module, dtype: Dtypes) -> _Module:
    """Give an empty module its types, in place; that of a part counts for all in it that has none named."""
    parts = dtype if isinstance(dtype, Mapping) else {"": dtype}
    for name in sorted(parts):  # what a part is in comes before it
        part = module.get_submodule(name)
        nn.Module.to(part, parts[name])  # a diffusers model's own `to` warns of one without values
    return module


def fitting(
    places: Mapping[str, Tensor],
    shards: Shards,
    *,
    where: str | Path,
    optional: tuple[str, ...] = (),
    remedy: str = "use the files that belong together",
) -> Iterator[tuple[str, Tensor]]:
    """The tensors that fit the places of their names, one by one; one in a later file may come again.

    `optional` are beginnings of names that may be missing. Raises, after the last file, one WeightsError
    that lists all that is missing, unexpected, or of another shape.
    """
    missing, problems = dict.fromkeys(places), []
    for path, tensors in shards:
        for name in list(tensors):
            tensor = tensors.pop(name)
            missing.pop(name, None)
            if name not in places:
                problems.append(f"unexpected {name} in {Path(path).name}")
            elif tensor.shape != places[name].shape:
                shapes = f"{list(tensor.shape)}, expected {list(places[name].shape)}"
                problems.append(f"misshapen {name} in {Path(path).name}: {shapes}")
            else:
                yield name, tensor
    problems = [*(f"missing {name}" for name in missing if not name.startswith(optional)), *problems]
    if problems:
        more = f"; and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        raise WeightsError(
            f"{where} does not fit the model, {len(problems)} tensors differ; {remedy}: "
            f"{'; '.join(problems[:LISTED])}{more}"
        )


@torch.no_grad()
def put(
    module: _Module,
    shards: Shards,
    *,
    where: str | Path,
    device: torch.device | str = "cpu",
    names: Callable[[str], str] = str,
    optional: tuple[str, ...] = (),
) -> _Module:
    """Give a module exactly the tensors of these files, each in the type that the module has there.

    What is on the meta device comes to `device`. `names` says what the files call a tensor of the module;
    `optional` and errors: `fitting`.
    """
    own, unread = module.state_dict(keep_vars=True), _unread.get()
    later = {id(each) for block in blocks(module) for each in block.parameters() if unread is not None}
    ours = {names(name): name for name in own}
    places = {name: own[ours[name]] for name in ours}
    for name, tensor in fitting(places, shards, where=where, optional=optional):
        place = own[ours[name]]
        if id(place) in later and isinstance(place, nn.Parameter) and place.is_meta and unread is not None:
            unread.append((place, tensor))
        elif place.is_meta:
            value = torch.empty_like(place, device=device).copy_(tensor)
            if isinstance(place, nn.Parameter):
                value = nn.Parameter(value, requires_grad=place.requires_grad)
            owner, _, last = ours[name].rpartition(".")
            setattr(module.get_submodule(owner), last, value)
        else:
            place.copy_(tensor)
    values = (*module.named_parameters(), *module.named_buffers())
    left = [name for name, tensor in values if tensor.is_meta and id(tensor) not in later]
    assert not left, f"on the meta device after loading: {left}"
    return module


def renamed(shards: Shards, rename: Callable[[str], str | None]) -> Shards:
    """The same files with other names; None leaves a tensor out."""
    for path, tensors in shards:
        for name in list(tensors):
            new = rename(name)
            if new is None:
                del tensors[name]
            elif new not in tensors:  # else it is there twice, and the older name unexpected
                tensors[new] = tensors.pop(name)
        yield path, tensors
