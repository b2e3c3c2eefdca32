"""New pictures and edits with regions, from the request to the pixels; and what is refused on the way."""

import io
import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from layout_data import SITE, write_stable
from PIL import Image
from small_pipelines import WIDTH

from mgie.cli import main
from mgie.controllers.layout_blocks import LayoutBlockConfig, MIGCBlock, MIGCPlusBlock
from mgie.controllers.layout_options import LayoutOptions
from mgie.controllers.session import LayoutSession
from mgie.data.regions import read_regions
from mgie.errors import ConfigError, DataError, WeightsError
from mgie.layouts import _controls, layout_of
from mgie.pipeline import MGIEPipeline
from mgie.types import Region
from mgie.weights.controllers import most_regions
from mgie.weights.migc import write_blocks

RED = Region(phrase="red", box=(0.0, 0.0, 0.5, 1.0))
BLUE = Region(phrase="blue", box=(0.5, 0.0, 1.0, 1.0))
FEW = {"num_inference_steps": 2, "seed": 3, "output_type": "pt"}


def photo(width: int = 32, height: int = 32) -> Image.Image:
    noise = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(0))
    return Image.fromarray(noise.byte().numpy())


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def stable(tmp_path_factory) -> Path:
    return write_stable(tmp_path_factory.mktemp("stable"))


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> dict[str, Path]:
    """Files of a block each, as MIGC and MIGC++ publish them."""
    folder, found = tmp_path_factory.mktemp("published"), {}
    torch.manual_seed(1)
    for name, kind in (("migc", MIGCBlock), ("migc++", MIGCPlusBlock)):
        made = kind(LayoutBlockConfig(width=32, condition_width=WIDTH, heads=8))
        found[name] = write_blocks({SITE: made}, folder / f"{name}.ckpt")
    return found


def opened(folder: Path, **more) -> MGIEPipeline:
    pipeline = MGIEPipeline.from_pretrained(folder, **more)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_a_new_picture_is_the_librarys_own(stable):
    ours = opened(stable)(None, "a cat", output_type="latent", seed=5, num_inference_steps=3).images
    theirs = StableDiffusionPipeline.from_pretrained(stable, local_files_only=True)
    theirs.set_progress_bar_config(disable=True)
    expected = theirs(
        "a cat", num_inference_steps=3, guidance_scale=7.5, output_type="latent",
        generator=torch.Generator().manual_seed(5),
    ).images  # fmt: skip
    assert (ours - expected).abs().max() < 1e-5 * expected.abs().max()


def test_regions_matter_where_they_are(stable):
    pipeline = opened(stable)
    plain = pipeline(None, "a cat", **FEW).images
    assert torch.equal(pipeline(None, "a cat", regions=[], **FEW).images, plain)
    painted = pipeline(None, "a cat", regions=[RED, BLUE], **FEW).images
    turned = [Region(phrase=RED.phrase, box=BLUE.box), Region(phrase=BLUE.phrase, box=RED.box)]
    assert not torch.equal(painted, plain)
    assert not torch.equal(painted, pipeline(None, "a cat", regions=turned, **FEW).images)
    # A mask of a box is that box.
    mask = Image.new("L", (16, 16))
    mask.paste(255, (0, 0, 8, 16))
    drawn = [Region(phrase=RED.phrase, mask=png(mask)), BLUE]
    assert torch.equal(painted, pipeline(None, "a cat", regions=drawn, **FEW).images)


def test_a_mask_that_vanishes_at_the_pictures_size_stays_where_it_is():
    mask = Image.new("L", (512, 512))
    mask.paste(255, (509, 509, 512, 512))
    (box,) = controls_of(Region(phrase="red", mask=png(mask)))
    assert box.tolist() == [509 / 512, 509 / 512, 511 / 512, 511 / 512]


def controls_of(region: Region) -> torch.Tensor:
    return _controls([[region]], 1, (16, 16)).boxes[0]


