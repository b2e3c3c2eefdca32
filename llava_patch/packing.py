"""A padded batch read as one row without its padding.

Flash attention is told where each of its rows ends. For other kernels transformers finds that where places
begin anew, and makes a mask that lets no token see another row's. The states are those of the padded batch;
gradients too, up to rounding.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaForCausalLM


def states_packed(
    model: LlamaForCausalLM,
    embeddings: Float[Tensor, "b t d"],
    mask: Bool[Tensor, "b t"],
    places: Int[Tensor, "b t"],
) -> Float[Tensor, "b t d"]:
    """Last states, zeros where there is padding. `places`: of each token in its own row.

    [a a . .]
    [b b b b]   ->   a a b b b b c c c   at   0 1 0 1 2 3 0 1 2
    [c c c .]
    """
    ends, longest = F.pad(mask.sum(dim=1).cumsum(0), (1, 0)).int(), mask.shape[1]
    # Of flash attention's arguments others take no notice.
    states = model.model(
        inputs_embeds=embeddings[mask][None], position_ids=places[mask][None], use_cache=False,
        cu_seq_lens_q=ends, cu_seq_lens_k=ends, max_length_q=longest, max_length_k=longest,
    ).last_hidden_state  # 1 n d  # fmt: skip
    back = states.new_zeros(*mask.shape, states.shape[-1])
    return torch.masked_scatter(back, mask[..., None], states)
