"""The solver's numbers are held by tests/parity/test_mige.py."""

import copy

import pytest
import torch

from mgie.diffusion.process import VarianceProcess
from mgie.diffusion.solver import UniformDPMSolverScheduler, scheduler_class
from mgie.errors import ConfigError


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("steps", [1, 4, 20])
def test_who_knows_the_picture_paints_it(predicts, steps):
    torch.manual_seed(0)
    picture, latents = torch.randn(1, 2, 3, 3), torch.randn(1, 2, 3, 3)
    solver = UniformDPMSolverScheduler(prediction_type=predicts)
    solver.set_timesteps(steps)
    assert solver.timesteps[0] == 999 and len(solver.timesteps) == steps
    for at, t in enumerate(solver.timesteps):
        kept, share, _ = solver.levels(solver.grid[at])
        noise = (latents - kept * picture) / share
        answer = {"epsilon": noise, "sample": picture, "v_prediction": kept * noise - share * picture}[
            predicts
        ]
        latents = solver.step(answer, t, latents).prev_sample
    assert (latents - picture).abs().max() < 0.05


def test_noise_is_put_on_at_its_own_times():
    solver = UniformDPMSolverScheduler()
    solver.set_timesteps(3)
    picture, noise = torch.ones(2, 1, 1, 1), torch.full((2, 1, 1, 1), 2.0)
    at = solver.add_noise(picture, noise, solver.timesteps[:2])
    for row, time in enumerate(solver.grid[:2]):
        kept, share, _ = solver.levels(time)
        assert at[row].item() == pytest.approx(kept + 2 * share, rel=1e-5)


def test_it_is_a_sampler_of_its_process_and_comes_back_from_its_configuration(tmp_path):
    schedule = scheduler_class("DDPMScheduler")(beta_start=0.0001, beta_end=0.02, beta_schedule="linear")
    solver = VarianceProcess(schedule).sampler("UniformDPMSolverScheduler", steps=4)
    solver.save_pretrained(tmp_path)
    again = UniformDPMSolverScheduler.from_pretrained(tmp_path)
    assert dict(again.config) == dict(solver.config) and len(again) == 1000
    assert copy.deepcopy(again).levels(0.5) == solver.levels(0.5)
    assert scheduler_class("NoSuch") is None and scheduler_class("AutoencoderKL") is None
    with pytest.raises(ConfigError, match="predicts 'flow'"):
        UniformDPMSolverScheduler(prediction_type="flow")
