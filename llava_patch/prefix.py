"""Training that begins late in a conversation: what stands before is read without gradients.

Where neither the language model nor what it reads before a row's position `first` is trained, no gradient
ends there: keys and values of these positions are computed once and kept, and only the few positions from
`first` on have a graph. The states are those of one pass over all; gradients too, up to rounding.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import LlamaForCausalLM


def states_after(
    model: LlamaForCausalLM,
    embeddings: Float[Tensor, "b t d"],
    mask: Bool[Tensor, "b t"],
    first: Int[Tensor, " b"],
) -> Float[Tensor, "b t d"]:
    """Last states of rows that are padded on the right; those before `first` carry no gradient.

    Rows are moved so that all of them begin in one column: padding comes before the prefix and after the
    rest.

        [p p p v v .]        . p p p | v v         p before `first`   v from there on   . padding
        [p p p p v v]   ->   p p p p | v v
    """
    lengths, longest = mask.sum(dim=1), mask.shape[1]
    # On a GPU this waits for two numbers, the widths of both parts.
    before, after = torch.stack([first.max(), (lengths - first).max()]).tolist()
    steps = torch.arange(before + after, device=mask.device)
    places = steps[None] - (before - first)[:, None]  # b t': where each column was
    real = (places >= 0) & (places < lengths[:, None])
    index = places.clamp(0, longest - 1)
    moved = embeddings.gather(1, index[..., None].expand(-1, -1, embeddings.shape[-1]))
    with torch.no_grad():
        read = model.model(
            inputs_embeds=moved[:, :before], attention_mask=real[:, :before],
            position_ids=index[:, :before], use_cache=True,
        )  # fmt: skip
    states = model.model(
        inputs_embeds=moved[:, before:], attention_mask=real, position_ids=index[:, before:],
        past_key_values=read.past_key_values, use_cache=True,
    ).last_hidden_state  # fmt: skip
    both = torch.cat([read.last_hidden_state.to(states.dtype), states], dim=1)
    back = torch.arange(longest, device=mask.device)[None] + (before - first)[:, None]
    back = back.clamp(max=before + after - 1)
    return both.gather(1, back[..., None].expand(-1, -1, both.shape[-1]))
