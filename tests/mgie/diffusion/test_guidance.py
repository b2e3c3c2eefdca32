import itertools

import pytest
import torch

from mgie.diffusion.guidance import (
    DropConfig,
    branches,
    drop_conditions,
    guided,
    questions,
    rows_of,
    strength,
)
from mgie.errors import DataError
from mgie.types import Condition, Context, ControlPlan, Rows

TOKENS, NULL, SOURCE = torch.full((1, 3, 5), 1.0), torch.full((1, 3, 5), -1.0), torch.full((1, 4, 2, 2), 1.0)


def told(tokens: torch.Tensor, null: torch.Tensor, **more) -> Context:
    return Context(condition=Condition(tokens=tokens, **more), null=Condition(tokens=null))


def dropped(keep: list[float], drop: DropConfig | None = None) -> list[str]:
    """What is left of each sample's conditions: "words and picture", "words", "picture" or ""."""
    count = len(keep)
    condition, source, heard = drop_conditions(
        told(TOKENS.expand(count, -1, -1), NULL),
        SOURCE.expand(count, -1, -1, -1),
        torch.tensor(keep),
        drop=drop or DropConfig(),
    )
    words = [torch.equal(row, TOKENS[0]) for row in condition.tokens]
    assert all(word or torch.equal(row, NULL[0]) for word, row in zip(words, condition.tokens))
    assert heard.tolist() == words
    seen = [torch.equal(row, SOURCE[0]) for row in source]
    assert all(sees or not row.any() for sees, row in zip(seen, source))
    return [" and ".join(("words",) * a + ("picture",) * b) for a, b in zip(words, seen)]


def test_each_part_of_the_unit_interval_drops_what_the_table_says():
    below = [float(torch.nextafter(torch.tensor(edge), torch.tensor(0.0))) for edge in (0.05, 0.1, 0.15)]
    assert dropped([0.0, below[0]]) == ["picture", "picture"]
    assert dropped([0.05, below[1]]) == ["", ""]
    assert dropped([0.1, below[2]]) == ["words", "words"]
    assert dropped([0.15, 0.5, 0.999]) == ["words and picture"] * 3


def test_shares_are_the_configured_ones():
    kinds = dropped(torch.linspace(0, 1, 1001)[:-1].tolist(), DropConfig(text=0.1, both=0.2, image=0.3))
    shares = {"picture": 0.1, "": 0.2, "words": 0.3, "words and picture": 0.4}
    for kind, share in shares.items():
        assert kinds.count(kind) / len(kinds) == pytest.approx(share, abs=0.002)


def test_nothing_is_dropped_at_zero():
    assert set(dropped([0.0, 0.1, 0.9], DropConfig(text=0.0, both=0.0, image=0.0))) == {"words and picture"}


def test_gradients_reach_the_null_only_where_it_is_used():
    null = NULL.clone().requires_grad_()
    condition, _, _ = drop_conditions(
        told(TOKENS.expand(3, -1, -1), null),
        SOURCE.expand(3, -1, -1, -1),
        torch.tensor([0.01, 0.5, 0.07]),
        drop=DropConfig(),
    )
    condition.tokens.sum().backward()
    assert torch.equal(null.grad, torch.full_like(null, 2.0))


SCALES = list(itertools.product([1.0, 7.5, 0.0], [1.0, 1.5, 0.0]))


def asked(guidance: float, image_guidance: float, batch: int = 2) -> Rows:
    context, source = told(torch.zeros(batch, 3, 5), NULL), torch.zeros(batch, 4, 2, 2)
    names = questions(source, guidance=guidance, image_guidance=image_guidance)
    return branches(context, source, names=names)[2]


@pytest.mark.parametrize(("guidance", "image_guidance"), SCALES)
def test_skipped_questions_change_nothing(guidance: float, image_guidance: float):
    scales = {"guidance": guidance, "image_guidance": image_guidance}
    with_both, with_picture, with_none = answers = torch.randn(3, 2, 4, 3, 3, dtype=torch.float64)
    rows = asked(**scales)
    result = guided(answers[: len(rows.names)].flatten(0, 1), rows, **scales)
    whole = with_none + guidance * (with_both - with_picture) + image_guidance * (with_picture - with_none)
    assert torch.allclose(result, whole, atol=1e-12)


