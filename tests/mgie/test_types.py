from dataclasses import FrozenInstanceError, dataclass, fields

import jaxtyping
import pytest
import torch

from mgie.tokens import IGNORE
from mgie.types import Asked, Batch, ControlBatch, Draws, EditPair, Rows, moved


def a_batch(**changes) -> Batch:
    values = {
        "input_ids": torch.tensor([[1, 5, 6, 7, 2], [1, 5, 6, 2, 0]]),
        "labels": torch.tensor([[IGNORE, IGNORE, 6, 7, 2], [IGNORE, IGNORE, IGNORE, 2, IGNORE]]),
        "mask": torch.tensor([[True] * 5, [True] * 4 + [False]]),
        "read_at": torch.tensor([[2, 3], [1, 2]]),
        "clip_pixels": torch.zeros(2, 3, 4, 4),
        "source": torch.zeros(2, 3, 8, 6),
        "has_source": torch.tensor([True, False]),
        "target": torch.zeros(2, 3, 8, 6),
        "keys": ("a", "b"),
        "positions": (0, 1),
    }
    return Batch(**{**values, **changes})


def test_spoken_counts_the_labels_that_something_stands_before():
    assert a_batch().label_tokens == 4
    first_too = torch.tensor([[1, 5, 6, 7, 2], [IGNORE] * 5])
    assert a_batch(labels=first_too).label_tokens == 4  # nothing stands before the first


@pytest.mark.parametrize("kind", [Batch, Draws])
def test_all_tensors_move_and_nothing_else_changes(kind):
    here = a_batch()
    if kind is Draws:
        normal = torch.zeros(2, 4, 8, 8)
        here = Draws(posterior=normal, noise=normal, t=torch.tensor([3, 4]), keep=torch.rand(2))
    there = here.to("meta")
    for field in fields(kind):
        before, after = getattr(here, field.name), getattr(there, field.name)
        if isinstance(before, torch.Tensor):
            assert (after.device.type, after.shape, after.dtype) == ("meta", before.shape, before.dtype)
        else:
            assert after == before


def test_records_inside_move_too():
    nothing = torch.zeros(2, 3, 4)
    controls = ControlBatch(
        boxes=nothing, present=torch.ones(2, 3).bool(), phrases=torch.zeros(2, 3, 5).long(),
        scales=torch.ones(2, 3, 3), mask=torch.ones(2, 1, 8, 6),
    )  # fmt: skip
    there = a_batch(controls=controls).to("meta").controls
    assert {there.boxes.device.type, there.mask.device.type} == {"meta"} and there.stencils is None
    asked = Asked(
        input_ids=torch.zeros(1, 2).long(), mask=torch.ones(1, 2).bool(), clip_pixels=torch.zeros(1, 3, 4, 4),
        extras={"grid": torch.ones(1, 3)},
    )  # fmt: skip
    assert asked.to("meta").extras["grid"].device.type == "meta"


def test_rows_are_all_samples_of_a_question_then_of_the_next():
    rows = Rows(names=("T", "I", "U"), batch=2)
    assert [torch.arange(6)[rows.of(name)].tolist() for name in rows.names] == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(
    "wrong",
    [
        {"labels": torch.zeros(2, 4, dtype=torch.long)},  # not as long as the ids
        {"mask": torch.ones(2, 5)},  # no truth values
        {"read_at": torch.zeros(1, 2, dtype=torch.long)},  # another batch
        {"clip_pixels": torch.zeros(2, 3, 4, 5)},  # CLIP sees squares
        {"target": torch.zeros(2, 3, 6, 8)},  # not the source's size
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_shapes_are_what_the_legend_says(wrong):
    """The tests run with checked shapes (see pyproject.toml)."""
    with pytest.raises(jaxtyping.TypeCheckError):
        a_batch(**wrong)


def test_records_are_not_changed_but_made_anew():
    pair = EditPair(key="a", instruction="make it red", target=b"")
    with pytest.raises(FrozenInstanceError):
        pair.key = "b"  # pyright: ignore[reportAttributeAccessIssue] - the point of the test
    assert pair.source is None
    assert EditPair(key="b", instruction="", target=b"").meta is not pair.meta


@dataclass(frozen=True)
class Seen:
    source: tuple[torch.Tensor, ...]
    keys: tuple[str, ...]


def test_tensors_in_tuples_move_too():
    there = moved(Seen(source=(torch.zeros(1), torch.zeros(2)), keys=("a", "b")), "meta")
    assert all(each.is_meta for each in there.source) and there.keys == ("a", "b")
