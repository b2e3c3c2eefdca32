"""Other predictions, weights of losses, noise, averages, and losses of held-out pairs."""

import json

import pytest
import torch

from mgie.diffusion.guidance import DropConfig
from mgie.diffusion.process import FlowProcess, VarianceProcess, predicting
from mgie.errors import ConfigError
from mgie.extract import extract
from mgie.models.denoisers.unet import UNetDenoiser
from mgie.train import train
from mgie.training.draws import draws_for
from mgie.training.optim import Average, AverageConfig
from mgie.training.task import EditTask
from mgie.weights.parts import denoiser_part
from mgie.weights.release import read_release


@pytest.fixture(scope="module")
def processes():
    from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

    noise = VarianceProcess(DDPMScheduler(beta_schedule="scaled_linear"))
    others = {name: predicting(noise, name) for name in ("v_prediction", "sample")}
    return {"epsilon": noise, "flow": FlowProcess(FlowMatchEulerDiscreteScheduler()), **others}


@pytest.mark.parametrize("name", ["epsilon", "v_prediction", "sample", "flow"])
def test_min_snr_weighs_the_error_of_the_picture_whatever_is_predicted(processes, name):
    process, gamma = processes[name], 5.0
    t = torch.tensor([1, 100, 500, 990])
    like, one = torch.zeros(4, 1, 1, 1, dtype=torch.float64), torch.ones(4, 1, 1, 1, dtype=torch.float64)
    a, s = process.corrupt(one, like, t), process.corrupt(like, one, t)
    # An error of one in the prediction is so large an error of the picture.
    picture = process.clean(like, one, t).square()
    wanted = ((a / s).square().clamp(max=gamma) * picture).flatten()
    torch.testing.assert_close(process.min_snr(t, gamma, like), wanted)


def test_what_cannot_be_predicted_is_refused(processes):
    from diffusers import DDPMScheduler

    with pytest.raises(ConfigError, match="flow matching"):
        predicting(processes["flow"], "epsilon")
    zero = VarianceProcess(DDPMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction"))
    with pytest.raises(ConfigError, match="ends in noise alone"):
        predicting(zero, "epsilon")
    assert predicting(zero, None) is zero


def test_offset_noise_is_one_number_for_each_channel_and_changes_nothing_else(processes):
    how = {"latent_shape": (4, 8, 8), "process": processes["epsilon"], "shift": 1.0}
    plain, offset = draws_for(3, (0, 1), **how), draws_for(3, (0, 1), **how, offset=0.1)
    added = offset.noise - plain.noise
    torch.testing.assert_close(added, added[..., :1, :1].expand_as(added), rtol=0, atol=1e-6)
    assert 0 < added.abs().mean() < 0.5
    assert all(torch.equal(getattr(plain, n), getattr(offset, n)) for n in ("posterior", "t", "keep"))


def test_an_average_begins_late_and_grows():
    config = AverageConfig(after=2, power=0.75)
    weight = torch.nn.Parameter(torch.zeros(1))
    average = Average([weight], decay=0.9, **config.options())
    decays = [average.get_decay(step) for step in (1, 2, 4, 10**6)]
    assert decays[:2] == [0.0, 0.0] and decays[2] == pytest.approx(1 - 2**-0.75) and decays[3] == 0.9
    for step in range(2):
        weight.data += 1
        average.step([weight])
        assert average.shadow_params[0].item() == step + 1


def test_held_out_losses_are_the_same_for_the_same_weights(tiny_run):
    """One run asks twice as often; another is stopped and goes on."""
    told = {}
    for name, every in (("often", 4), ("seldom", 8)):
        run = tiny_run(f"--name={name}", f"--validation.every={every}", "--validation.count=5")
        train(run)
        lines = [json.loads(line) for line in (run.folder / "validation.jsonl").read_text().splitlines()]
        told[name] = {line["samples"]: line for line in lines}
    assert list(told["often"]) == [4, 8, 12, 16] and list(told["seldom"]) == [8, 16]
    assert all(told["often"][at] == told["seldom"][at] for at in (8, 16))
    last = told["often"][16]
    levels = [last[f"edit_{level}"] for level in (0.1, 0.3, 0.5, 0.7, 0.9)]
    assert last["edit"] == pytest.approx(sum(levels) / 5) and len(set(levels)) == 5 and last["ce"] > 0


def test_words_alone_are_learnt_without_painting(tiny_run, monkeypatch):
    """What they teach is what they teach beside painting, and nobody is asked to paint or to be a teacher."""
    language = "--train.groups=[embeddings,lm_head,language_model]"
    both, words = (tiny_run(f"--name={name}", language, more, samples=4) for name, more in (
        ("both", "--train.align_weight=0"), ("words", "--train.edit_weight=0"),
    ))  # fmt: skip
    beside = train(both)
    asked = []
    monkeypatch.setattr(UNetDenoiser, "forward", lambda *_, **__: asked.append("paint"))
    monkeypatch.setattr(type(denoiser_part("unet")), "text_model", lambda *_: asked.append("teach"))
    told = train(words)
    assert told["loss_ce"] == beside["loss_ce"] and "loss_edit" in beside and not asked
    assert [name for name in told if name.startswith("loss_")] == ["loss_ce"]


def test_words_alone_teach_neither_painters_nor_the_mute(tiny_run, mige_folder):
    with pytest.raises(ConfigError, match=r"edit_weight=0 with edit_head, denoiser in train\.groups"):
        train(tiny_run("--train.edit_weight=0", "--train.groups=[lm_head,edit_head,denoiser]"))
    mute = read_release(mige_folder)
    with pytest.raises(ConfigError, match="QFormerT5Encoder has no words to learn"):
        EditTask(mute.editor, mute.process, drop=DropConfig(), edit_weight=0.0)


@pytest.mark.parametrize("prediction", ["v_prediction", "flow"])
def test_another_prediction_is_trained_and_kept_by_the_release(tiny_run, tmp_path, prediction):
    sampler = {"flow": "FlowMatchEulerDiscreteScheduler", "v_prediction": "DDIMScheduler"}[prediction]
    run = tiny_run(
        f"--train.loss.prediction={prediction}", "--train.loss.min_snr=5", "--train.loss.offset_noise=0.05",
        f"--sampling.scheduler={sampler}", samples=8,
    )  # fmt: skip
    facts = train(run)
    assert 0 < facts["loss_edit"] < 20
    extract(run.folder, out=tmp_path / "release")
    process = read_release(tmp_path / "release").process
    assert getattr(process, "predicts", "flow") == prediction


def test_the_original_has_none_of_it(tiny_run):
    with pytest.raises(ConfigError, match=r"train\.loss with compat=reference"):
        train(tiny_run("--compat=reference", "--train.loss.min_snr=5", "--train.timestep_shift=1.0"))
