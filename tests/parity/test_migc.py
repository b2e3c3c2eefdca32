"""Our layouts against the reference's numbers: masks, blocks of MIGC and MIGC++, files, scores, phrases.

Everything that a case is made of is read from its files.
"""

import numpy as np
import pytest
import torch
from goldens import arrays, facts, seeded, tensor
from torch import Tensor

from mgie.controllers.layout_blocks import (
    CBAM,
    REDUCTION,
    SAC,
    SLOTS,
    AbstractLayoutBlock,
    Instances,
    LayoutBlockConfig,
    MIGCBlock,
    MIGCPlusBlock,
    PositionNet,
    fourier,
    fused,
    published_order,
)
from mgie.controllers.layout_masks import (
    background,
    boxes_of,
    instance_masks,
    rectangles,
    reduced,
)
from mgie.data.phrases import lowest_phrases, repeated
from mgie.evaluation.controlled.coco_mig import (
    InstanceScore,
    Wanted,
    colour_fraction,
    score_instance,
    summary,
)
from mgie.models.finders import Detection
from mgie.weights.migc import read_blocks, write_blocks

EXACT = 1e-6
CLOSE = 2e-5
"""Of single passes in float32, absolute, the values being of the size of 1. Worst measured: 1.3e-6."""
LATENT = 8
"""Pixels to a latent, in all of the goldens."""
HEADS = 8

CONFIG = facts("migc", "config")
BLOCKS = {name: scales for name, _, scales in CONFIG["blocks"]}
CHANNELS = [int(key.partition("_")[2]) for key in arrays("migc", "cbam") if key.startswith("x_")]


def fill(module: torch.nn.Module, prefix: str, scales: dict[str, float] | None = None) -> torch.nn.Module:
    """Seeded values, by the reference's names."""
    for name, value in module.state_dict().items():
        drawn = seeded(prefix + name, tuple(value.shape), CONFIG["seed"], (scales or {}).get(name))
        value.copy_(torch.from_numpy(drawn))
    return module.eval()


def apart(ours: Tensor, name: str, key: str) -> float:
    """The greatest difference from a golden array of as many numbers in the same order."""
    reference = tensor("migc", name, key)
    assert ours.numel() == reference.numel()
    return float((ours.reshape(reference.shape) - reference).abs().max())


def block(kind: type[AbstractLayoutBlock], width: int, **scales: float) -> AbstractLayoutBlock:
    """A block with the goldens' weights."""
    made = kind(LayoutBlockConfig(width=width, condition_width=768, heads=HEADS))
    fill(made, "migc.", scales)
    return made


def scales_of(name: str) -> Tensor | None:
    """An instance's three scales, where a case has some."""
    held = arrays("migc", name)
    count = len(CONFIG["boxes"])
    each = [torch.from_numpy(held.get(f"{kind}_scale", np.ones(count))) for kind in ("ca", "ea", "sac")]
    return torch.stack(each, dim=-1).float()[None] if "sac_scale" in held else None


