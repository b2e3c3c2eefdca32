"""New blocks, a batch's regions as a plan, and the loss of phrases that are heard outside."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from mgie.controllers.base import Setting
from mgie.controllers.layout import LayoutBlocks, LayoutController
from mgie.controllers.layout_blocks import MIGCPlusBlock
from mgie.controllers.layout_learning import LayoutLearning, new_blocks
from mgie.controllers.layout_options import LayoutOptions, LayoutTraining, LayoutWay
from mgie.errors import ConfigError
from mgie.models.denoisers.unet import UNetDenoiser
from mgie.models.encoders.phrases import Phrases
from mgie.types import Condition, Context, ControlBatch, Draws

WIDTH, TOKENS, BATCH, MOST = 24, 5, 3, 3
SITES = [
    f"{name}.transformer_blocks.0.attn2" for name in ("mid_block.attentions.0", "up_blocks.0.attentions.0")
]
TRAINING = LayoutTraining(
    sites=("mid_block",), inhibit_sites=("up_blocks.0.attentions.0",), inhibit_weight=0.1
)


class Reader:
    """States of numbers in the place of a text encoder's: three words between two marks."""

    class encoder:
        pooled = None

    def __call__(self, ids):
        rows = torch.Generator().manual_seed(3)
        tokens = torch.randn(len(ids), TOKENS, WIDTH, generator=rows)
        described = torch.tensor([False, True, True, True, False]).expand(len(ids), -1)
        return Phrases(condition=Condition(tokens=tokens, pooled=tokens[:, 3]), described=described)


@pytest.fixture(scope="module")
def denoiser() -> UNetDenoiser:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=4,
        cross_attention_dim=WIDTH, attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
    )  # fmt: skip
    return UNetDenoiser(unet).eval().requires_grad_(False)


def learning(denoiser: UNetDenoiser, training: LayoutTraining = TRAINING) -> LayoutLearning:
    made = new_blocks(denoiser.attentions, denoiser.beside, training, seed=1)
    for block in made.values():
        if isinstance(block, MIGCPlusBlock):
            torch.nn.init.constant_(block.gamma, 0.7)
    blocks = LayoutBlocks(made, way=training.way)
    return LayoutLearning(blocks, Reader(), training, attentions=denoiser.attentions, depth=1, factor=4)


def controls() -> ControlBatch:
    corners = torch.rand(BATCH, MOST, 2, generator=torch.Generator().manual_seed(4)) * 0.5
    present = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])
    return ControlBatch(
        boxes=torch.cat([corners, corners + 0.4], dim=-1), present=present,
        phrases=torch.zeros(BATCH, MOST, 1, dtype=torch.long), scales=torch.ones(BATCH, MOST, 3),
    )  # fmt: skip


def context() -> Context:
    words = torch.randn(BATCH + 1, TOKENS, WIDTH, generator=torch.Generator().manual_seed(5))
    return Context(condition=Condition(tokens=words[:BATCH]), null=Condition(tokens=words[BATCH:]))


def drawn(**more) -> Draws:
    noise = torch.randn(BATCH, 4, 8, 8, generator=torch.Generator().manual_seed(6))
    return Draws(posterior=noise, noise=noise, t=torch.full((BATCH,), 500), keep=torch.ones(BATCH), **more)


def answered(denoiser, plan) -> torch.Tensor:
    draws = drawn()
    return denoiser(
        draws.noise, draws.t, None, context().condition, None if plan is None else plan.inner
    ).mean


def test_a_training_step_paints_as_a_sampling_does(denoiser):
    """With blocks until the end, and their slots in place."""
    learnt, told = learning(denoiser), torch.ones(BATCH, dtype=torch.bool)
    plan = learnt.plan(controls(), context(), drawn(), told, (8, 8))
    read = Reader()(torch.zeros(BATCH * MOST, 1))
    setting = Setting(grid=(8, 8), pixels=(32, 32), context=context(), phrases=read.condition)
    whole = LayoutController(LayoutOptions(until=1.0), blocks=learnt.blocks, depth=1)
    sampled = whole.plan(controls(), setting)
    assert torch.equal(answered(denoiser, plan), answered(denoiser, sampled))


