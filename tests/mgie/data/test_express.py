import pytest
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

from mgie.data.express import QUESTION, Expresser, clean_up, summariser
from mgie.errors import WeightsError


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("The frame turns red. It glows. It is big.</s>", "The frame turns red. It glows."),
        ("Value is 3.5 metres.  Next\none. More.", "Value is 3.5 metres. Next one."),
        ("The sky is dark. Alternatively, use a lamp.", "The sky is dark."),
        ("It is red.[IMG0] [IMG1]", "It is red."),
        ("First one . Second one . Third", "First one. Second one."),
        ("no stop", "no stop."),
        ("He wrote 'ASSISTANT: x'. Yes.", "He wrote 'ASSISTANT: x'. Yes."),
        ("It is <im_patch> red <unk>", "It is red."),
        ("", ""),
        ("...", ""),
        ("</s>", ""),
        ("[IMG0]", ""),
    ],
)
def test_what_was_said_is_cleaned(said, kept):
    assert clean_up(said) == kept
    assert clean_up(kept) == kept


def test_the_rule_of_the_reference_to_the_letter():
    def literal(text):
        return clean_up(text, compat="reference")

    assert (
        literal("USER: x ASSISTANT: The frame turns red. It glows. Big.</s>")
        == "The frame turns red.It glows."
    )
    assert literal("Value is 3.5 metres. Next one.") == "Value is 3.5 metres."
    for nothing in ("", "ASSISTANT:</s>", "[IMG0]"):
        with pytest.raises(IndexError):
            literal(nothing)


def test_every_pair_is_given_what_it_would_get_alone(llava_folder, make_pair):
    speak = Expresser(llava_folder, list, max_new_tokens=12)
    pairs = [make_pair(0), make_pair(1, source=None), make_pair(4)]
    together = speak(pairs)
    assert [said.key for said in together] == ["pair-0", "pair-1", "pair-4"]
    assert together == [speak([pair])[0] for pair in pairs]
    assert any(said.expressive for said in together)
    assert all("</s>" not in said.expressive and said.paragraph == said.expressive for said in together)


def test_the_question_asks_for_a_short_paragraph():
    assert QUESTION == "what will this image be like if '{instruction}'  (in a short paragraph)"


@pytest.fixture
def t5_folder(tmp_path):
    """A summariser of a few thousand random parameters, with a tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *"abcdefghij"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(tmp_path / "t5")
    config = T5Config(
        vocab_size=len(words), d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    assert AutoTokenizer.from_pretrained(tmp_path / "t5").pad_token == "<pad>"
    return tmp_path / "t5"


def test_a_summariser_shortens(t5_folder):
    name, shorten = summariser(str(t5_folder))
    assert name == str(t5_folder)
    first = shorten(["a b c. d", "e f"])
    assert len(first) == 2 and first == shorten(["a b c. d", "e f"])


def test_which_summariser(tmp_path):
    assert summariser("none") == ("none", list)
    with pytest.raises(WeightsError, match=r"cannot be loaded.*--summarise none"):
        summariser(None)  # tests have no network; other words are not taken silently
    with pytest.raises(WeightsError, match="--summarise none"):
        summariser(str(tmp_path / "nothing"))
    with pytest.raises(WeightsError, match="cannot be loaded"):
        Expresser(tmp_path / "nothing", list)
