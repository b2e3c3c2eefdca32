"""The encoder and the denoiser of docs/extending.md: train, stop, go on, extract, load, edit."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from mgie.config import load_run
from mgie.errors import ConfigError, WeightsError
from mgie.extract import extract
from mgie.pipeline import MGIEPipeline
from mgie.prepare import prepare
from mgie.train import train
from mgie.weights.parts import encoder_part

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


@pytest.fixture(scope="module")
def page() -> Iterator[list[str]]:
    """The classes of the page, as they are written there; made once, like those of an imported module."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    module = {"__name__": "extending"}
    exec("\n".join(blocks), module)
    yield blocks
    module.clear()


@pytest.fixture
def recipe(page, tmp_path) -> Path:  # noqa: ARG001 - its classes
    """The recipe `tiny` with these two."""
    prepare("toy", tmp_path / "toy", seed=3, count=16, test=4, size=64, progress=False)
    tiny = yaml.safe_load((PAGE.parents[1] / "mgie" / "recipes" / "tiny.yaml").read_text())
    tiny["model"] = yaml.safe_load(re.search(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)[1])["model"]
    tiny["name"], tiny["out"], tiny["data"] = "mine", str(tmp_path), tiny["data"] | {
        "path": str(tmp_path / "toy"), "workers": 0,
    }  # fmt: skip
    tiny["train"] |= {
        "samples": 24,
        "batch_size": 4,
        "groups": ["encoder", "denoiser"],
        "align_weight": 0.0,
        "threads": 1,
    }
    tiny["optim"]["lrs"] = {}
    tiny |= {"save": {"every": 8}, "log": {"every": 4}, "preview": {"every": 8, "count": 2}}
    tiny["sampling"] |= {"scheduler": "FlowMatchEulerDiscreteScheduler", "steps": 3, "guidance": 2.0}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tiny))
    return tmp_path / "mine.yaml"


def test_the_page_s_classes_are_short(page):
    assert max(len([line for line in block.splitlines() if line]) for block in page) <= 30


def test_they_train_extract_load_and_edit(recipe, tmp_path):
    torch.manual_seed(0)
    facts = train(load_run(str(recipe)))
    assert facts["loss_ce"] == 0 and 0 < facts["loss_edit"] < 100
    assert len(list((tmp_path / "mine" / "previews").glob("*.png"))) == 3
    extract(tmp_path / "mine", out=tmp_path / "release")
    names = sorted(path.name for path in (tmp_path / "release").iterdir() if path.is_dir())
    assert names == ["bytes", "denoiser", "scheduler", "vae"]
    assert "LLaVA" not in (tmp_path / "release" / "README.md").read_text()
    pipeline = MGIEPipeline.from_pretrained(tmp_path / "release")
    pipeline.set_progress_bar_config(disable=True)
    photo = Image.linear_gradient("L").convert("RGB").resize((50, 34))
    result = pipeline(photo, "make it dark", seed=0)
    assert result.images[0].size == photo.size and result.said == [""]
    other = pipeline(photo, "make it red", seed=0).images[0]
    assert not np.array_equal(np.asarray(result.images[0]), np.asarray(other)), "words are heard"
    pipeline.save_pretrained(tmp_path / "again")
    again = MGIEPipeline.from_pretrained(tmp_path / "again")
    again.set_progress_bar_config(disable=True)
    assert again(photo, "make it dark", seed=0).images == result.images


def test_a_release_of_theirs_is_trained_further(recipe, tmp_path):
    train(load_run(str(recipe)))
    extract(tmp_path / "mine", out=tmp_path / "release")
    content = yaml.safe_load(recipe.read_text())
    content["model"], content["name"] = {"release": str(tmp_path / "release")}, "further"
    recipe.write_text(yaml.safe_dump(content))
    assert train(load_run(str(recipe)))["samples"] == 24


def test_what_they_are_not_made_for_is_a_sentence(recipe, tmp_path):
    train(load_run(str(recipe)))
    with pytest.raises(
        ConfigError, match="apple holds a LLaVA, an edit head and a UNet, but this editor is a By"
    ):
        extract(tmp_path / "mine", out=tmp_path / "apple", format="apple")
    with pytest.raises(ConfigError, match="ByteEncoder keeps all activations"):
        train(load_run(str(recipe), ["--name=other", "--train.gradient_checkpointing=true"]))
    with pytest.raises(ConfigError, match=r"train\.align_weight: a denoiser of the kind tiny_flow has"):
        train(load_run(str(recipe), ["--name=other", "--train.align_weight=1"]))


def test_a_part_may_be_made_of_another(page):  # noqa: ARG001 - its classes
    class Wider(type(encoder_part("bytes"))):
        kind = "wider"

    class Same(Wider):
        """Says no name of its own."""

    assert type(encoder_part("wider")) is Wider and Same.kind == "wider"


def test_a_kind_that_nobody_has_imported_is_a_sentence(recipe, tmp_path):
    with pytest.raises(ConfigError, match=r"model\.encoder\.kind is 'bites': expected .*llava or .*bytes"):
        load_run(str(recipe), ["--model.encoder.kind=bites"])
    (tmp_path / "model_index.json").write_text(
        '{"_class_name": "MGIEPipeline", "_encoder": {"kind": "os"}, "_denoiser": {"kind": "unet"}}'
    )
    (tmp_path / "manifest.json").unlink(missing_ok=True)
    with pytest.raises(WeightsError, match=r"model\.encoder\.kind is 'os'"), pytest.warns(match="manifest"):
        MGIEPipeline.from_pretrained(tmp_path)
