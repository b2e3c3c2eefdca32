from collections.abc import Callable

import pytest

from llava_patch.processor import Processor
from mgie.build_data import build_examples
from mgie.config import RECIPES, RunConfig
from mgie.data.stored_pairs import StoredPairs
from mgie.prompts import LlavaPrompts
from mgie.tokens import IGNORE, read_positions, visual_tokens, with_visual_tokens


def test_names_are_numbered_from_zero():
    assert visual_tokens(3) == ("[IMG0]", "[IMG1]", "[IMG2]")
    assert visual_tokens(0) == ()


@pytest.mark.parametrize(
    ("expressive", "answer"), [("A red sky.", "A red sky. [IMG0] [IMG1]"), ("", "[IMG0] [IMG1]")]
)
def test_an_answer_ends_in_the_visual_tokens(expressive, answer):
    assert with_visual_tokens(expressive, 2) == answer


def test_states_are_read_where_the_tokens_are_predicted():
    assert list(read_positions(5, 3)) == [4, 5, 6]


def test_the_next_token_of_every_read_position_is_a_visual_token(tiny_run: Callable[..., RunConfig]):
    run = tiny_run()
    processor = Processor.from_pretrained(
        RECIPES / "tiny_base" / "llava", template=run.model.encoder.template
    )
    processor.tokenizer.add_tokens(visual_tokens(8))
    prompts = LlavaPrompts(processor, question=run.model.encoder.question, count=8)
    example = build_examples(run, prompts)(StoredPairs(run.data.path, "train")[0])
    wanted = [processor.tokenizer.id_of(name) for name in visual_tokens(8)]
    assert example.input_ids[example.read_at + 1].tolist() == wanted
    assert example.labels[example.read_at + 1].tolist() == wanted
    assert example.labels[example.read_at[0]] != IGNORE  # the last word before them is said, too
