"""Without other processes; with them: the tests marked `dist` in tests/mgie/test_train.py."""

import sys

import pytest

from mgie.errors import ConfigError
from mgie.training.world import World
from mgie.training.zero import deepspeed_config


def test_the_dictionary_follows_from_the_run():
    config = deepspeed_config(2, processes=4, batch_size=32, micro_batch_size=2, clip=0.5)
    assert config["gradient_accumulation_steps"] == 4
    assert (config["train_batch_size"], config["train_micro_batch_size_per_gpu"]) == (32, 2)
    assert config["gradient_clipping"] == 0.5
    assert config["zero_optimization"]["stage"] == 2


def test_a_missing_deepspeed_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"train\.strategy=zero3 needs DeepSpeed .*mgie\[train\]"):
        World(tmp_path, strategy="zero3", batch_size=4, micro_batch_size=2, threads=1)


def test_a_process_by_itself_shares_nothing_out(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with World(tmp_path, strategy="zero3", batch_size=4, micro_batch_size=2, threads=1) as world:
        assert (world.stage, world.size) == (0, 1)
