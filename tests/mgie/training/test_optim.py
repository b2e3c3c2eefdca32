import pytest
import torch
from diffusers.training_utils import EMAModel
from torch import nn

from mgie.config import load_run
from mgie.errors import ConfigError
from mgie.training.optim import (
    Average,
    LeftOut,
    OptimConfig,
    build_optimizer,
    cast_frozen,
    choose_trained,
    hidden_matrices,
    orthogonal,
    rate_factor,
    set_rates,
)


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
    with pytest.raises(ConfigError, match=r"hends \(did you mean hand\?\)"):
        choose_trained(model, groups, ("hends",))
    with pytest.raises(ConfigError, match=r"new_token_only \(did you mean new_tokens_only"):
        choose_trained(model, groups, ("new_token_only",))


def test_a_group_that_would_train_nothing_is_refused():
    model, groups = two_parts()
    with pytest.raises(ConfigError, match=r"ear, which has no parameters here.*some of eye, hand"):
        choose_trained(model, groups | {"ear": []}, ("ear",))


def test_a_parameter_outside_every_group_is_noticed():
    model, groups = two_parts()
    del groups["eye"]
    with pytest.raises(AssertionError, match="in no group"):
        choose_trained(model, groups, ("hand",))


def test_what_is_frozen_is_cast_and_nothing_else():
    model, groups = two_parts()
    model["eye"].register_buffer("place", torch.tensor([1.5]))
    choose_trained(model, groups, ("hand",))
    parameters, exact = list(model.parameters()), model["eye"].weight.detach().clone()
    cast_frozen(model, torch.bfloat16)
    assert [id(p) for p in model.parameters()] == [id(p) for p in parameters]
    assert [p.dtype for p in parameters] == [torch.bfloat16] * 2 + [torch.float32] * 2
    assert model["eye"].place.dtype == torch.float32
    assert torch.equal(model["eye"].weight, exact.bfloat16())


def test_each_group_has_its_own_rate():
    _, groups = two_parts()
    config = OptimConfig(
        lr=0.1, lrs={"hand": 0.5}, warmup=0.0, warmups={"hand": 0.5}, schedules={"eye": "constant"}
    )
    optimizer = build_optimizer(groups, ("eye", "hand"), config)
    set_rates(optimizer, 0.25, config)
    assert {g["name"]: g["lr"] for g in optimizer.param_groups} == {"eye": 0.1, "hand": 0.25}
    set_rates(optimizer, 0.75, config)
    assert {g["name"]: round(g["lr"], 9) for g in optimizer.param_groups} == {"eye": 0.1, "hand": 0.25}


def test_the_rate_warms_up_and_falls_to_zero():
    config = OptimConfig(lr=1.0, warmup=0.1)
    factors = [rate_factor(progress, config) for progress in (0.0, 0.05, 0.1, 0.55, 1.0)]
    torch.testing.assert_close(factors, [0.0, 0.5, 1.0, 0.5, 0.0])
    assert rate_factor(0.9, OptimConfig(lr=1.0, schedule="constant")) == 1.0


def test_the_average_is_the_library_s_to_the_bit():
    weights = [nn.Parameter(torch.randn(5, 7)), nn.Parameter(torch.randn(3))]
    ours, theirs = (kind(weights, decay=0.9) for kind in (Average, EMAModel))
    for _ in range(30):
        for weight in weights:
            weight.data += torch.randn_like(weight)
        ours.step(weights, torch.ones(()))
        theirs.step(weights)
    assert all(torch.equal(*pair) for pair in zip(ours.shadow_params, theirs.shadow_params))


def test_steps_that_are_left_out_are_counted_and_a_row_of_them_ends_the_run(tmp_path):
    counts = LeftOut(torch.device("cpu"), before=5)

    def note(taken: str) -> tuple[int, int]:
        for each in taken:
            counts.note(torch.tensor(float(each)))
        return counts.read(steps=100, folder=tmp_path)

    assert note("1101") == (6, 0)
    assert note("0000000") == (13, 7)
    assert note("1") == (13, 0)
    with pytest.raises(ConfigError, match="not finite for 8 steps in a row"):
        note("000000001")


def test_half_of_a_short_run_is_enough_to_end_it(tmp_path):
    counts = LeftOut(torch.device("cpu"))
    counts.note(torch.zeros(()))
    assert counts.read(steps=4, folder=tmp_path) == (1, 1)
    counts.note(torch.zeros(()))
    with pytest.raises(ConfigError, match="training has diverged"):
        counts.read(steps=4, folder=tmp_path)


