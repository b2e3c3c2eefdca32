import torch

from mgie.controllers.layout_masks import (
    background,
    boxes_of,
    instance_masks,
    made_visible,
    rectangles,
    reduced,
)

BOXES = torch.tensor([[[0.1, 0.2, 0.5, 0.6], [0.5, 0.5, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]])
PRESENT = torch.tensor([[True, True, False]])


def test_ends_are_cut_off_and_upper_ones_excluded():
    mask = rectangles(torch.tensor([0.25, 0.19, 0.99, 0.69]), (10, 12))
    assert mask.shape == (10, 12)
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    assert rows.tolist() == [1, 2, 3, 4, 5]
    assert columns.tolist() == [3, 4, 5, 6, 7, 8, 9, 10]
    assert mask.sum() == len(rows) * len(columns)


def test_a_stencil_counts_for_its_box_and_an_empty_one_does_not():
    stencils = torch.zeros(1, 3, 8, 12, dtype=torch.uint8)
    stencils[0, 0, 2, 3] = 51
    masks = instance_masks(BOXES, PRESENT, (8, 12), stencils)
    assert masks[0, 0].sum() == masks[0, 0, 2, 3] == 51 / 255
    assert torch.equal(masks[0, 1], rectangles(BOXES[0, 1], (8, 12)))


def test_what_is_absent_has_no_mask_whatever_its_box():
    boxes = torch.full((1, 2, 4), 0.0)
    boxes[..., 2:] = 1.0
    masks = instance_masks(boxes, torch.tensor([[False, False]]), (4, 6))
    assert not masks.any()
    assert torch.equal(background(masks), torch.ones(1, 1, 4, 6))
    assert torch.equal(background(masks[:, :0]), torch.ones(1, 1, 4, 6))


def test_instances_that_overlap_leave_no_negative_background():
    masks = instance_masks(BOXES[:, [0, 0]], torch.tensor([[True, True]]), (10, 10))
    assert masks.sum(1).max() == 2
    assert background(masks).min() == 0


def test_the_way_over_the_latents_matters():
    masks = instance_masks(BOXES, PRESENT, (64, 96))
    small = reduced(reduced(masks, (8, 12)), (3, 5))
    assert small.shape == (1, 3, 3, 5)
    assert not torch.equal(small, reduced(masks, (3, 5)))
    assert small.unique().numel() > 2  # they stay fractions
    assert reduced(masks[:, :0], (3, 5)).shape == (1, 0, 3, 5)


def test_masks_of_all_ones_stay_exactly_that():
    assert torch.equal(reduced(torch.ones(1, 1, 64, 96), (5, 7)), torch.ones(1, 1, 5, 7))


def test_a_box_too_thin_for_the_grid_gets_the_cell_of_its_middle():
    boxes = torch.tensor([[[0.55, 0.1, 0.56, 0.12], [0.0, 0.0, 0.5, 0.5], [0.99, 0.99, 1.0, 1.0]]])
    present = torch.tensor([[True, True, True]])
    masks = reduced(reduced(instance_masks(boxes, present, (64, 64)), (8, 8)), (4, 4))
    assert not masks[0, 0].any()
    seen = made_visible(masks, boxes, present)
    assert seen[0, 0].nonzero().tolist() == [[0, 2]]
    assert torch.equal(seen[0, 1], masks[0, 1])
    assert seen[0, 2].nonzero().tolist() == [[3, 3]]
    absent = torch.tensor([[False, True, True]])
    assert not made_visible(masks, boxes, absent)[0, 0].any()


def test_a_box_goes_from_the_first_to_the_last_index():
    mask = torch.zeros(2, 8, 10, dtype=torch.uint8)
    mask[0, 2:5, 3:9] = 1
    assert boxes_of(mask).tolist() == [[0.3, 0.25, 0.8, 0.5], [0, 0, 0, 0]]
