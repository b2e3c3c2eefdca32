import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mgie.build import build_editor, build_release
from mgie.config import RunConfig, load_run
from mgie.pipeline import MGIEPipeline
from mgie.prepare import prepare
from mgie.weights.release import Release


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory) -> Path:
    """A small data set of the toy world on disk."""
    folder = tmp_path_factory.mktemp("data") / "toy"
    prepare("toy", folder, seed=3, count=48, test=12, size=32, progress=False)
    return folder


@pytest.fixture(scope="session")
def tiny_recipe(toy_data) -> Callable[..., RunConfig]:
    """The recipe `tiny` on the small data set, short: batches of 4, one thread. Takes the folder of its runs
    and `--a.b=value`."""

    def make(out: Path, *overrides: str, samples: int = 16) -> RunConfig:
        fixed = {
            "data.path": toy_data, "data.workers": 0, "out": out, "train.samples": samples,
            "train.batch_size": 4, "train.micro_batch_size": 4, "train.threads": 1,
            "log.every": 4, "save.every": 8, "preview.every": 0,
        }  # fmt: skip
        return load_run("tiny", [f"--{key}={value}" for key, value in fixed.items()] + list(overrides))

    return make


@pytest.fixture
def tiny_run(tiny_recipe, tmp_path) -> Callable[..., RunConfig]:
    """The same in a folder of the test's own."""
    return partial(tiny_recipe, tmp_path / "runs")


@pytest.fixture(scope="session")
def release() -> Release:
    run = load_run("tiny")
    return build_release(build_editor(run), run)


@pytest.fixture
def pipe(release: Release) -> MGIEPipeline:
    """At the recipe's settings, but saying little."""
    pipeline = MGIEPipeline.from_release(release)
    pipeline.register_to_config(max_new_tokens=6)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory) -> Path:
    """A CLIP model as transformers writes it: random, small, for pictures of 224 pixels and 12 tokens."""
    import torch
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = ["a", "b", "c", "d", "e", "r", "a</w>", "d</w>", "e</w>", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    text = small | {"vocab_size": 11, "max_position_embeddings": 12, "eos_token_id": 10, "bos_token_id": 9}
    vision = small | {"image_size": 224, "patch_size": 56}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def dino_folder(tmp_path_factory) -> Path:
    """A vision transformer as the hub has DINO's: with an epsilon and a processor that are not DINO's."""
    import torch
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=224,
        patch_size=32,
        layer_norm_eps=1e-12,
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    ViTImageProcessorPil().save_pretrained(folder)
    return folder
