"""Which pairs a run reads, in which order: what a recipe says of its data."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from torch.utils.data import ConcatDataset, Dataset, StackDataset

from mgie.data.orders import AbstractOrder, Mixed, OrderConfig
from mgie.data.shards import check_set
from mgie.data.sources import tables
from mgie.data.stored_features import FeatureExtractor, Kind, StoredFeatures
from mgie.data.stored_pairs import FACTS, StoredPairs, data_identity


def open_sets(
    shares: dict[str, float], arrange: OrderConfig, *, seed: int
) -> tuple[list[StoredPairs], AbstractOrder]:
    """The training pairs of each folder, and the order of them laid end to end; `shares` are the folders'
    parts of the samples. Raises DataError for a folder that holds no data set, or one that has changed."""
    for folder in shares:
        check_set(folder, sampled=True)
    stored = [StoredPairs(folder, "train") for folder in shares]
    if len(stored) == 1:
        return stored, arrange(stored[0], seed)
    unit = arrange.batch_size if arrange.buckets else 1
    return stored, Mixed(stored, [*shares.values()], seed=seed, arrange=arrange, unit=unit)


def with_features(
    sets: Sequence[StoredPairs], kinds: Sequence[Kind], extractor: FeatureExtractor, *, regions: bool = False
) -> Dataset:
    """The same pairs end to end, without pictures where nobody needs them (`regions` do), beside their stored
    features. Raises WeightsError unless `extractor` made them."""
    features = [StoredFeatures(pairs.folder, pairs.split, kinds=kinds) for pairs in sets]
    for each in features:
        each.require(extractor)
    pictures = regions or set(kinds) != set(get_args(Kind))
    pairs = [StoredPairs(each.folder, each.split, pictures=pictures) for each in sets]
    return StackDataset(ConcatDataset(pairs), ConcatDataset(features))


def identity(shares: dict[str, float], *, streaming: bool = False) -> str:
    """What is learnt from, in 16 letters: the rows of every data set and its share, wherever they lie. Of a
    stream that `mgie prepare` did not write: names and sizes of its files, or id and revision. Raises
    DataError for a folder that holds no data set."""
    total, parts = sum(shares.values()), []
    for where, share in shares.items():
        foreign = streaming and not (Path(where) / FACTS).is_file()
        parts.append([tables.identity(where) if foreign else data_identity(where), share / total])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
