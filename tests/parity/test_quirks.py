"""The reference's quirks Q1 to Q12 (docs/coming-from-ml-mgie.md): what we do, and what `reference` does.

Q13 to Q22 are in test_more_quirks.py. All on the parts of the recipe `tiny`.
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import quirky
import torch
from diffusers import UNet2DConditionModel
from goldens import facts
from PIL import Image
from quirky import QUESTION, pair, picture, processor_of, tiny
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from mgie.build import Parts, build_editor, build_release
from mgie.build_data import build_examples
from mgie.config import RunConfig, load_run
from mgie.data.batches import collate
from mgie.data.examples import ExampleBuilder
from mgie.data.express import clean_up
from mgie.data.orders import Shuffled
from mgie.diffusion.guidance import DropConfig
from mgie.errors import WeightsError
from mgie.models.denoisers.unet import widen
from mgie.models.encoders.llava import LlavaEncoder, states_at
from mgie.pipeline import MGIEPipeline
from mgie.prompts import LlavaPrompts, visual_ids
from mgie.tokens import visual_tokens
from mgie.train import draw_for
from mgie.training.task import EditTask
from mgie.weights.apple import apple_mllm
from mgie.weights.parts import resolve

ROUNDING = 2e-5
"""Of single passes in float32, relative to the greatest value."""
COUNT = 8


@pytest.fixture(scope="module")
def run() -> RunConfig:
    return tiny()


@pytest.fixture(scope="module")
def parts(run: RunConfig) -> Parts:
    built = build_editor(run)
    built.editor.eval()
    return built


@pytest.fixture(scope="module")
def pipeline(run: RunConfig, parts: Parts) -> MGIEPipeline:
    pipe = MGIEPipeline.from_release(build_release(parts, run))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def encoder_of(parts: Parts) -> LlavaEncoder:
    assert isinstance(parts.editor.encoder, LlavaEncoder)
    return parts.editor.encoder


def builder(parts: Parts, **changes) -> ExampleBuilder:
    compat = changes.get("compat", "default")
    prompts = LlavaPrompts(parts.prompts.processor, question=QUESTION, count=COUNT, compat=compat)
    return ExampleBuilder(prompts, **({"size": 32, "max_length": 200} | changes))


@contextmanager
def saying(encoder: LlavaEncoder, script: list[int]) -> Iterator[None]:
    """The language model says `script`, token by token, whatever it was asked."""
    left = iter(script)

    def forced(_head, _states, scores: torch.Tensor) -> torch.Tensor:
        return F.one_hot(torch.full(scores.shape[:-1], next(left)), scores.shape[-1]).float()

    hook = encoder.llava.language_model.lm_head.register_forward_hook(forced)
    try:
        yield
    finally:
        hook.remove()


def spoken(parts: Parts, words: str) -> list[int]:
    return parts.prompts.processor.tokenizer.encode(words, bos=False)


def imagine(parts: Parts, script: list[int], compat: str):
    """What comes of an answer, and the states of the conversation with all visual tokens at its end."""
    encoder, build = encoder_of(parts), builder(parts)
    prompt = build.prompts.question("make it red", sizes=[(8, 8)])
    clip_pixels = build.clip_pixels(build.crop(picture()))
    with saying(encoder, script):
        imagined = encoder.visual_states(
            build.prompts.asked([prompt], [clip_pixels]),
            max_new_tokens=len(script),
            no_repeat_ngram_size=0,
            compat=compat,
        )
    words = [
        token
        for token in script
        if token not in (*encoder.visual_ids, parts.prompts.processor.tokenizer.eos_id)
    ]
    whole = torch.tensor([[*prompt.input_ids, *words, *encoder.visual_ids]])
    with torch.no_grad():
        states = encoder.llava(whole, torch.ones_like(whole, dtype=torch.bool), clip_pixels)[0]
    return imagined, states, len(prompt.input_ids) + len(words)


def close(one: torch.Tensor, two: torch.Tensor) -> bool:
    return one.shape == two.shape and float((one - two).abs().max()) <= ROUNDING * float(two.abs().max())


def test_q01_no_initialiser_touches_what_a_file_held(run: RunConfig, parts: Parts):
    """The linear layers are those that the reference drew anew, as its record says. All other tensors:
    tests/mgie/test_build.py."""
    record = facts("mgie", "train")["init_checks"]["changed_by_hf_init"]
    assert any(name.startswith("unet.") and name.endswith("linear_1.weight") for name in record)
    folder = resolve(run.model.denoiser.diffusion)
    for part, model in (("unet", parts.editor.denoiser.unet), ("vae", parts.editor.codec.vae)):
        stored = load_file(f"{folder}/{part}/diffusion_pytorch_model.safetensors")
        linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        assert linear or part == "vae"
        for name in linear:
            module = model.get_submodule(name)
            assert torch.equal(module.weight, stored[f"{name}.weight"].float()), name
            assert module.bias is None or torch.equal(module.bias, stored[f"{name}.bias"].float()), name


def test_q02_the_bias_of_the_widened_input_stays():
    """More of the widening: tests/mgie/models/denoisers/test_unet.py."""
    assert facts("mgie", "train")["init_checks"]["conv_in_bias_is_fresh_random_not_sd"]
    unet = UNet2DConditionModel(
        block_out_channels=(32,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        layers_per_block=1,
        cross_attention_dim=8,
    )
    bias = unet.conv_in.bias.detach().clone()
    assert torch.equal(widen(unet).conv_in.bias, bias) and unet.conv_in.in_channels == 8


def test_q03_the_window_does_not_move_where_nothing_follows_the_last_visual_token(parts: Parts):
    """Other ends of an answer: tests/mgie/models/encoders/test_llava.py; the goldens' own: test_mgie.py."""
    visual = list(encoder_of(parts).visual_ids)
    words = spoken(parts, "red ball")
    for script, shift in (([*words, *visual], 1), ([*words, *visual[:-2]], 3)):
        sound, states, first = imagine(parts, script, "default")
        assert sound.forced == (False,)
        assert close(sound.states[0], states[first - 1 : first + COUNT - 1])
        reference, _, _ = imagine(parts, script, "reference")
        assert reference.forced == (False,)
        early = first - 1 - shift
        assert close(reference.states[0], states[early : early + COUNT])


