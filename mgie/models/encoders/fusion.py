"""Feature fusion: what a picture means looks at what it looks like (MIGE, Tian et al. 2025).

The few tokens of a semantic encoder look at all patches of the picture's latents.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

EPSILON = 1e-6
"""Of all its norms, as published."""


class FeatureFusion(nn.Module):
    """Semantic tokens attend to visual ones, and add what they find; its last map starts at zero.

    The names of its parameters are the published ones.
    """

    def __init__(self, semantic: int, visual: int, *, heads: int, out_norm: bool = True):
        """Widths of the tokens. Without `out_norm`, an untrained module gives its semantic tokens as they
        came."""
        super().__init__()
        self.q_proj_1 = nn.Linear(semantic, semantic, bias=False)
        self.k_proj_1 = _two(visual, semantic)
        self.v_proj_1 = _two(visual, semantic)
        self.ln_q_1 = nn.LayerNorm(semantic, eps=EPSILON)
        self.ln_k_1 = nn.LayerNorm(semantic, eps=EPSILON)
        self.ln_v_1 = nn.LayerNorm(semantic, eps=EPSILON)
        self.clip_attn = nn.MultiheadAttention(semantic, heads, batch_first=True)
        self.mlp = nn.Linear(semantic, semantic)
        self.ln_out = nn.LayerNorm(semantic, eps=EPSILON) if out_norm else nn.Identity()
        nn.init.zeros_(self.mlp.weight)
        nn.init.zeros_(self.mlp.bias)

    @property
    def width(self) -> int:
        """Of its tokens."""
        return self.mlp.out_features

    @property
    def visual(self) -> int:
        """Width of the visual tokens."""
        first = self.k_proj_1[0]
        assert isinstance(first, nn.Linear)
        return first.in_features

    def forward(
        self, semantic: Float[Tensor, "j k f"], visual: Float[Tensor, "j p fv"]
    ) -> Float[Tensor, "j k f"]:
        """The semantic tokens, with what the visual ones add."""
        query = self.ln_q_1(self.q_proj_1(semantic))
        key, value = self.ln_k_1(self.k_proj_1(visual)), self.ln_v_1(self.v_proj_1(visual))
        found, _ = self.clip_attn(query, key, value, need_weights=False)
        return self.ln_out(semantic + self.mlp(found))


def _two(visual: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(visual, width), nn.GELU(), nn.Linear(width, width))


def patch_tokens(patches: nn.Module, latents: Float[Tensor, "j c h w"]) -> Float[Tensor, "j p fv"]:
    """What a convolution makes of latents, patch after patch; no token knows its place."""
    return torch.flatten(patches(latents), 2).transpose(1, 2)
