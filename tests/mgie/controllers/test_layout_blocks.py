from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mgie.controllers.layout_blocks import (
    SLOTS,
    AbstractLayoutBlock,
    Instances,
    LayoutBlockConfig,
    MIGCBlock,
    MIGCPlusBlock,
    fused,
)
from mgie.controllers.layout_masks import background, instance_masks, reduced
from mgie.errors import ConfigError

CONFIG = LayoutBlockConfig(width=32, condition_width=12, heads=4)
ROUNDING = 2e-7
"""What padding may move values by, relative to the greatest. Worst measured: 5e-8."""
KINDS = [MIGCBlock, MIGCPlusBlock]
GRIDS = [(4, 4), (3, 5), (1, 2)]


def drawn(kind: type[AbstractLayoutBlock]) -> AbstractLayoutBlock:
    """A block in which nothing is at its neutral start."""
    block = kind(CONFIG)
    torch.nn.init.constant_(block.get_parameter("gamma"), 0.7) if kind is MIGCPlusBlock else None
    return block.eval()


def case(counts: tuple[int, ...], n: int, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Instances]:
    """Shadings, states and instances: so many in each sample, padded to n with rubbish."""
    generator = torch.Generator().manual_seed(5)
    h, w = grid

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    most = max(n, 6)
    shaded, states, pooled = normal(3, most + 1, h * w, 32), normal(3, h * w, 32), normal(3, most, 12)
    corners = torch.rand(3, most, 2, 2, generator=generator).sort(2).values
    boxes = corners.flatten(2)[:, :n]
    present = torch.arange(n) < torch.tensor(counts)[:, None]
    masks = instance_masks(boxes, present, (h * 16, w * 16))
    behind = background(masks)
    masks, behind = (reduced(reduced(each, (h * 2, w * 2)), grid) for each in (masks, behind))
    scales = torch.rand(3, most, 3, generator=generator)[:, :n] + 0.5
    instances = Instances(
        pooled=pooled[:, :n], boxes=boxes, masks=masks, background=behind, present=present, scales=scales
    )
    return shaded[:, : n + 1], states, instances


def of(instances: Instances, row: int, n: int) -> Instances:
    """One sample alone, without padding."""
    return Instances(
        pooled=instances.pooled[row : row + 1, :n],
        boxes=instances.boxes[row : row + 1, :n],
        masks=instances.masks[row : row + 1, :n],
        background=instances.background[row : row + 1],
        present=instances.present[row : row + 1, :n],
        scales=None if instances.scales is None else instances.scales[row : row + 1, :n],
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", GRIDS)
@torch.no_grad()
def test_each_sample_of_a_padded_batch_is_what_it_is_alone(kind, grid):
    block, counts = drawn(kind), (0, 2, 5)
    shaded, states, instances = case(counts, 6, grid)
    together = block(shaded, states, instances)
    assert together.shape == states.shape
    for row, count in enumerate(counts):
        alone = block(shaded[row : row + 1, : count + 1], states[row : row + 1], of(instances, row, count))
        assert (together[row] - alone[0]).abs().max() <= ROUNDING * together.abs().max()
    assert not torch.allclose(together[1], shaded[1, 0], atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_without_instances_nothing_changes_by_a_bit(kind):
    block = drawn(kind)
    shaded, states, instances = case((0, 0, 4), 4, (3, 5))
    assert torch.equal(block(shaded, states, instances)[:2], shaded[:2, 0])
    shaded, states, instances = case((0, 0, 0), 0, (3, 5))
    assert torch.equal(block(shaded, states, instances), shaded[:, 0])


@torch.no_grad()
def test_a_new_block_of_the_second_kind_is_the_fuser():
    shaded, states, instances = case((1, 2, 3), 3, (4, 4))
    assert torch.equal(MIGCPlusBlock(CONFIG)(shaded, states, instances), fused(shaded, instances.masks))


@torch.no_grad()
def test_the_fuser_outside_all_boxes_and_for_any_order():
    shaded, _, instances = case((6, 6, 6), 6, (4, 4))
    other = torch.tensor([3, 0, 5, 1, 4, 2])
    turned = fused(shaded[:, [0, *(other + 1).tolist()]], instances.masks[:, other])
    assert torch.allclose(fused(shaded, instances.masks), turned, atol=1e-6)
    outside = (instances.masks.sum(1) == 0).flatten(1)
    assert outside.any()
    assert torch.allclose(fused(shaded, instances.masks)[outside], shaded[:, 0][outside], atol=1e-5)
    silent = torch.zeros(3, 6, 1, 1)
    assert torch.allclose(fused(shaded, instances.masks, silent), shaded[:, 0], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_slots_in_another_order(kind):
    block = drawn(kind)
    shaded, states, instances = case((1, 3, 5), 5, (3, 5))
    plain = block(shaded, states, instances)
    same = torch.arange(block.most)[None]
    assert torch.equal(block(shaded, states, instances, order=same), plain)
    order = torch.stack([torch.randperm(block.most) for _ in range(3)])
    found = block(shaded, states, instances, order=order)
    assert not torch.equal(found, plain)
    for row in range(3):
        each = block(shaded, states, instances, order=order[row : row + 1])
        assert (each[row] - found[row]).abs().max() <= ROUNDING * found.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_more_instances_than_slots_are_refused(kind):
    block = drawn(kind)
    n = block.most + 1
    assert n == (SLOTS - 1 if kind is MIGCBlock else SLOTS)
    shaded, states, instances = case((n, n, n), n, (1, 2))
    with pytest.raises(ConfigError, match=f"{n} instances in one picture: expected at most {n - 1}"):
        block(shaded, states, instances)
    assert fused(shaded, instances.masks).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("counts", [(0, 0, 0), (0, 2, 5)])
def test_each_parameter_has_a_gradient_in_every_batch(kind, counts):
    block = drawn(kind).train()
    shaded, states, instances = case(counts, 5, (3, 5))
    block(shaded, states, instances).square().sum().backward()
    gradients = {name: value.grad for name, value in block.named_parameters()}
    assert not [name for name, gradient in gradients.items() if gradient is None]
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert all(gradient.any() == any(counts) for gradient in gradients.values())


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_half_as_long_numbers(kind):
    block = drawn(kind)
    shaded, states, instances = case((0, 2, 5), 5, (3, 5))
    expected = block(shaded, states, instances)
    found = block.bfloat16()(shaded.bfloat16(), states.bfloat16(), instances)
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).abs().max() < 0.05  # of values up to 3; measured 0.012


@torch.no_grad()
def test_where_nothing_is_covered_together_attention_does_not_pass():
    block = drawn(MIGCBlock)
    masks = torch.zeros(1, 2, 1, 4)
    masks[0, 0, 0, :2] = 0.25
    masks[0, 1, 0, 2:] = 1
    _, _, instances = case((2, 2, 2), 2, (1, 4))
    seen = replace(of(instances, 0, 2), masks=masks, background=torch.zeros(1, 1, 1, 4))
    states = torch.randn(1, 4, 32)
    before = block.template(states, seen)
    states[0, 3] += 1
    after = block.template(states, seen)
    assert torch.equal(before[0, :2], after[0, :2])
    assert not torch.equal(before[0, 2], after[0, 2])


def test_a_width_that_the_heads_do_not_divide():
    with pytest.raises(ConfigError, match="width 32 cannot have 5 heads"):
        LayoutBlockConfig(width=32, condition_width=8, heads=5)
