import pytest
import torch
from torch.nn import functional as F

from mgie.models.encoders.llava import LlavaEncoder, VisualStates, states_at
from mgie.tokens import IGNORE
from mgie.types import Asked

EOS, VISUAL = 2, (33, 34, 35)
PROMPTS = ([1, 5, 6, 31, 30, 30, 30, 30, 32, 7], [1, 9, 31, 30, 30, 30, 30, 32, 7])


def prompts(rows=PROMPTS) -> dict[str, torch.Tensor]:
    """Prompts padded on the left, and their pictures."""
    length = max(len(row) for row in rows)
    return {
        "input_ids": torch.tensor([[0] * (length - len(row)) + row for row in rows]),
        "mask": torch.tensor([[False] * (length - len(row)) + [True] * len(row) for row in rows]),
        "clip_pixels": torch.randn(len(rows), 3, 8, 8, generator=torch.Generator().manual_seed(2)),
    }


def imagine(encoder: LlavaEncoder, given=None, **options) -> VisualStates:
    asked = Asked(**given or prompts())
    return encoder.visual_states(asked, **{"max_new_tokens": 4, "no_repeat_ngram_size": 0} | options)


def say(encoder: LlavaEncoder, script: list[int]) -> None:
    """Make the language model say `script`, token by token, whatever it was asked."""
    model, spoken = encoder.llava.language_model, iter(script)

    def forced(_head, _states, scores: torch.Tensor) -> torch.Tensor:
        wanted = next(spoken)
        return F.one_hot(torch.full(scores.shape[:-1], wanted), scores.shape[-1]).float()

    model.lm_head.register_forward_hook(forced)


@torch.no_grad()
def test_the_condition_comes_from_the_states_that_predict_the_visual_tokens(encoder, make_batch):
    batch = make_batch(([5, 6], [7, 8]), ([9], [10, 11, 12]))
    context = encoder.encode(batch)
    states = encoder.llava(batch.input_ids, batch.mask, batch.clip_pixels)
    for row, first in enumerate((batch.input_ids == VISUAL[0]).int().argmax(1).tolist()):
        read = states[row, first - 1 : first + 2][None]
        expected = encoder.edit_head(read, encoder.visual_embeddings())
        assert torch.allclose(context.condition.tokens[row], expected[0], atol=1e-5)
    nothing = torch.zeros(1, len(VISUAL), states.shape[-1])
    null = encoder.edit_head(nothing, encoder.visual_embeddings())
    assert torch.allclose(context.null.tokens, null, atol=1e-6)


def test_states_are_picked_row_by_row():
    states = torch.arange(24.0).reshape(2, 4, 3)
    picked = states_at(states, torch.tensor([[0, 2], [3, 3]]))
    assert torch.equal(picked, torch.stack([states[0, [0, 2]], states[1, [3, 3]]]))


def test_speaking_is_the_plain_cross_entropy(encoder, make_batch):
    batch = make_batch(([5, 6], [7, 8]), ([9], [10, 11, 12]))
    term = encoder.lm_loss(encoder.encode(batch), batch.labels)
    loss, count = term.sum, term.count
    logits = encoder.llava.logits(encoder.llava(batch.input_ids, batch.mask, batch.clip_pixels))
    mean = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=IGNORE)
    assert count == 6 + 7
    assert (loss / count).item() == pytest.approx(mean.item(), rel=1e-6)


def test_a_batch_without_labels_has_no_loss_and_no_nan(encoder, make_batch):
    batch = make_batch(([5], [7]))
    term = encoder.lm_loss(encoder.encode(batch), torch.full_like(batch.labels, IGNORE))
    loss, count = term.sum, term.count
    assert (loss.item(), count.item()) == (0.0, 0)
    loss.backward()


def test_gradients_reach_the_table_through_the_visual_tokens_rows(encoder):
    encoder.visual_embeddings().sum().backward()
    table = encoder.llava.language_model.get_input_embeddings().weight.grad
    assert table.any(1).nonzero().flatten().tolist() == list(VISUAL)


def test_rows_that_a_head_brings_along_replace_the_table_s(encoder):
    encoder.edit_head.own_embeddings = torch.ones(3, 16)
    assert torch.equal(encoder.visual_embeddings(), torch.ones(3, 16))


