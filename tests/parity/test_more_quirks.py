"""The reference's quirks Q13 to Q22 (docs/coming-from-ml-mgie.md) and what we do; nobody wants them back."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from quirky import QUESTION, draw_for, pair, tiny

from llava_patch.loading import put
from llava_patch.weights import from_published, is_constant
from mgie.build import Parts, build_editor
from mgie.data import examples
from mgie.data.batches import Batches, collate
from mgie.data.examples import ExampleBuilder
from mgie.errors import WeightsError
from mgie.models.encoders.edit_head import EditHead
from mgie.models.encoders.llava import LlavaEncoder
from mgie.prompts import LlavaPrompts
from mgie.tokens import IGNORE
from mgie.toy.tasks import LanguageTask
from mgie.training.optim import choose_trained
from mgie.types import Batch, EditPair

COUNT = 8


@pytest.fixture(scope="module")
def parts() -> Parts:
    built = build_editor(tiny())
    built.editor.eval()
    return built


@pytest.fixture(scope="module")
def encoder(parts: Parts) -> LlavaEncoder:
    assert isinstance(parts.editor.encoder, LlavaEncoder)
    return parts.editor.encoder


@pytest.fixture
def build(parts: Parts) -> ExampleBuilder:
    prompts = LlavaPrompts(parts.prompts.processor, question=QUESTION, count=COUNT)
    return ExampleBuilder(prompts, size=32, max_length=200)


@pytest.fixture
def batch(build: ExampleBuilder) -> Batch:
    pairs = [pair("a"), pair("b", expressive="the ball is very big and red")]
    return collate([build(each) for each in pairs], positions=(0, 1), pad_id=build.pad_id)


def test_q13_the_language_side_is_measured_without_pictures_to_edit(
    parts: Parts, encoder: LlavaEncoder, batch
):
    nothing = torch.zeros(len(batch.keys), 3, 0, 0)
    losses = LanguageTask(encoder.llava)(
        replace(batch, source=nothing, target=nothing), draw_for(parts, (0, 1))
    )
    assert list(losses) == ["ce"]
    assert losses["ce"].sum > 0 and int(losses["ce"].count) == batch.label_tokens


def test_q14_nothing_stays_without_values(encoder: LlavaEncoder):
    """Every door says what is missing, unexpected or misshapen: tests/mgie/weights, tests/llava_patch."""
    head = encoder.edit_head
    with torch.device("meta"):
        empty = EditHead(head.config, d_in=head.d_in, e_out=head.e_out)
    tensors = {name: tensor.detach() for name, tensor in head.state_dict().items()}
    wrong = dict(tensors) | {"hid2feat.bias": torch.zeros(1), "strange": torch.zeros(1)}
    del wrong["query"]
    with pytest.raises(WeightsError) as error:
        put(empty, [("mllm.pt", wrong)], where="mllm.pt")
    for problem in (
        "missing query",
        "unexpected strange",
        "misshapen hid2feat.bias in mllm.pt: [1], expected",
    ):
        assert problem in str(error.value)
    put(empty, [("mllm.pt", dict(tensors))], where="mllm.pt")
    assert not any(tensor.is_meta for tensor in (*empty.parameters(), *empty.buffers()))
    assert all(torch.equal(empty.state_dict()[name], tensor) for name, tensor in tensors.items())


def test_q15_only_what_is_trained_is_saved(parts: Parts):
    """A checkpoint holds what `choose_trained` names: tests/mgie/test_train.py."""
    trained = choose_trained(parts.editor, parts.editor.groups(), tiny().train.groups)
    assert {name.split(".")[0] for name in trained} == {"encoder", "denoiser"}
    frozen = ("codec.", "encoder.llava.vision_tower.", "encoder.llava.projector.")
    assert not [name for name in trained if name.startswith(frozen)]
    assert not any(p.requires_grad for name, p in parts.editor.named_parameters() if name not in trained)


class Pairs(list[EditPair]):
    """Remembers what it was asked for."""

    def __init__(self, pairs: list[EditPair]):
        super().__init__(pairs)
        self.asked: list[object] = []

    def __getitem__(self, index):
        self.asked.append(index)
        return super().__getitem__(index)


def test_q16_indices_are_plain(build: ExampleBuilder):
    pairs = Pairs([pair("a"), pair("b")])
    (batch,) = next(Batches(pairs, build, seed=0, batch_size=2, micro_batch_size=2).steps())
    assert batch.input_ids.ndim == 2
    assert pairs.asked and not any(isinstance(index, np.generic) for index in pairs.asked)


def test_q17_each_picture_is_decoded_once(build: ExampleBuilder, monkeypatch: pytest.MonkeyPatch):
    """And no file stays open for a sample: tests/mgie/data/test_datasets.py."""
    decoded, real = [], examples.decode
    monkeypatch.setattr(
        examples, "decode", lambda data, *, name: decoded.append(name) or real(data, name=name)
    )
    build(pair("a"))
    assert sorted(decoded) == ["source of a", "target of a"]


def test_q18_a_batch_without_labels_has_no_loss(encoder: LlavaEncoder, batch: Batch):
    masked = torch.full_like(batch.labels, IGNORE)
    term = encoder.lm_loss(encoder.encode(batch), masked)
    assert (term.sum.item(), term.count.item()) == (0.0, 0)
    assert replace(batch, labels=masked).label_tokens == 0


def test_q19_rotary_frequencies_in_a_file_are_ignored():
    """A folder with them is loaded in tests/llava_patch/test_weights.py."""
    for name in ("model.layers.0.self_attn.rotary_emb.inv_freq", "vision_model.embeddings.position_ids"):
        assert is_constant(name) and from_published(name) is None


def test_q20_the_tower_has_the_model_s_type(encoder: LlavaEncoder, batch: Batch):
    assert encoder.llava.features(batch.clip_pixels).dtype == torch.float32
    half = copy.deepcopy(encoder.llava).to(torch.bfloat16)
    assert half.features(batch.clip_pixels).dtype == torch.bfloat16
    assert half(batch.input_ids, batch.mask, batch.clip_pixels).dtype == torch.bfloat16


def test_q21_sizes_are_the_configuration_s(encoder: LlavaEncoder, build: ExampleBuilder):
    """None of these parts is as wide as the published ones, and words alone need no picture."""
    assert encoder.llava.config.language.hidden_size != 4096 and encoder.llava.config.patches != 256
    words = collate([build(replace(pair("a"), source=None))], positions=(0,), pad_id=build.pad_id)
    assert words.clip_pixels.shape[0] == 0
    with torch.no_grad():
        context = encoder.encode(words)
    config = encoder.edit_head.config
    shape = (1, config.queries, encoder.edit_head.e_out)
    assert context.condition.tokens.shape == context.null.tokens.shape == shape
    assert context.condition.tokens.isfinite().all()


@torch.no_grad()
def test_q22_padding_on_either_side_changes_nothing(parts: Parts, encoder: LlavaEncoder, batch: Batch):
    llava = copy.deepcopy(encoder.llava).double()  # single precision rounds at 1e-5
    pixels = batch.clip_pixels.double()
    rows = [ids[keep].tolist() for ids, keep in zip(batch.input_ids, batch.mask)]
    assert len(rows[0]) != len(rows[1])
    whole = llava(batch.input_ids, batch.mask, pixels)
    ids, mask = parts.prompts.processor.pad(rows, side="left")
    left = llava(ids, mask, pixels)
    for row, given in enumerate(rows):
        alone = llava(torch.tensor([given]), torch.ones(1, len(given)).bool(), pixels[[row]])[0]
        for states in (whole[row][batch.mask[row]], left[row][mask[row]]):
            assert torch.allclose(states, alone, rtol=0, atol=1e-9)
