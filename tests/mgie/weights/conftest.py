"""A release of the recipe's own small parts, as it is before any training."""

from pathlib import Path

import pytest
from torch import Tensor

from mgie.build import build_editor, build_release
from mgie.config import load_run
from mgie.weights.parts import resolve
from mgie.weights.release import Release


@pytest.fixture(scope="session")
def release() -> Release:
    run = load_run("tiny")
    return build_release(build_editor(run), run)


@pytest.fixture(scope="session")
def base() -> dict[str, Path]:
    """The folders that the release's frozen parts came from."""
    model = load_run("tiny").model
    return {"llava": Path(resolve(model.encoder.llava)), "diffusion": Path(resolve(model.denoiser.diffusion))}


@pytest.fixture(scope="session")
def heads(release: Release) -> int:
    """Attention heads of the release's edit head."""
    return release.editor.encoder.edit_head.config.heads


@pytest.fixture(scope="session")
def tensors():
    """All tensors of a release, by part and name."""

    def read(release: Release) -> dict[str, Tensor]:
        return release.editor.state_dict()

    return read
