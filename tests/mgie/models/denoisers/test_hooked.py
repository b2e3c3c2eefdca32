"""The seam of attention: a plan is an argument, nothing given changes nothing."""

import os
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, IPAdapterAttnProcessor2_0
from torch import Tensor, nn

from mgie.errors import DataError
from mgie.models.denoisers.hooked import HookedModule, HookedProcessor, hooked, layer_size, unhooked
from mgie.models.denoisers.unet import UNetDenoiser
from mgie.types import AttentionCall, AttentionPlan, Condition, ControlPlan, Rows, Site

NOISY, SOURCE = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
T, TOLD = torch.tensor([3, 700]), Condition(tokens=torch.randn(2, 5, 6))
ROWS = Rows(names=("T",), batch=2)


@dataclass(frozen=True)
class Louder:
    """A hook that makes one row's attention stronger, by a parameter where it has one."""

    by: float | nn.Parameter
    row: int = 0
    order: int = 10
    during: tuple[float, float] = (0.0, 1.0)

    def wants(self, site: Site) -> bool:
        return site.cross

    def __call__(self, call: AttentionCall, attend) -> Tensor:
        out = attend(call)
        here = torch.arange(len(out), device=out.device) == self.row
        return torch.where(here[:, None, None], out * self.by, out)


@dataclass(frozen=True)
class Masked:
    """A hook that masks every key of one row."""

    order: int = 10
    during: tuple[float, float] = (0.0, 1.0)

    def wants(self, site: Site) -> bool:
        return site.cross

    def __call__(self, call: AttentionCall, attend) -> Tensor:
        assert call.context is not None
        bias = torch.zeros(len(call.states), 1, call.context.shape[1]).to(call.states)
        bias[0] = torch.finfo(bias.dtype).min
        return attend(replace(call, bias=bias))


def answer(denoiser: UNetDenoiser, *hooks, noisy: Tensor = NOISY, told: Condition = TOLD) -> Tensor:
    return denoiser(noisy, T, SOURCE.to(noisy), told, ControlPlan(attention=hooks), ROWS).mean


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_nothing_given_nothing_changed(make_unet, dtype: torch.dtype):
    unet = make_unet(8).to(dtype)
    seen, told = torch.cat([NOISY, SOURCE], 1).to(dtype), replace(TOLD, tokens=TOLD.tokens.to(dtype))
    before, keys = unet(seen, T, encoder_hidden_states=told.tokens).sample, list(unet.state_dict())
    denoiser = UNetDenoiser(unet)
    for plan in (None, ControlPlan(), ControlPlan().at(0.5)):
        after = denoiser(NOISY.to(dtype), T, SOURCE.to(dtype), told, plan).mean
        assert torch.equal(after, before)
    assert list(unet.state_dict()) == keys
    nothing = {"plan": AttentionPlan(hooks=(), grid=(8, 8), rows=ROWS)}
    empty = unet(seen, T, encoder_hidden_states=told.tokens, cross_attention_kwargs=nothing).sample
    assert torch.equal(empty, before)


@torch.no_grad()
def test_a_hook_on_one_row_leaves_the_others_their_bits(make_unet):
    denoiser = UNetDenoiser(make_unet(8))
    plain, louder = answer(denoiser), answer(denoiser, Louder(3.0, row=1))
    assert torch.equal(louder[0], plain[0]) and not torch.allclose(louder[1], plain[1], atol=1e-4)
    assert torch.equal(answer(denoiser), plain)  # nothing is remembered


@torch.no_grad()
def test_hooks_are_nested_by_their_order(make_unet):
    calls = []

    @dataclass(frozen=True)
    class Told(Louder):
        def __call__(self, call, attend):
            calls.append((self.order, call.site.name, call.grid))
            return super().__call__(call, attend)

    denoiser = UNetDenoiser(make_unet(8))
    answer(denoiser, Told(1.0, order=10), Told(1.0, order=30), Told(1.0, order=20))
    assert [order for order, _, _ in calls] == [30, 20, 10] * (len(calls) // 3)
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn2"
    assert calls[0] == (30, name, (4, 4))


@torch.no_grad()
def test_threads_with_plans_of_their_own_do_not_meet(make_unet):
    denoiser = UNetDenoiser(make_unet(8))
    scales = (0.5, 2.0, 3.0, 4.0)
    alone = {scale: answer(denoiser, Louder(scale)) for scale in scales}
    together: dict[float, list[Tensor]] = {scale: [] for scale in scales}
    start = threading.Barrier(len(scales))

    def work(scale: float) -> None:
        start.wait()
        with torch.no_grad():  # of each thread
            together[scale] = [answer(denoiser, Louder(scale)) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(scale,)) for scale in scales]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len(together[scale]) == 5 for scale in scales)
    assert all(torch.equal(one, alone[scale]) for scale in scales for one in together[scale])


def test_gradients_are_the_same_with_checkpointing(make_unet):
    unet, scale = make_unet(8).train(), nn.Parameter(torch.tensor(2.0))
    denoiser = UNetDenoiser(unet)

    def gradients() -> list[Tensor]:
        for value in (scale, *denoiser.parameters()):
            value.grad = None
        answer(denoiser, Louder(scale)).square().mean().backward()
        return [value.grad.clone() for value in (scale, *denoiser.parameters()) if value.grad is not None]

    plain = gradients()
    assert plain[0].ndim == 0 and plain[0] != 0
    unet.enable_gradient_checkpointing()
    again = gradients()
    assert len(again) == len(plain)
    assert all(torch.allclose(one, other, rtol=1e-5, atol=1e-6) for one, other in zip(plain, again))


