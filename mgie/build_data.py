"""RunConfig -> batches: the data of a run, as its editor reads them."""

from collections.abc import Sequence
from functools import partial

from torch.utils.data import ConcatDataset

from mgie.config import RunConfig
from mgie.data.augment import augmentations
from mgie.data.batches import Batches
from mgie.data.datasets import open_sets, with_features
from mgie.data.examples import ExampleBuilder
from mgie.data.orders import InOrder, OrderConfig, aspect_shapes
from mgie.data.stored_features import FeatureExtractor
from mgie.data.stored_pairs import StoredPairs, stored_splits
from mgie.data.streamed import StreamedPairs
from mgie.errors import ConfigError, DataError
from mgie.models.editor import Editor
from mgie.personalization.pairs import SubjectPairs
from mgie.personalization.subjects import load_prior, load_subjects
from mgie.prompts import AbstractPrompts
from mgie.training.layouts import phrase_ids

EQUAL = {"subject": 2.0, "prior": 2.0}
"""How photos and prior pictures count, half of a step each, unless it is said: its loss is the sum of both
means."""


def build_examples(run: RunConfig, prompts: AbstractPrompts, editor: Editor | None = None) -> ExampleBuilder:
    """What turns a pair into an example for this run's model; with its editor, regions too if it learns
    them."""
    data, learns = run.data, "layout" in run.train.groups
    phrases = phrase_ids(editor, prompts) if editor is not None and learns else None
    return ExampleBuilder(
        prompts,
        size=data.size,
        max_length=data.max_length,
        compat=run.compat,
        shapes=aspect_shapes(data.size, step=data.shape_step) if data.buckets == "shape" else None,
        transforms=augmentations(
            crop=data.crop, flip=data.flip, regions=None if phrases is None else run.train.layout.most
        ),
        masked=run.train.loss.mask_floor < 1,
        task_weights=run.train.loss.task_weights or (EQUAL if data.subjects and data.subjects.prior else {}),
        phrase_ids=phrases,
    )


def build_batches(
    run: RunConfig, prompts: AbstractPrompts, *, rank: int, world: int, editor: Editor | None = None
) -> Batches:
    """The training data of this run, for one of `world` processes.

    `editor` is whoever will read them: stored features must be those of its parts, and shapes of pictures
    such as it can read. Raises ConfigError, DataError or WeightsError where they are not.
    """
    data, builder = run.data, build_examples(run, prompts, editor)
    if editor is None and (data.features or builder.shapes):
        raise ConfigError(
            "stored features and shape buckets are for one editor: give build_batches its editor."
        )
    batches = partial(
        Batches,
        seed=run.seed,
        batch_size=run.train.batch_size,
        micro_batch_size=run.train.micro_batch(world),
        rank=rank,
        world=world,
        workers=data.workers,
    )
    if data.subjects:
        pairs = build_subjects(run)
        return batches(pairs, builder, order=InOrder(len(pairs)))
    if data.streaming:
        _check_previews(run, prompts)
        stream = StreamedPairs(data.path, memory=run.folder / "stream.json", notes=rank == 0)
        return batches(stream, builder)
    arrangement = OrderConfig(
        batch_size=run.train.batch_size,
        last=data.last,
        buckets=data.buckets,
        shapes=builder.shapes or (),
        pair_weights=data.pair_weights,
    )
    stored, order = open_sets(data.shares, arrangement, seed=run.seed)
    for pairs in stored:
        _check_readable(pairs, pairs.with_pictures, prompts)
    if editor is not None:
        _check_learnable(stored, editor, regions=builder.phrase_ids is not None)
    _check_previews(run, prompts)
    if editor is None:
        return batches(ConcatDataset(stored), builder, order=order)
    for width, height in builder.shapes or ():
        editor.codec.latent_shape(height, width)
    if not data.features:
        return batches(ConcatDataset(stored), builder, order=order)
    moving = {"vae": "codec", "clip": "vision_tower"}
    for group in (moving[kind] for kind in data.features if moving[kind] in run.train.groups):
        raise ConfigError(
            f"data.features={list(data.features)} with {group} in train.groups: what is trained gives other "
            "features after every step; leave one of them out."
        )
    extractor = FeatureExtractor(
        builder,
        codec=editor.codec if "vae" in data.features else None,
        encoder=editor.encoder if "clip" in data.features else None,
    )
    learnt = with_features(stored, data.features, extractor, regions=builder.phrase_ids is not None)
    return batches(learnt, builder, order=order)


def build_subjects(run: RunConfig) -> SubjectPairs:
    """The pairs of a run on one's own subjects. Raises DataError and ConfigError."""
    data = run.data
    assert data.subjects
    segmix, prior = data.subjects.segmix, data.subjects.prior
    masks = segmix.prob > 0
    subjects = load_subjects(data.path, masks=masks)
    return SubjectPairs(
        subjects, size=data.size, seed=run.seed, batch_size=run.train.batch_size, segmix=segmix,
        prior=None if prior is None else load_prior(prior, subjects, masks=masks),
    )  # fmt: skip


def _check_readable(pairs: StoredPairs, asking: Sequence[str], prompts: AbstractPrompts) -> None:
    """Refuse now what would end the run when it comes: pairs with pictures in their instructions, whose
    names are `asking`, for a model that reads none."""
    if asking and not prompts.reads_pictures:
        raise DataError(
            f"{len(asking)} of {len(pairs)} pairs of {pairs.folder / pairs.split} have pictures in their "
            f"instructions, such as {asking[0]}, and this model reads none there: prepare the data set "
            "without them, or take another model."
        )


def _check_learnable(stored: Sequence[StoredPairs], editor: Editor, *, regions: bool) -> None:
    """Refuse pairs that an editor cannot learn from: with a source, if it sees none; without regions, if it
    shall learn `regions`."""
    for pairs in stored if not editor.denoiser.sees_source else ():
        if pairs.with_sources:
            raise DataError(
                f"{pairs.with_sources} of {len(pairs)} pairs of {pairs.folder / pairs.split} have a picture "
                "before the edit, and this denoiser sees none: prepare the data set without them, or take an "
                "editor."
            )
    if regions and not any(pairs.with_regions for pairs in stored):
        raise DataError(
            f"train.groups has layout, and no pair of {' nor of '.join(str(each.folder) for each in stored)} "
            "has regions, so it would learn nothing: prepare pairs with regions (docs/data.md), or leave "
            "layout out."
        )


def _check_previews(run: RunConfig, prompts: AbstractPrompts) -> None:
    """Refuse now what would fail at the first preview, or at the first losses of held-out pairs."""
    pairs_shown = 0 if run.preview.photos else run.preview.every
    looks = {"previews": pairs_shown, "losses of held-out pairs": run.validation.every}
    if any(looks.values()) and (run.data.streaming or "test" not in stored_splits(run.data.path)):
        raise ConfigError(
            f"{next(name for name in looks if looks[name])} are of the split 'test' of a data set on disk, "
            f"and {run.data.path} has none: set {'preview' if pairs_shown else 'validation'}.every to "
            "0, or hold pairs out with `mgie prepare ... --test N`."
        )
    if any(looks.values()):
        held_out = StoredPairs(run.data.path, "test")
        counts = (run.preview.count, run.validation.count)
        most = max(count for count, every in zip(counts, looks.values()) if every)
        shown = set(held_out.keys[:most])
        _check_readable(held_out, [key for key in held_out.with_pictures if key in shown], prompts)
