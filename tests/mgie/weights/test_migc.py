from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mgie.controllers.layout_blocks import AbstractLayoutBlock, LayoutBlockConfig, MIGCBlock, MIGCPlusBlock
from mgie.errors import ConfigError, WeightsError
from mgie.weights.migc import ATTENTION, read_blocks, write_blocks

CONFIG = LayoutBlockConfig(width=16, condition_width=6, heads=2)
SITES = [
    f"{layer}{ATTENTION}"
    for layer in ("mid_block.attentions.0", "up_blocks.1.attentions.2", "down_blocks.2.attentions.1")
]
KINDS = [MIGCBlock, MIGCPlusBlock]


def blocks(kind: type[AbstractLayoutBlock], sites: list[str] = SITES) -> dict[str, AbstractLayoutBlock]:
    return {site: kind(CONFIG) for site in sites}


def content(path: Path) -> dict[str, torch.Tensor]:
    held = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    return held.get("state_dict", held)


def rewrite(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save({"state_dict": tensors}, path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_what_was_written_is_read(kind, suffix, tmp_path):
    ours = blocks(kind)
    path = write_blocks(ours, tmp_path / f"migc{suffix}")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    read = read_blocks(path, heads=2)
    assert sorted(read) == sorted(ours)
    for site, block in read.items():
        assert type(block) is kind and block.config == CONFIG
        state = block.state_dict()
        assert all(torch.equal(state[name], value) for name, value in ours[site].state_dict().items())


def test_the_layers_are_counted_as_the_authors_do(tmp_path):
    names = content(write_blocks(blocks(MIGCBlock), tmp_path / "migc.ckpt"))
    layers = {name.split(".transformer_blocks")[0] for name in names}
    assert layers == {
        f"model.diffusion_model.{each}"
        for each in ("middle_block.1", "output_blocks.5.1", "input_blocks.8.1")
    }


def test_what_stands_between_number_and_mark_is_not_read(tmp_path):
    path = write_blocks(blocks(MIGCBlock), tmp_path / "migc.ckpt")
    rewrite(
        path, {name.replace(f".1{ATTENTION}", ".1.other.9"): value for name, value in content(path).items()}
    )
    assert sorted(read_blocks(path, heads=2)) == sorted(SITES)


def test_all_that_differs_is_said_in_one_sentence(tmp_path):
    path = write_blocks(blocks(MIGCPlusBlock), tmp_path / "plus.safetensors")
    held = content(path)
    mark = f"mid_block.attentions.0{ATTENTION}.processor.migc."
    del held[f"{mark}gamma"]
    held[f"{mark}sac.conv1.bias"] = torch.zeros(16)
    held["elsewhere"] = torch.zeros(1)
    held[f"{mark}norm.weight"] = torch.zeros(4)
    rewrite(path, held)
    with pytest.raises(WeightsError) as error:
        read_blocks(path, heads=2)
    told = str(error.value)
    assert "4 tensors differ" in told and str(path) in told
    for part in (f"missing {mark}gamma", f"unexpected {mark}sac.conv1.bias", "unexpected elsewhere"):
        assert part in told
    assert f"misshapen {mark}norm.weight in plus.safetensors: [4], expected [16]" in told


def test_one_place_named_twice(tmp_path):
    path = write_blocks(blocks(MIGCBlock), tmp_path / "migc.ckpt")
    held = content(path)
    name = next(
        name for name in held if name.endswith("middle_block.1.transformer_blocks.0.attn2.migc.norm.bias")
    )
    rewrite(path, held | {name.replace("attn2", "attn1"): held[name]})
    with pytest.raises(WeightsError, match=r"1 tensors differ.*unexpected .*attn1\.migc\.norm\.bias"):
        read_blocks(path, heads=2)


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"conv_in.weight": torch.zeros(1)}, "holds no block of MIGC or MIGC\\+\\+ among 1 tensors"),
        ({}, "holds no block"),
        (
            {f"mid_block.attentions.0{ATTENTION}.processor.migc.gamma": torch.zeros(1)},
            "missing norm.bias, ea.to_k.weight, misshapen nothing",
        ),
    ],
)
def test_other_files(tensors, told, tmp_path):
    rewrite(tmp_path / "other.safetensors", tensors)
    with pytest.raises(WeightsError, match=told):
        read_blocks(tmp_path / "other.safetensors")


def test_a_pickle_of_more_than_tensors_is_not_opened(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(1)}, "callbacks": Path("here")}, tmp_path / "migc.ckpt")
    with pytest.raises(WeightsError, match="other than tensors"):
        read_blocks(tmp_path / "migc.ckpt")


def test_what_no_published_file_can_hold(tmp_path):
    with pytest.raises(ConfigError, match="MIGCBlock and MIGCPlusBlock"):
        write_blocks(blocks(MIGCBlock) | blocks(MIGCPlusBlock, SITES[:1]), tmp_path / "both.ckpt")
    with pytest.raises(ConfigError, match="blocks of none"):
        write_blocks({}, tmp_path / "none.ckpt")
    for site in (
        f"up_blocks.1.attentions.3{ATTENTION}",
        f"down_blocks.0.attentions.2{ATTENTION}",
        "elsewhere",
    ):
        with pytest.raises(ConfigError, match="is no attention that a file of MIGCBlocks has a name for"):
            write_blocks(blocks(MIGCBlock, [site]), tmp_path / "far.ckpt")
    assert not list(tmp_path.iterdir())