def test_no_guidance_is_the_first_answer_exactly():
    answer = torch.randn(2, 4, 3, 3)
    assert torch.equal(guided(answer, asked(1.0, 1.0), guidance=1.0, image_guidance=1.0), answer)
    both = torch.cat([answer, torch.full_like(answer, float("nan"))])
    assert guided(both, asked(2.0, 1.0), guidance=2.0, image_guidance=1.0).isnan().all()


def test_words_may_count_differently_from_place_to_place():
    answers, rows = torch.randn(6, 4, 3, 3), asked(1.0, 1.5)
    everywhere = guided(answers, rows, guidance=torch.full((2, 1, 3, 3), 7.5), image_guidance=1.5)
    assert torch.allclose(everywhere, guided(answers, rows, guidance=7.5, image_guidance=1.5), atol=1e-5)
    nowhere = guided(answers, rows, guidance=torch.ones(2, 1, 3, 3), image_guidance=1.5)
    assert torch.equal(nowhere, guided(answers, rows, guidance=1.0, image_guidance=1.5))
    names = questions(SOURCE, guidance=torch.ones(2, 1, 2, 2), image_guidance=1.0)
    assert names == ("T", "I")


@pytest.mark.parametrize(("guidance", "image_guidance"), SCALES)
def test_questions_are_asked_with_words_and_picture_then_picture_then_nothing(guidance, image_guidance):
    tokens, source = torch.randn(2, 3, 5), torch.randn(2, 4, 2, 2)
    scales = {"guidance": guidance, "image_guidance": image_guidance}
    condition, sources, rows = branches(told(tokens, NULL), source, names=questions(source, **scales))
    assert len(condition.tokens) == len(sources) == 2 * len(rows.names)
    expected = [(tokens, source), (NULL.expand_as(tokens), source), (NULL.expand_as(tokens), source * 0)]
    for name, (words, picture) in zip(rows.names, expected):
        assert torch.equal(condition.tokens[rows.of(name)], words)
        assert torch.equal(sources[rows.of(name)], picture)


def test_a_null_for_each_sample_stays_with_its_sample():
    tokens, nulls, source = torch.randn(2, 3, 5), torch.randn(2, 3, 5), torch.randn(2, 4, 2, 2)
    condition, _, rows = branches(told(tokens, nulls), source, names=("T", "I"))
    assert torch.equal(condition.tokens[rows.of("I")], nulls)
    dropped, _, heard = drop_conditions(
        told(tokens, nulls), source, torch.tensor([0.0, 0.9]), drop=DropConfig()
    )
    assert torch.equal(dropped.tokens, torch.stack([nulls[0], tokens[1]])) and heard.tolist() == [False, True]


def test_conditions_of_different_lengths_are_padded_under_a_mask():
    tokens, null, source = torch.randn(2, 3, 5), torch.randn(1, 1, 5), torch.randn(2, 4, 2, 2)
    condition, _, rows = branches(told(tokens, null), source, names=("T", "I"))
    assert torch.equal(condition.tokens[rows.of("I")][:, :1], null.expand(2, 1, 5))
    assert condition.mask.tolist() == [[True, True, True]] * 2 + [[True, False, False]] * 2


def test_a_null_without_a_mask_takes_that_of_whom_it_replaces():
    mask = torch.tensor([[True, True, False], [True, True, True]])
    condition, _, _ = branches(
        told(torch.randn(2, 3, 5), torch.randn(1, 3, 5), mask=mask), SOURCE.expand(2, -1, -1, -1),
        names=("T", "I"),
    )  # fmt: skip
    assert torch.equal(condition.mask, torch.cat([mask, mask]))


def test_pooled_words_and_sizes_are_dropped_with_the_words():
    more = {"pooled": torch.ones(2, 3), "sizes": torch.full((2, 6), 8.0)}
    nothing = {"pooled": torch.zeros(1, 3), "sizes": torch.zeros(1, 6)}
    context = Context(
        condition=Condition(tokens=torch.ones(2, 3, 5), **more), null=Condition(tokens=NULL, **nothing)
    )
    source = SOURCE.expand(2, -1, -1, -1)
    condition, _, _ = branches(context, source, names=("T", "I"))
    assert condition.pooled.sum(1).tolist() == [3, 3, 0, 0] and condition.sizes.sum(1).tolist() == [
        48,
        48,
        0,
        0,
    ]
    dropped, _, _ = drop_conditions(context, source, torch.tensor([0.0, 0.9]), drop=DropConfig())
    assert dropped.pooled.sum(1).tolist() == [0, 3] and dropped.sizes.sum(1).tolist() == [0, 48]