def test_who_is_told_nothing_is_painted_plainly(denoiser):
    training = LayoutTraining(sites=("mid_block",), drop=0.5, inhibit_weight=0.0)
    learnt, told = learning(denoiser, training), torch.tensor([False, True, True])
    plain = answered(denoiser, None)
    made = answered(denoiser, learnt.plan(controls(), context(), drawn(), told, (8, 8)))
    assert [torch.equal(one, other) for one, other in zip(made, plain)] == [True, False, True]
    left = drawn(placed=torch.tensor([0.9, 0.2, 0.9]))
    made = answered(denoiser, learnt.plan(controls(), context(), left, told, (8, 8)))
    assert torch.equal(made, plain)


def test_the_order_of_slots_matters_to_the_aggregation_alone(denoiser):
    training = LayoutTraining(sites=("mid_block",), kind="migc", inhibit_weight=0.0)
    learnt, told = learning(denoiser, training), torch.ones(BATCH, dtype=torch.bool)
    orders = torch.stack(
        [torch.randperm(28, generator=torch.Generator().manual_seed(row)) for row in range(BATCH)]
    )
    one = answered(denoiser, learnt.plan(controls(), context(), drawn(), told, (8, 8)))
    other = answered(denoiser, learnt.plan(controls(), context(), drawn(slots=orders), told, (8, 8)))
    assert [torch.equal(a, b) for a, b in zip(one, other)] == [False, False, True]


def test_without_the_fuser_other_layers_hear_the_words_alone(denoiser):
    training = LayoutTraining(sites=("mid_block",), inhibit_weight=0.0, way=LayoutWay(fuse_until=0.0))
    plan = learning(denoiser, training).plan(
        controls(), context(), drawn(), torch.ones(BATCH, dtype=torch.bool), (8, 8)
    )
    assert [type(hook).__name__ for hook in plan.attention] == ["BlockShading"]


def test_the_loss_of_phrases_heard_outside(denoiser):
    """Against a computation instance by instance, of the probabilities that the library tells."""
    learnt, held = learning(denoiser), controls()
    plan = learnt.plan(held, context(), drawn(), torch.ones(BATCH, dtype=torch.bool), (8, 8))
    seen = []
    (site,) = learnt.inhibited
    layer, _ = denoiser.beside(site)
    handle = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    answered(denoiser, plan)
    handle.remove()
    total, (inhibiting,) = 0.0, [hook for hook in plan.attention if hook.order == 25]
    tokens = Reader()(torch.zeros(BATCH * MOST, 1)).condition.tokens.view(BATCH, MOST, TOKENS, WIDTH)
    for row in range(BATCH):
        for place in range(MOST):
            if not held.present[row, place]:
                continue
            asked, keys = layer.to_q(seen[0][row : row + 1]), layer.to_k(tokens[row, place][None])
            maps = layer.get_attention_scores(layer.head_to_batch_dim(asked), layer.head_to_batch_dim(keys))
            heard = maps.mean(0)[:, 1:4].sum(-1)
            grid = (4, 4) if len(heard) == 16 else (8, 8)
            outside = inhibiting.layout.masks[grid][0][row, place].flatten() == 0
            there = heard[outside]
            total += (there - there.mean()).abs().mean()
    found = plan.losses["inhibit"]()
    torch.testing.assert_close(found, torch.as_tensor(total), rtol=1e-5, atol=1e-7)
    assert learnt.weights == {"inhibit": 0.1} and found > 0


def test_sites(denoiser):
    assert list(
        new_blocks(denoiser.attentions, denoiser.beside, LayoutTraining(sites=("mid_block",)), seed=0)
    ) == [SITES[0]]
    with pytest.raises(ConfigError, match=r"sites has up_blocks.7, where this denoiser has no"):
        new_blocks(denoiser.attentions, denoiser.beside, LayoutTraining(sites=("up_blocks.7",)), seed=0)
    again = [new_blocks(denoiser.attentions, denoiser.beside, TRAINING, seed=9)[SITES[0]] for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(again[0].parameters(), again[1].parameters()))
