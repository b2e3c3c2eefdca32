"""Where words matter to a denoiser that heeds them in one place only."""

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from mgie.controllers.auto_mask import contrast
from mgie.diffusion.process import FlowProcess, VarianceProcess
from mgie.types import Condition, Context, Guess

SHAPE = (2, 4, 6, 8)
CONTEXT = Context(
    condition=Condition(tokens=torch.tensor([[[1.0]], [[2.0]]])), null=Condition(tokens=torch.zeros(1, 1, 1))
)
PLACE = torch.zeros(2, 1, 6, 8)
PLACE[0, :, 1:3, 2:5], PLACE[1, :, 4:, :2] = 1, 1
PROCESSES = [
    VarianceProcess(DDPMScheduler(prediction_type=predicts))
    for predicts in ("epsilon", "v_prediction", "sample")
] + [FlowProcess(FlowMatchEulerDiscreteScheduler())]


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: getattr(process, "predicts", process.kind))
def test_it_is_found_where_the_words_are_heeded(process):
    latents, source, seen = torch.randn(SHAPE), torch.randn(SHAPE), []

    def predict(noisy, t, sources, condition, plan, rows):
        seen.append((noisy, t))
        assert rows.names == ("T", "I") and plan is None and torch.equal(sources, source.repeat(2, 1, 1, 1))
        heeded = PLACE.repeat(2, 1, 1, 1) * condition.tokens[:, :, :, None]
        return Guess(mean=noisy * 0.9 + heeded)

    found = contrast(predict, process, latents, source, CONTEXT, noisings=3)
    assert found.shape == (2, 1, 6, 8) and found.amax(dim=(1, 2, 3)).tolist() == [1, 1]
    assert torch.equal(found >= 0.5, PLACE.bool())
    noisy, t = seen[0]
    assert len(seen) == 3 and not torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(noisy[:2], noisy[2:]) and t.float().unique().item() == pytest.approx(500, abs=1)
    noise = torch.randn(SHAPE[1:], generator=torch.Generator().manual_seed(0)).expand(SHAPE)
    assert torch.allclose(noisy[:2], process.corrupt(latents, noise, t[:2]))


def test_what_differs_most_does_not_hide_the_rest():
    """One cell that is ten times as far away counts as 3.5 means."""
    sharp = torch.full((1, 1, 6, 8), 0.0)
    sharp[..., 0, 0], sharp[..., 3:, :] = 10.0, 1.0

    def predict(noisy, _t, _source, condition, _plan, _rows):
        return Guess(mean=noisy * 0 + sharp * condition.tokens[:, :, :, None])

    one = Context(condition=Condition(tokens=torch.ones(1, 1, 1)), null=CONTEXT.null)
    found = contrast(predict, PROCESSES[0], torch.zeros(1, 4, 6, 8), None, one)
    assert found[0, 0, 0, 0] == 1 and found[0, 0, 4, 4].item() == pytest.approx(1 / (3.5 * 34 / 48))


def test_words_that_change_nothing_matter_nowhere():
    def predict(noisy, _t, _source, _condition, _plan, _rows):
        return Guess(mean=noisy)

    assert not contrast(predict, PROCESSES[0], torch.zeros(SHAPE), None, CONTEXT).any()