def test_each_picture_has_regions_of_its_own(stable):
    pipeline = opened(stable)
    words = ["a cat", "a dog", "a hen"]
    each = [[RED, BLUE], [], [BLUE]]
    together = pipeline(None, words, regions=each, **FEW).images
    for row, (word, regions) in enumerate(zip(words, each)):
        alone = pipeline(None, word, regions=regions or None, **FEW).images[0]
        assert torch.allclose(together[row], alone, atol=1e-5)


@pytest.mark.parametrize("kind", ["migc", "migc++"])
def test_published_blocks_and_the_release_that_holds_them(stable, published, kind, tmp_path):
    regions, alone = [RED, BLUE], opened(stable)(None, "a cat", regions=[RED, BLUE], **FEW).images
    pipeline = opened(stable, controller=published[kind])
    painted = pipeline(None, "a cat", regions=regions, **FEW).images
    # A new block of MIGC++ adds nothing to the fuser.
    assert torch.allclose(painted, alone, atol=1e-5) == (kind == "migc++")
    off = LayoutOptions(until=0.0)
    assert torch.equal(pipeline(None, "a cat", regions=regions, layout=off, **FEW).images, alone)
    pipeline.save_pretrained(tmp_path / "release")
    again = opened(tmp_path / "release")
    assert torch.equal(again(None, "a cat", regions=regions, **FEW).images, painted)
    files = {path.name for path in (tmp_path / "release/controllers/layout").iterdir()}
    assert files == {"config.json", "model.safetensors"}
    assert most_regions(tmp_path / "release") == {"migc": 28, "migc++": 29}[kind]
    many = [RED] * 30
    with pytest.raises(ConfigError, match="there are 30 regions for one picture: expected at most 2"):
        again(None, "a cat", regions=many, **FEW)
    assert again(None, "a cat", regions=many, layout=off, **FEW).images.isfinite().all()


def test_blocks_for_another_denoiser(stable, tmp_path):
    made = MIGCBlock(LayoutBlockConfig(width=64, condition_width=WIDTH, heads=8))
    path = write_blocks({SITE: made}, tmp_path / "other.ckpt")
    with pytest.raises(WeightsError, match=r"is 64 wide and hears phrases of 16, .* one of 32 that hears 16"):
        opened(stable, controller=path)
    path = write_blocks(
        {"up_blocks.0.attentions.0.transformer_blocks.0.attn2": made}, tmp_path / "other.ckpt"
    )
    with pytest.raises(WeightsError, match="the denoiser has no such layer there"):
        opened(stable, controller=path)


def test_an_edit_with_regions_and_a_mask(pipe: MGIEPipeline):
    """The tiny editor: each phrase is an instruction; beside the mask, every byte stays."""
    picture, few = photo(40, 32), {"num_inference_steps": 2, "seed": 3}
    plain = pipe(picture, "make it darker", **few).images[0]
    regions = [Region(phrase="invert it", box=(0.0, 0.0, 0.5, 1.0))]
    painted = pipe(picture, "make it darker", regions=regions, **few).images[0]
    assert painted.size == picture.size and painted.tobytes() != plain.tobytes()
    mask = (0.0, 0.0, 0.5, 1.0)
    both = pipe(picture, "make it darker", regions=regions, mask=mask, **few)
    assert both.outside_change == [0.0] and both.images[0].tobytes() != painted.tobytes()
    outside = [Region(phrase="invert it", box=(0.7, 0.1, 0.9, 0.9))]
    with pytest.raises(DataError, match="region 1 lies wholly outside the mask"):
        pipe(picture, "make it darker", regions=outside, mask=mask, **few)


