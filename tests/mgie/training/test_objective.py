"""Errors weighed by place, and being better than what one started from."""

import math

import pytest
import torch

from mgie.training.objective import dco, softened, squared_error


def test_without_weights_and_with_weights_of_one_it_is_the_mean():
    guess, wanted = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    plain = squared_error(guess, wanted)
    assert torch.allclose(plain, (guess - wanted).square().mean(dim=(1, 2, 3)))
    mask = torch.rand(3, 1, 32, 32)
    ones = softened(mask, (8, 8), floor=1.0)
    for reduction in ("mean", "weighted"):
        assert torch.allclose(squared_error(guess, wanted, ones, reduction=reduction), plain)


def test_no_gradient_where_nothing_counts():
    guess, wanted = torch.randn(1, 4, 8, 8, requires_grad=True), torch.randn(1, 4, 8, 8)
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., :16] = 1
    weight = softened(mask, (8, 8), floor=0.0)
    squared_error(guess, wanted, weight).sum().backward()
    assert guess.grad is not None
    assert (guess.grad[..., 4:] == 0).all() and (guess.grad[..., :4] != 0).all()


def test_weighted_by_its_weights_a_small_thing_counts_as_much():
    guess, wanted = torch.ones(2, 1, 8, 8), torch.zeros(2, 1, 8, 8)
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, :, :2, :2] = 1
    mask[1] = 1
    assert squared_error(guess, wanted, mask).tolist() == pytest.approx([4 / 64, 1])
    assert squared_error(guess, wanted, mask, reduction="weighted").tolist() == pytest.approx([1, 1])
    empty = squared_error(guess, wanted, torch.zeros_like(mask), reduction="weighted")
    assert empty.tolist() == [0, 0]


def test_dco_is_log_two_at_the_start_and_pulls_the_error_down():
    error = torch.tensor([0.01, 0.02], requires_grad=True)
    plain = torch.tensor([0.01, 0.02], requires_grad=True)
    loss = dco(error, plain, beta=1000.0)
    assert loss.tolist() == pytest.approx([math.log(2)] * 2)
    loss.sum().backward()
    assert error.grad is not None and (error.grad > 0).all() and plain.grad is None
    assert dco(torch.tensor([0.0]), torch.tensor([0.1]), beta=1000.0).item() < 1e-6
