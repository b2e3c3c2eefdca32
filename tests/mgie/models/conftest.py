"""The parts of an editor, random and of a few thousand parameters."""

from collections.abc import Callable

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig

from llava_patch import Llava, LlavaConfig
from llava_patch.tokens import ImageTokens
from mgie.models.encoders.edit_head import EditHead, EditHeadConfig
from mgie.models.encoders.llava import LlavaEncoder
from mgie.tokens import IGNORE
from mgie.types import Batch

EOS, WORDS = 2, range(3, 30)
PATCH, START, END = 30, 31, 32
VISUAL = (33, 34, 35)


def decided(module: nn.Module) -> nn.Module:
    """Values so large that rounding does not choose the words."""
    generator = torch.Generator().manual_seed(1)
    for value in module.parameters():
        if value.ndim > 1:
            value.data.normal_(0, value[0].numel() ** -0.5, generator=generator)
    return module


@pytest.fixture
def llava() -> Llava:
    language = LlamaConfig(
        vocab_size=36,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        pad_token_id=0,
        eos_token_id=EOS,
    )
    vision = CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    config = LlavaConfig(
        language=language,
        vision=vision,
        vision_tower="vision_tower",
        vision_layer=-2,
        use_im_start_end=True,
    )
    model = Llava.from_config(config, ImageTokens(patch=PATCH, start=START, end=END)).eval()
    decided(model)
    model.language_model.model.embed_tokens.weight.data.mul_(4)
    return model


@pytest.fixture
def head() -> EditHead:
    config = EditHeadConfig(visual_tokens=3, width=8, heads=2, layers=1, feedforward=12, queries=5)
    return EditHead(config, d_in=16, e_out=6)


@pytest.fixture
def encoder(llava: Llava, head: EditHead) -> LlavaEncoder:
    return LlavaEncoder(llava, head, visual_ids=VISUAL)


@pytest.fixture
def vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=4,
        scaling_factor=0.5,
    ).eval()


@pytest.fixture
def make_unet() -> Callable[[int], UNet2DConditionModel]:
    """A UNet that paints 4 channels and takes as many as it is told."""

    def make(channels: int) -> UNet2DConditionModel:
        return UNet2DConditionModel(
            in_channels=channels,
            out_channels=4,
            block_out_channels=(4, 8),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=6,
            attention_head_dim=2,
            norm_num_groups=2,
        ).eval()

    return make


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """A batch of conversations: each is the words of the question and those of the answer."""

    def make(*turns: tuple[list[int], list[int]]) -> Batch:
        block = [START, *[PATCH] * 4, END]
        rows = [[1, *asked, *block, *said, *VISUAL, EOS] for asked, said in turns]
        length = max(len(row) for row in rows)
        ids = torch.zeros(len(rows), length, dtype=torch.long)
        labels = torch.full_like(ids, IGNORE)
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for index, (row, (_, said)) in enumerate(zip(rows, turns)):
            ids[index, : len(row)], mask[index, : len(row)] = torch.tensor(row), True
            spoken = slice(len(row) - len(said) - len(VISUAL) - 1, len(row))
            labels[index, spoken] = ids[index, spoken]
        first = torch.tensor([row.index(VISUAL[0]) for row in rows])
        pixels = torch.zeros(len(rows), 3, 8, 8)
        return Batch(
            input_ids=ids,
            labels=labels,
            mask=mask,
            read_at=first[:, None] - 1 + torch.arange(len(VISUAL)),
            clip_pixels=pictures(len(rows)),
            source=pixels,
            has_source=torch.ones(len(rows), dtype=torch.bool),
            target=pixels,
            keys=tuple(str(index) for index in range(len(rows))),
            positions=tuple(range(len(rows))),
        )

    return make


def pictures(count: int) -> Tensor:
    """Random pictures as CLIP sees them."""
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(2))
