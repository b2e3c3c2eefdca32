import json
from pathlib import Path

import pytest
import torch

from mgie.models.encoders.edit_head import EditHead, EditHeadConfig

GOLDEN = Path(__file__).parents[3] / "golden" / "mgie"
STATES, EMBEDDINGS = torch.randn(2, 3, 16), torch.randn(3, 16)


def test_names_and_shapes_are_the_published_ones():
    sizes = json.loads((GOLDEN / "config.json").read_text())["edit_head"]
    published = json.loads((GOLDEN / "train.json").read_text())["state_dict_shapes"]
    config = EditHeadConfig(
        visual_tokens=8,
        width=sizes["d_model"],
        heads=sizes["nhead"],
        layers=sizes["encoder_layers"],
        feedforward=sizes["feedforward"],
        queries=sizes["queries"],
    )
    with torch.device("meta"):
        head = EditHead(config, d_in=sizes["in"], e_out=sizes["out"])
    ours = {f"edit_head.{name}": list(value.shape) for name, value in head.state_dict().items()}
    assert ours == {name: shape for name, shape in published.items() if name.startswith("edit_head.")}
    assert len(ours) == 129


@torch.no_grad()
def test_the_condition_depends_on_states_and_embeddings_together(head: EditHead):
    condition = head(STATES, EMBEDDINGS)
    assert condition.shape == (2, 5, 6)
    moved = torch.ones(3, 16)
    assert torch.allclose(head(STATES + moved, EMBEDDINGS - moved), condition, atol=1e-5)
    assert not torch.allclose(head(STATES + moved, EMBEDDINGS), condition, atol=1e-3)


def test_training_mode_drops_nothing(head: EditHead):
    head.train()
    assert torch.equal(head(STATES, EMBEDDINGS), head(STATES, EMBEDDINGS))


def test_gradients_reach_every_parameter_and_the_embeddings(head: EditHead):
    embeddings = EMBEDDINGS.clone().requires_grad_()
    head(STATES, embeddings).square().sum().backward()
    assert embeddings.grad.any()
    assert not [name for name, value in head.named_parameters() if value.grad is None]


@pytest.mark.parametrize("wanted", [0.02, 0.1])
def test_initial_values_follow_from_the_range(wanted: float):
    config = EditHeadConfig(
        visual_tokens=3,
        width=64,
        heads=2,
        layers=1,
        feedforward=64,
        queries=50,
        initializer_range=wanted,
    )
    head = EditHead(config, d_in=64, e_out=64)
    assert head.llm2hid.weight.std().item() == pytest.approx(wanted, rel=0.1)
    assert head.mapper.encoder.layers[0].linear1.weight.std().item() == pytest.approx(wanted, rel=0.1)
    assert not head.hid2feat.bias.any()
    assert head.query.std().item() == pytest.approx(1, rel=0.1)
