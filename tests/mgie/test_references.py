"""Pictures inside instructions of LLaVA and a UNet: they begin as if they were not there."""

import numpy as np
import pytest
import torch
from PIL import Image

from mgie.build import build_editor, build_release
from mgie.config import load_run
from mgie.data.batches import collate
from mgie.data.examples import ExampleBuilder
from mgie.data.images import encode
from mgie.diffusion.guidance import DropConfig
from mgie.errors import DataError, WeightsError
from mgie.models.editor import Editor
from mgie.pipeline import MGIEPipeline
from mgie.training.draws import draws_for
from mgie.training.task import EditTask
from mgie.types import EditPair
from mgie.weights.release import Release, read_release, write_release

TEXT = "replace the red circle in <source> by <image>"


def picture(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))


@pytest.fixture
def referring() -> Release:
    run = load_run("tiny", ["--model.encoder.references=true"])
    return build_release(build_editor(run), run)


def painted(release: Release, text: str, **options) -> torch.Tensor:
    pipeline = MGIEPipeline.from_release(release)
    pipeline.set_progress_bar_config(disable=True)
    options = {"seed": 0, "num_inference_steps": 2, "max_new_tokens": 4, "output_type": "latent"} | options
    return torch.as_tensor(pipeline(picture(0), text, **options).images)


def trained(release: Release, *names: str) -> Release:
    """With values where it begins at zero."""
    for name, value in release.editor.encoder.references.named_parameters():
        if any(each in name for each in names):
            value.data.normal_()
    return release


def plainly_painted(referring: Release, text: str, **options) -> torch.Tensor:
    """By the same weights in the same place, for rounding depends on that, without what reads pictures."""
    encoder = referring.editor.encoder
    held, encoder.references = encoder.references, None
    try:
        return painted(referring, text, **options)
    finally:
        encoder.references = held


def test_without_a_picture_it_is_the_plain_model(referring):
    plain = plainly_painted(referring, "make it dark")
    assert torch.equal(painted(referring, "make it dark"), plain)
    assert torch.equal(painted(trained(referring, "mlp", "to_v"), "make it dark"), plain)


def test_untrained_it_is_the_plain_model_that_is_shown_the_pictures(referring):
    images = [picture(1), picture(2)]
    text = "<image> " + TEXT
    first = painted(referring, text, images=images)
    assert torch.equal(first, plainly_painted(referring, text, images=images))
    assert not torch.equal(first, plainly_painted(referring, text, images=images[::-1]))


@pytest.mark.parametrize("name", ["mlp", "to_v"])
def test_trained_both_ends_see_the_picture(referring, name):
    before = painted(referring, TEXT, images=[picture(1)])
    after = painted(trained(referring, name), TEXT, images=[picture(1)])
    assert not torch.equal(before, after)
    assert not torch.equal(after, painted(referring, TEXT, images=[picture(2)]))


@pytest.mark.parametrize("count", [1, 4])
def test_several_pictures_go_each_to_its_own_row(referring, count):
    """In double precision: of rounding in single, random weights make up to a hundredth."""
    trained(referring, "mlp", "to_v").editor.double()
    pipeline = MGIEPipeline.from_release(referring)
    pipeline.set_progress_bar_config(disable=True)
    texts = ["beside ".join(["<image> "] * count) + "paint it", "make it dark", TEXT]
    images = [[picture(9 + each) for each in range(count)], [], [picture(1)]]
    options = {"seed": 0, "num_inference_steps": 2, "max_new_tokens": 4, "output_type": "latent"}
    together = pipeline(picture(0), texts, images=images, **options).images
    for row, (text, held) in enumerate(zip(texts, images)):
        alone = pipeline(picture(0), text, images=[held], **options).images
        assert (alone[0] - together[row]).abs().max() < 1e-9 * together[row].std()
    other = pipeline(picture(0), TEXT, images=[picture(2)], **options).images
    assert (other[0] - together[2]).abs().max() > 0.1 * together[2].std()


