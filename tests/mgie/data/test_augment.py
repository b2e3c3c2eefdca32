import io
from collections import Counter

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image, ImageOps

from mgie.build_data import build_examples
from mgie.config import DataConfig, dump_run
from mgie.data.augment import RandomCrop, RandomFlip, augmentations
from mgie.data.batches import Batches
from mgie.data.examples import ExampleBuilder
from mgie.data.images import decode, decode_mask
from mgie.data.orders import sample_generator
from mgie.data.streamed import StreamedPairs
from mgie.diffusion.process import VarianceProcess
from mgie.errors import ConfigError
from mgie.prepare import prepare
from mgie.prompts import LlavaPrompts
from mgie.start import check_same_run
from mgie.training.draws import draws_for
from mgie.types import Region

BOTH = augmentations(crop=0.5, flip=0.5)


def places(side: int) -> bytes:
    """A picture that says where it is: red grows to the right, green to the bottom."""
    ramp = np.linspace(0, 255, side).astype(np.uint8)
    image = np.zeros((side, side, 3), np.uint8)
    image[..., 0], image[..., 1] = ramp[None], ramp[:, None]
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def mask(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(places(side))).getchannel("R").save(buffer, format="PNG")
    return buffer.getvalue()


def shown(data: bytes) -> np.ndarray:
    return np.asarray(decode(data, name="it"), dtype=int)


@pytest.fixture
def build(processor):
    def make(transforms=BOTH, **changes):
        prompts = LlavaPrompts(processor, question="{instruction}", count=4)
        return ExampleBuilder(prompts, **({"size": 16, "max_length": 200} | changes), transforms=transforms)

    return make


def test_the_same_part_of_source_target_and_mask(make_pair):
    pair = make_pair(0, source=places(96), target=places(192), mask=mask(192))
    sides = set()
    for position in range(20):
        part = RandomCrop(0.5)(pair, np.random.default_rng(position))
        source, target = shown(part.source), shown(part.target)
        covered = np.asarray(decode_mask(part.mask, name="mask"), dtype=int)
        assert abs(target.shape[0] - 2 * source.shape[0]) <= 1 and covered.shape == target.shape[:2]
        assert (covered == target[..., 0]).all()
        for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
            assert (abs(source[corner] - target[corner]) <= 4).all()
        assert 48 <= source.shape[0] <= 96
        sides.add((source.shape[0], *source[0, 0]))
    assert len(sides) == 20
    assert part.instruction == pair.instruction and part.key == pair.key


def test_a_mirrored_pair(make_pair):
    pair = make_pair(0, source=places(20), target=places(40), mask=mask(40))
    turned = RandomFlip(1.0)(pair, np.random.default_rng(0))
    for before, after in ((pair.source, turned.source), (pair.target, turned.target)):
        assert (shown(after) == np.asarray(ImageOps.mirror(decode(before, name="it")))).all()
    assert (np.asarray(decode_mask(turned.mask, name="it")) == shown(pair.target)[:, ::-1, 0]).all()
    assert RandomFlip(1.0)(make_pair(1, source=None), np.random.default_rng(0)).source is None
    flipped = [RandomFlip(0.25)(pair, np.random.default_rng(seed)) is not pair for seed in range(1000)]
    assert 200 < sum(flipped) < 300


def test_regions_go_with_their_pictures(make_pair):
    """A box and a mask of the same place tell of the same place afterwards."""
    box = (0.2, 0.5, 0.6, 1.0)
    ramp = np.zeros((200, 200), np.uint8)
    ramp[100:, 40:120] = 255
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, format="PNG")
    regions = (Region(phrase="a cat", box=box), Region(phrase="a dog", mask=buffer.getvalue()))
    pair = make_pair(0, source=places(200), target=places(200), regions=regions, pictures=(places(9),))
    left = Counter()
    for seed in range(60):
        for transform in (RandomCrop(0.2), RandomFlip(1.0)):
            made = transform(pair, np.random.default_rng(seed))
            assert made.pictures == pair.pictures
            left[type(transform).__name__, len(made.regions)] += 1
            if len(made.regions) == 2:
                x0, y0, x1, y1 = made.regions[0].box
                rows, columns = np.nonzero(np.asarray(decode_mask(made.regions[1].mask, name="it")) > 127)
                side = shown(made.target).shape[0]
                found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / side
                assert abs(found - np.array([x0, y0, x1, y1])).max() < 0.05
    assert left["RandomFlip", 2] == 60 and left["RandomCrop", 0] > 3 and left["RandomCrop", 2] > 30
    assert left["RandomCrop", 1] < 5  # but for rounding both stay or both go


@pytest.mark.parametrize(
    ("words", "sided"),
    [
        ("remove the left one", True),
        ("make the RIGHTMOST circle red", True),
        ("put it on the right-hand side", True),
        ("make it brighter, like a copyright", False),
    ],
)
def test_a_pair_that_names_a_side_is_never_mirrored(make_pair, words, sided):
    region = Region(phrase=words, box=(0.0, 0.0, 1.0, 1.0))
    for changes in ({"instruction": words}, {"expressive": f"So. {words}"}, {"regions": (region,)}):
        pair = make_pair(0, **changes)
        assert (RandomFlip(1.0)(pair, np.random.default_rng(0)) is pair) == sided


