import itertools

import pytest
import torch

from mgie.diffusion.guidance import DropConfig, branch_count, branches, drop_conditions, guided

TOKENS, NULL, SOURCE = torch.full((1, 3, 5), 1.0), torch.full((1, 3, 5), -1.0), torch.full((1, 4, 2, 2), 1.0)


def dropped(keep: list[float], drop: DropConfig | None = None) -> list[str]:
    """What is left of each sample's conditions: "words and picture", "words", "picture" or ""."""
    count = len(keep)
    tokens, source = drop_conditions(
        TOKENS.expand(count, -1, -1),
        NULL,
        SOURCE.expand(count, -1, -1, -1),
        torch.tensor(keep),
        drop=drop or DropConfig(),
    )
    words = [torch.equal(row, TOKENS[0]) for row in tokens]
    assert all(heard or torch.equal(row, NULL[0]) for heard, row in zip(words, tokens))
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
    tokens, _ = drop_conditions(
        TOKENS.expand(3, -1, -1),
        null,
        SOURCE.expand(3, -1, -1, -1),
        torch.tensor([0.01, 0.5, 0.07]),
        drop=DropConfig(),
    )
    tokens.sum().backward()
    assert torch.equal(null.grad, torch.full_like(null, 2.0))


SCALES = list(itertools.product([1.0, 7.5, 0.0], [1.0, 1.5, 0.0]))


@pytest.mark.parametrize(("guidance", "image_guidance"), SCALES)
def test_skipped_questions_change_nothing(guidance: float, image_guidance: float):
    scales = {"guidance": guidance, "image_guidance": image_guidance}
    with_both, with_picture, with_none = answers = torch.randn(3, 2, 4, 3, 3, dtype=torch.float64)
    asked = branch_count(guidance, image_guidance)
    result = guided(answers[:asked].flatten(0, 1), **scales)
    whole = with_none + guidance * (with_both - with_picture) + image_guidance * (with_picture - with_none)
    assert torch.allclose(result, whole, atol=1e-12)


def test_no_guidance_is_the_first_answer_exactly():
    answer = torch.randn(2, 4, 3, 3)
    assert torch.equal(guided(answer, guidance=1.0, image_guidance=1.0), answer)
    both = torch.cat([answer, torch.full_like(answer, float("nan"))])
    assert guided(both, guidance=2.0, image_guidance=1.0).isnan().all()


@pytest.mark.parametrize(("guidance", "image_guidance"), SCALES)
def test_questions_are_asked_with_words_and_picture_then_picture_then_nothing(guidance, image_guidance):
    tokens, source = torch.randn(2, 3, 5), torch.randn(2, 4, 2, 2)
    conditions, sources = branches(tokens, NULL, source, guidance=guidance, image_guidance=image_guidance)
    asked = branch_count(guidance, image_guidance)
    assert len(conditions) == len(sources) == 2 * asked
    expected = [(tokens, source), (NULL.expand_as(tokens), source), (NULL.expand_as(tokens), source * 0)]
    for place, (words, picture) in enumerate(expected[:asked]):
        assert torch.equal(conditions[2 * place : 2 * place + 2], words)
        assert torch.equal(sources[2 * place : 2 * place + 2], picture)