def latent_masks(boxes: Tensor, image: list[int], stencils: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Masks of instances and background at the latents' size."""
    present = torch.ones(boxes.shape[:2], dtype=torch.bool)
    masks = instance_masks(boxes, present, tuple(image), stencils)
    grid = (image[0] // LATENT, image[1] // LATENT)
    return reduced(masks, grid), reduced(background(masks), grid)


def instances(
    boxes: Tensor, masks: Tensor, behind: Tensor, grid: tuple[int, int], pooled: Tensor, scales: Tensor | None
) -> Instances:
    """What a layer sees of them; of `pooled`, the whole's row is left out."""
    return Instances(
        pooled=pooled[None, 1:, 0],
        boxes=boxes.float(),
        masks=reduced(masks, grid),
        background=reduced(behind, grid),
        present=torch.ones(boxes.shape[:2], dtype=torch.bool),
        scales=scales,
    )


class Watched:
    """What happens inside a block: the aggregation's weights and the enhancement's probabilities."""

    def __init__(self, made: AbstractLayoutBlock):
        self.block = made
        made.sac.register_forward_hook(self._aggregated)
        made.ea.register_forward_hook(self._enhanced, with_kwargs=True)

    def _aggregated(self, _, __, result: tuple[Tensor, Tensor]) -> None:
        self.weights = result[1]

    def _enhanced(self, _, given: tuple[Tensor], named: dict[str, Tensor], __) -> None:
        self.attention = probabilities(self.block.ea, given[0], named["encoder_hidden_states"])


def probabilities(attention: torch.nn.Module, states: Tensor, context: Tensor) -> Tensor:
    """ "r heads p q": how much each position looks at each token."""
    query, key = (
        attention.head_to_batch_dim(each) for each in (attention.to_q(states), attention.to_k(context))
    )
    return attention.get_attention_scores(query, key).unflatten(0, (len(states), HEADS))


@torch.no_grad()
def test_masks():
    name = "masks"
    boxes, image = tensor("migc", name, "boxes")[None], tensor("migc", name, "image_hw").tolist()
    masks, behind = latent_masks(boxes, image)
    assert apart(masks, name, "mask_instances_latent") < EXACT
    assert apart(behind, name, "mask_background_latent") < EXACT
    for key in [key for key in arrays("migc", name) if "_layer_div" in key]:
        grid = tuple(tensor("migc", name, key).shape[-2:])
        small = reduced(masks if "instances" in key else behind, grid)
        assert apart(small, name, key) < EXACT, key
    assert apart(published_order(boxes), name, "box_as_given_to_position_net") < EXACT


@torch.no_grad()
def test_position_net():
    name = "position_net"
    boxes = published_order(tensor("migc", name, "box"))  # there and back are the same
    net = fill(PositionNet(768), "pos_net.")
    assert apart(fourier(published_order(boxes)), name, "fourier") < EXACT * 5
    assert apart(net(boxes), name, "output") < CLOSE


@pytest.mark.parametrize("channels", CHANNELS)
@torch.no_grad()
def test_cbam(channels: int):
    gates = fill(CBAM(channels, 1 if channels == SLOTS else REDUCTION), f"cbam{channels}.")
    maps = tensor("migc", "cbam", f"x_{channels}")
    assert apart(gates.ChannelGate(maps), "cbam", f"channel_{channels}") < CLOSE
    assert apart(gates(maps), "cbam", f"out_{channels}") < CLOSE


@torch.no_grad()
def test_attentions():
    name = "attentions"
    inputs = {key: tensor("migc", name, key) for key in ("ea_x", "ea_context", "la_x", "la_masks")}
    width = inputs["ea_x"].shape[-1]
    made = block(MIGCBlock, width)
    fill(made.ea, "ea.")
    fill(made.la, "la.")
    assert apart(made.ea(inputs["ea_x"], inputs["ea_context"]), name, "ea_out") < CLOSE
    assert apart(probabilities(made.ea, inputs["ea_x"], inputs["ea_context"]), name, "ea_attn") < CLOSE
    masks = inputs["la_masks"]
    seen = Instances(
        pooled=torch.zeros(1, masks.shape[1] - 1, 768),
        boxes=torch.zeros(1, masks.shape[1] - 1, 4),
        masks=masks[:, :-1],
        background=masks[:, -1:],
        present=torch.ones(1, masks.shape[1] - 1, dtype=torch.bool),
    )
    asked = []
    made.la.register_forward_hook(
        lambda _module, _given, named, _result: asked.append(named["attention_mask"]), with_kwargs=True
    )
    assert apart(made.template(inputs["la_x"], seen), name, "la_out") < CLOSE
    assert torch.equal(asked[0] == 0, tensor("migc", name, "la_allowed"))


@pytest.mark.parametrize("case", ["identity", "identity_scaled", "permuted"])
@torch.no_grad()
def test_sac(case: str):
    maps, masks = tensor("migc", "sac", "x"), tensor("migc", "sac", "masks")
    count = maps.shape[1] - 2
    scales = tensor("migc", "sac", "sac_scale").float()[None, :, None, None]
    out, weights = fill(SAC(maps.shape[-1], with_background=True), "sac.")(
        maps,
        masks,
        present=torch.ones(1, count, dtype=torch.bool),
        scales=scales if case == "identity_scaled" else 1.0,
        order=tensor("migc", "sac", "permutation")[None] if case == "permuted" else None,
    )
    assert apart(out, "sac", f"out_{case}") < CLOSE
    assert apart(weights, "sac", f"weights_{case}") < CLOSE


@pytest.mark.parametrize("name", [f"block_{name}" for name in BLOCKS])
@torch.no_grad()
def test_block(name: str):
    grid = tuple(next(grid for case, grid, _ in CONFIG["blocks"] if f"block_{case}" == name))
    shaded, states, pooled = (tensor("migc", name, key) for key in ("ca", "image_token", "pooled"))
    boxes = torch.tensor([CONFIG["boxes"]], dtype=torch.float64)
    masks, behind = latent_masks(boxes, CONFIG["image"])
    seen = instances(boxes, masks, behind, grid, pooled, scales_of(name))
    watched = Watched(block(MIGCBlock, shaded.shape[-1]))
    assert apart(watched.block(shaded, states, seen), name, "out") < CLOSE
    assert apart(watched.weights, name, "sac_weights") < CLOSE
    assert apart(watched.attention.mean(1), name, "ea_attn") < CLOSE
    assert apart(fused(shaded, seen.masks), name, "naive_fuser_out") < CLOSE


@torch.no_grad()
def test_block_at_its_real_width():
    name, seed = "block_wide1280", CONFIG["seed"]
    (_, positions, width), count = tensor("migc", name, "out").shape, len(CONFIG["boxes"])
    shapes = {
        "ca": (1, count + 1, positions, width),
        "tok": (1, 1, positions, width),
        "pool": (count + 1, 1, 768),
    }
    shaded, states, pooled = (
        torch.from_numpy(seeded(f"in.wide.{key}", shape, seed, scale=1.0)) for key, shape in shapes.items()
    )
    grid = tuple(tensor("migc", name, "sac_weights").shape[-2:])
    boxes = torch.tensor([CONFIG["boxes"]], dtype=torch.float64)
    # As large as the picture is that gives the middle block such a layer.
    masks, behind = latent_masks(boxes, [side * 8 * LATENT for side in grid])
    seen = instances(boxes, masks, behind, grid, pooled, None)
    watched = Watched(block(MIGCBlock, width))
    assert apart(watched.block(shaded, states[0], seen), name, "out") < CLOSE
    assert apart(watched.weights, name, "sac_weights") < CLOSE
    assert apart(watched.attention.mean(1), name, "ea_attn") < CLOSE


@pytest.mark.parametrize("scaled", ["", "_scaled"])
@torch.no_grad()
def test_plus_block(scaled: str):
    name = "plus_block"
    shaded, states, pooled = (tensor("migc", name, key) for key in ("ca", "image_token", "pooled"))
    stencils, boxes = tensor("migc", name, "masks_image_u8")[None], tensor("migc", name, "boxes_xyxy")[None]
    drawn = (boxes_of(stencils) == boxes).all(-1)  # of the others, boxes were given
    whole = rectangles(boxes, tuple(stencils.shape[2:])) * 255
    assert drawn.any() and torch.equal(whole[~drawn], stencils[~drawn].float())
    stencils = stencils * drawn[..., None, None]
    masks, behind = latent_masks(boxes, tensor("migc", name, "image_hw").tolist(), stencils)
    assert apart(masks, name, "mask_instances_latent") < EXACT
    assert apart(behind, name, "mask_background_latent") < EXACT
    grid = tuple(tensor("migc", name, "sac_weights").shape[-2:])
    seen = instances(boxes, masks, behind, grid, pooled, scales_of(name) if scaled else None)
    watched = Watched(block(MIGCPlusBlock, shaded.shape[-1], gamma=1.0))
    assert apart(watched.block.gamma, name, "gamma") == 0
    gamma_scale = float(tensor("migc", name, "gamma_scale")) if scaled else 1.0
    found = watched.block(shaded, states, seen, gamma_scale=gamma_scale)
    assert apart(found, name, f"out{scaled}") < CLOSE
    assert apart(watched.weights, name, f"sac_weights{scaled}") < CLOSE
    assert apart(watched.attention.mean(1), name, "ea_attn") < CLOSE
    assert apart(fused(shaded, seen.masks), name, "refined_shader_out") < CLOSE


@pytest.mark.parametrize(("system", "kind"), [("migc", MIGCBlock), ("plus", MIGCPlusBlock)])
@torch.no_grad()
def test_checkpoint(system: str, kind: type[AbstractLayoutBlock], tmp_path):
    shapes = facts("migc", f"tiny_checkpoint_keys_{system}")
    seed = CONFIG["seed"]
    held = {name: torch.from_numpy(seeded(name, tuple(shape), seed)) for name, shape in shapes.items()}
    published = {"state_dict": held} if system == "migc" else held
    torch.save(published, tmp_path / "published.ckpt")
    blocks = read_blocks(tmp_path / "published.ckpt")
    assert len(blocks) == sum(name.endswith("norm.bias") for name in held)
    assert {type(each) for each in blocks.values()} == {kind}
    write_blocks(blocks, tmp_path / "ours.ckpt")
    written = torch.load(tmp_path / "ours.ckpt", weights_only=True)
    written = written["state_dict"] if system == "migc" else written
    assert sorted(written) == sorted(held)
    assert all(torch.equal(written[name], value) for name, value in held.items())


@pytest.mark.parametrize(("system", "kind"), [("migc", MIGCBlock), ("migc_plus", MIGCPlusBlock)])
def test_names_and_shapes_at_full_size(system: str, kind: type[AbstractLayoutBlock]):
    published = facts("migc", "full_size_block_keys")[system]
    width, condition_width = published["per_block"]["ea.to_k.weight"]
    with torch.device("meta"):
        made = kind(LayoutBlockConfig(width=width, condition_width=condition_width, heads=HEADS))
    assert {name: list(value.shape) for name, value in made.state_dict().items()} == published["per_block"]
    count = sum(value.numel() for value in made.parameters())
    assert count == published["parameters_per_block"]
    assert count * published["blocks"] * torch.float32.itemsize == published["bytes_float32"]


TEXT = facts("migc", "text_and_boxes")


@pytest.mark.parametrize("case", TEXT["phrases"], ids=lambda case: case["tree"])
def test_phrases(case: dict):
    found = [[phrase.text, list(phrase.tokens)] for phrase in lowest_phrases(case["tree"])]
    assert found == case["lowest_phrases"]


@pytest.mark.parametrize("case", TEXT["repeat_description"], ids=lambda case: str(case["instances"]))
def test_repeated_descriptions(case: dict):
    assert repeated(case["description"], case["instances"]) == case["result"]


@pytest.mark.parametrize("case", TEXT["box_to_mask"], ids=lambda case: str(case["area"]))
def test_a_box_to_its_mask_and_back(case: dict):
    mask = rectangles(torch.tensor(case["box"], dtype=torch.float64), (case["height"], case["width"]))
    assert mask.sum() == case["area"]
    assert boxes_of(mask).tolist() == case["mask_bounds"]


METRIC = facts("migc", "mig_metric")
ENLARGED = 32
"""How often each pixel of the stored pictures and masks is repeated, up and across."""


def scored(case: dict) -> tuple[InstanceScore, dict[str, float]]:
    """One instance's score, and how much of it has each colour."""
    bgr, mask = (
        arrays("migc", "mig_metric_images")[key][case["index"]].repeat(ENLARGED, 0).repeat(ENLARGED, 1)
        for key in ("images_bgr_16x16", "masks_16x16")
    )
    pixels = np.ascontiguousarray(bgr[..., ::-1])

    def parts(box: list[float]) -> tuple[float, ...]:
        return tuple(side / size for side, size in zip(box, (bgr.shape[1], bgr.shape[0]) * 2))

    found = [
        Detection(box=parts(box), score=score)
        for box, score in zip(case["detections_xyxy_px"], case["detection_scores"])
    ]
    wanted = Wanted(colour=case["colour"], thing="thing", box=parts(case["gt_box_xyxy_px"]))
    fractions = {colour: colour_fraction(pixels, mask, colour) for colour in case["colour_fraction_of_mask"]}
    return score_instance(pixels, wanted, found, lambda _: mask), fractions


@pytest.mark.parametrize("case", METRIC["cases"], ids=lambda case: str(case["index"]))
def test_score_of_an_instance(case: dict):
    score, fractions = scored(case)
    assert (score.in_place, score.in_colour) == (bool(case["position_ok"]), bool(case["colour_ok"]))
    assert score.overlap == pytest.approx(case["iou_recorded"], abs=EXACT)
    assert fractions == pytest.approx(case["colour_fraction_of_mask"], abs=EXACT)


def test_scores_together():
    told = summary([[scored(case)[0] for case in METRIC["cases"]]])
    assert told["instance_success_rate"] == pytest.approx(METRIC["instance_success_rate"], abs=EXACT)
    assert told["mean_iou"] == pytest.approx(METRIC["mean_iou"], abs=EXACT)
