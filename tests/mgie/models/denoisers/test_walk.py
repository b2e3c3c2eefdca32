"""The walk is the library's forward pass, bit for bit."""

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from mgie.errors import DataError
from mgie.models.denoisers.unet import UNetDenoiser
from mgie.models.denoisers.walk import walk
from mgie.types import Condition, ControlPlan, Point, Rows

SD1 = {
    "block_out_channels": (8, 16, 16, 16), "layers_per_block": 2, "cross_attention_dim": 12,
    "attention_head_dim": 2, "norm_num_groups": 4,
}  # fmt: skip
SDXL = {
    "block_out_channels": (8, 16, 16), "layers_per_block": 2, "cross_attention_dim": 12,
    "attention_head_dim": (2, 4, 4), "transformer_layers_per_block": (1, 1, 2), "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 4 * 6 + 10,
}  # fmt: skip
TINY = {
    "block_out_channels": (8, 16), "layers_per_block": 1, "cross_attention_dim": 12,
    "attention_head_dim": 2, "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip
PLAIN = {**SD1, "mid_block_type": "UNetMidBlock2D", "center_input_sample": True}
CONFIGS = {"sd1": SD1, "sdxl": SDXL, "tiny": TINY, "plain middle": PLAIN}
SIZES = [(16, 16), (9, 13), (8, 12), (7, 21)]


def unet_of(config: dict[str, Any]) -> UNet2DConditionModel:
    return UNet2DConditionModel(in_channels=8, out_channels=4, **config).eval()


def asked(config: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    more: dict[str, Any] = {"encoder_attention_mask": torch.tensor([[True] * 5, [True] * 2 + [False] * 3])}
    if "addition_embed_type" in config:
        more["added_cond_kwargs"] = {"text_embeds": torch.randn(2, 10), "time_ids": torch.rand(2, 6) * 100}
    pictures, tokens = torch.randn(2, 8, *size), torch.randn(2, 5, 12)
    return {"sample": pictures, "t": torch.tensor([3, 700]), "tokens": tokens, **more}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("size", SIZES, ids=str)
@torch.no_grad()
def test_a_walk_that_changes_nothing_is_the_forward_pass(name: str, size: tuple[int, int]):
    unet, given = unet_of(CONFIGS[name]), asked(CONFIGS[name], size)
    more = {key: value for key, value in given.items() if key not in ("sample", "t", "tokens")}
    expected = unet(given["sample"], given["t"], encoder_hidden_states=given["tokens"], **more).sample
    assert torch.equal(walk(unet, **given, at=lambda _, states: states), expected)


@torch.no_grad()
def test_the_points_are_numbered_as_the_structure_says():
    points: list[tuple[Point, tuple[int, ...]]] = []

    def noted(point: Point, states: torch.Tensor) -> torch.Tensor:
        points.append((point, tuple(states.shape[1:])))
        return states

    walk(unet_of(SD1), **asked(SD1, (16, 16)), at=noted)
    found = dict(points)
    assert [point.index for point, _ in points if point.part == "input"] == list(range(1, 12))
    assert [point.index for point, _ in points if point.part == "output"] == list(range(12))
    assert found[Point(part="input", index=3)] == (8, 16, 16)  # before the downsampler
    assert found[Point(part="input", index=4)] == (8, 8, 8)
    assert found[Point(part="middle")] == (16, 2, 2)
    assert found[Point(part="output", index=2)] == (16, 2, 2)
    assert found[Point(part="output", index=3)] == (16, 4, 4)  # after the upsampler, before the skip


@torch.no_grad()
def test_what_is_changed_shows():
    unet, given = unet_of(TINY), asked(TINY, (8, 8))
    plain = walk(unet, **given, at=lambda _, states: states)
    for here in (
        Point(part="input", index=1), Point(part="input", index=3), Point(part="middle"),
        Point(part="output", index=0), Point(part="output", index=3),
    ):  # fmt: skip
        changed = walk(unet, **given, at=lambda point, states: states * (2 if point == here else 1))  # noqa: B023
        assert not torch.allclose(changed, plain, atol=1e-4)


@torch.no_grad()
def test_a_denoiser_walks_where_features_are_blended():
    seen = []

    class Kept:
        during = (0.0, 1.0)

        def __call__(self, _point, states, rows, grid):
            seen.append((rows, grid))
            return states

    denoiser = UNetDenoiser(unet_of(TINY))
    noisy, source = torch.randn(2, 4, 6, 8), torch.randn(2, 4, 6, 8)
    given = (noisy, torch.tensor([3, 700]), source, Condition(tokens=torch.randn(2, 5, 12)))
    rows = Rows(names=("T", "R"), batch=1)
    walked = denoiser(*given, ControlPlan(features=Kept()), rows).mean
    assert torch.equal(walked, denoiser(*given).mean)
    assert seen and all(each == (rows, (6, 8)) for each in seen)


@torch.no_grad()
def test_unets_that_cannot_be_walked_are_refused():
    strange = {**TINY, "down_block_types": ("AttnDownBlock2D", "CrossAttnDownBlock2D")}
    with pytest.raises(DataError, match="cannot be blended in a UNet with AttnDownBlock2D"):
        walk(unet_of(strange), **asked(strange, (8, 8)), at=lambda _, states: states)
    unet = unet_of(TINY)
    unet.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    with pytest.raises(DataError, match="while FreeU is on"):
        walk(unet, **asked(TINY, (8, 8)), at=lambda _, states: states)
    classed = {**TINY, "num_class_embeds": 3}
    with pytest.raises(DataError, match="told classes"):
        walk(unet_of(classed), **asked(classed, (8, 8)), at=lambda _, states: states)
