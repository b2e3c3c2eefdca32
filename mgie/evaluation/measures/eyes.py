"""The models that a user gave for measuring, and what they have seen already."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mgie.errors import ConfigError
from mgie.evaluation.measures.cutting import Cutter
from mgie.evaluation.measures.features import Clip, Dino
from mgie.evaluation.measures.lpips import Lpips

Feature = Float[Tensor, "1 f"]


@dataclass(kw_only=True, slots=True)
class Eyes:
    """The models that a user gave; features that were computed once are kept."""

    clip: Clip | None = None
    dino: Dino | None = None
    lpips: Lpips | None = None
    cutter: Cutter | None = None
    """What cuts a thing out of an output."""
    kept: dict[tuple[Any, ...], Feature] = field(default_factory=dict)

    @classmethod
    def open(
        cls, clip: str | Path | None, dino: str | Path | None, lpips: str | None, device: torch.device
    ) -> "Eyes":
        """The models of local folders, and of NET:FILE for LPIPS. Raises WeightsError and ConfigError."""
        net, colon, file = (lpips or "").partition(":")
        if lpips is not None and not (colon and file):
            raise ConfigError(
                f"lpips={lpips!r}: expected the network and its file, such as "
                "alex:alexnet-owt-7be5be79.pth, for the three networks give three metrics."
            )
        return cls(
            clip=None if clip is None else Clip(clip, device),
            dino=None if dino is None else Dino(dino, device),
            lpips=None if lpips is None else Lpips(net, file, device),
        )

    @property
    def hashes(self) -> dict[str, dict[str, str]]:
        """Model -> file of weights -> SHA-256."""
        given = {"clip": self.clip, "dino": self.dino, "lpips": self.lpips, "subject": self.cutter}
        return {name: model.hashes for name, model in given.items() if model}

    def once(self, key: tuple[Any, ...], compute: Callable[[], Feature]) -> Feature:
        """What was computed under the key, now or before."""
        if key not in self.kept:
            self.kept[key] = compute()
        return self.kept[key]
