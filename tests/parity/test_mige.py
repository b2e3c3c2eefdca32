"""Our MIGE against the reference's numbers: words, encoder, denoiser, losses, files.

Everything that a case is made of is read from its files.
"""

from functools import cache

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.models.embeddings import PatchEmbed
from goldens import arrays, facts, seeded, tensor
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from mgie.data.images import letterboxed
from mgie.diffusion.guidance import DropConfig, drop_conditions
from mgie.diffusion.process import VarianceProcess
from mgie.diffusion.sampling import sample
from mgie.diffusion.solver import UniformDPMSolverScheduler
from mgie.diffusion.variational import Posterior
from mgie.instructions import clean, parse, with_places
from mgie.models.denoisers.pixart import position_table
from mgie.models.encoders.fusion import FeatureFusion
from mgie.prompts import Conversation, MigePrompts, placed_at
from mgie.types import Condition, Context, Pictures
from mgie.weights.mige import IDS, POSITIONS, TABLES, Heads, empty_mige, ours, published, read_mige

CLOSE = 1e-4
"""Of single passes in float32, relative to 1 + the value. Worst measured: 1.3e-5."""
SOLVED = 1e-5
SCHEDULE = 1e-6
RATIO = 1e-4
"""Of the log of picture to noise, which the reference takes of float32: near the clean end, 8e-5 off."""
SAMPLED = 1e-3
"""Of whole samplings, in parts of the array's deviation."""

CONFIG = facts("mige", "config")
SEED = CONFIG["seed"]
LAYOUT = {name: tuple(shape) for name, shape in facts("mige", "tiny_layout").items()}
LATENTS = (4, CONFIG["dit"]["input_size"], CONFIG["dit"]["input_size"])
SLOTS = 4


class Words:
    """The reference's own stand-in for T5's tokenizer: several words may have one id, which no library's
    vocabulary allows."""

    pad_token_id, eos_token_id = 0, 1

    def __init__(self, vocabulary: dict[str, int]):
        self.vocabulary = vocabulary

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return [self.vocabulary[word] for word in text.split()]


@cache
def prompts(*, strict: bool = False) -> MigePrompts:
    """Prompts in the toy vocabulary, which the goldens tell."""
    told = facts("mige", "text")["prompt_ids"]
    texts = [*told["prompts"], told["long_prompt"], told["noimage"][0]]
    ids = [*told["segments"], told["long_segments"], [told["noimage"][1]]]
    vocabulary: dict[str, int] = {}
    for text, segments in zip(texts, ids):
        words = [part for part in parse(text).parts if isinstance(part, str)]
        for part, known in zip(words, [each for each in segments if each], strict=True):
            vocabulary |= dict(zip(part.split(), known, strict=True))
    queries, most = LAYOUT["query_tokens"][1], LAYOUT["y_embedder.y_embedding"][0]
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    return MigePrompts(
        Words(vocabulary), queries=queries, most=most, edge=224, mean=mean, std=std, strict=strict
    )


