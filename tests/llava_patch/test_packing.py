"""A padded batch that is read without its padding."""

from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F
from transformers import AttentionInterface

from llava_patch import Llava, Processor

WORDS = ["what is this?", "and what may that thing over there be, if anything?", "no"]

SAME = {"sdpa": 1e-12, "eager": 1e-6}
"""How far double precision may be off, to the largest; transformers' eager has its softmax in single."""


@pytest.fixture
def padded(model: Llava, processor: Processor, clip_pixels) -> tuple:
    model.double()
    rows = [processor.encode(question).input_ids for question in WORDS]
    return *processor.pad(rows, "right"), clip_pixels(3).double()


def states_and_gradients(model: Llava, ids, mask, pixels, *, packed: bool) -> list[torch.Tensor]:
    states = model(ids, mask, pixels, packed=packed)
    learnt = [value for value in model.parameters() if value.requires_grad]
    loss = model.logits(states[mask]).logsumexp(-1).square().sum()
    return [states[mask].detach(), *torch.autograd.grad(loss, learnt)]


@pytest.mark.parametrize("kernel", SAME)
def test_states_and_gradients_are_those_of_the_padded_batch(model: Llava, padded: tuple, kernel: str):
    model.language_model.set_attn_implementation(kernel)
    whole = states_and_gradients(model, *padded, packed=False)
    for one, other in zip(whole, states_and_gradients(model, *padded, packed=True), strict=True):
        assert (one - other).abs().max() <= SAME[kernel] * one.abs().max()


@pytest.mark.parametrize("recomputed", [False, True])
def test_what_flash_attention_is_told_keeps_rows_apart(model: Llava, padded: tuple, recomputed: bool):
    """By a kernel that, as flash attention's for several lengths, knows of rows only where they end."""
    called = []

    def by_lengths(_, query, key, value, mask, *, cu_seq_lens_q, max_length_q, scaling, **rest):
        assert mask is None and query.shape[0] == 1
        ends = cu_seq_lens_q.tolist()
        assert torch.equal(cu_seq_lens_q, rest["cu_seq_lens_k"]) and ends[-1] == query.shape[2]
        assert max(b - a for a, b in pairwise(ends)) <= max_length_q == rest["max_length_k"]
        parts = [
            F.scaled_dot_product_attention(
                *(each[:, :, a:b] for each in (query, key, value)), is_causal=True, scale=scaling
            )
            for a, b in pairwise(ends)
        ]
        called.append(len(parts))
        return torch.cat(parts, dim=2).transpose(1, 2), None

    whole = states_and_gradients(model, *padded, packed=False)
    AttentionInterface.register("by_lengths", by_lengths)
    model.language_model.set_attn_implementation("by_lengths")
    if recomputed:
        model.language_model.train().activation_checkpointing_enable()
    found = states_and_gradients(model, *padded, packed=True)
    assert called == [len(WORDS)] * model.config.language.num_hidden_layers * (2 if recomputed else 1)
    for one, other in zip(whole, found, strict=True):
        assert (one - other).abs().max() <= SAME["sdpa"] * one.abs().max()


@torch.no_grad()
def test_nothing_is_computed_for_padding_on_either_side(model: Llava, processor: Processor, clip_pixels):
    rows = [processor.encode(question).input_ids for question in WORDS]
    widths = []
    model.language_model.model.layers[0].register_forward_pre_hook(
        lambda _, given: widths.append(given[0].shape[:2])
    )
    for side in ("left", "right"):
        ids, mask = processor.pad(rows, side)
        states = model(ids, mask, clip_pixels(3), packed=True)
        assert not states[~mask].any()
        assert torch.allclose(states[mask], model(ids, mask, clip_pixels(3))[mask], atol=1e-5)
        assert widths == [(1, int(mask.sum())), tuple(mask.shape)]
        widths.clear()


@torch.no_grad()
def test_a_row_alone_and_parts_of_several_types(model: Llava, processor: Processor, clip_pixels):
    ids, mask = processor.pad([processor.encode(WORDS[0]).input_ids])
    assert torch.equal(model(ids, mask, clip_pixels(1), packed=True), model(ids, mask, clip_pixels(1)))
    model.get_submodule("language_model.model.layers").to(torch.bfloat16)
    model.language_model.model.norm.to(torch.bfloat16)
    half = model(ids, mask, clip_pixels(1), packed=True)
    assert torch.equal(half, model(ids, mask, clip_pixels(1)))


@pytest.mark.gpu
def test_flash_attention_reads_rows_apart(model: Llava, processor: Processor, clip_pixels):
    pytest.importorskip("flash_attn")
    ids, mask = processor.pad([processor.encode(question).input_ids for question in WORDS], "right")
    whole = model(ids, mask, clip_pixels(3))[mask]
    model.language_model.set_attn_implementation("flash_attention_2")
    model.to("cuda", torch.bfloat16)
    given = (ids.cuda(), mask.cuda(), clip_pixels(3).cuda().bfloat16())
    apart, packed = (model(*given, packed=each)[given[1]].float().cpu() for each in (False, True))
    scale = whole.abs().max()
    assert (apart - whole).abs().max() < 0.05 * scale and (packed - whole).abs().max() < 0.05 * scale