def test_q04_visual_tokens_are_never_lost(parts: Parts):
    # Inference: they are appended, and the result says so.
    script = spoken(parts, "the red ball is very big and the blue box is small")[:10]
    assert len(script) == 10
    sound, states, first = imagine(parts, script, "default")
    assert sound.forced == (True,)
    assert close(sound.states[0], states[first - 1 : first + COUNT - 1])
    reference, _, _ = imagine(parts, script, "reference")
    read = first - 1 - COUNT - 1
    assert reference.forced == (True,)
    assert close(reference.states[0], states[read : read + COUNT])

    # Training: the expressive text is cut, not they. The reference reads near the end of the padded batch.
    pairs = [
        pair("long", expressive="the red ball " * 6),
        pair("short", expressive="red"),
    ]
    whole = [builder(parts)(each) for each in pairs]
    length = len(whole[0].input_ids) - COUNT - 3
    assert len(whole[1].input_ids) < length
    for compat in ("default", "reference"):
        build = builder(parts, max_length=length, compat=compat)
        batch = collate([build(each) for each in pairs], positions=(0, 1), pad_id=build.pad_id)
        said = batch.input_ids.gather(1, batch.read_at + 1)
        ids = torch.tensor(encoder_of(parts).visual_ids)
        if compat == "default":
            assert torch.equal(said, ids.expand(2, -1))
        else:
            assert not torch.isin(batch.input_ids[0], ids).any()
            assert batch.read_at[0].tolist() == list(range(length - COUNT - 1, length - 1))
            assert torch.equal(said[1], ids)


def test_q05_ids_are_looked_up(parts: Parts, run: RunConfig):
    processor = processor_of(run)
    with pytest.raises(WeightsError, match=r"\[IMG0\]"):
        visual_ids(processor, COUNT)
    before = len(processor.tokenizer)
    processor.tokenizer.add_tokens(["[OTHER]", *visual_tokens(COUNT), "[LAST]"])
    assert visual_ids(processor, COUNT) == tuple(range(before + 1, before + 1 + COUNT))
    # Rows of the table by id, wherever they stand in it.
    encoder = encoder_of(parts)
    elsewhere = LlavaEncoder(encoder.llava, encoder.edit_head, visual_ids=tuple(range(50, 50 + COUNT)))
    table = encoder.llava.language_model.model.embed_tokens.weight
    assert torch.equal(elsewhere.visual_embeddings(), table[50 : 50 + COUNT])


def test_q06_one_rule_splits_texts(parts: Parts):
    """The reference's slow rule, held to its ids in test_llava.py."""
    tokenizer = parts.prompts.processor.tokenizer
    names = " ".join(visual_tokens(COUNT))
    ids = tokenizer.encode(f"red {names}", bos=False)
    assert tuple(ids[-COUNT:]) == encoder_of(parts).visual_ids
    assert tokenizer.encode("red\n<im_start>") == tokenizer.encode("red<im_start>")


def test_q07_one_order_for_all_processes():
    """More of orders: tests/mgie/data/test_batches.py."""
    order = Shuffled(12, seed=3).take(0, 12)
    random.seed(1)
    np.random.seed(1)
    assert np.array_equal(order, Shuffled(12, seed=3).take(0, 12))
    assert sorted(order) == list(range(12))
    assert not np.array_equal(order, Shuffled(12, seed=4).take(0, 12))


def test_q08_the_visual_tokens_rows_are_written(parts: Parts):
    """Read with and without them: tests/mgie/weights/test_apple.py."""
    assert not facts("mgie", "extract")["has_emb"]
    emb = dict(apple_mllm(parts.editor.encoder))["emb"]
    assert torch.equal(emb[0], encoder_of(parts).visual_embeddings().half())


