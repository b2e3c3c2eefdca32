from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from llava_patch.errors import WeightsError
from llava_patch.loading import LISTED, fitting, put, renamed, typed
from llava_patch.shards import each_shard


def empty(*, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A layer of weights without values, and a buffer."""
    with torch.device("meta"):
        module = nn.ModuleDict({"layer": nn.Linear(3, 2), "norm": nn.BatchNorm1d(2)})
    module["layer"].bias.requires_grad_(False)
    return module.to(dtype)


def values() -> dict[str, Tensor]:
    return {name: torch.rand(place.shape).to(place.dtype) for name, place in empty().state_dict().items()}


def test_each_tensor_in_the_type_of_its_place():
    """Whole numbers stay whole; what is not trained stays so."""
    held = values()
    module = empty(dtype=torch.bfloat16)
    module["norm"].float()
    assert put(module, [("a", dict(held))], where="a") is module
    for name, tensor in module.state_dict().items():
        half = name.startswith("layer.")
        assert torch.equal(tensor, held[name].bfloat16() if half else held[name]), name
        assert tensor.dtype == (torch.bfloat16 if half else held[name].dtype)
    assert (module["layer"].weight.requires_grad, module["layer"].bias.requires_grad) == (True, False)
    assert set(dict(module.named_buffers())) == {f"norm.{name}" for name in module["norm"]._buffers}


def test_types_by_part():
    module = typed(empty(), {"layer": torch.float64, "": torch.bfloat16})
    types = {name: place.dtype for name, place in module.state_dict().items()}
    assert (types["layer.bias"], types["norm.bias"]) == (torch.float64, torch.bfloat16)
    assert types["norm.num_batches_tracked"] == torch.long
    assert {place.dtype for place in typed(empty(), torch.float16).parameters()} == {torch.float16}


def test_values_that_are_there_are_replaced_where_they_stand():
    module, held = nn.Linear(3, 2), {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
    weight = module.weight
    put(module, [("a", dict(held))], where="a")
    assert module.weight is weight and bool((weight == 1).all()) and weight.requires_grad


def test_nothing_stays_mapped_behind_the_module(tmp_path: Path):
    held = values()
    save_file(held, tmp_path / "model.safetensors")
    module = put(empty(), each_shard(tmp_path, progress=False), where=tmp_path)
    with (tmp_path / "model.safetensors").open("r+b") as file:  # in place: a mapping would see it
        file.seek(-64, 2)
        file.write(bytes(64))
    assert all(torch.equal(tensor, held[name]) for name, tensor in module.state_dict().items())


def test_one_error_lists_all_that_differs():
    held = values()
    held["layer.strange"] = held.pop("layer.weight")
    held["layer.bias"] = torch.zeros(5)
    with pytest.raises(WeightsError) as error:
        put(empty(), [("folder/one", held), ("folder/two", {"other": torch.zeros(1)})], where="folder")
    assert str(error.value) == (
        "folder does not fit the model, 4 tensors differ; use the files that belong together: "
        "missing layer.weight; misshapen layer.bias in one: [5], expected [2]; "
        "unexpected layer.strange in one; unexpected other in two"
    )


def test_long_lists_are_cut():
    places = {str(number): torch.zeros(1) for number in range(LISTED + 7)}
    with pytest.raises(WeightsError, match=rf"{LISTED + 7} tensors differ.*; and 7 more$") as error:
        list(fitting(places, [], where="folder"))
    assert str(error.value).count("missing") == LISTED


def test_what_may_be_missing_is_not_missed():
    places = {"new.weight": torch.zeros(1), "old": torch.zeros(1)}
    held = {"old": torch.ones(1)}
    assert dict(fitting(places, [("a", dict(held))], where="a", optional=("new.",))) == held
    assert dict(fitting(places, [("a", {})], where="a", optional=("",))) == {}
    with pytest.raises(WeightsError, match=r"1 tensors differ.*missing old$"):
        list(fitting(places, [("a", {})], where="a", optional=("new.",)))


def test_a_module_by_the_names_of_its_files():
    held = {f"published.{name}": tensor for name, tensor in values().items()}
    module = put(empty(), [("a", dict(held))], where="a", names="published.{}".format)
    assert all(torch.equal(held[f"published.{name}"], own) for name, own in module.state_dict().items())
    with pytest.raises(WeightsError, match=r"missing published\.layer\.weight"):
        put(empty(), [], where="a", names="published.{}".format)


def test_what_no_file_gives_a_value_is_noticed():
    """A buffer that follows from the configuration must be made by whoever builds the module."""
    module = empty()
    module.register_buffer("positions", torch.empty(3, device="meta"), persistent=False)
    with pytest.raises(AssertionError, match="positions"):
        put(module, [("a", values())], where="a")


def test_renamed():
    one, two, three = torch.zeros(1), torch.ones(1), torch.ones(2)
    files = [("a", {"old.x": one, "constant": two, "y": three})]
    names = {"old.x": "new.x", "constant": None, "y": "y"}
    assert list(renamed(files, names.get)) == [("a", {"new.x": one, "y": three})]


def test_a_tensor_under_two_of_its_names_is_unexpected():
    files = [("a", {"old": torch.zeros(1), "new": torch.ones(1)})]
    with pytest.raises(WeightsError, match=r"1 tensors differ.*unexpected old in a"):
        list(fitting({"new": torch.zeros(1)}, renamed(files, lambda _: "new"), where="a"))
