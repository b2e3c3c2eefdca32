import json
import pickle
from itertools import pairwise
from pathlib import Path

import pytest
import sentencepiece

from llava_patch import LlavaTokenizer
from llava_patch.errors import ConfigError, DataError, WeightsError


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another vocabulary: 300 pieces with byte fallback, and no JSON file beside it."""
    folder = tmp_path_factory.mktemp("other")
    words = "the cat sat on a mat while a dog ran around the old house and looked at the red door".split()  # noqa: SIM905
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter([" ".join(words[start:] + words[:start]) for start in range(len(words))] * 4),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=300,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return folder


def test_white_space_next_to_added_tokens_vanishes(tokenizer: LlavaTokenizer):
    spaced = tokenizer.encode("make it red\n <im_start> <im_patch>\t<im_end>  ASSISTANT:")
    assert spaced == tokenizer.encode("make it red<im_start><im_patch><im_end>ASSISTANT:")


def test_white_space_next_to_special_tokens_stays(tokenizer: LlavaTokenizer):
    assert tokenizer.encode("</s> x") != tokenizer.encode("</s>x")


def test_the_longest_token_wins(tokenizer: LlavaTokenizer):
    tokenizer.add_tokens(["[A", "[A]"])
    assert tokenizer.encode("[A][A", bos=False) == [tokenizer.id_of("[A]"), tokenizer.id_of("[A")]


def test_new_tokens_get_the_next_ids_once(tokenizer: LlavaTokenizer):
    size = len(tokenizer)
    assert tokenizer.add_tokens(["[A]", "[B]", "[A]"]) == 2
    assert tokenizer.add_tokens(["[A]", "[B]"]) == 0
    assert [tokenizer.id_of("[A]"), tokenizer.id_of("[B]"), len(tokenizer)] == [size, size + 1, size + 2]


@pytest.mark.parametrize("name", ["", " x", "</s>", "the"])
def test_names_that_cannot_be_added(tokenizer: LlavaTokenizer, name: str):
    with pytest.raises(ConfigError, match="the new token"):
        tokenizer.add_tokens([name])


def test_places_of_characters(tokenizer: LlavaTokenizer):
    text = "USER: x\n<im_start><im_end> ASSISTANT: a cat</s>"
    bounds = [
        0,
        text.index("\n"),
        text.index("<im_end>"),
        text.index(" a cat"),
        text.index("</s>"),
        len(text),
    ]
    ids, places = tokenizer.encode_with_bounds(text, bounds)
    assert ids == tokenizer.encode(text)
    parts = [tokenizer.names(ids[start:end]) for start, end in pairwise(places)]
    assert parts[0][-1] == "▁x"
    assert parts[1:] == [["<im_start>"], ["<im_end>", *parts[2][1:]], ["▁a", "▁cat"], ["</s>"]]
    assert places[0] == 1


@pytest.mark.parametrize("text", ["a cat", "  two  spaces ", "line\nbreak", "unseen: ŝ猫😀", ""])
def test_another_vocabulary_follows_the_same_rule(other_folder: Path, text: str):
    tokenizer = LlavaTokenizer.from_pretrained(other_folder)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(other_folder / "tokenizer.model"))
    assert len(tokenizer) == len(pieces)
    assert tokenizer.encode(text) == [pieces.bos_id(), *pieces.EncodeAsIds(text)]
    assert tokenizer.decode(tokenizer.encode(text, bos=False)) == text
    tokenizer.add_tokens(["[X]"])
    assert tokenizer.encode(f"{text} [X] a", bos=False) == [
        *pieces.EncodeAsIds(text.rstrip()),
        tokenizer.id_of("[X]"),
        *pieces.EncodeAsIds("a"),
    ]


def test_decoding_without_special_tokens(tokenizer: LlavaTokenizer):
    ids = tokenizer.encode("a cat<im_start></s>")
    assert tokenizer.decode(ids) == "<s>a cat <im_start> </s>"
    assert tokenizer.decode(ids, skip_special=True) == "a cat <im_start>"


def test_saved_and_read_again(tokenizer: LlavaTokenizer, tmp_path: Path):
    tokenizer.add_tokens(["[A]"])
    tokenizer.save_pretrained(tmp_path)
    again = LlavaTokenizer.from_pretrained(tmp_path)
    assert again.added == tokenizer.added
    text = "x\n<im_start> [A] y</s>"
    assert again.encode(text) == tokenizer.encode(text)
    assert (again.pad_id, again.unk_id, again.bos_id, again.eos_id) == (0, 0, 1, 2)


def test_added_tokens_of_newer_libraries(tokenizer: LlavaTokenizer, tmp_path: Path):
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "added_tokens.json").unlink()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    everything = {"<unk>": 0, **tokenizer.added}
    config["added_tokens_decoder"] = {str(index): {"content": name} for name, index in everything.items()}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert LlavaTokenizer.from_pretrained(tmp_path).added == tokenizer.added


def test_it_travels_to_another_process(tokenizer: LlavaTokenizer):
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.encode("a <im_start> b") == tokenizer.encode("a <im_start> b")


def test_ids_and_names_that_are_not_there(tokenizer: LlavaTokenizer):
    with pytest.raises(DataError, match=rf"{len(tokenizer)}.*outside"):
        tokenizer.decode([len(tokenizer)])
    with pytest.raises(WeightsError, match=r"no token '\[IMG0\]'.*<im_patch>"):
        tokenizer.id_of("[IMG0]")


def test_folders_that_are_none(tokenizer: LlavaTokenizer, tmp_path: Path):
    with pytest.raises(WeightsError, match=r"has no tokenizer\.model"):
        LlavaTokenizer.from_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "added_tokens.json").write_text('{"<im_patch>": 32005}')
    with pytest.raises(ConfigError, match=r"32005.*expected"):
        LlavaTokenizer.from_pretrained(tmp_path)
    (tmp_path / "added_tokens.json").write_text("{")
    with pytest.raises(WeightsError, match="cannot be read"):
        LlavaTokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"cut short")
    with pytest.raises(WeightsError, match="no sentencepiece model"):
        LlavaTokenizer.from_pretrained(tmp_path)
