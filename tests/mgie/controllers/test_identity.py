"""Tokens of a look: heard by the words' rows, where they are, as strongly as is asked."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

from mgie.controllers.beside import within
from mgie.controllers.identity import TOKENS, IdentityBlocks, of_rows
from mgie.controllers.identity_options import IdentityOptions
from mgie.errors import ConfigError, DataError, WeightsError
from mgie.identities import cut, known_by
from mgie.models.denoisers.unet import UNetDenoiser
from mgie.types import Condition, ControlPlan, Rows

VISION = 5
ROWS = Rows(names=("T", "I", "U"), batch=2)
THERE = torch.tensor([True, True])


def denoiser() -> UNetDenoiser:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        in_channels=8, out_channels=4, block_out_channels=(8, 16), cross_attention_dim=6, layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), attention_head_dim=2, norm_num_groups=4,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    return UNetDenoiser(unet).eval()


def blocks(*, trained: bool = True) -> IdentityBlocks:
    sites = {name: widths[0] for name, widths in denoiser().attentions.items()}
    torch.manual_seed(2)
    made = IdentityBlocks(vision=VISION, width=6, sites=sites)
    for name, value in made.named_parameters():
        if trained and ".to_v." in name:
            value.data.normal_()
    return made


@torch.no_grad()
def painted(plan: ControlPlan | None) -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    noisy, source = torch.randn(2, 6, 4, 6, 8, generator=rng)
    tokens = torch.randn(6, 3, 6, generator=rng)
    t = torch.full((6,), 400)
    return denoiser()(noisy, t, source, Condition(tokens=tokens), plan, ROWS).mean


def seen() -> torch.Tensor:
    return torch.randn(2, VISION, generator=torch.Generator().manual_seed(3))


def test_untrained_or_of_scale_0_it_changes_no_bit():
    plain = painted(None)
    assert torch.equal(painted(blocks(trained=False).plan(seen(), THERE)), plain)
    assert torch.equal(painted(blocks().plan(seen(), THERE, IdentityOptions(scale=0.0))), plain)


def test_the_rows_of_words_hear_the_look_of_their_own_photo():
    plain, own = painted(None), blocks()
    told = painted(own.plan(seen(), THERE))
    assert torch.equal(told[2:], plain[2:])
    assert not torch.equal(told[0], plain[0]) and not torch.equal(told[1], plain[1])
    one = painted(own.plan(seen(), torch.tensor([True, False])))
    assert torch.equal(one[0], told[0]) and torch.equal(one[1], plain[1])
    other = painted(own.plan(seen().flip(0), THERE))
    assert not torch.equal(other[0], told[0])


def test_scale_says_how_strongly_and_a_box_where():
    own, plain = blocks(), painted(None)
    once, twice = (painted(own.plan(seen(), THERE, IdentityOptions(scale=each))) for each in (1.0, 2.0))
    assert (twice[:2] - plain[:2]).norm() > 1.2 * (once[:2] - plain[:2]).norm()
    left = painted(own.plan(seen(), THERE, IdentityOptions(box=(0.0, 0.0, 0.5, 1.0))))
    assert not torch.equal(left[:2], once[:2]) and not torch.equal(left[:2], plain[:2])
    whole = painted(own.plan(seen(), THERE, IdentityOptions(box=(0.0, 0.0, 1.0, 1.0))))
    assert torch.equal(whole, once)


def test_a_box_has_the_cells_that_it_touches():
    cells = within((0.3, 0.5, 0.35, 1.0), (4, 4)).view(4, 4)
    assert cells.nonzero().tolist() == [[2, 1], [3, 1]]


def test_looks_find_their_samples():
    rows = torch.tensor([False, True, False, True])
    assert of_rows(torch.tensor([[1.0], [2.0]]), rows)[:, 0].tolist() == [0, 1, 0, 2]
    assert not of_rows(torch.zeros(0, 1), torch.tensor([False, False])).any()


def test_every_parameter_has_a_gradient_where_nobody_is_told_anything():
    own = blocks()
    rng = torch.Generator().manual_seed(1)
    noisy, source = torch.randn(2, 2, 4, 6, 8, generator=rng)
    asked = (noisy, torch.full((2,), 400), source, Condition(tokens=torch.randn(2, 3, 6, generator=rng)))
    denoiser()(*asked, own.plan(seen(), ~THERE), Rows(names=("T",), batch=2)).mean.sum().backward()
    assert all(each.grad is not None for each in own.parameters())


def test_what_was_made_for_another_editor_is_refused():
    own, there = blocks(), denoiser().attentions
    own.check(there, vision=VISION)
    with pytest.raises(WeightsError, match=r"tower of width 5.*of width 7"):
        own.check(there, vision=7)
    with pytest.raises(WeightsError, match="trained together"):
        own.check(dict(list(there.items())[1:]), vision=VISION)


@pytest.mark.parametrize(
    ("trained", "new", "compat", "options", "error"),
    [
        (False, False, "default", IdentityOptions(), (ConfigError, "has not learnt it")),
        (True, True, "default", IdentityOptions(), (ConfigError, "no photo is given")),
        (True, False, "reference", IdentityOptions(), (ConfigError, "as the original did")),
        (True, False, "default", IdentityOptions(scale=11.0), (ConfigError, r"scale=11\.0")),
        (True, False, "default", IdentityOptions(box=(0.5, 0.0, 0.2, 1.0)), (DataError, "identity.box is")),
    ],
)
def test_what_would_change_nothing_is_refused(trained, new, compat, options, error):
    with pytest.raises(error[0], match=error[1]):
        known_by(blocks(trained=trained), options, new=new, compat=compat)


def test_a_box_is_cut_out_of_the_photo():
    assert cut(Image.new("RGB", (20, 10)), (0.5, 0.0, 0.75, 0.5)).size == (5, 5)
    assert cut(Image.new("RGB", (4, 4)), (0.99, 0.99, 1.0, 1.0)).size == (1, 1)
    assert TOKENS == 4
