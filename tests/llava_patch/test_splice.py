import pytest
import torch

from llava_patch.errors import DataError
from llava_patch.splice import splice
from llava_patch.tokens import ImageTokens

P, S, E = 90, 91, 92
TOKENS = ImageTokens(patch=P, start=S, end=E)


def embed(ids: torch.Tensor) -> torch.Tensor:
    return ids[..., None].float().expand(*ids.shape, 2).clone().requires_grad_()


def test_features_stand_in_order_and_everything_else_stays():
    ids = torch.tensor([[7, S, P, P, E, 9], [1, 2, 3, 4, 5, 6], [S, P, P, E, 8, 8]])
    features = torch.arange(8.0).reshape(2, 2, 2)
    mixed = splice(embed(ids), ids, features, TOKENS)
    assert torch.equal(mixed[0, 2:4], features[0])
    assert torch.equal(mixed[2, 1:3], features[1])
    rest = ids != P
    assert torch.equal(mixed[rest], embed(ids)[rest])


def test_several_pictures_in_one_row():
    ids = torch.tensor([[S, P, E, 5, S, P, E]])
    features = torch.tensor([[[1.0, 1.0]], [[2.0, 2.0]]])
    assert splice(embed(ids), ids, features, TOKENS)[0, [1, 5], 0].tolist() == [1.0, 2.0]


def test_gradients_reach_features_and_the_other_embeddings_only():
    ids = torch.tensor([[7, S, P, E]])
    embeddings, features = embed(ids), torch.ones(1, 1, 2, requires_grad=True)
    splice(embeddings, ids, features, TOKENS).sum().backward()
    assert features.grad.tolist() == [[[1.0, 1.0]]]
    assert embeddings.grad[0, :, 0].tolist() == [1.0, 1.0, 0.0, 1.0]


def test_features_take_the_embeddings_precision():
    ids = torch.tensor([[S, P, E]])
    assert splice(embed(ids).bfloat16(), ids, torch.ones(1, 1, 2), TOKENS).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([S, P, P, P, E], "3 <im_patch> tokens, but 1 pictures give 1 x 2 = 2"),
        ([7, 7, 7, 7, 7], "0 <im_patch> tokens, but 1 pictures"),
        ([S, P, 7, P, E], "1 <im_patch> tokens at position 1, after <im_start> and without <im_end>"),
        ([7, P, P, E, 7], "2 <im_patch> tokens at position 1, without <im_start> and before <im_end>"),
        ([P, P, E, 7, 7], "without <im_start>"),
        ([7, 7, S, P, P], "without <im_end>"),
    ],
)
def test_placeholders_that_do_not_fit(row: list[int], message: str):
    ids = torch.tensor([row])
    with pytest.raises(DataError, match=message):
        splice(embed(ids), ids, torch.ones(1, 2, 2), TOKENS)


def test_a_model_without_start_and_end():
    ids = torch.tensor([[7, P, P, 7]])
    mixed = splice(embed(ids), ids, torch.zeros(1, 2, 2), ImageTokens(patch=P, start=None, end=None))
    assert mixed[0, :, 0].tolist() == [7.0, 0.0, 0.0, 7.0]
