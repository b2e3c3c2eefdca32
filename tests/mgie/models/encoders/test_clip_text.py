import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from mgie.models.encoders.clip_text import ClipTextEncoder
from mgie.tokens import IGNORE

EOS, VISUAL = 2, (33, 34, 35)


@pytest.fixture
def encoder() -> ClipTextEncoder:
    config = CLIPTextConfig(
        vocab_size=36,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=6,
        eos_token_id=EOS,
        bos_token_id=1,
        pad_token_id=EOS,
    )
    return ClipTextEncoder(CLIPTextModel(config).eval(), silent_ids=(*VISUAL, EOS))


@torch.no_grad()
def test_the_answer_s_words_are_read_and_nothing_else(encoder: ClipTextEncoder, make_batch):
    context = encoder.encode(make_batch(([5, 6], [7, 8, 9]), ([5, 6, 11, 12], [7, 8, 9])))
    assert context.condition.tokens.shape == (2, 6, 8)
    assert torch.allclose(
        context.condition.tokens[0], context.condition.tokens[1], atol=1e-6
    )  # the questions differ
    plain = encoder.text_model(input_ids=torch.tensor([[7, 8, 9, EOS, EOS, EOS]])).last_hidden_state
    assert torch.allclose(context.condition.tokens[:1], plain, atol=1e-6)


@torch.no_grad()
def test_null_is_the_empty_text(encoder: ClipTextEncoder, make_batch):
    context = encoder.encode(make_batch(([5], []), ([5], [7])))
    assert torch.allclose(context.condition.tokens[:1], context.null.tokens, atol=1e-6)
    assert not torch.allclose(context.condition.tokens[1:], context.null.tokens, atol=1e-3)


@torch.no_grad()
def test_long_answers_are_cut_before_the_last_place(encoder: ClipTextEncoder, make_batch):
    long, cut = encoder.encode(make_batch(([5], list(range(3, 15))), ([5], [3, 4, 5, 6, 7]))).condition.tokens
    assert torch.allclose(long, cut, atol=1e-6)


def test_it_is_mute_and_has_one_group(encoder: ClipTextEncoder, make_batch):
    batch = make_batch(([5], [7]))
    loss = encoder.lm_loss(encoder.encode(batch), batch.labels)
    assert (float(loss.sum), int(loss.count)) == (0, 0)
    assert (batch.labels != IGNORE).any()
    assert list(encoder.groups()) == ["text_encoder"]
    assert len(encoder.groups()["text_encoder"]) == len(list(encoder.parameters()))


def test_pooled_is_the_state_that_has_seen_everything(encoder: ClipTextEncoder, make_batch):
    batch = make_batch(([5], [7, 8]))
    whole = encoder.encode(batch)
    encoder.pooled = True
    pooled = encoder.encode(batch)
    assert torch.equal(pooled.condition.tokens, whole.condition.tokens[:, -1:])
    assert torch.equal(pooled.null.tokens, whole.null.tokens[:, -1:])
