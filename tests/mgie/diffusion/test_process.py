import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from mgie.diffusion.process import FlowProcess, VarianceProcess, process_of
from mgie.errors import ConfigError, DataError

TARGET, NOISE, T = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3), torch.tensor([10, 900])
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # diffusers'
KINDS = ("epsilon", "v_prediction", "sample", "flow")


def process(kind: str):
    if kind == "flow":
        return FlowProcess(FlowMatchEulerDiscreteScheduler(shift=3.0))
    return VarianceProcess(DDPMScheduler(prediction_type=kind, clip_sample=False))


def level(t: torch.Tensor) -> torch.Tensor:
    return DDPMScheduler().alphas_cumprod[t][:, None, None, None]


def test_a_target_is_corrupted_by_its_time():
    noisy = process("epsilon").corrupt(TARGET, NOISE, T)
    assert torch.allclose(noisy, level(T).sqrt() * TARGET + (1 - level(T)).sqrt() * NOISE)
    share = torch.tensor([0.25, 0.9995])
    line = (1 - share)[:, None, None, None] * TARGET + share[:, None, None, None] * NOISE
    assert torch.allclose(process("flow").corrupt(TARGET, NOISE, 1000 * share), line)


@pytest.mark.parametrize("kind", KINDS)
def test_what_should_be_predicted_gives_the_target_back(kind: str):
    way = process(kind)
    noisy, wanted = way.corrupt(TARGET, NOISE, T), way.wanted(TARGET, NOISE, T)
    assert torch.allclose(way.clean(noisy, wanted, T), TARGET, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_denoiser_that_knows_the_picture_paints_it(kind: str):
    """The samplers of a process and what it teaches agree: times, directions and all."""
    way = process(kind)
    names = ["FlowMatchEulerDiscreteScheduler"] if kind == "flow" else ["DDIMScheduler"]
    for name in [*names, "DPMSolverMultistepScheduler"]:
        sampler = way.sampler(name, steps=20)
        sampler.set_timesteps(20)
        latents = NOISE * getattr(sampler, "init_noise_sigma", 1.0)
        for t in sampler.timesteps:
            answer = torch.stack([_answer(way, latents[row], t, row) for row in range(2)])
            latents = sampler.step(answer, t, latents, return_dict=False)[0]
        assert torch.allclose(latents, TARGET, atol=0.05), (kind, name)


def _answer(way, noisy: torch.Tensor, t: torch.Tensor, row: int) -> torch.Tensor:
    """What somebody says who knows the picture: the noise that is in `noisy`, then what is wanted of both."""
    when, nothing = t[None], torch.zeros_like(TARGET[:1])
    kept = way.corrupt(torch.ones_like(nothing), nothing, when)
    share = way.corrupt(nothing, torch.ones_like(nothing), when)
    noise = (noisy[None] - kept * TARGET[row : row + 1]) / share
    return way.wanted(TARGET[row : row + 1], noise, when)[0]


def test_a_schedule_of_another_kind_is_refused():
    scheduler = DDPMScheduler()
    scheduler.register_to_config(prediction_type="other")
    with pytest.raises(ConfigError, match="predicts 'other': expected epsilon, v_prediction or sample"):
        VarianceProcess(scheduler)


def test_times_without_shift_are_uniform():
    times = process("epsilon").times((torch.arange(1000) + 0.5) / 1000)
    assert torch.equal(times, torch.arange(1000))
    assert process("epsilon").times(torch.tensor([0.0, 1.0 - 2**-24])).tolist() == [0, 999]
    flow = process("flow").times(torch.tensor([0.0, 0.25, 1.0 - 2**-24]))
    assert flow[:2].tolist() == [1000.0, 750.0] and 0 < flow[2] < 1e-3


def test_shift_moves_times_towards_noise():
    u = torch.tensor([0.0, 0.25, 0.5, 1.0 - 2**-24])
    assert process("epsilon").times(u, shift=3.0).tolist() == [0, 500, 750, 999]
    assert process("flow").times(u, shift=3.0)[:3].tolist() == pytest.approx([1000, 900, 750])


@pytest.mark.parametrize("kind", KINDS)
def test_a_sampler_s_configuration_tells_its_process(kind: str):
    way = process(kind)
    again = process_of(way.sampler("DPMSolverMultistepScheduler"))
    assert type(again) is type(way)
    assert getattr(again, "predicts", "flow") == kind and again.length == 1000


@pytest.mark.parametrize(
    ("kind", "name"), [("sample", "EulerAncestralDiscreteScheduler"), ("flow", "DDIMScheduler")]
)
def test_a_sampler_of_another_process_is_refused(kind: str, name: str):
    with pytest.raises(
        ConfigError, match=rf"sampling.scheduler={name} with sampling.steps=2 cannot sample here"
    ):
        process(kind).sampler(name, steps=2)


SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
WAYS = {
    "sd": VarianceProcess(DDPMScheduler(**SD, steps_offset=1)),
    "tiny": VarianceProcess(DDPMScheduler(**SD, **ZERO_SNR, prediction_type="sample")),
    "velocity": VarianceProcess(DDPMScheduler(**SD, **ZERO_SNR, prediction_type="v_prediction")),
    "linear": VarianceProcess(DDPMScheduler()),
    "flow": FlowProcess(FlowMatchEulerDiscreteScheduler(shift=3.0)),
}
ALL = ("DDIM", "DDPM", "DPMSolverMultistep", "UniPCMultistep", "LCM", "EulerDiscrete", "HeunDiscrete",
       "LMSDiscrete", "DEISMultistep", "SASolver", "TCD")  # fmt: skip
NOISY = ("EulerAncestralDiscrete", "KDPM2Discrete", "PNDM")
FLOWS = ("FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete", "FlowMatchLCM", "DPMSolverMultistep",
         "UniPCMultistep", "FlowMapEulerDiscrete", "LTXEulerAncestralRF")  # fmt: skip


@pytest.mark.parametrize(
    ("way", "names"),
    [("sd", ALL + NOISY), ("tiny", ALL), ("velocity", ALL + NOISY), ("linear", ALL + NOISY), ("flow", FLOWS)],
)
@pytest.mark.parametrize("steps", [4, 20])
def test_samplers_of_the_process_are_taken(way: str, names: tuple[str, ...], steps: int):
    for name in names:
        WAYS[way].sampler(f"{name}Scheduler", steps=steps)


@pytest.mark.parametrize(
    ("way", "names"),
    [
        ("tiny", ("FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete", "FlowMatchLCM", "IPNDM", "DDIMInverse")),
        ("sd", ("EDMEuler", "IPNDM", "FlowMatchEulerDiscrete", "FlowMapEulerDiscrete", "CogVideoXDDIM")),
        ("flow", ("CMStochasticIterative", "IPNDM", "DEISMultistep", "SASolver")),
    ],
)
@pytest.mark.parametrize("steps", [1, 8, 100])
def test_a_sampler_that_does_not_come_to_a_known_picture_is_refused(way: str, names, steps: int):
    for name in names:
        with pytest.raises(ConfigError, match=r"away from a picture|has no time"):
            WAYS[way].sampler(f"{name}Scheduler", steps=steps)


def test_a_sampler_gets_the_schedule_and_not_its_own_defaults():
    config = WAYS["linear"].sampler("HeunDiscreteScheduler", steps=4).config
    assert (config.beta_schedule, config.beta_end) == ("linear", 0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_between_two_times_a_picture_is_between_them(kind: str):
    way = process(kind)
    times = [torch.full((2,), t) for t in (500.0, 500.9, 501.0)]
    before, between, after = (way.corrupt(TARGET, NOISE, t) for t in times)
    assert torch.allclose(between, before + 0.9 * (after - before), atol=1e-5) and not between.equal(before)
    assert torch.equal(before, way.corrupt(TARGET, NOISE, torch.full((2,), 500)))
    wanted = way.wanted(TARGET, NOISE, times[1])
    assert torch.allclose(way.clean(between, wanted, times[1]), TARGET, atol=1e-4)


@pytest.mark.parametrize("t", [-0.5, 999.5, 1000.0, float("nan")])
def test_a_time_that_no_picture_was_corrupted_at_is_refused(t: float):
    with pytest.raises(DataError, match="expected 0 to 999"):
        process("epsilon").corrupt(TARGET, NOISE, torch.full((2,), t))


def test_larger_pictures_stay_longer_near_noise_where_the_schedule_says_so():
    way = FlowProcess(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True))
    sampler = way.sampler("FlowMatchEulerDiscreteScheduler", steps=4)
    small, large = (way.steps(sampler, 4, tokens=tokens).timesteps.clone() for tokens in (256, 4096))
    assert small[0] == large[0] == 1000 and (large[1:] > small[1:]).all()


@pytest.mark.parametrize("name", ["os", "Nobody", "UNet2DConditionModel"])
def test_what_is_no_scheduler_is_refused(name: str):
    with pytest.raises(ConfigError, match="expected a scheduler of diffusers"):
        process("epsilon").sampler(name)


@pytest.mark.parametrize("steps", [0, 1001])
def test_steps_that_the_schedule_does_not_have_are_refused(steps: int):
    with pytest.raises(ConfigError, match="cannot sample here"):
        process("epsilon").sampler("DDIMScheduler", steps=steps)


def test_trying_a_sampler_draws_nothing():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    process("epsilon").sampler("DDPMScheduler", steps=4)
    assert torch.equal(before, torch.get_rng_state())
