"""A release of the recipe's own small parts, as it is before any training."""

from pathlib import Path

import pytest
from torch import Tensor

from mgie.build import build_editor, build_release
from mgie.config import load_run, resolve
from mgie.weights.release import Release


@pytest.fixture(scope="session")
def release() -> Release:
    run = load_run("tiny")
    return build_release(build_editor(run), run)


@pytest.fixture(scope="session")
def base() -> dict[str, Path]:
    """The folders that the release's frozen parts came from."""
    model = load_run("tiny").model
    return {"llava": Path(resolve(model.llava)), "diffusion": Path(resolve(model.diffusion))}


@pytest.fixture(scope="session")
def heads(release: Release) -> int:
    """Attention heads of the release's edit head."""
    return release.edit_head.config.heads


@pytest.fixture(scope="session")
def tensors():
    """All tensors of a release, by part and name."""

    def read(release: Release) -> dict[str, Tensor]:
        return {
            f"{part}.{name}": tensor
            for part in ("llava", "edit_head", "unet", "vae")
            for name, tensor in getattr(release, part).state_dict().items()
        }

    return read
