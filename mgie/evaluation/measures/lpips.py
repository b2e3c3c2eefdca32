"""LPIPS v0.1 (Zhang et al. 2018): how far apart two pictures look to a network for ImageNet.

Two files of weights: the linear heads, which ship inside torchmetrics, and the network's own, which the user
gives: alexnet-owt-7be5be79.pth, vgg16-397923af.pth or squeezenet1_1-b8a52dc0.pth, as torchvision publishes
them. torchvision itself is not needed. The three networks give three metrics; a figure says which.
"""

import zipfile
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal, get_args

import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor, nn

from llava_patch.folders import file_hash
from mgie.errors import ConfigError, DeviceError, WeightsError
from mgie.evaluation.measures.blocks import to_unit

Net = Literal["alex", "vgg", "squeeze"]

TAPS: dict[str, tuple[int, ...]] = {
    "alex": (1, 4, 7, 9, 11),
    "vgg": (3, 8, 15, 22, 29),
    "squeeze": (1, 4, 7, 9, 10, 11, 12),
}
"""Layers of a network whose outputs are compared."""
PUBLISHED = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
"""Published files; their names end in the first eight digits of their SHA-256."""
HEADS = {
    "alex": "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    "vgg": "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    "squeeze": "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76",
}
"""SHA-256 of the heads of version 0.1."""
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
SMALLEST = {"alex": 31, "vgg": 16, "squeeze": 17}
"""Pixels of the shortest side of which something is left at the last layer."""


class Lpips:
    """The distance by one network: 0 for equal pictures, of any size that the network takes."""

    def __init__(self, net: str, backbone: str | Path, device: torch.device | str = "cpu"):
        if net not in get_args(Net):
            raise ConfigError(f"LPIPS by {net!r}: expected one of {', '.join(get_args(Net))}.")
        self.net, self.device = net, torch.device(device)
        heads, file = _heads_file(net), Path(backbone)
        self.hashes = {file.name: file_hash(file) if file.is_file() else "", heads.name: file_hash(heads)}
        self.layers = _network(net)
        _fill(self.layers, file, PUBLISHED[net])
        self.layers = self.layers.requires_grad_(False).eval().to(device)
        weights = torch.load(heads, weights_only=True, map_location=device)
        self.heads = [weights[f"lin{place}.model.1.weight"][0] for place in range(len(TAPS[net]))]

    @property
    def published(self) -> bool:
        """Whether both files are those that published figures rest on."""
        backbone, heads = self.hashes.values()
        return heads == HEADS[self.net] and backbone.startswith(PUBLISHED[self.net][-12:-4])

    @torch.inference_mode()
    def __call__(self, output: Image, target: Image) -> float:
        """The distance of two pictures of one size. Raises ConfigError where they are too small."""
        if min(output.size) < SMALLEST[self.net]:
            raise ConfigError(
                f"LPIPS by {self.net} needs pictures of {SMALLEST[self.net]} pixels or more, one is "
                f"{output.width} x {output.height}: leave it out."
            )
        pair = torch.stack([2 * to_unit(picture) - 1 for picture in (output, target)])
        return float(self.between(*pair))

    @torch.inference_mode()
    def between(self, output: Float[Tensor, "3 y x"], target: Float[Tensor, "3 y x"]) -> Float[Tensor, ""]:
        """`distance`, on this network's device."""
        return self.distance(output.to(self.device), target.to(self.device))

    def distance(self, output: Float[Tensor, "3 y x"], target: Float[Tensor, "3 y x"]) -> Float[Tensor, ""]:
        """The same of numbers in [-1, 1]: at each tap features of length 1, their squared differences weighed
        by the head, summed over channels and averaged over places (Zhang et al. 2018, equation 1)."""
        shift, scale = (torch.tensor(each, device=self.device).reshape(3, 1, 1) for each in (SHIFT, SCALE))
        states, total = (torch.stack([output, target]) - shift) / scale, torch.zeros((), device=self.device)
        heads = iter(self.heads)
        for place, layer in enumerate(self.layers):
            states = layer(states)
            if place in TAPS[self.net]:
                unit = states / (states.norm(dim=1, keepdim=True) + 1e-10)
                total = total + (next(heads) * (unit[0] - unit[1]).square()).sum(0).mean()
        return total


class Fire(nn.Module):
    """SqueezeNet's block (Iandola et al. 2016): few channels, then as many again through two kernels."""

    def __init__(self, given: int, squeezed: int, expanded: int):
        super().__init__()
        self.squeeze = nn.Conv2d(given, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, states: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c2 y x"]:
        """Both kernels' states, one after the other."""
        few = self.squeeze(states).relu()
        return torch.cat([self.expand1x1(few).relu(), self.expand3x3(few).relu()], dim=1)


def _network(net: str) -> nn.Sequential:
    """The layers of `features`, numbered as torchvision does, on the device meta."""
    with torch.device("meta"):
        if net == "alex":
            return nn.Sequential(
                nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
                nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
                nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
                nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
                nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
            )  # fmt: skip
        if net == "squeeze":
            pool = nn.MaxPool2d(3, 2, ceil_mode=True)
            return nn.Sequential(
                nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(),
                pool, Fire(64, 16, 64), Fire(128, 16, 64),
                pool, Fire(128, 32, 128), Fire(256, 32, 128),
                pool, Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256),
            )  # fmt: skip
        layers: list[nn.Module] = []
        for block, (given, width) in enumerate(pairwise((3, 64, 128, 256, 512, 512))):
            layers += [nn.MaxPool2d(2)] if block else []
            for before in (given, *(width,) * (1 if block < 2 else 2)):
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
        return nn.Sequential(*layers)


def _fill(layers: nn.Sequential, file: Path, expected: str) -> None:
    """The file's `features.*` become the weights of the layers, all of them and no others."""
    try:
        weights = torch.load(file, weights_only=True, map_location="cpu")
        kept = {
            name.removeprefix("features."): value.float()
            for name, value in weights.items()
            if not name.startswith("classifier.")
        }
        layers.load_state_dict(kept, strict=True, assign=True)
    except (OSError, EOFError, RuntimeError, AttributeError, UnpicklingError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:150]
        raise WeightsError(
            f"{file} cannot be read as this network's weights ({reason}): expected {expected}, as "
            "torchvision publishes it."
        ) from error


def _heads_file(net: str) -> Path:
    found = find_spec("torchmetrics")
    if not found or not found.origin:
        raise DeviceError(
            "LPIPS needs the heads that ship inside the package torchmetrics, which is not installed; "
            "run: pip install 'mgie[eval]'"
        )
    return Path(found.origin).parent / "functional" / "image" / "lpips_models" / f"{net}.pth"
