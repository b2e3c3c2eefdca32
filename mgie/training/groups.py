"""Names of what is trained that stand for several groups of parameters."""

GROUP_SETS: dict[str, tuple[str, ...]] = {
    "reference": ("embeddings", "lm_head", "edit_head", "denoiser"),
    "new_tokens_only": ("new_tokens", "edit_head", "denoiser"),
    "head_only": ("edit_head",),
    "lora": ("lora_language_model", "lora_denoiser"),
    "qlora": ("lora_language_model", "lora_denoiser"),
}
"""reference: what MGIE (Fu et al. 2024, section 3.3) trains, both tables in full. new_tokens_only: of the
tables nothing but the rows of the visual tokens. lora, qlora: low-rank adapters (mgie/models/adapters.py)."""
SAYING = (
    "embeddings",
    "lm_head",
    "new_tokens",
    "language_model",
    "lora_language_model",
    "projector",
    "vision_tower",
)
"""Groups that the words of an answer teach, without any painting."""


def spelt_out(groups: tuple[str, ...]) -> tuple[str, ...]:
    """The groups that these names stand for, each once."""
    return tuple(dict.fromkeys(group for name in groups for group in GROUP_SETS.get(name, (name,))))
