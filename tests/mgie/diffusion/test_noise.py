import pytest
import torch
from diffusers import DDPMScheduler

from mgie.diffusion.noise import corrupt, draw_timesteps, prediction_target
from mgie.errors import ConfigError

TARGET, NOISE, T = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3), torch.tensor([10, 900])


def schedule(kind: str) -> DDPMScheduler:
    return DDPMScheduler(prediction_type=kind)


def level(t: torch.Tensor) -> torch.Tensor:
    return schedule("epsilon").alphas_cumprod[t][:, None, None, None]


def test_a_target_is_corrupted_by_its_time():
    noisy = corrupt(TARGET, NOISE, T, schedule("epsilon"))
    assert torch.allclose(noisy, level(T).sqrt() * TARGET + (1 - level(T)).sqrt() * NOISE)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_what_should_be_predicted_gives_the_target_back(kind: str):
    noisy = corrupt(TARGET, NOISE, T, schedule(kind))
    wanted = prediction_target(schedule(kind), TARGET, NOISE, T)
    kept, lost = level(T).sqrt(), (1 - level(T)).sqrt()
    again = {
        "epsilon": (noisy - lost * wanted) / kept,
        "v_prediction": kept * noisy - lost * wanted,
        "sample": wanted,
    }[kind]
    assert torch.allclose(again, TARGET, atol=1e-4)


def test_a_schedule_of_another_kind_is_refused():
    scheduler = schedule("epsilon")
    scheduler.register_to_config(prediction_type="flow")
    with pytest.raises(ConfigError, match="predicts 'flow': expected epsilon, v_prediction or sample"):
        prediction_target(scheduler, TARGET, NOISE, T)


def test_times_without_shift_are_uniform():
    times = draw_timesteps((torch.arange(1000) + 0.5) / 1000, 1000)
    assert torch.equal(times, torch.arange(1000))
    assert draw_timesteps(torch.tensor([0.0, 1.0 - 2**-24]), 1000).tolist() == [0, 999]


def test_shift_moves_times_towards_noise():
    u = torch.tensor([0.0, 0.25, 0.5, 1.0 - 2**-24])
    assert draw_timesteps(u, 1000, shift=3.0).tolist() == [0, 500, 750, 999]
