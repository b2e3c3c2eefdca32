"""Features of pictures and texts, by CLIP or DINO models in local folders of transformers.

Nothing is fetched. What a model sees is prepared as the official programs do it (`blocks`, `texts`), whatever
processor lies in the folder; features are float32 and not normalised.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor

from llava_patch.folders import file_hash
from mgie.errors import WeightsError
from mgie.evaluation.measures.blocks import DINO_PREP, clip_prep, prepared
from mgie.evaluation.measures.texts import Overlong, Words, read_text
from mgie.evaluation.published.protocol import Crop, Squash
from mgie.models.local import loaded, model_folder, read

Features = Float[Tensor, "b f"]
TOGETHER = 32
"""How many pictures a model looks at in one pass."""
DINO_EPSILON = 1e-6
"""Of DINO's layer norms. The published configuration on the hub says 1e-12, which moves features by 8e-6."""


class Clip:
    """A CLIP model (Radford et al. 2021): features of pictures and of texts in one space."""

    def __init__(self, folder: str | Path, device: torch.device | str = "cpu"):
        from transformers import AutoTokenizer, CLIPModel

        self.folder = model_folder(folder, "clip", "openai/clip-vit-base-patch32")
        self.model = loaded(CLIPModel, self.folder).to(device)
        self.tokenizer = read(AutoTokenizer, self.folder)
        self.hashes = weight_hashes(self.folder)
        self.prep = clip_prep(self.model.config.vision_config.image_size)
        self.longest: int = self.model.config.text_config.max_position_embeddings

    @torch.inference_mode()
    def images(self, pictures: Sequence[Image], prep: Crop | Squash | None = None) -> Features:
        """Features of pictures: the projection of the first token's state."""
        found = []
        for seen in _batches(pictures, prep or self.prep, self.model.device):
            state = self.model.vision_model(pixel_values=seen).pooler_output
            found.append(self.model.visual_projection(state).cpu())
        return torch.cat(found)

    def words(self, text: str, overlong: Overlong) -> Words:
        """The text's ids. Raises DataError for one that is too long, unless such are to be cut."""
        return read_text(text, self.tokenizer, self.longest, overlong)

    @torch.inference_mode()
    def texts(self, several: Sequence[Words]) -> Features:
        """Features of texts: the projection of the state at the end's token."""
        found = []
        for words in several:  # one by one: sums do not depend on what else is scored
            ids = torch.tensor([words.ids], device=self.model.device)
            state = self.model.text_model(input_ids=ids).pooler_output
            found.append(self.model.text_projection(state).cpu())
        return torch.cat(found)


class Dino:
    """A DINO model (Caron et al. 2021): a vision transformer whose first token tells what is seen."""

    def __init__(self, folder: str | Path, device: torch.device | str = "cpu"):
        from transformers import ViTModel

        self.folder = model_folder(folder, "dino", "facebook/dino-vits16")
        options = {"add_pooling_layer": False, "layer_norm_eps": DINO_EPSILON}
        self.model = loaded(ViTModel, self.folder, **options).to(device)
        self.hashes = weight_hashes(self.folder)
        self.prep = DINO_PREP
        if self.model.config.image_size != self.prep.crop:
            raise WeightsError(
                f"{folder} sees pictures of {self.model.config.image_size} pixels: expected a DINO model for "
                f"{self.prep.crop}, such as a download of facebook/dino-vits16."
            )

    @torch.inference_mode()
    def images(self, pictures: Sequence[Image], prep: Crop | Squash | None = None) -> Features:
        """Features of pictures: the first token's state after the final norm."""
        seen = _batches(pictures, prep or self.prep, self.model.device)
        return torch.cat([self.model(pixel_values=each).last_hidden_state[:, 0].cpu() for each in seen])


def weight_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of weights in a folder, by its name."""
    return {path.name: file_hash(path) for path in sorted(folder.glob("*.safetensors"))}


def _batches(pictures: Sequence[Image], prep: Crop | Squash, device: torch.device):
    for start in range(0, len(pictures), TOGETHER):
        yield torch.stack([prepared(picture, prep) for picture in pictures[start : start + TOGETHER]]).to(
            device
        )