@torch.no_grad()
def test_each_prompt_gets_what_it_gets_alone(encoder):
    for compat in ("default", "reference"):
        together = imagine(encoder, max_new_tokens=6, compat=compat)
        for row, prompt in enumerate(PROMPTS):
            given = prompts([prompt]) | {"clip_pixels": prompts()["clip_pixels"][[row]]}
            alone = imagine(encoder, given, max_new_tokens=6, compat=compat)
            assert together.said[row] == alone.said[0]
            assert together.forced[row] == alone.forced[0]
            assert torch.allclose(together.states[row], alone.states[0], atol=1e-5)


def plain_states(encoder: LlavaEncoder, sequence: list[int]) -> torch.Tensor:
    given = prompts([sequence]) | {"clip_pixels": prompts()["clip_pixels"][:1]}
    return encoder.llava(**given)[0]


def one() -> dict[str, torch.Tensor]:
    return prompts(PROMPTS[:1]) | {"clip_pixels": prompts()["clip_pixels"][:1]}


@pytest.mark.parametrize(
    ("script", "room", "words", "forced"),
    [
        pytest.param([8, *VISUAL, EOS], 9, [8], False, id="all said"),
        pytest.param([8, *VISUAL[:2], 9, EOS], 9, [8], False, id="some said"),
        pytest.param([8, 9, VISUAL[0]], 3, [8, 9], False, id="the first is the last allowed"),
        pytest.param([8, 9, EOS], 9, [8, 9], True, id="none said"),
        pytest.param([8, 9, 10], 3, [8, 9, 10], True, id="none said, no room left"),
    ],
)
@torch.no_grad()
def test_sound_reads_all_visual_tokens_whatever_was_said(encoder, script, room, words, forced):
    say(encoder, script)
    imagined = imagine(encoder, one(), max_new_tokens=room)
    assert imagined.said == (tuple(words),)
    assert imagined.forced == (forced,)
    states = plain_states(encoder, [*PROMPTS[0], *words, *VISUAL])
    assert torch.allclose(imagined.states[0], states[-len(VISUAL) - 1 : -1], atol=1e-5)


@pytest.mark.parametrize(
    ("script", "room", "shift"),
    [
        ([8, *VISUAL, EOS], 9, 0),  # followed by </s>: not clipped
        ([8, *VISUAL], 4, 1),  # the last visual token is the last allowed
        ([8, *VISUAL[:2]], 3, 2),
    ],
)
@torch.no_grad()
def test_the_reference_s_window_is_clipped_to_what_was_read(encoder, script, room, shift):
    say(encoder, script)
    imagined = imagine(encoder, one(), max_new_tokens=room, compat="reference")
    states = plain_states(encoder, [*PROMPTS[0], *script])
    first = len(PROMPTS[0]) - shift
    assert imagined.said == ((8,),)
    assert imagined.forced == (False,)
    assert torch.allclose(imagined.states[0], states[first : first + 3], atol=1e-5)


@torch.no_grad()
def test_the_reference_reads_the_end_where_no_visual_token_came(encoder):
    script = [8, 9, 10, 11, 12]
    say(encoder, script)
    imagined = imagine(encoder, one(), max_new_tokens=5, compat="reference")
    states = plain_states(encoder, [*PROMPTS[0], *script[:-1]])
    assert imagined.forced == (True,)
    assert torch.allclose(imagined.states[0], states[-4:-1], atol=1e-5)


def test_a_visual_token_in_the_question_is_none_that_was_said(encoder):
    """The reference reads at the first one, wherever it is; what was said is what came after the prompt."""
    rows = [[1, 5, VISUAL[0], 31, 30, 30, 30, 30, 32, 7]]
    for compat, script in (("default", [8, 9]), ("reference", [8, 9]), ("reference", [8, 9, VISUAL[0]])):
        with torch.no_grad():
            say(encoder, script)
            imagined = imagine(encoder, prompts(rows), max_new_tokens=len(script), compat=compat)
        assert imagined.said == ((8, 9),)
        assert imagined.forced == (VISUAL[0] not in script,)
        encoder.llava.language_model.lm_head._forward_hooks.clear()
    whole = torch.tensor([[*rows[0], 8, 9]])
    states = encoder.llava(whole, torch.ones_like(whole, dtype=torch.bool), prompts(rows)["clip_pixels"])
    assert torch.allclose(imagined.states[0], states[0, 1:4], atol=1e-5)