def test_an_editor_paints_new_pictures_too(pipe: MGIEPipeline):
    result = pipe(None, ["a red circle", "a blue square"], num_inference_steps=2, seed=1)
    assert [image.size for image in result.images] == [(pipe.size, pipe.size)] * 2
    with pytest.raises(
        ConfigError, match="a mask says what of a photo is to be preserved, and there is none"
    ):
        pipe(None, "a red circle", mask=(0.0, 0.0, 0.5, 1.0))
    with pytest.raises(ConfigError, match=r'compat="reference" .* paints no new pictures'):
        pipe(None, "a red circle", compat="reference")
    with pytest.raises(ConfigError, match=r'compat="reference" .* which has no regions'):
        pipe(photo(), "make it red", regions=[RED], compat="reference")


@pytest.mark.parametrize(
    ("regions", "told"),
    [
        ([Region(phrase=" ", box=RED.box)], "region 1 has no phrase"),
        ([RED, Region(phrase="a")], "region 2 has neither a box nor a mask"),
        ([Region(phrase="a", box=(0.5, 0.0, 0.2, 1.0))], "expected left, top, right and bottom"),
        ([Region(phrase="a", box=(3.0, 0.0, 8.0, 16.0))], "looks like pixels: divide by the width 16"),
        ([Region(phrase="a", box=(float("nan"), 0.0, 0.2, 1.0))], "expected numbers"),
        ([Region(phrase="a", box=RED.box, scales=(1.0, -1.0, 1.0))], "no scale below 0"),
        ([Region(phrase="a <image>", box=RED.box)], "region 1 has <image> in its phrase"),
        ([Region(phrase="a", mask=b"no picture")], "the mask of region 1"),
        ([Region(phrase="a", mask=png(Image.new("L", (8, 16), 255)))], "expected the same shape"),
        ([Region(phrase="a", mask=png(Image.new("L", (16, 16))))], "is black"),
        ([[RED], [RED]], "there are 2 lists of regions for 1 pictures"),
    ],
)  # fmt: skip
def test_regions_that_cannot_be(stable, regions, told):
    with pytest.raises(DataError, match=told):
        opened(stable)(None, "a cat", regions=regions, **FEW)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("red", "expected a list of regions"),
        ([["red"]], "'red' is a str: expected a Region"),
        ([RED, [RED]], "is a Region: expected regions for all pictures, or a list of them for each"),
    ],
)
def test_what_is_no_region(given, told):
    with pytest.raises(DataError, match=told):
        layout_of(given, [(8, 8)])