def pixels(batches, start=0, stop=24):
    """Position -> the pictures of its sample."""
    return {
        position: (batch.source[row], batch.target[row], batch.clip_pixels[row])
        for step in batches.steps(start, stop)
        for batch in step
        for row, position in enumerate(batch.positions)
    }


def same(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(here, there) for place in one for here, there in zip(one[place], other[place])
    )


def test_what_is_drawn_knows_no_workers_no_world_and_no_interruption(make_pair, build):
    pairs = [make_pair(index, source=places(40), target=places(40)) for index in range(7)]

    def batches(**changes):
        settings = {"seed": 5, "batch_size": 6, "micro_batch_size": 3} | changes
        return Batches(pairs, build(), **settings)

    plain = pixels(batches())
    assert len({tuple(target[:, 0, 0].tolist()) for _, target, _ in plain.values()}) > 15
    assert same(pixels(batches(workers=2)), plain)
    assert same(pixels(batches(micro_batch_size=6)), plain)
    halves = [pixels(batches(rank=rank, world=2)) for rank in (0, 1)]
    assert same(dict(sorted((halves[0] | halves[1]).items())), plain)
    assert same(pixels(batches(), start=12), {place: plain[place] for place in range(12, 24)})
    assert not same(pixels(batches(seed=6)), plain)


def test_a_stream_draws_the_same_for_every_world(tmp_path, build):
    prepare("toy", tmp_path / "hub", count=12, test=0, size=64, format="parquet", progress=False)

    def batches(**changes):
        settings = {"seed": 5, "batch_size": 4, "micro_batch_size": 2} | changes
        return Batches(StreamedPairs(str(tmp_path / "hub"), window=5), build(max_length=2000), **settings)

    plain = pixels(batches())
    halves = [pixels(batches(rank=rank, world=2, workers=2)) for rank in (0, 1)]
    assert same(dict(sorted((halves[0] | halves[1]).items())), plain)
    assert not same(pixels(Batches(batches()._pairs, build((), max_length=2000), seed=5, batch_size=4,
                                   micro_batch_size=2)), plain)  # fmt: skip


def test_the_stream_of_a_sample_is_its_own():
    first = [sample_generator(seed, position).random(8) for seed in (0, 1) for position in range(50)]
    assert len({tuple(values) for values in first}) == 100
    process = VarianceProcess(DDPMScheduler())
    drawn = draws_for(0, (7,), latent_shape=(4, 32, 32), process=process, shift=1.0)
    own = sample_generator(0, 7).standard_normal(4 * 32 * 32, dtype=np.float32)
    assert not np.isin(own, drawn.posterior.numpy()).any()
    assert sample_generator(3, 4).integers(1 << 60) == 183971256504176016


def test_nothing_asked_nothing_changed(make_pair, build, tiny_run, processor):
    pair = make_pair(0, source=places(30), target=places(30))
    plain, off = build(())(pair), build(augmentations(crop=1.0, flip=0.0))(pair, np.random.default_rng(0))
    for name in ("source", "target", "clip_pixels", "input_ids"):
        assert torch.equal(getattr(plain, name), getattr(off, name))
    prompts = LlavaPrompts(processor, question="{instruction}", count=4)
    assert build_examples(tiny_run(), prompts).transforms == ()
    asked = build_examples(tiny_run("--data.crop=0.8", "--data.flip=0.5"), prompts)
    assert asked.transforms == (RandomCrop(0.8), RandomFlip(0.5))


def test_a_part_keeps_the_shape_of_its_bucket(make_pair, build):
    pair = make_pair(0, source=places(33), target=places(33))
    builder = build((RandomCrop(0.3),), shapes=[(16, 16), (17, 16)])
    shapes = {builder(pair, np.random.default_rng(seed)).target.shape for seed in range(30)}
    assert shapes == {(3, 16, 16)}


@pytest.mark.parametrize("wish", [{"crop": 0.5}, {"flip": 0.5}])
def test_stored_features_are_of_whole_pictures(wish):
    with pytest.raises(ConfigError, match=rf"data\.features and data\.{next(iter(wish))}"):
        DataConfig(path="a", size=32, max_length=64, features=("vae",), **wish)
    DataConfig(path="a", size=32, max_length=64, features=("vae",))


def test_a_run_from_before_these_keys_goes_on(tiny_run, tmp_path):
    lines = dump_run(tiny_run()).splitlines(keepends=True)
    (tmp_path / "state.json").write_text("{}")
    (tmp_path / "run.yaml").write_text("".join(line for line in lines if line.split(":")[0].strip() not in (
        "crop", "flip"
    )))  # fmt: skip
    check_same_run(tiny_run(), tmp_path, "")
    with pytest.raises(ConfigError, match=r"data\.crop=1\.0, now data\.crop=0\.5"):
        check_same_run(tiny_run("--data.crop=0.5"), tmp_path, "")