@torch.no_grad()
def test_an_adapter_and_a_plan(make_unet):
    """peft's layers stay inside the attention, whatever goes around it."""
    from peft import LoraConfig

    unet = make_unet(8)
    config = LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False)
    unet.add_adapter(config)
    names = list(unet.state_dict())
    denoiser = UNetDenoiser(unet)
    assert list(unet.state_dict()) == names
    active = answer(denoiser, Louder(3.0))
    unet.disable_adapters()
    assert not torch.allclose(answer(denoiser, Louder(3.0)), active, atol=1e-4)
    unet.enable_adapters()
    assert torch.equal(answer(denoiser, Louder(3.0)), active)
    unet.fuse_lora()
    merged = answer(denoiser, Louder(3.0))
    assert torch.allclose(merged, active, atol=1e-5)
    assert not torch.allclose(merged, answer(denoiser), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_row_with_every_key_masked_is_a_number(make_unet, dtype: torch.dtype):
    """All scores are as low: it sees all of them alike. The masks of controllers never have such rows."""
    denoiser = UNetDenoiser(make_unet(8).to(dtype))
    told = replace(TOLD, tokens=TOLD.tokens.to(dtype), mask=torch.tensor([[False] * 5, [True] * 5]))
    for hooks in ((), (Masked(),), (Louder(2.0), Masked(order=5))):
        assert answer(denoiser, *hooks, noisy=NOISY.to(dtype), told=told).isfinite().all()


COMPILED = """
from diffusers import UNet2DConditionModel
from mgie.controllers.masking import EditMasking, TokenMasking, at_levels
from test_hooked import *

unet = UNet2DConditionModel(
    in_channels=8, out_channels=4, block_out_channels=(4, 8), layers_per_block=1, cross_attention_dim=6,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), attention_head_dim=2, norm_num_groups=2,
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
).eval()
denoiser = UNetDenoiser(unet)
compiled = torch.compile(denoiser, backend="eager", fullgraph=True)
with torch.no_grad():
    masks = at_levels(torch.rand(2, 1, 8, 8), (8, 8))
    region = EditMasking(masks=masks, null=torch.randn(2, 5, 6))
    words = TokenMasking(masks=masks, inside=(1, 2), outside=(3,))
    several = ((), (Louder(3.0),), (region,), (words, Louder(3.0)))
    for plan in (None, *(ControlPlan(attention=hooks) for hooks in several)):
        asked = (NOISY, T, SOURCE, TOLD, plan, ROWS)
        assert torch.equal(compiled(*asked).mean, denoiser(*asked).mean)
"""


@pytest.mark.slow
def test_a_compiled_denoiser_takes_a_plan():
    """In a process of its own: torch does not compile the checks of shapes that tests run with."""
    folders = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], env={**os.environ, "PYTHONPATH": folders}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# Wrapping.


@torch.no_grad()
def test_wrapping_is_done_once_and_undone(make_unet):
    unet = make_unet(8)
    before = dict(unet.attn_processors)
    hooked(unet)
    wrapped = dict(unet.attn_processors)
    assert all(type(each) is HookedProcessor for each in wrapped.values())
    assert hooked(unet).attn_processors == wrapped
    assert unhooked(unet).attn_processors == before


@torch.no_grad()
def test_what_the_library_takes_off_is_put_on_again(make_unet):
    denoiser = UNetDenoiser(make_unet(8))
    louder = answer(denoiser, Louder(3.0))
    denoiser.unet.fuse_qkv_projections()
    assert torch.allclose(answer(denoiser, Louder(3.0)), louder, atol=1e-5)
    denoiser.unet.set_attn_processor(AttnProcessor())
    assert torch.allclose(answer(denoiser, Louder(3.0)), louder, atol=1e-5)


def test_a_processor_s_weights_stay_in_the_tree():
    layer = Attention(8, cross_attention_dim=6, heads=2, dim_head=4)
    holder = Holder(layer, IPAdapterAttnProcessor2_0(8, 6))
    hooked(holder)
    processor = holder.attn.processor
    assert isinstance(processor, HookedModule) and processor.site == Site(name="attn2", cross=True)
    assert "attn.processor.inner.to_k_ip.0.weight" in holder.state_dict()


class Holder(nn.Module):
    """One attention as a model that diffusers would have."""

    def __init__(self, attn: Attention, processor):
        super().__init__()
        self.attn = attn
        attn.set_processor(processor)

    @property
    def attn_processors(self):
        return {"attn2.processor": self.attn.processor}

    def set_attn_processor(self, processors):
        self.attn.set_processor(processors["attn2.processor"])


@pytest.mark.parametrize("grid", [(64, 64), (9, 12), (5, 7), (1, 13), (3, 3)])
def test_the_size_of_a_layer_follows_from_its_positions(grid):
    size = grid
    while True:
        assert layer_size(grid, size[0] * size[1]) == size
        if size == (1, 1):
            break
        size = ((size[0] + 1) // 2, (size[1] + 1) // 2)
    with pytest.raises(DataError, match="the plan is for latents of"):
        layer_size(grid, grid[0] * grid[1] + 1)


def test_a_plan_for_other_latents_is_refused(make_unet):
    denoiser = UNetDenoiser(make_unet(8))
    plan = {"plan": AttentionPlan(hooks=(Louder(1.0),), grid=(6, 6), rows=ROWS)}
    with pytest.raises(DataError, match="positions, but the plan is for latents of 6 x 6"):
        denoiser.unet(
            torch.cat([NOISY, SOURCE], 1), T, encoder_hidden_states=TOLD.tokens, cross_attention_kwargs=plan
        )


def test_rows_give_each_what_its_sample_has():
    rows = Rows(names=("T", "I"), batch=2, copies=3)
    assert rows.each(torch.tensor([5, 6])).tolist() == [5, 5, 5, 6, 6, 6] * 2
    assert rows.of("I") == slice(6, 12)
