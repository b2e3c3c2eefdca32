import pytest
import torch

from llava_patch import Llava, LlavaTokenizer
from llava_patch.errors import WeightsError
from llava_patch.tokens import ImageTokens, grow_tables, image_block


def test_ids_are_looked_up(tokenizer: LlavaTokenizer):
    tokens = ImageTokens.of(tokenizer, use_im_start_end=True)
    assert tokenizer.names([tokens.start, tokens.patch, tokens.end]) == [
        "<im_start>",
        "<im_patch>",
        "<im_end>",
    ]
    assert ImageTokens.of(tokenizer, use_im_start_end=False).start is None


def test_a_vocabulary_without_them_is_an_error(bare_tokenizer: LlavaTokenizer):
    with pytest.raises(WeightsError, match="no token '<im_patch>'"):
        ImageTokens.of(bare_tokenizer, use_im_start_end=True)


def test_one_placeholder_per_feature():
    assert image_block(2, use_im_start_end=True) == "<im_start><im_patch><im_patch><im_end>"
    assert image_block(2, use_im_start_end=False) == "<im_patch><im_patch>"


def test_both_tables_grow_and_keep_their_rows(model: Llava):
    language = model.language_model
    language.lm_head.requires_grad_(False)
    before = [table.weight.detach().clone() for table in (language.model.embed_tokens, language.lm_head)]
    grow_tables(language, 400, generator=torch.Generator().manual_seed(3))
    for old, table in zip(before, (language.model.embed_tokens, language.lm_head)):
        assert torch.equal(table.weight[: len(old)], old)
        fresh = table.weight[len(old) :]
        assert len(fresh) == 400
        assert fresh.std().item() == pytest.approx(language.config.initializer_range, rel=0.05)
    assert language.model.embed_tokens.weight.requires_grad
    assert not language.lm_head.weight.requires_grad
    assert language.config.vocab_size == language.lm_head.out_features == len(before[0]) + 400
