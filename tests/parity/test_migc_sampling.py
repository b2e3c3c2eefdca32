"""Layouts in a UNet and over a whole sampling, against the numbers of MIGC's and MIGC++'s programs.

Rows there are ("U", "T"), and numbers of steps are the last ones that still count. Everything that a case is
made of is read from its files.
"""

from functools import cache

import pytest
import torch
from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
from goldens import arrays, facts, seeded, tensor
from torch import Tensor

from mgie.controllers.base import Setting, join
from mgie.controllers.layout import LayoutBlocks, LayoutController
from mgie.controllers.layout_blocks import LayoutBlockConfig, MIGCBlock, MIGCPlusBlock
from mgie.controllers.layout_masks import boxes_of, rectangles
from mgie.controllers.layout_options import LayoutOptions
from mgie.controllers.session import LayoutSession, keep_mask
from mgie.diffusion.sampling import sample
from mgie.models.denoisers.unet import UNetDenoiser
from mgie.types import Condition, Context, ControlBatch, ControlPlan, Rows

# What the library's scheduler does to numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SINGLE_PASS = 1e-4
"""Of single passes in float32, absolute. Worst measured: 3e-6."""
LOOP = 5e-3
"""Of guided samplings, whose latents have a deviation near 33. Worst measured: 2e-4."""
CONFIG = facts("migc", "config")
SEED = CONFIG["seed"]
SYSTEMS = {"migc": MIGCBlock, "plus": MIGCPlusBlock}
CONTROLLED = ("mid_block.attentions.0", *(f"up_blocks.1.attentions.{place}" for place in range(3)))
ATTENTION = ".transformer_blocks.0.attn2"
SINGLE = {"until": 1, "fuse_until": 2}
"""Of the single passes: the last step of the blocks and that of the fuser (the set's README)."""


def apart(ours: Tensor, name: str, key: str) -> float:
    reference = tensor("migc", name, key)
    return float((ours.reshape(reference.shape) - reference).abs().max())


def filled(module: torch.nn.Module, prefix: str, **scales: float) -> torch.nn.Module:
    with torch.no_grad():
        for name, value in module.state_dict().items():
            drawn = seeded(prefix + name, tuple(value.shape), SEED, scales.get(name))
            value.copy_(torch.from_numpy(drawn))
    return module.eval().requires_grad_(False)


@cache
def denoiser() -> UNetDenoiser:
    unet = UNet2DConditionModel(**CONFIG["unet"])
    filled(unet, "unet.")
    return UNetDenoiser(unet).eval()


@cache
def blocks(system: str) -> LayoutBlocks:
    """The published places; sizes are those of the UNet's layers."""
    made = {}
    for layer in CONTROLLED:
        attention = denoiser().unet.get_submodule(layer + ATTENTION)
        config = LayoutBlockConfig(
            width=attention.query_dim, condition_width=attention.cross_attention_dim, heads=attention.heads
        )
        prefix = f"{layer}{ATTENTION}.processor.migc."
        made[layer + ATTENTION] = filled(SYSTEMS[system](config), prefix, gamma=1.0)
    return LayoutBlocks(made)


def controls_of(name: str, *, scaled: bool = False) -> ControlBatch:
    """Boxes, or masks of those that were drawn."""
    held, stencils = arrays("migc", name), None
    boxes = torch.tensor([CONFIG["boxes"]], dtype=torch.float64)
    if "masks_image_u8" in held:
        stencils = tensor("migc", name, "masks_image_u8")[None]
        boxes = tensor("migc", name, "boxes_xyxy")[None]
        drawn = (boxes_of(stencils) == boxes).all(-1)
        whole = rectangles(boxes, (stencils.shape[-2], stencils.shape[-1])) * 255
        assert torch.equal(whole[~drawn], stencils[~drawn].float())
        stencils = stencils * drawn[..., None, None]
    count = boxes.shape[1]
    scales = torch.ones(1, count, 3)
    if scaled:
        scales = torch.tensor([[CONFIG[f"{kind}_scale"] for kind in ("ca", "ea", "sac")]]).mT
    return ControlBatch(
        boxes=boxes, present=torch.ones(1, count, dtype=torch.bool), scales=scales, stencils=stencils,
        phrases=torch.zeros(1, count, 0, dtype=torch.long),
    )  # fmt: skip


def context_of(name: str) -> Context:
    words = tensor("migc", name, "encoder_hidden_states")
    return Context(condition=Condition(tokens=words[1:2]), null=Condition(tokens=words[:1]))


def phrases_of(name: str) -> Condition:
    """What the text encoder gave for the instances; the first row of the pooled states is the whole's."""
    words, pooled = (tensor("migc", name, key) for key in ("encoder_hidden_states", "pooled"))
    return Condition(tokens=words[2:], pooled=pooled[1:, 0])


