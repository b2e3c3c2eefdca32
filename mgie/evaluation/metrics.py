"""Pictures -> one number per example.

    l1, l2, psnr, ssim     against the picture that should have come out
    clip_i, dino           likeness of what is seen, by the features of a CLIP or DINO model
    clip_t                 likeness of a picture and a text, by CLIP

Pixels are in [-1, 1] as everywhere; l1 and l2 are on the scale from 0 (equal) to 1 (black for white), as
MagicBrush reports them. No weights are fetched: the models of the last three are folders given by the user.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor

from mgie.errors import ConfigError, DeviceError, WeightsError

Pixels = Float[Tensor, "b 3 y x"]
Scores = Float[Tensor, " b"]


def l1(output: Pixels, target: Pixels) -> Scores:
    """Mean absolute difference, 0 to 1; lower is better."""
    return (output - target).abs().mean((1, 2, 3)) / 2


def l2(output: Pixels, target: Pixels) -> Scores:
    """Mean squared difference, 0 to 1; lower is better."""
    return ((output - target) / 2).square().mean((1, 2, 3))


def psnr(output: Pixels, target: Pixels) -> Scores:
    """Peak signal-to-noise ratio in decibels, infinite for equal pictures; higher is better."""
    measure = _torchmetrics("psnr").peak_signal_noise_ratio
    return measure(output, target, data_range=2.0, reduction="none", dim=(1, 2, 3))


def ssim(output: Pixels, target: Pixels) -> Scores:
    """Structural similarity, at most 1; higher is better. Pictures of 11 pixels or more."""
    y, x = output.shape[-2:]
    if min(y, x) < 11:
        raise ConfigError(f"ssim needs pictures of 11 pixels or more and these are {x} x {y}: leave it out.")
    measure = _torchmetrics("ssim").structural_similarity_index_measure
    values = measure(output, target, data_range=2.0, reduction="none")
    return torch.as_tensor(values).reshape(len(output))


PIXEL_METRICS: dict[str, Callable[[Pixels, Pixels], Scores]] = {
    "l1": l1,
    "l2": l2,
    "psnr": psnr,
    "ssim": ssim,
}
"""Name -> metric of two pictures."""


class ClipScores:
    """CLIP-I and CLIP-T with the CLIP model of a local folder (as transformers writes it)."""

    def __init__(self, folder: str | Path, device: torch.device | str = "cpu"):
        from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

        self.folder = _model_folder(folder, "clip", "openai/clip-vit-base-patch32")
        self.model = _loaded(CLIPModel, self.folder).eval().to(device)
        self.processor = _loaded(CLIPImageProcessorPil, self.folder)
        self.tokenizer = _loaded(AutoTokenizer, self.folder)

    @torch.inference_mode()
    def images(self, images: Sequence[Image]) -> Float[Tensor, "b f"]:
        """Features of pictures, of length 1."""
        clip_pixels = self.processor(images=list(images), return_tensors="pt")["pixel_values"]
        clip_pixels = clip_pixels.to(self.model.device)
        seen = self.model.vision_model(pixel_values=clip_pixels).pooler_output
        return torch.nn.functional.normalize(self.model.visual_projection(seen), dim=-1)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Float[Tensor, "b f"]:
        """Features of texts, of length 1; longer ones are cut at what the model reads."""
        longest = self.model.config.text_config.max_position_embeddings
        words = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt"
        ).to(self.model.device)
        read = self.model.text_model(input_ids=words["input_ids"], attention_mask=words["attention_mask"])
        return torch.nn.functional.normalize(self.model.text_projection(read.pooler_output), dim=-1)

    def clip_i(self, output: Sequence[Image], target: Sequence[Image]) -> Scores:
        """Cosine of the features of two pictures; higher is better."""
        return (self.images(output) * self.images(target)).sum(-1)

    def clip_t(self, output: Sequence[Image], texts: Sequence[str]) -> Scores:
        """Cosine of the features of a picture and a text; higher is better."""
        return (self.images(output) * self.texts(texts)).sum(-1)


class DinoScores:
    """DINO with the vision transformer of a local folder: cosine of the first token's features."""

    def __init__(self, folder: str | Path, device: torch.device | str = "cpu"):
        from transformers import AutoImageProcessor, AutoModel

        self.folder = _model_folder(folder, "dino", "facebook/dino-vits16")
        self.model = _loaded(AutoModel, self.folder).eval().to(device)
        self.processor = _loaded(AutoImageProcessor, self.folder, backend="pil")

    @torch.inference_mode()
    def images(self, images: Sequence[Image]) -> Float[Tensor, "b f"]:
        """Features of pictures, of length 1."""
        clip_pixels = self.processor(images=list(images), return_tensors="pt")["pixel_values"]
        states = self.model(pixel_values=clip_pixels.to(self.model.device)).last_hidden_state
        return torch.nn.functional.normalize(states[:, 0], dim=-1)

    def dino(self, output: Sequence[Image], target: Sequence[Image]) -> Scores:
        """Cosine of the features of two pictures; higher is better."""
        return (self.images(output) * self.images(target)).sum(-1)


def _torchmetrics(metric: str):
    try:
        import torchmetrics.functional.image as functional
    except ImportError as error:
        raise DeviceError(
            f"The metric {metric} needs the package torchmetrics, which is not installed; "
            "run: pip install 'mgie[eval]'"
        ) from error
    return functional


def _model_folder(folder: str | Path, option: str, example: str) -> Path:
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise WeightsError(
            f"{folder} is no model folder (it has no config.json): --{option} expects a local folder with a "
            f"model that transformers wrote, such as a download of {example}."
        )
    return path


def _loaded(kind: type, folder: Path, **options):
    try:
        return kind.from_pretrained(folder, local_files_only=True, **options)  # type: ignore[attr-defined]
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(
            f"{folder} cannot be read as a {kind.__name__} ({reason}): expected a whole transformers folder, "
            "with config.json, model.safetensors and preprocessor_config.json (and a tokenizer for CLIP)."
        ) from error