def test_a_release_keeps_them(referring, tmp_path):
    trained(referring, "mlp", "to_v")
    folder = write_release(referring, tmp_path / "release")
    assert (folder / "references" / "model.safetensors").is_file()
    again = read_release(folder)
    state, held = (each.editor.encoder.references.state_dict() for each in (referring, again))
    assert state.keys() == held.keys() and all(torch.equal(state[name], held[name]) for name in state)
    for each in (referring, again):
        each.editor.double()  # what was read lies elsewhere in memory, which changes the rounding
    first, second = (painted(each, TEXT, images=[picture(1)]) for each in (referring, again))
    assert (first - second).abs().max() < 1e-9 * first.std()


def test_a_release_without_them_has_no_sign_of_them(release, tmp_path):
    folder = write_release(release, tmp_path / "release")
    assert not (folder / "references").exists()
    assert "references" not in (folder / "model_index.json").read_text()


def test_they_are_for_the_attentions_of_one_denoiser(referring, mige):
    with pytest.raises(WeightsError, match=r"references are for \d+ attentions, and the PixArt"):
        referring.editor.encoder.meet(mige.editor.denoiser)


def pair(key: str, instruction: str, pictures: int, *, source: bool = True) -> EditPair:
    data = [encode(picture(seed), "PNG") for seed in range(pictures + 2)]
    return EditPair(
        key=key, instruction=instruction, target=data[0], source=data[1] if source else None,
        pictures=tuple(data[2:]), expressive="a red circle",
    )  # fmt: skip


PAIRS = [
    pair("a", TEXT, 1),
    pair("b", "make it dark", 0),
    pair("c", "<image> and <image> there", 2, source=False),
]


def step(release: Release, pairs: list[EditPair]) -> tuple[torch.Tensor, dict[str, torch.Tensor | None]]:
    """Loss and gradients of the references in a training step."""
    editor: Editor = release.editor.train()
    builder = ExampleBuilder(release.prompts, size=32, max_length=512)
    positions = tuple(range(len(pairs)))
    batch = collate([builder(each) for each in pairs], positions=positions, pad_id=builder.pad_id)
    inside = [] if batch.pictures is None else batch.pictures.at[:, 0].tolist()
    shape = editor.codec.latent_shape(32, 32)
    draws = draws_for(0, positions, latent_shape=shape, process=release.process, shift=1.0, inside=inside)
    task = EditTask(editor, release.process, drop=DropConfig(text=0.0, both=0.0, image=0.0))
    with torch.enable_grad():
        editor.zero_grad()
        losses = task(batch, draws)
        loss = losses["edit"].sum + losses["ce"].sum
        loss.backward()
    named = editor.encoder.references.named_parameters()
    return loss.detach(), {name: value.grad for name, value in named}


def test_a_batch_of_all_tasks_is_learnt_from_its_pictures(referring):
    _, grads = step(referring, PAIRS)
    assert all(value is not None for value in grads.values())
    assert grads["fusion.mlp.weight"].any() and any(v.any() for n, v in grads.items() if "to_v" in n)
    assert not grads["patches.weight"].any()  # behind what begins at zero
    with torch.no_grad():
        for name, value in referring.editor.encoder.references.named_parameters():
            value -= 0.1 * grads[name]
    _, after = step(referring, PAIRS)
    assert after["patches.weight"].any() and after["fusion.k_proj_1.0.weight"].any()


def test_a_batch_without_pictures_has_the_plain_loss_and_a_gradient_of_zero(referring):
    run = load_run("tiny")
    plain = build_release(build_editor(run), run)
    loss, grads = step(referring, PAIRS[1:2])
    assert all(value is not None and not value.any() for value in grads.values())
    plain.editor.train()
    builder = ExampleBuilder(plain.prompts, size=32, max_length=512)
    batch = collate([builder(PAIRS[1])], positions=(0,), pad_id=builder.pad_id)
    shape = plain.editor.codec.latent_shape(32, 32)
    draws = draws_for(0, (0,), latent_shape=shape, process=plain.process, shift=1.0)
    losses = EditTask(plain.editor, plain.process, drop=DropConfig(text=0.0, both=0.0, image=0.0))(
        batch, draws
    )
    assert torch.equal(loss, losses["edit"].sum + losses["ce"].sum)


def test_models_without_references_refuse_pairs_with_pictures(release):
    builder = ExampleBuilder(release.prompts, size=32, max_length=512)
    with pytest.raises(DataError, match="pair a has pictures in its instruction"):
        builder(PAIRS[0])