@pytest.mark.parametrize("name", ["pooled", "sizes"])
def test_what_only_one_of_condition_and_null_has_is_refused(name: str):
    value = {name: torch.ones(1, 6)}
    for context in (
        told(TOKENS, NULL, **value),
        Context(condition=Condition(tokens=TOKENS), null=Condition(tokens=NULL, **value)),
    ):
        with pytest.raises(DataError, match=f"only one has `{name}`: expected both or neither"):
            branches(context, SOURCE, names=("T", "I"))
        with pytest.raises(DataError, match=f"only one has `{name}`"):
            drop_conditions(context, SOURCE, torch.tensor([0.5]), drop=DropConfig())


def test_without_a_source_words_are_weighed_against_nothing():
    assert questions(None, guidance=7.5, image_guidance=1.5) == ("T", "U")
    assert questions(None, guidance=1.0, image_guidance=1.5) == ("T",)
    condition, source, rows = branches(told(torch.ones(2, 3, 5), NULL), None, names=("T", "U"))
    assert source is None and condition.tokens[:, 0, 0].tolist() == [1, 1, -1, -1]
    answers = torch.randn(4, 4, 3, 3)
    result = guided(answers, rows, guidance=7.5, image_guidance=1.5)
    assert torch.allclose(result, answers[2:] + 7.5 * (answers[:2] - answers[2:]), atol=1e-5)
    dropped = drop_conditions(
        told(torch.ones(2, 3, 5), NULL), None, torch.tensor([0.0, 0.9]), drop=DropConfig()
    )
    assert dropped[1] is None


def test_several_pictures_are_dropped_and_asked_about_together():
    source = (torch.ones(2, 4, 2, 2), torch.ones(2, 4, 3, 5))
    context = told(torch.ones(2, 3, 5), NULL)
    _, shown, rows = branches(context, source, names=("T", "I", "U", "R"))
    for picture in shown:
        assert [bool(picture[rows.of(name)].all()) for name in rows.names] == [True, True, False, True]
    _, kept, _ = drop_conditions(context, source, torch.tensor([0.06, 0.9]), drop=DropConfig())
    assert all(not picture[0].any() and picture[1].all() for picture in kept)


def test_a_map_of_guidance_comes_to_the_latents():
    like = torch.zeros(2, 4, 3, 5, dtype=torch.bfloat16)
    assert strength(None, 7.5, like=like) == strength(ControlPlan(), 7.5, like=like) == 7.5
    assert strength(ControlPlan(guidance=torch.ones(1, 1, 3, 5)), 7.5, like=like).dtype == torch.bfloat16
    for shape in ((2, 1, 5, 3), (3, 1, 3, 5), (2, 1, 6, 10)):
        with pytest.raises(DataError, match=r"expected \(2, 1, 3, 5\), a number for each latent"):
            strength(ControlPlan(guidance=torch.ones(shape)), 7.5, like=like)


def test_some_of_the_samples_keep_all_that_was_understood():
    held = {"tokens": torch.randn(3, 2, 4), "mask": torch.ones(3, 2).bool(), "pooled": torch.randn(3, 5)}
    null = Condition(tokens=torch.randn(1, 2, 4), pooled=torch.randn(1, 5))
    beside = {"references": torch.randn(3, 2, 6), "references_mask": torch.ones(3, 2).bool()}
    some = rows_of(Context(condition=Condition(**held), null=null, **beside), [2, 0], torch.bfloat16)
    for record, values in ((some.condition, held), (some, beside)):
        for name, value in values.items():
            wanted = value[[2, 0]]
            assert torch.equal(
                getattr(record, name), wanted.bfloat16() if value.is_floating_point() else wanted
            )
    assert some.states is None and torch.equal(some.null.pooled, null.pooled.bfloat16())
