import pytest
import torch
from torch import nn

from mgie.errors import ConfigError
from mgie.training.optim import OptimConfig, build_optimizer, choose_trained, rate_factor, set_rates


def two_parts():
    model = nn.ModuleDict({"eye": nn.Linear(2, 3), "hand": nn.Linear(3, 1)})
    return model, {"eye": list(model["eye"].parameters()), "hand": list(model["hand"].parameters())}


def test_only_the_named_groups_are_trained():
    model, groups = two_parts()
    trained = choose_trained(model, groups, ("hand",))
    assert list(trained) == ["hand.weight", "hand.bias"]
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]


def test_an_unknown_group_is_refused_with_the_known_ones():
    model, groups = two_parts()
    with pytest.raises(ConfigError, match=r"foot.*eye, hand"):
        choose_trained(model, groups, ("foot",))


def test_a_parameter_outside_every_group_is_noticed():
    model, groups = two_parts()
    del groups["eye"]
    with pytest.raises(AssertionError, match="in no group"):
        choose_trained(model, groups, ("hand",))


def test_each_group_has_its_own_rate():
    _, groups = two_parts()
    optimizer = build_optimizer(groups, ("eye", "hand"), OptimConfig(lr=0.1, lrs={"hand": 0.5}))
    set_rates(optimizer, 0.5)
    assert {g["name"]: g["lr"] for g in optimizer.param_groups} == {"eye": 0.05, "hand": 0.25}
    with pytest.raises(ConfigError, match="foot"):
        build_optimizer(groups, ("eye",), OptimConfig(lr=0.1, lrs={"foot": 0.5}))


def test_the_rate_warms_up_and_falls_to_zero():
    config = OptimConfig(lr=1.0, warmup=0.1)
    factors = [rate_factor(progress, config) for progress in (0.0, 0.05, 0.1, 0.55, 1.0)]
    torch.testing.assert_close(factors, [0.0, 0.5, 1.0, 0.5, 0.0])
    assert rate_factor(0.9, OptimConfig(lr=1.0, schedule="constant")) == 1.0
