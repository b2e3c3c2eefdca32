"""Image features into their placeholders: pure functions, counted and checked."""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from llava_patch.errors import DataError
from llava_patch.tokens import IM_END, IM_PATCH, IM_START, ImageTokens


def splice(
    embeddings: Float[Tensor, "b t d"],
    input_ids: Int[Tensor, "b t"],
    features: Float[Tensor, "m p d"],
    tokens: ImageTokens,
) -> Float[Tensor, "b t d"]:
    """Put the features of m pictures in place of their <im_patch> embeddings, in order of appearance.

    <im_start> and <im_end> keep their own embeddings; a row without <im_patch> stays as it is:

        ids        [7, start, patch, patch, end, 9]      features [[f0, f1]]
        embeddings [e7, es,   ep,    ep,    ee,  e9] ->  [e7, es, f0, f1, ee, e9]
    """
    if input_ids.device.type == "cpu":
        check_placeholders(input_ids, images=features.shape[0], patches=features.shape[1], tokens=tokens)
    here = input_ids == tokens.patch
    if input_ids.device.type != "cpu":
        # Counting on the host would wait for the device in every step.
        torch._assert_async(here.sum() == features.shape[0] * features.shape[1])  # pyright: ignore[reportPrivateImportUsage]
    return embeddings.masked_scatter(
        here[..., None], rearrange(features, "m p d -> (m p) d").to(embeddings.dtype)
    )


def check_placeholders(
    input_ids: Int[Tensor, "b t"], *, images: int, patches: int, tokens: ImageTokens
) -> None:
    """Refuse ids whose placeholders are not exactly `images` blocks of `patches` <im_patch> tokens.

    With start and end tokens each block must stand between its own <im_start> and <im_end>.
    """
    found = int((input_ids == tokens.patch).sum())
    if found != images * patches:
        raise DataError(
            f"the batch has {found} {IM_PATCH} tokens, but {images} pictures give {images} x {patches} = "
            f"{images * patches} features; whoever builds the prompt must insert one {IM_PATCH} per feature "
            "(was the prompt cut?)."
        )
    if tokens.start is None or tokens.end is None:
        return
    for row, ids in enumerate(input_ids.tolist()):
        place = 0
        while tokens.patch in ids[place:]:
            first = ids.index(tokens.patch, place)
            end = first
            while end < len(ids) and ids[end] == tokens.patch:
                end += 1
            opened = first > 0 and ids[first - 1] == tokens.start
            closed = end < len(ids) and ids[end] == tokens.end
            if end - first != patches or not opened or not closed:
                raise DataError(
                    f"row {row} has {end - first} {IM_PATCH} tokens at position {first}, "
                    f"{'after' if opened else 'without'} {IM_START} and {'before' if closed else 'without'} "
                    f"{IM_END}; "
                    f"expected {IM_START}, {patches} times {IM_PATCH}, {IM_END}."
                )
            place = end
