"""LPIPS with its real heads and a seeded network, against the values of the package lpips."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from benchmark_data import pic
from PIL import Image

from mgie.errors import ConfigError, WeightsError
from mgie.evaluation.measures.blocks import at_size
from mgie.evaluation.measures.lpips import HEADS, PUBLISHED, Lpips, _network

GOLDEN = {"alex": 0.16376212, "squeeze": 0.14383461, "vgg": 0.13566849}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """Takes a network's name; gives a file like torchvision's, of one generator, tensor by tensor."""

    def make(net, **changes):
        draw, weights = np.random.default_rng(0), {}
        for name, value in _network(net).state_dict().items():
            shape = tuple(value.shape)
            scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.01
            drawn = (draw.standard_normal(shape) * scale).astype(np.float32)
            weights[f"features.{name}"] = torch.from_numpy(drawn)
        file = tmp_path_factory.mktemp(net) / PUBLISHED[net]
        torch.save(weights | {"classifier.1.weight": torch.zeros(2)} | changes, file)
        return file

    return make


@pytest.fixture
def two():
    target = pic(7, 96, 80)
    return at_size(pic(8, 48, 48), target.size), target


@pytest.mark.parametrize("net", GOLDEN)
def test_each_network_gives_its_value(net, backbone, two):
    measure = Lpips(net, backbone(net))
    assert measure(*two) == pytest.approx(GOLDEN[net], abs=1e-6)
    assert measure(*two[::-1]) == pytest.approx(measure(*two), abs=1e-9)
    assert measure(two[0], two[0]) == 0
    assert HEADS[net] in measure.hashes.values() and not measure.published


def test_a_file_that_is_not_whole_or_of_another_network_is_refused(backbone, tmp_path):
    with pytest.raises(WeightsError, match="cannot be read as this network's weights"):
        Lpips("vgg", backbone("alex"))
    with pytest.raises(WeightsError, match=r"squeezenet1_1-b8a52dc0\.pth"):
        Lpips("squeeze", backbone("squeeze", **{"features.99.weight": torch.zeros(1)}))
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    for file in (tmp_path / "page.pth", tmp_path / "nowhere.pth", tmp_path):
        with pytest.raises(WeightsError, match=r"expected alexnet-owt-7be5be79\.pth"):
            Lpips("alex", file)


def test_what_is_too_small_and_what_is_no_network(backbone):
    measure = Lpips("alex", backbone("alex"))
    small = Image.new("RGB", (30, 60))
    with pytest.raises(ConfigError, match="31 pixels or more, one is 30 x 60"):
        measure(small, small)
    with pytest.raises(ConfigError, match="expected one of alex, vgg, squeeze"):
        Lpips("resnet", "nowhere")


def test_torchvision_is_not_imported():
    code = (
        "import sys; sys.modules['torchvision'] = None; "
        "from mgie.evaluation.measures.lpips import Lpips, _heads_file;"
        "import mgie.evaluation.measures.scores; assert _heads_file('alex').is_file()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