def test_matrices_go_as_torch_s_own_muon_and_the_rest_as_adamw():
    torch.manual_seed(0)
    rates = {"lr": 0.01, "muon": 0.05, "weight_decay": 0.1}
    (ours, groups), (theirs, _) = two_parts(), two_parts()
    theirs.load_state_dict(ours.state_dict())
    matrices = hidden_matrices(ours, groups)
    together = build_optimizer(groups, ("eye", "hand"), OptimConfig(**rates), matrices=matrices)
    assert [group["name"] for group in together.param_groups] == [
        "eye",
        "eye_matrices",
        "hand",
        "hand_matrices",
    ]
    muon = torch.optim.Muon(
        [theirs["eye"].weight, theirs["hand"].weight], lr=0.05, weight_decay=0.1,
        adjust_lr_fn="match_rms_adamw",
    )  # fmt: skip
    adamw = torch.optim.AdamW([theirs["eye"].bias, theirs["hand"].bias], lr=0.01, weight_decay=0.1)
    for _ in range(5):
        x = torch.randn(4, 2)
        for model, optimizers in ((ours, [together]), (theirs, [muon, adamw])):
            model["hand"](model["eye"](x)).square().sum().backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    for part in ("eye", "hand"):
        torch.testing.assert_close(ours[part].bias, theirs[part].bias, rtol=0.02, atol=2e-3)
        # torch's own turns in bfloat16
        torch.testing.assert_close(ours[part].weight, theirs[part].weight, rtol=0.02, atol=4e-3)


def test_convolutions_go_as_the_matrices_that_they_are_and_those_of_pixels_with_adamw():
    torch.manual_seed(0)
    rates = OptimConfig(lr=0.01, muon=0.05)
    model = nn.ModuleDict(
        {"conv_in": nn.Conv2d(3, 4, 3), "within": nn.Conv2d(4, 6, 3), "flat": nn.Linear(36, 6)}
    )
    with torch.no_grad():
        model["flat"].weight.copy_(model["within"].weight.flatten(1))
    groups = {"all": list(model.parameters())}
    matrices = hidden_matrices(model, groups)
    assert [id(each) for each in matrices] == [id(model[name].weight) for name in ("within", "flat")]
    optimizer = build_optimizer(groups, ("all",), rates, matrices=matrices)
    for _ in range(3):
        gradient = torch.randn(6, 36)
        model["within"].weight.grad, model["flat"].weight.grad = gradient.view(6, 4, 3, 3), gradient
        optimizer.step()
        assert torch.equal(model["within"].weight.flatten(1), model["flat"].weight)


@pytest.mark.parametrize("shape", [(24, 200), (200, 24), (48, 48)])
def test_every_direction_becomes_equally_long(shape):
    """Also of a matrix whose directions differ a thousandfold; as five steps in double precision make it."""
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    lengths = torch.logspace(0, -3, min(shape))
    found = orthogonal(left * lengths @ right)
    made = torch.linalg.svdvals(found)
    assert made[lengths > 0.05].min() > 0.6 and made.max() < 1.3
    exact = lengths.double() / lengths.double().norm()
    for _ in range(5):
        exact = 3.4445 * exact - 4.775 * exact**3 + 2.0315 * exact**5
    torch.testing.assert_close(found, ((left * exact) @ right.double()).float(), rtol=0, atol=2e-4)


def test_slower_groups_are_slower_with_muon_too_and_words_stay_with_adamw():
    model, groups = two_parts()
    groups = {"eye": groups["eye"], "lm_head": groups["hand"]}
    config = OptimConfig(lr=0.1, muon=0.4, lrs={"eye": 0.05}, warmup=0.5)
    optimizer = build_optimizer(groups, ("eye", "lm_head"), config, matrices=hidden_matrices(model, groups))
    set_rates(optimizer, 0.25, config)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == pytest.approx({"eye": 0.025, "eye_matrices": 0.1, "lm_head": 0.05})


def test_muon_leaves_a_step_out_where_it_is_told():
    model, groups = two_parts()
    optimizer = build_optimizer(
        groups, ("eye",), OptimConfig(lr=0.1, muon=0.4), fused=True, matrices=hidden_matrices(model, groups)
    )
    weight = model["eye"].weight
    for taken, gradient in ((True, 1.0), (False, float("nan")), (True, 1.0)):
        before, momentum = weight.clone(), dict(optimizer.state[weight])
        momentum = {name: value.clone() for name, value in momentum.items()}
        weight.grad, model["eye"].bias.grad = torch.full((3, 2), gradient), torch.zeros(3)
        optimizer.found_inf = torch.tensor(float(not taken))
        optimizer.step()
        assert weight.isfinite().all() and torch.equal(weight, before) != taken
        if not taken:
            assert torch.equal(optimizer.state[weight]["momentum_buffer"], momentum["momentum_buffer"])


def test_muon_where_matrices_are_shared_out_is_refused():
    for strategy in ("zero2", "fsdp2"):
        with pytest.raises(ConfigError, match=f"optim.muon with train.strategy={strategy}.*to ddp, or leave"):
            load_run("tiny", ["--optim.muon", "0.01", "--train.strategy", strategy]).validate()
    load_run("tiny", ["--optim.muon", "0.01"]).validate()