def plan_of(system: str, name: str, *, steps: int, until: int, fuse_until: int, **how) -> ControlPlan:
    """`until` and `fuse_until` are the last steps; -1 is none. As published, a thin region has no cell."""
    options = LayoutOptions(until=(until + 1) / steps, fuse_until=(fuse_until + 1) / steps, visible=False)
    height, width = CONFIG["image" if system == "migc" else "plus_image"]
    phrases = how.pop("phrases", None) or phrases_of(name)
    setting = Setting(
        grid=(height // 8, width // 8), context=context_of(name), pixels=(height, width), phrases=phrases
    )
    return LayoutController(options, blocks=blocks(system)).plan(controls_of(name, **how), setting)


def answered(name: str, plan: ControlPlan, progress: float) -> Tensor:
    noisy, words = tensor("migc", name, "sample"), tensor("migc", name, "encoder_hidden_states")
    t = tensor("migc", name, "timestep").expand(2)
    rows = Rows(names=("U", "T"), batch=1)
    with torch.no_grad():
        told = Condition(tokens=words[:2])
        return denoiser()(noisy.expand(2, -1, -1, -1), t, None, told, plan.at(progress).inner, rows).mean


@pytest.mark.parametrize("step", [0, 2, 3])
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_pass(system: str, step: int):
    name, steps = f"unet_{system}", 4
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    layers = {key.partition("/")[2] for key in arrays("migc", name) if key.startswith("layer_in")}
    handles = [
        denoiser().unet.get_submodule(layer + ATTENTION).register_forward_hook(
            lambda _, given, __, out, layer=layer: seen.update({layer: (given[0], out)}), with_kwargs=True
        )
        for layer in layers
    ]  # fmt: skip
    ours = answered(name, plan_of(system, name, steps=steps, **SINGLE), step / steps)
    for handle in handles:
        handle.remove()
    assert apart(ours, name, f"noise_pred_ith{step}") < SINGLE_PASS
    for key in arrays("migc", name):
        kind, _, layer = key.partition(f"_ith{step}/")
        if layer:
            assert apart(seen[layer][kind == "layer_out"], name, key) < SINGLE_PASS, key
    plain = answered(name, ControlPlan(), 0.0)
    assert torch.equal(ours[0], plain[0])  # the row of U, to the bit
    assert torch.equal(ours[1], plain[1]) == (step == 3)


@pytest.mark.parametrize("scaled", ["", "_scales"])
def test_a_pass_of_the_blocks_alone(scaled: str):
    for system in SYSTEMS:
        name, key = f"unet_{system}", f"noise_pred_ith0_nofuser{scaled}"
        if key in arrays("migc", name):
            how = {"steps": 4, "until": SINGLE["until"], "fuse_until": -1, "scaled": bool(scaled)}
            assert apart(answered(name, plan_of(system, name, **how), 0.0), name, key) < SINGLE_PASS


def euler(name: str) -> EulerDiscreteScheduler:
    scheduler = EulerDiscreteScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        timestep_spacing="linspace", steps_offset=1,
    )  # fmt: skip
    scheduler.set_timesteps(CONFIG["pipe"]["steps"])
    assert apart(scheduler.timesteps, name, "timesteps") < 1e-3
    assert apart(scheduler.sigmas, name, "sigmas") < 1e-4
    return scheduler


def painted(name: str, plan: ControlPlan) -> Tensor:
    """Latents after each step."""
    noise, found = tensor("migc", name, "initial_noise"), []

    def watch(_step: int, _t: Tensor, latents: Tensor) -> Tensor:
        found.append(latents)
        return latents

    with torch.no_grad():
        sample(
            denoiser(), euler(name), tuple(noise.shape), None, context_of(name),
            guidance=CONFIG["pipe"]["guidance"], image_guidance=1.0, plan=plan, noise=noise, watch=watch,
        )  # fmt: skip
    return torch.cat(found)


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_sampling(system: str):
    name, pipe = f"pipeline_{system}", CONFIG["pipe"]
    how = {"steps": pipe["steps"], "until": pipe["migc_steps"], "fuse_until": pipe["fuser_steps"]}
    assert apart(painted(name, plan_of(system, name, **how)), name, "latents_per_step") < LOOP


@pytest.mark.parametrize("name", [f"pipeline_{system}" for system in SYSTEMS])
def test_consistent_editing(name: str):
    """One instance changes; what is far from it stays."""
    if "consistent_keep_mask" not in arrays("migc", name):
        pytest.skip("this system's program has no such numbers")
    pipe, changed = CONFIG["pipe"], CONFIG["edit_instance"]
    how = {"steps": pipe["steps"], "until": pipe["migc_steps"], "fuse_until": pipe["fuser_steps"]}
    system = name.removeprefix("pipeline_")
    session, noise = LayoutSession(), tensor("migc", name, "initial_noise")
    placed = [(f"{place}", tuple(box)) for place, box in enumerate(CONFIG["boxes"])]
    phrases = phrases_of(name)

    def run(placed: list, phrases: Condition) -> Tensor:
        layout = plan_of(system, name, phrases=phrases, **how)
        remembered = session.plan(tuple(placed), noise=noise, scheduler=euler(name))
        return painted(name, join({"layout": layout, "session": remembered}))

    assert apart(run(placed, phrases), name, "consistent_first_latents_per_step") < LOOP
    other = list(placed)
    other[changed] = ("changed", placed[changed][1])
    mask = keep_mask(tuple(other), tuple(placed), tuple(noise.shape[-2:]))
    assert apart(mask, name, "consistent_keep_mask") < 1e-6
    tokens, pooled = phrases.tokens.clone(), phrases.pooled.clone()
    tokens[changed] = tensor("migc", name, "changed_encoder_hidden_state")
    pooled[changed] = tensor("migc", name, "changed_pooled")[0]
    edited = run(other, Condition(tokens=tokens, pooled=pooled))
    assert apart(edited, name, "consistent_edit_latents_per_step") < LOOP