def told(text: str, *, strict: bool = False) -> Conversation:
    """A prompt as it stands, without a task before it."""
    asked = prompts(strict=strict)
    parts = [
        asked.tokenizer.encode(part, add_special_tokens=False) if isinstance(part, str) else part
        for part in parse(text).parts
    ]
    return asked.mixed(parts, most=asked.most)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The published file of the tiny model."""
    scales = facts("mige", "scales")
    tensors = {
        name: torch.from_numpy(seeded(name, shape, SEED, scales.get(name))) for name, shape in LAYOUT.items()
    }
    _, denoiser = empty_mige(LAYOUT, heads=heads())
    tensors[IDS] = torch.arange(LAYOUT[IDS][1])[None]
    tensors[TABLES[0]] = tensors[TABLES[1]].clone()
    tensors[POSITIONS] = position_table(denoiser.transformer)
    path = tmp_path_factory.mktemp("mige") / "model.safetensors"
    save_file(tensors, path)
    return path


def heads() -> Heads:
    return Heads(
        vision=CONFIG["vit"]["num_heads"], qformer=CONFIG["qformer"]["num_attention_heads"],
        fusion=CONFIG["ffm"]["num_heads"], transformer=CONFIG["dit"]["num_heads"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def parts(file):
    return read_mige(file, heads=heads())


def given(name: str, *shape: int, scale: float = 1) -> Tensor:
    """One of the inputs."""
    return torch.from_numpy(seeded(f"input.{name}", shape, 0, scale))


def looks(case: str, counts: list[int]) -> tuple[Tensor, Tensor]:
    """Reference pictures of samples with so many each: pixels of the tower, and latents."""
    names = [f"{case}{row}.{number}" for row, count in enumerate(counts) for number in range(count)]
    pixels = torch.stack([given(f"ref_clip.{name}", 3, 224, 224) for name in names])
    return pixels, torch.stack([given(f"ref_vae.{name}", *LATENTS, scale=5) for name in names])


def asked(texts: list[str], case: str, counts: list[int], *, strict: bool = False):
    """Prompts with their pictures."""
    questions = [told(text, strict=strict) for text in texts]
    pixels, latents = looks(case, counts)
    places = placed_at(questions)
    assert places is not None
    count = len(places.at)
    made = prompts(strict=strict).asked(questions, [pixels[:count]])
    return made, Pictures(at=places.at, latents=latents[:count])


def context(encoder, texts, case, counts) -> Context:
    made, pictures = asked(texts, case, counts)
    return encoder.read(made.input_ids, made.mask, encoder.image_features(made.clip_pixels), pictures)


def apart(ours: Tensor, name: str, key: str) -> float:
    """The greatest difference from a golden array, relative to 1 + its value."""
    reference = tensor("mige", name, key)
    assert ours.shape == reference.shape
    return float(((ours.detach() - reference).abs() / (1 + reference.abs())).max())


def process() -> VarianceProcess:
    return VarianceProcess(DDPMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear"))


def canvas() -> Tensor:
    return torch.stack([torch.zeros(LATENTS), given("source.1", *LATENTS)])


def test_cleaned_texts():
    for raw, cleaned in facts("mige", "text")["clean"]:
        assert clean(raw) == cleaned


def test_placed_instructions():
    for raw, kind, placed in facts("mige", "text")["instruction"]:
        assert with_places(raw, kind=kind) == placed


def test_ids_of_prompts():
    known = facts("mige", "text")["prompt_ids"]
    texts, ids = [*known["prompts"], known["noimage"][0]], [*known["segments"], [known["noimage"][1]]]
    for text, segments in zip(texts, ids):
        made, picture = told(text), [0] * prompts().queries
        expected = [each for segment in segments for each in [*segment, *picture]][: -len(picture)]
        assert made.input_ids == [*expected, 1]


def test_letterboxes():
    held = arrays("mige", "image")
    for key in held:
        if key.startswith("in"):
            side = int(held[f"size{key[2:]}"])
            made = letterboxed(Image.fromarray(held[key]), side)
            assert np.array_equal(np.asarray(made), held[f"pad{key[2:]}"])


def test_fusion_at_its_true_widths():
    module = FeatureFusion(768, 1152, heads=8)
    for name, value in module.state_dict().items():
        scale = 1.0 if name.startswith("ln_") and name.endswith("weight") else None
        drawn = seeded(f"FFM.{name}", tuple(value.shape), SEED, scale)
        value.copy_(torch.from_numpy(drawn))
    made = module(given("ffm_native.clip", 2, 32, 768), given("ffm_native.vae", 2, 48, 1152))
    assert apart(made, "ffm_native", "out") < CLOSE


@torch.no_grad()
def test_encoder(parts):
    encoder, denoiser = parts
    counts = CONFIG["nref"]
    pixels, latents = looks("", counts)
    real = [SLOTS * row + number for row, count in enumerate(counts) for number in range(count)]
    # The reference reads empty slots, too.
    slots, hidden = torch.zeros(SLOTS * len(counts), 3, 224, 224), torch.zeros(SLOTS * len(counts), *LATENTS)
    slots[real], hidden[real] = pixels, latents
    assert apart(denoiser.patches(hidden)[:, ::64], "encode", "ref_patch") < CLOSE
    seen = encoder.image_features(slots)
    assert apart(encoder.vision.post_layernorm(seen)[:, :6], "encode", "vision") < CLOSE
    semantic = encoder.semantic(seen)
    assert apart(semantic, "encode", "qformer") < CLOSE
    fused = encoder.fusion(semantic, encoder.visual(hidden))
    assert apart(fused, "encode", "fused") < CLOSE
    assert apart(encoder.projector(fused), "encode", "tokens") < CLOSE
    made, pictures = asked(CONFIG["prompts"], "", counts)
    words = encoder.text.get_input_embeddings()(made.input_ids)
    mixed = encoder.mixed(words, encoder.image_features(made.clip_pixels), pictures)
    assert apart(mixed, "encode", "mixed") < CLOSE
    assert torch.equal(made.mask.long(), tensor("mige", "encode", "mask"))
    condition = context(encoder, CONFIG["prompts"], "", counts).condition
    assert apart(condition.tokens, "encode", "text") < CLOSE


@torch.no_grad()
def test_prompts_without_a_picture_and_too_long_ones(parts):
    encoder, denoiser = parts
    known = facts("mige", "text")["prompt_ids"]
    made = prompts().asked([told(known["noimage"][0])], [torch.zeros(0, 3, 224, 224)])
    answer = encoder.answer(made, max_new_tokens=1, no_repeat_ngram_size=0).context.condition
    assert torch.equal(made.mask.long(), tensor("mige", "edge", "noimage_mask"))
    assert apart(answer.tokens, "edge", "noimage_text") < CLOSE
    guess = denoiser(given("x", 2, *LATENTS)[:1], torch.tensor(CONFIG["t"][:1]), None, answer)
    assert apart(torch.cat([guess.mean, guess.spread], 1), "edge", "noimage_out") < CLOSE

    made, pictures = asked([known["long_prompt"]], "long.", [3], strict=True)
    assert torch.equal(made.mask.long(), tensor("mige", "edge", "long_mask"))
    seen = encoder.image_features(made.clip_pixels)
    mixed = encoder.mixed(encoder.text.get_input_embeddings()(made.input_ids), seen, pictures)
    assert apart(mixed, "edge", "long_mixed") < CLOSE
    tokens = encoder.read(made.input_ids, made.mask, seen, pictures).condition.tokens
    assert apart(tokens, "edge", "long_text") < CLOSE


@torch.no_grad()
def test_denoiser(parts):
    encoder, denoiser = parts
    inner, seen = denoiser.transformer, {}

    def keep(name: str, step: int):
        def hook(_, __, result):
            value = result[0] if isinstance(result, tuple) else result
            seen[name] = value[:, ::step] if step else value

        return hook

    handles = [
        inner.adaln_single.emb.timestep_embedder.register_forward_hook(keep("t_embed", 0)),
        inner.adaln_single.register_forward_hook(keep("t_block", 0)),
        inner.caption_projection.register_forward_hook(keep("y_proj", 8)),
        *(block.register_forward_hook(keep(f"block{number}", 64))
          for number, block in enumerate(inner.transformer_blocks)),
    ]  # fmt: skip
    x, beside = given("x", 2, *LATENTS), canvas()
    told_ = context(encoder, CONFIG["prompts"], "", CONFIG["nref"]).condition
    guess = denoiser(x, torch.tensor(CONFIG["t"]), beside, told_)
    for handle in handles:
        handle.remove()
    patches = inner.pos_embed.proj(torch.cat([x, beside], 1)).flatten(2).transpose(1, 2)
    seen |= {"x_patch": patches[:, ::64], "out": torch.cat([guess.mean, guess.spread], 1)}
    assert set(seen) == set(arrays("mige", "dit"))
    assert not {name for name, value in seen.items() if apart(value, "dit", name) >= CLOSE}


def test_places(parts):
    _, denoiser = parts
    table = denoiser.transformer.pos_embed.pos_embed[0, ::37]
    assert apart(table, "pos_embed", "tiny") < SCHEDULE
    native = PatchEmbed(
        height=64, width=64, patch_size=2, in_channels=1, embed_dim=1152, interpolation_scale=1
    )
    assert apart(native.pos_embed[0, ::101], "pos_embed", "native") < SCHEDULE


def losses(denoiser, condition: Condition, source: Tensor, x0: Tensor, noise: Tensor, t: Tensor):
    """Squared error and variational term of each sample, and the answer."""
    noisy = process().corrupt(x0, noise, t)
    guess = denoiser(noisy, t, source, condition)
    error = (guess.mean - noise).square().mean(dim=(1, 2, 3))
    return error, Posterior(betas=process().schedule.betas).bound(x0, noisy, guess, t), guess


@torch.no_grad()
@pytest.mark.parametrize("case", [0, 1])
def test_losses(parts, case):
    encoder, denoiser = parts
    told_ = facts("mige", "loss")[f"case{case}"]
    condition = context(encoder, CONFIG["prompts"], "", CONFIG["nref"]).condition
    x0, noise = given("x0", 2, *LATENTS), given("noise", 2, *LATENTS)
    error, bound, _ = losses(denoiser, condition, canvas(), x0, noise, torch.tensor(told_["t"]))
    for ours_, name in ((error, "mse"), (bound, "vb"), (error + bound, "loss")):
        torch.testing.assert_close(ours_, torch.tensor(told_[name]), rtol=CLOSE, atol=0)


def test_a_training_step(parts):
    encoder, denoiser = parts
    both = nn.ModuleDict({"encoder": encoder, "denoiser": denoiser})
    case, (first, second) = facts("mige", "loss")["train"], CONFIG["prompts"]
    encoder.vision.encoder.requires_grad_(False)
    encoder.vision.embeddings.requires_grad_(False)
    with torch.enable_grad():
        made = context(encoder, [first, second] * 2, "train.", CONFIG["nref"] * 2)
        source = given("train.source", 4, *LATENTS)
        drop = DropConfig(order="text image both")
        condition, seen, _ = drop_conditions(made, source, torch.tensor(case["rand"]), drop=drop)
        x0, noise = given("train.x0", 4, *LATENTS), given("train.noise", 4, *LATENTS)
        error, bound, guess = losses(denoiser, condition, seen, x0, noise, torch.tensor(case["t"]))
        (error + bound).mean().backward()
    assert guess.spread is not None
    out = torch.cat([guess.mean, guess.spread], 1)[:, :, ::4, ::4]
    assert apart(out, "train", "out") < CLOSE
    assert condition.mask is not None
    assert torch.equal(condition.mask.long(), tensor("mige", "train", "mask"))
    for ours_, name in ((error, "mse"), (bound, "vb"), (error + bound, "loss")):
        torch.testing.assert_close(ours_.detach(), torch.tensor(case[name]), rtol=CLOSE, atol=0)
    named = dict(both.named_parameters())
    grads = {
        name: torch.zeros_like(value) if (held := named.get(name)) is None or held.grad is None else held.grad
        for name, value in both.state_dict().items()
    }
    found = published(grads, {})
    for name, norm in case["grad_norm"].items():
        assert abs(found[name].norm().item() / norm - 1) < 1e-3, name
    both.zero_grad()


def test_schedule():
    known, solver = facts("mige", "schedule"), UniformDPMSolverScheduler()
    posterior = Posterior(betas=process().schedule.betas)
    tables = {"betas": posterior.betas.double(), "alphas_cumprod": posterior.alphas,
              "posterior_log_variance_clipped": posterior.log_variance}  # fmt: skip
    for name, table in tables.items():
        for step, value in known[name].items():
            assert abs(table[int(step)].item() - value) < SCHEDULE * max(1, abs(value)), name
    for steps, grid in known["grids"].items():
        solver.set_timesteps(int(steps))
        assert np.allclose(solver.grid, grid["t_continuous"], rtol=0, atol=SCHEDULE)
        assert np.allclose(solver.timesteps, grid["model_t"][:-1], rtol=SCHEDULE, atol=SCHEDULE)
    levels = np.array([solver.levels(t) for t in known["vp"]["t"]]).T
    for ours_, name in zip(levels, ("alpha", "sigma", "lam")):
        within = RATIO if name == "lam" else SCHEDULE
        assert np.allclose(ours_, known["vp"][name], rtol=0, atol=within), name


def test_solver():
    solver = UniformDPMSolverScheduler()
    for key in arrays("mige", "solver_toy"):
        solver.set_timesteps(int(key.removeprefix("steps")))
        latents = given("toy.z", 2, 4, 8, 8)
        for t in solver.timesteps:
            latents = solver.step(
                0.95 * latents + 0.05 * torch.sin(latents + t / 100), t, latents, return_dict=False
            )[0]
        assert apart(latents, "solver_toy", key) < SOLVED


@torch.no_grad()
@pytest.mark.parametrize("case", ["subject", "edit", "edit_s"])
def test_samplings(parts, case):
    encoder, denoiser = parts
    made = facts("mige", "schedule")["sampling"][case]
    solver = UniformDPMSolverScheduler()
    solver.set_timesteps(made["steps"])
    source = None
    if case != "subject":
        source = torch.stack([given(f"sample.source.{row}", *LATENTS) for row in range(2)])
    latents = sample(
        denoiser, solver, (2, *LATENTS), source,
        context(encoder, CONFIG["prompts"], "", CONFIG["nref"]),
        guidance=made["cfg_y"], image_guidance=made["cfg_s"], noise=given("z", 2, *LATENTS),
    )  # fmt: skip
    assert np.allclose(solver.timesteps, made["model_t"], rtol=SCHEDULE)
    reference = tensor("mige", "sample", case)
    assert float((latents - reference).abs().max() / reference.std()) < SAMPLED


def test_all_published_entries_have_one_place():
    shapes = {name: tuple(each["shape"]) for name, each in facts("mige", "checkpoint_layout").items()}
    encoder, denoiser = empty_mige(shapes)
    state = nn.ModuleDict({"encoder": encoder, "denoiser": denoiser}).state_dict()
    with torch.device("meta"):
        entries = {name: torch.empty(shape) for name, shape in shapes.items()}
    constants = {name: entries[name] for name in (IDS, POSITIONS)}
    back = published(state, constants)
    assert {name: tuple(value.shape) for name, value in back.items()} == shapes
    here = list(ours(entries))
    assert sorted(name for name, _ in here) == sorted(state)
    assert all(value.shape == state[name].shape for name, value in here)