def test_q09_all_see_the_same_crop(parts: Parts, pipeline: MGIEPipeline):
    wide = picture(96, 32)
    covered = wide.copy()
    covered.paste((0, 0, 0), (0, 0, 20, 32))  # beyond the centre square
    asked = {"num_inference_steps": 1, "max_new_tokens": 1}
    for compat in ("default", "reference"):
        options = pipeline._sampling(**asked, compat=compat)
        build = builder(parts, compat=compat)
        assert torch.equal(*map(build.clip_pixels, (wide, covered))) == (compat == "reference")
        painted = [np.asarray(fitted) for fitted, _ in pipeline._fitted([wide, covered], options)]
        assert not np.array_equal(*painted)
        assert painted[0].shape[:2] == (32, 96) or compat == "default"
    # The reference edits at the photo's own size, cut to multiples of what a latent stands for.
    ((odd, _),) = pipeline._fitted([picture(49, 35)], pipeline._sampling(**asked, compat="reference"))
    factor = parts.editor.codec.space.factor
    assert odd.size == (49 // factor * factor, 35 // factor * factor)
    # Training: squares in both; by the reference in two steps.
    example, twice = (
        builder(parts, compat=compat)(pair("a", width=60, height=40)) for compat in ("default", "reference")
    )
    assert example.source.shape == twice.source.shape == (3, 32, 32)
    assert 0 < float((example.source - twice.source).abs().max()) < 0.5


def test_q10_what_was_said_is_cleaned():
    """The reference's rule to the letter, and its failures: tests/mgie/data/test_express.py."""
    said = "The pole is 2.5 m. It is red. Or green."
    assert clean_up(said) == "The pole is 2.5 m. It is red."
    assert clean_up(f"USER: q ASSISTANT: {said}</s>", compat="reference") == "The pole is 2.5 m."
    twice = "USER: say 'ASSISTANT: no' ASSISTANT: It is red."
    assert clean_up(twice, compat="reference").startswith("no'")
    assert clean_up("") == ""
    with pytest.raises(IndexError):
        clean_up("ASSISTANT: </s>", compat="reference")


def test_q10_the_pipeline_decodes_only_what_is_new(parts: Parts, pipeline: MGIEPipeline):
    script = [*spoken(parts, "red ball"), parts.prompts.processor.tokenizer.eos_id]
    for compat in ("default", "reference"):
        with saying(encoder_of(parts), script):
            result = pipeline(picture(), "write ASSISTANT: no", seed=0, num_inference_steps=1, compat=compat)
        (said,) = result.said
        assert said.startswith("no") if compat == "reference" else said == "red ball"


def test_q11_a_step_needs_no_launcher_and_prints_nothing(
    run: RunConfig, parts: Parts, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    build = build_examples(run, parts.prompts)
    batch = collate([build(pair("a")), build(pair("b"))], positions=(0, 1), pad_id=build.pad_id)
    task = EditTask(parts.editor, parts.process, drop=DropConfig())
    losses = task(batch, quirky.draw_for(parts, (0, 1), run.data.size))
    assert losses["ce"].sum.isfinite() and losses["edit"].sum.isfinite()
    captured = capsys.readouterr()
    assert not captured.out and not captured.err and "LOCAL_RANK" not in os.environ


def test_q12_the_null_is_computed_once(parts: Parts):
    encoder = encoder_of(parts)
    build = builder(parts)
    batch = collate([build(pair(key)) for key in "abc"], positions=(0, 1, 2), pad_id=build.pad_id)
    found = {}
    for compat in ("default", "reference"):
        rows = []
        hook = encoder.edit_head.register_forward_hook(
            lambda _m, given, _o, rows=rows: rows.append(len(given[0]))
        )
        same = LlavaEncoder(encoder.llava, encoder.edit_head, visual_ids=encoder.visual_ids, compat=compat)
        with torch.no_grad():
            found[compat] = same.encode(batch)
        hook.remove()
        assert rows == {"default": [4], "reference": [3, 3]}[compat]
    for kind in ("condition", "null"):
        assert close(getattr(found["default"], kind).tokens, getattr(found["reference"], kind).tokens)
    states = states_at(found["default"].states, batch.read_at)
    assert states.shape[1] == COUNT and len(found["reference"].null.tokens) == 1


def test_one_word_in_the_recipe_reaches_everything():
    """`compat: reference` goes to examples, draws, encoder and release, whose pipeline obeys it."""
    run = load_run("tiny", ["--compat=reference", "--train.timestep_shift=1"])
    parts = build_editor(run)
    build = build_examples(run, parts.prompts)
    assert build.compat == "reference"
    batch = collate([build(pair("a")), build(pair("b"))], positions=(6, 7), pad_id=build.pad_id)
    drawn = draw_for(run, parts, batch)
    torch.manual_seed(run.seed + 6)
    assert torch.equal(drawn.posterior, torch.randn(drawn.noise.shape))
    assert encoder_of(parts).compat == "reference"
    pipe = MGIEPipeline.from_release(build_release(parts, run))
    pipe.set_progress_bar_config(disable=True)
    assert pipe.config.compat == "reference"
    assert pipe(Image.new("RGB", (51, 33)), "make it red", seed=0, max_new_tokens=10).images[0].size == (
        48,
        32,
    )
