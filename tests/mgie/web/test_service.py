"""The service with a small editor: what may be asked, what comes back, what is kept."""

import io
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from small_pipelines import saved
from subject_data import write_subjects

from mgie.errors import ConfigError, DataError, DeviceError
from mgie.personalize import personalize
from mgie.pipeline import MGIEPipeline
from mgie.web.asked import Bounds, asked, painted_mask, regions_of
from mgie.web.history import without_loss
from mgie.web.service import Service
from mgie.web.shown import panel
from mgie.web.worker import CANCELLED


def file(width: int = 40, height: int = 32, form: str = "PNG") -> bytes:
    values = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC).save(buffer, format=form)
    return buffer.getvalue()


@pytest.fixture
def service(pipe: MGIEPipeline):
    made = Service(pipe, bounds=Bounds(seconds=60.0, waiting=2, megabytes=1.0, megapixels=0.5))
    yield made
    made.close()


def wait(ticket, seconds: float = 60):
    seen, until = [], time.monotonic() + seconds
    while not (seen and seen[-1].done):
        told = ticket.look()
        if not seen or told is not seen[-1]:
            seen.append(told)
        assert time.monotonic() < until
        time.sleep(0.001)
    return seen


def made(service, given, **options):
    told = wait(service.ask("me", given, **options))[-1]
    assert told.error is None, told.error
    return told.result


WORDS = {"instruction": "make it darker", "seed": 1}


def test_an_edit_is_what_the_pipeline_makes(service, pipe):
    turn = service.begin("me", file(), name="photo.jpg")
    seen = wait(service.ask("me", {**WORDS, "base": turn.number, "steps": 3}))
    (result,) = seen[-1].result
    alone = pipe(turn.picture, "make it darker", seed=1, num_inference_steps=3)
    assert np.array_equal(np.asarray(result.picture), np.asarray(alone.images[0]))
    assert (result.said, result.parent, result.suffix) == (alone.said[0], turn.number, ".jpg")
    assert result.facts["seed"] == 1 and result.facts["steps"] == 3 and result.facts["forced"] is True
    stages = [told.stage for told in seen]
    assert stages.index("painting") < stages.index("done")
    painting = [told for told in seen if told.stage == "painting"]
    assert all(told.said == alone.said[0] for told in painting)  # said before it is painted
    previews = [Image.open(io.BytesIO(told.preview)) for told in painting if told.preview]
    assert previews and previews[0].size == (320, 256)


def test_seeds_are_counted_on_and_what_was_understood_is_remembered(service, pipe, monkeypatch):
    turn = service.begin("me", file())
    first, second = made(service, {**WORDS, "base": turn.number, "count": 2})
    assert [each.facts["seed"] for each in (first, second)] == [1, 2]
    monkeypatch.setattr(type(pipe), "imagine", None)  # not asked again
    (again,) = made(service, {**WORDS, "base": turn.number, "seed": 2})
    assert np.array_equal(np.asarray(again.picture), np.asarray(second.picture))


def test_a_result_is_edited_again_and_every_turn_stays(service):
    turn = service.begin("me", file())
    (one,) = made(service, {**WORDS, "base": turn.number})
    (two,) = made(service, {**WORDS, "base": one.number})
    (other,) = made(service, {**WORDS, "base": turn.number})
    tree = [(depth, each.number) for depth, each in service.histories.of("me").tree()]
    assert tree == [(0, turn.number), (1, one.number), (2, two.number), (1, other.number)]
    with pytest.raises(DataError, match="no such picture"):
        service.ask("somebody else", {**WORDS, "base": turn.number})


def test_a_program_leaves_nothing_behind(service):
    (result,) = made(service, WORDS, file=file(form="JPEG"), name="a.jpeg")
    assert result.suffix == ".jpeg" and not service.histories.of("me").turns


def test_a_mask_keeps_the_rest_to_the_byte(service):
    turn = service.begin("me", file(), name="photo.jpg")
    layer = Image.new("RGBA", turn.picture.size)
    layer.paste((255, 0, 0, 255), (0, 0, 12, 32))
    (result,) = made(service, {**WORDS, "base": turn.number, "mask": painted_mask([None, layer])})
    before, after = np.asarray(turn.picture), np.asarray(result.picture)
    assert np.array_equal(before[:, 24:], after[:, 24:]) and not np.array_equal(before[:, :12], after[:, :12])
    assert result.suffix == ".png" and result.facts["outside_change"] == 0
    assert painted_mask([Image.new("RGBA", (4, 4))]) is None and painted_mask(None) is None


def test_boxes_are_painted(service):
    turn = service.begin("me", file())
    boxes = "0,0,0.5,0.5 a red ball\n\n 0.5,0.5,1,1   a tree"
    regions = regions_of(boxes)
    assert [(each.phrase, each.box) for each in regions] == [
        ("a red ball", (0, 0, 0.5, 0.5)), ("a tree", (0.5, 0.5, 1, 1)),
    ]  # fmt: skip
    plain, placed = (made(service, {**WORDS, "base": turn.number, "boxes": each}) for each in ("", boxes))
    assert not np.array_equal(np.asarray(plain[0].picture), np.asarray(placed[0].picture))


def test_pictures_in_an_instruction(mige):
    small = Service(MGIEPipeline.from_release(mige), bounds=Bounds(megapixels=0.5))
    turn = small.begin("me", file())
    words = {"base": turn.number, "seed": 1, "steps": 2}
    text = "replace the circle in <source> by <image>"
    files = [without_loss(Image.new("RGB", (16, 16), shade)) for shade in ("red", "blue")]
    red, blue = (made(small, {**words, "instruction": text, "images": [file]}) for file in files)
    assert not np.array_equal(np.asarray(red[0].picture), np.asarray(blue[0].picture))
    assert made(small, {**words, "instruction": "make <source> dark"})
    for images, what in (([], "came with 0 pictures"), ([file()] * 2, "came with 2 pictures"),
                         ([b"nothing"], "picture 1 of the instruction cannot be decoded")):  # fmt: skip
        with pytest.raises(DataError, match=what):
            small.ask("me", {**words, "instruction": text, "images": images})
    small.close()


