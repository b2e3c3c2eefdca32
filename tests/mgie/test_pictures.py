"""Pictures inside instructions, from what a user gives to what is painted and learnt."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mgie.data.batches import collate
from mgie.data.examples import ExampleBuilder
from mgie.data.images import encode
from mgie.diffusion.guidance import DropConfig
from mgie.edit import edit
from mgie.errors import DataError
from mgie.pipeline import MGIEPipeline
from mgie.request import inside_of
from mgie.training.draws import draws_for
from mgie.training.task import EditTask
from mgie.types import EditPair
from mgie.weights.release import write_release

TEXT = "replace the circle in <source> by <image>"


def picture(seed: int, size: tuple[int, int] = (32, 32)) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.fixture
def pipe(mige) -> MGIEPipeline:
    pipeline = MGIEPipeline.from_release(mige)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def painted(pipe: MGIEPipeline, *args, **options) -> torch.Tensor:
    return torch.as_tensor(pipe(*args, **options, seed=0, output_type="latent").images)


def test_what_is_painted_depends_on_the_picture_and_on_its_place(pipe):
    photo, one, other = picture(0), picture(1), picture(2)
    first = painted(pipe, photo, TEXT, images=[one])
    assert torch.equal(first, painted(pipe, photo, TEXT, images=[[one]]))
    assert not torch.allclose(first, painted(pipe, photo, TEXT, images=[other]))
    both = "replace <image> in <source> by <image>"
    turned = (painted(pipe, photo, both, images=held) for held in ([one, other], [other, one]))
    assert not torch.allclose(*turned)


def test_a_picture_does_not_depend_on_the_others_in_a_call(pipe):
    photos = [picture(0), picture(3, (48, 32))]
    texts, images = [TEXT, "make it dark"], [[picture(1)], []]
    together = pipe(photos, texts, images=images, seed=0, output_type="latent").images
    for photo, text, held, expected in zip(photos, texts, images, together):
        alone = painted(pipe, photo, text, images=[held])
        # Random weights, and guidance times five: rounding counts for more. Measured: 4e-4 of 1.
        assert (alone[0] - expected).abs().max() < 2e-3 * expected.std()


@pytest.mark.parametrize(
    ("text", "images", "wrong"),
    [
        (TEXT, None, "1 times and came with 0 pictures"),
        ("make it dark", [picture(1)], "0 times and came with 1 pictures"),
        (TEXT, [[picture(1)], [picture(2)]], "pictures for 2 instructions and 1 are asked"),
        ("<source> and <source>", None, "2 times, and there is one photo"),
        ("a <image> [IMG0]", [picture(1)], "which is no word"),
    ],
)
def test_what_does_not_go_together_is_refused(pipe, text, images, wrong):
    with pytest.raises(DataError, match=wrong):
        pipe(picture(0), text, images=images)


def test_what_is_no_picture_is_refused():
    with pytest.raises(DataError, match="is a str: expected one PIL picture inside"):
        inside_of(["cup.png"], ["a <image>"])


def test_models_that_read_none_refuse_them(release):
    pipeline = MGIEPipeline.from_release(release)
    with pytest.raises(DataError, match="reads none in instructions"):
        pipeline(picture(0), TEXT, images=[picture(1)])
    with pytest.raises(DataError, match="<source>, which is no word"):
        pipeline(picture(0), "make <source> dark")


def test_the_command_takes_files(mige, tmp_path):
    folder = write_release(mige, tmp_path / "release")
    for seed in (0, 1):
        picture(seed).save(tmp_path / f"{seed}.png")
    photo, cup, out = (tmp_path / name for name in ("0.png", "1.png", "out.png"))
    facts = edit([photo], TEXT, model=folder, out=out, images=[cup], device="cpu")
    direct = MGIEPipeline.from_release(mige)(picture(0), TEXT, images=[picture(1)], seed=0)
    assert facts["edits"][0]["said"] == ""
    assert np.array_equal(np.asarray(Image.open(out)), np.asarray(direct.images[0]))
    with pytest.raises(DataError, match="came with 2 pictures"):
        edit([photo], TEXT, model=folder, out=out, images=[cup, cup], device="cpu")
    with pytest.raises(DataError, match=r"no photo .*3\.png"):
        edit([photo], TEXT, model=folder, out=out, images=[tmp_path / "3.png"], device="cpu")


def pair(key: str, instruction: str, pictures: int, source: bool = True) -> EditPair:
    data = [encode(picture(seed), "PNG") for seed in range(pictures + 2)]
    return EditPair(
        key=key, instruction=instruction, target=data[0], source=data[1] if source else None,
        pictures=tuple(data[2:]),
    )  # fmt: skip


PAIRS = [
    pair("a", TEXT, 1),
    pair("b", "make it dark", 0),
    pair("c", "a <image> with <image>", 2, source=False),
]


def test_a_batch_mixes_tasks_and_knows_where_pictures_are(mige):
    builder = ExampleBuilder(mige.prompts, size=32, max_length=48)
    batch = collate([builder(each) for each in PAIRS], positions=(0, 1, 2), pad_id=builder.pad_id)
    assert batch.pictures is not None and batch.pictures.pixels is not None
    # The photo is a picture of the instruction, too.
    assert batch.pictures.at[:, 0].tolist() == [0, 0, 1, 2, 2]
    assert len(batch.clip_pixels) == len(batch.pictures.pixels) == 5
    assert batch.has_source.tolist() == [True, True, False]
    assert torch.equal(batch.pictures.pixels[0], batch.source[0])
    assert not torch.equal(batch.pictures.pixels[1], batch.source[0])
    for row, first in batch.pictures.at.tolist():
        assert not batch.input_ids[row, first : first + 3].any() and batch.mask[row, first : first + 3].all()


def learnt(mige, pairs, positions=None):
    builder, editor = ExampleBuilder(mige.prompts, size=32, max_length=48), mige.editor
    positions = tuple(range(len(pairs))) if positions is None else positions
    batch = collate([builder(each) for each in pairs], positions=positions, pad_id=builder.pad_id)
    inside = [] if batch.pictures is None else batch.pictures.at[:, 0].tolist()
    draws = draws_for(0, positions, latent_shape=(4, 16, 16), process=mige.process, shift=1.0, inside=inside)
    task = EditTask(editor, mige.process, drop=DropConfig(text=0.0, both=0.0, image=0.0))
    return task, batch, draws


def test_a_step_learns_noise_and_variance_through_all_trained_parts(mige):
    task, batch, draws = learnt(mige, PAIRS)
    assert task.weights == {"ce": 1.0, "edit": 1.0, "variational": 1.0}
    with torch.enable_grad():
        losses = task(batch, draws)
        task.weighted(losses, {name: max(count, 1) for name, count in task.counts(batch).items()}).backward()
    assert losses["variational"].count == 3 and losses["ce"].sum == 0
    groups = mige.editor.groups()
    for name in ("qformer", "fusion", "projector", "text_encoder", "denoiser"):
        assert any(value.grad is not None and value.grad.any() for value in groups[name]), name


def test_draws_of_pictures_leave_all_others_as_they_were_and_depend_on_their_sample_alone(mige):
    _, _, draws = learnt(mige, PAIRS)
    plain = draws_for(0, (0, 1, 2), latent_shape=(4, 16, 16), process=mige.process, shift=1.0)
    assert plain.pictures is None and torch.equal(draws.noise, plain.noise) and draws.pictures is not None
    _, _, alone = learnt(mige, PAIRS[2:], positions=(2,))
    assert alone.pictures is not None and torch.equal(alone.pictures, draws.pictures[3:])
    assert not torch.equal(draws.pictures[0], draws.pictures[1])
    assert not torch.equal(draws.pictures[0], draws.posterior[0])


def test_latents_in_training_are_samples_that_are_not_scaled(mige):
    task, batch, draws = learnt(mige, PAIRS)
    made = task.with_latents(batch, draws)
    mean, std = mige.editor.codec.moments(batch.pictures.pixels)
    assert torch.equal(made.pictures.latents, mean + std * draws.pictures)
    assert batch.pictures.latents is None


def test_a_batch_without_a_picture_is_learnt_like_any(mige):
    mige.editor.train()
    task, batch, draws = learnt(mige, [replace(PAIRS[1], source=None)])
    assert batch.pictures is None
    with torch.enable_grad():
        task(batch, draws)["edit"].sum.backward()
    fusion = mige.editor.groups()["fusion"]
    assert all(value.grad is not None and not value.grad.any() for value in fusion)


def test_pairs_that_lack_a_picture_are_named(mige):
    builder = ExampleBuilder(mige.prompts, size=32, max_length=48)
    with pytest.raises(DataError, match="pair a has 0 pictures, fewer than its instruction speaks of"):
        builder(replace(PAIRS[0], pictures=()))
    with pytest.raises(DataError, match="pair c"):
        builder(replace(PAIRS[2], instruction="make <source> dark", pictures=()))