def refused(capsys, *words) -> str:
    assert main(["edit", *map(str, words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_new_pictures_and_regions_on_the_command_line(capsys, stable, published, tmp_path):
    layout, out = tmp_path / "layout.json", tmp_path / "out.png"
    mask = Image.new("L", (16, 16))
    mask.paste(255, (0, 0, 8, 16))
    mask.save(tmp_path / "left.png")
    told = [{"phrase": "red", "mask": "left.png"}, {"phrase": "blue", "box": BLUE.box, "scales": [1, 2, 1]}]
    layout.write_text(json.dumps(told))
    assert [region.scales for region in read_regions(layout)] == [(1, 1, 1), (1, 2, 1)]
    asked = ["--model", stable, "--out", out, "--steps", 2, "--regions", layout, "--layout.fuse_until", 0.5]
    assert (
        main(["edit", "--json", "a cat", "--new", *map(str, asked), "--controller", str(published["migc"])])
        == 0
    )
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    (row,) = facts["edits"]
    told = {"photo": "", "out": str(out), "instruction": "a cat", "seed": 0, "said": "", "forced": False}
    assert {name: row[name] for name in told} == told
    with Image.open(out) as painted:
        assert painted.size == (16, 16)
    # A photo needs somebody who sees it; and without --new it must be there.
    photo().save(tmp_path / "photo.png")
    base = ["--model", stable, "--out", out]
    assert "paints new pictures only" in refused(capsys, tmp_path / "photo.png", "a cat", *base)
    assert "there is the photo" in refused(capsys, tmp_path / "photo.png", "a cat", "--new", *base)
    assert "there is a mask" in refused(capsys, "a cat", "--new", "--mask", "0,0,1,1", *base)
    assert "something is missing: instruction" in refused(capsys, "a cat", *base)
    controlled = [*base, "--controller", published["migc"]]
    assert "there are none: leave it out" in refused(capsys, "a cat", "--new", *controlled)
    assert "there are none: give some" in refused(capsys, "a cat", "--new", "--layout.until", 0.2, *base)
    layout.write_text('[{"phrase": "red", "box": [3, 3, 9, 9]}]')
    told = refused(capsys, tmp_path / "photo.png", "a cat", "--regions", layout, *base)
    assert "looks like pixels: divide by the width 32 and the height 32" in told
    layout.write_text('[{"phrase": "red", "box": [0, 0, 0.1, 0.1]}]')
    masked = ["--regions", layout, "--mask", "0.5,0.5,1,1", *base]
    assert "lies wholly outside the mask" in refused(capsys, tmp_path / "photo.png", "a cat", *masked)
    for content, sentence in (
        ("{", "is no JSON"), ("{}", "holds a dict: expected a list"), ('[{"phrase": 3}]', "is no region"),
        ('[{"text": "a"}]', "region 1 of .* has text"),
        ('[{"phrase": "a", "mask": "b.png"}]', "no such file"),
        ('[{"phrase": "a", "box": [1, 2]}]', "another number or type"),
    ):  # fmt: skip
        layout.write_text(content)
        with pytest.raises(DataError, match=sentence):
            read_regions(layout)


def test_a_session_keeps_what_its_regions_do_not_change(stable):
    pipeline, session = opened(stable), LayoutSession()
    asked = {"num_inference_steps": 3, "size": 48, "output_type": "latent", "seed": 3}
    corner = Region(phrase="red", box=(0.0, 0.0, 0.1, 0.1))
    plain = pipeline(None, "a cat", regions=[corner, BLUE], **asked).images
    first = pipeline(None, "a cat", regions=[corner, BLUE], session=session, **asked).images
    assert torch.equal(first, plain)  # to remember changes nothing
    assert (
        pipeline(None, "a cat", regions=[BLUE], **asked).images[..., 14:, 14:].ne(first[..., 14:, 14:]).any()
    )
    changed = [Region(phrase="green", box=corner.box), BLUE]
    second = pipeline(None, "a cat", regions=changed, session=session, **asked).images
    near, far = (..., slice(0, 4), slice(0, 4)), (..., slice(12, None), slice(12, None))
    assert torch.equal(second[far], first[far]) and not torch.allclose(second[near], first[near], atol=1e-3)
    # What cannot follow is refused, and the session stays as it was.
    for other in ({"seed": 4}, {"size": 32}, {"num_inference_steps": 2}):
        with pytest.raises(ConfigError, match=r"another (seed|size|steps)"):
            pipeline(None, "a cat", regions=changed, session=session, **asked | other)
    with pytest.raises(DataError, match="the picture before was painted in 2 rows of guidance"):
        pipeline(None, "a cat", regions=changed, session=session, guidance_scale=1.0, **asked)
    again = pipeline(None, "a cat", regions=changed, session=session, **asked).images
    assert torch.equal(again[far], second[far]) and torch.equal(session.last.latents[-1], again)
    with pytest.raises(ConfigError, match="for one picture in each call"):
        pipeline(None, ["a cat", "a dog"], session=session, **asked)


def test_a_session_of_another_photo(pipe: MGIEPipeline):
    session, few = LayoutSession(device="cpu"), {"num_inference_steps": 2, "seed": 3}
    pipe(photo(), "make it darker", session=session, **few)
    with pytest.raises(ConfigError, match="has another photo"):
        pipe(photo().rotate(90), "make it darker", session=session, **few)
    changed = pipe(photo(), "make it darker", session=session, regions=[RED], **few)
    assert changed.images[0].size == (32, 32)