def test_an_editor_that_reads_none_says_so(service):
    turn = service.begin("me", file())
    for given, what in (
        ({"images": [file()], "instruction": "as in <image>"}, "reads no pictures in instructions"),
        ({"instruction": "as in <image>"}, "holds <image>, which is no word to the model"),
    ):
        with pytest.raises(DataError, match=what):
            service.ask("me", {**WORDS, "base": turn.number, **given})


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (90, 2)])
def test_the_smallest_pictures(service, size):
    (result,) = made(service, WORDS, file=file(*size))
    assert result.picture.size == size


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_learnt_subjects_are_painted(tmp_path):
    base = saved("sd15", tmp_path / "base")
    keys = ("--train.samples=4", "--train.batch_size=2", "--train.precision=fp32", "--data.workers=0",
            "--data.size=16", "--train.threads=1", "--optim.lr=0.05",
            "--sampling.scheduler=DDIMScheduler")  # fmt: skip
    personalize(write_subjects(tmp_path / "things", "ab"), model=base, out=tmp_path / "worn", keys=keys)
    words = {"instruction": "a photo of a olisa red disk", "seed": 1, "steps": 3, "guidance": 3.0}
    pictures = []
    for subjects in ((), [tmp_path / "worn"]):
        small = Service(MGIEPipeline.from_pretrained(base, subjects=subjects))
        assert not small.can.photos
        pictures.append(np.asarray(made(small, words)[0].picture))
        with pytest.raises(DataError, match="paints new pictures only"):
            small.ask("me", words, file=file())
        small.close()
    assert not np.array_equal(*pictures)


def test_who_leaves_ends_its_edit(service):
    turn = service.begin("me", file())
    ticket = service.ask("me", {**WORDS, "base": turn.number, "steps": 500})
    service.leave("me")
    assert wait(ticket)[-1].error == CANCELLED


def test_cancelling_ends_an_edit(service):
    turn = service.begin("me", file())
    ticket = service.ask("me", {**WORDS, "base": turn.number, "steps": 500})
    while ticket.look().step < 1:
        time.sleep(0.001)
    assert service.cancel("me") == 1
    assert wait(ticket)[-1].error == CANCELLED
    assert made(service, {**WORDS, "base": turn.number})


def test_an_edit_that_takes_too_long_is_ended(pipe):
    service = Service(pipe, bounds=Bounds(seconds=0.2))
    turn = service.begin("me", file())
    error = wait(service.ask("me", {**WORDS, "base": turn.number, "steps": 1000}))[-1].error
    assert error is not None and "longer than 0.2 seconds" in error
    service.close()


def test_a_full_queue_is_told(service):
    turn = service.begin("me", file())
    tickets = [service.ask("me", {**WORDS, "base": turn.number, "steps": 300})]
    with pytest.raises(DeviceError, match="2 edits are waiting already"):
        tickets += [service.ask("me", {**WORDS, "base": turn.number}) for _ in range(5)]
    service.cancel("me")
    assert {wait(ticket)[-1].error for ticket in tickets} == {CANCELLED}


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "cannot be decoded"), (b"no picture", "cannot be decoded"), (file()[:200], "cannot be decoded"),
        (b"\0" * 2**21, "2.0 megabytes"), (file(1000, 600), "0.6 megapixels"),
    ],
)  # fmt: skip
def test_files_that_are_refused(service, data, what):
    with pytest.raises(DataError, match=what) as error:
        service.begin("me", data, name="../../etc/passwd.jpg")
    assert "/" not in str(error.value).replace("JPEG, PNG", "")


@pytest.mark.parametrize(
    "given",
    [
        {"instruction": ""}, {"instruction": None}, {"instruction": 7}, {"instruction": "a" * 3000},
        {"instruction": "[IMG0]"}, {"seed": -1}, {"seed": 2**63}, {"seed": "x"}, {"seed": 1.5},
        {"seed": float("nan")}, {"seed": []}, {"count": 0}, {"count": 9}, {"steps": 0}, {"steps": 10**6},
        {"guidance": -1}, {"guidance": "inf"}, {"guidance": 1e9}, {"image_guidance": {}}, {"size": 0},
        {"size": 10**9}, {"size": True}, {"boxes": "a ball"}, {"boxes": "0,0,1 a ball"},
        {"boxes": "a\n" * 99}, {"base": 99}, {"base": "../x"}, {"base": None},
    ],
)  # fmt: skip
def test_requests_that_are_refused(service, given):
    turn = service.begin("me", file())
    with pytest.raises((DataError, ConfigError)):
        service.ask("me", {**WORDS, "base": turn.number, **given})
    assert not service.worker._queue


def test_numbers_may_come_as_pages_send_them():
    request = asked(
        {"instruction": "a", "seed": 3.0, "steps": "7", "guidance": "", "size": None}, bounds=Bounds()
    )
    assert (request.seed, request.steps, request.guidance, request.size) == (3, 7, None, None)


@pytest.mark.parametrize(("count", "several"), [(2, 2), (None, 1), ("", 1)])
def test_a_page_tells_of_as_many_pictures_as_are_made(service, count, several):
    told = wait(service.ask("me", {**WORDS, "count": count}, file=file()))[-1]
    assert told.count == len(told.result) == several
    assert ("picture 1 of" in panel(replace(told, stage="painting", number=0))) == (several > 1)
