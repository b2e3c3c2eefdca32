"""What a run's machine does: counted operations, shares of the time."""

import time

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mgie.errors import ConfigError
from mgie.training.pace import GIB, Pace, Work, memory_peak, peak_of
from mgie.training.world import World, check_trackers


@pytest.fixture
def world(tmp_path):
    with World(tmp_path, threads=1) as alone:
        yield alone


def counted(act) -> int:
    with Work() as work:
        act()
    return work.operations


def test_a_product_costs_once_more_for_each_factor_that_is_learnt_of():
    layer, frozen = nn.Linear(8, 6), nn.Linear(8, 6).requires_grad_(False)
    states, learnt = torch.randn(3, 5, 8), torch.randn(3, 5, 8, requires_grad=True)
    once = 2 * 15 * 8 * 6
    assert counted(lambda: frozen(states)) == once
    assert counted(lambda: layer(states)) == counted(lambda: frozen(learnt)) == 2 * once
    assert counted(lambda: layer(learnt)) == 3 * once
    with torch.no_grad():
        assert counted(lambda: layer(learnt)) == once
    with torch.autocast("cpu", torch.bfloat16):
        assert counted(lambda: layer(learnt)) == 3 * once


def test_pictures_attention_and_what_is_recomputed():
    conv, picture = nn.Conv2d(3, 4, 3, bias=False), torch.randn(2, 3, 8, 8)
    assert counted(lambda: conv(picture)) == 2 * (2 * 2 * 36 * 4 * 27)
    q, k = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 7, 4, requires_grad=True)
    once = 2 * (2 * 2 * 3 * 5 * 7 * 4)
    mask = torch.ones(5, 7).bool()
    assert counted(lambda: F.scaled_dot_product_attention(q, k.detach(), k.detach())) == once
    assert counted(lambda: F.scaled_dot_product_attention(q, k, k, attn_mask=mask)) == 3 * once
    layer, learnt = nn.Linear(8, 8), torch.randn(4, 8, requires_grad=True)
    with Work() as forward:
        result = checkpoint(layer, learnt, use_reentrant=False)
    result.sum().backward()
    assert forward.operations == 3 * 2 * 4 * 8 * 8


def test_counting_changes_no_bit():
    layer, states = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64)), torch.randn(9, 7, 64)
    conv, picture = nn.Conv2d(4, 8, 3), torch.randn(2, 4, 16, 16)
    found = []
    for count in (False, True):
        layer.zero_grad(), conv.zero_grad()
        with Work() if count else torch.enable_grad():
            told = layer(states).square().sum() + conv(picture).square().sum()
        told.backward()
        found.append([told.detach(), *(p.grad for p in (*layer.parameters(), *conv.parameters()))])
    assert all(torch.equal(one, two) for one, two in zip(*found))


def test_time_is_that_of_steps(world):
    def slow():
        for number in range(3):
            time.sleep(0.06)
            yield number

    pace = Pace(world, done=100, peak=2e-9)
    layer = nn.Linear(8, 8)
    for number in pace.waiting(slow()):
        with pace.counting(4):
            layer(torch.randn(4, 8))
        time.sleep(0.02)
        pace.stepped()
        time.sleep(0.2)  # a save, which is no step
        if number == 1:
            told = pace.read(108)
    # Two steps of 0.08 s; after the second one 0.2 s until it was told, which may be the device.
    assert 8 / 0.56 < told["samples_per_second"] < 8 / 0.36
    assert 0.12 / 0.56 < told["data_wait"] < 0.2 / 0.36
    assert told["tflops"] == pytest.approx(2 * 2 * 8 * 8 * told["samples_per_second"] / 1e12, rel=0.01)
    assert told["mfu"] == pytest.approx(told["tflops"] / 2e-9, rel=0.01)
    assert told["memory_gib"] == pytest.approx(memory_peak(world.device) / GIB, abs=0.3)
    last = pace.read(112)
    assert 4 / 0.5 < last["samples_per_second"] < 4 / 0.08


def test_a_cpu_has_no_peak(world):
    assert peak_of(torch.device("cpu")) is None
    told = Pace(world, done=0).read(0)
    assert told.keys() == {"samples_per_second", "data_wait", "memory_gib"}


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_a_sentence(name, monkeypatch, tmp_path):
    monkeypatch.setattr("mgie.training.world.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=f"names {name}, and the package {name} is not installed: pip inst"):
        World(tmp_path, trackers=(name,))
    check_trackers(())
