"""Three hundred ways to spoil a data set: every row is either stored soundly or told about, and nothing
crashes."""

import io
import json
import os
import random

import pytest
from PIL import Image

from mgie.data.images import decode
from mgie.data.stored_pairs import StoredPairs, stored_splits
from mgie.data.validation import check
from mgie.errors import UserError
from mgie.prepare import check as verify
from mgie.prepare import prepare

SEED = int(os.environ.get("FUZZ_SEED", "3"))
"""Another seed spoils in other ways."""
FORMS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


def spoil(data: bytes, rng: random.Random) -> bytes:
    """One of ten kinds of damage to a file's bytes."""
    at, length = rng.randrange(len(data)), rng.randrange(1, 40)
    junk = rng.randbytes(length)
    kinds = [
        lambda: data[:at],
        lambda: data[:at] + bytes(len(data) - at),
        lambda: data[:at] + junk + data[at + length :],
        lambda: data[:at] + junk + data[at:],
        lambda: data[:at] + data[at + length :],
        lambda: junk + data,
        lambda: data + junk,
        lambda: data[: len(data) // 2] + data[: len(data) // 2],
        lambda: bytes(byte ^ (1 << rng.randrange(8)) if rng.random() < 0.01 else byte for byte in data),
        lambda: junk,
    ]
    return rng.choice(kinds)()


def odd(make_picture, rng: random.Random) -> bytes:
    """A whole picture of an odd kind."""
    image = Image.open(io.BytesIO(make_picture(16, 16, rng.randrange(99))))
    exif = Image.Exif()
    exif[0x0112] = rng.randrange(0, 10)
    buffer = io.BytesIO()
    kinds = [
        lambda: image.save(buffer, "GIF", save_all=True, append_images=[image.rotate(90)]),
        lambda: image.convert("CMYK").save(buffer, "JPEG"),
        lambda: image.convert("L").convert("I").point(lambda v: v * 257).convert("I;16").save(buffer, "PNG"),
        lambda: image.convert("F").save(buffer, "TIFF"),
        lambda: image.save(buffer, "JPEG", exif=exif),
        lambda: image.convert("LA").save(buffer, "PNG"),
        lambda: image.convert("1").save(buffer, "PNG"),
        lambda: image.resize((16, 3)).save(buffer, "PNG"),
        lambda: Image.new("1", (12000, 12000)).save(buffer, "PNG"),
        lambda: image.save(buffer, "PNG", save_all=True, append_images=[image.rotate(90)]),
    ]
    rng.choice(kinds)()
    return buffer.getvalue()


def spoil_row(row: dict, rng: random.Random) -> str:
    """A line of JSON with one mistake."""
    changes = [
        {"instruction": ""},
        {"instruction": None},
        {"instruction": ["x"]},
        {"instruction": "see </s>"},
        {"source": "gone.png"},
        {"target": None},
        {"target": 5},
        {"weight": -1},
        {"weight": "NaN"},
        {"weight": {}},
        {"weight": 10**400},
        {"turn": 2**70},
        {"key": "same"},
        {"key": 7},
        {"mask": row["target"]},
        {"mask": "gone.png"},
        {"source": "a\0b"},
        {"instruction": "\ud800"},
        {"expressive": "[IMG0]"},
        {"meta": [[[]]]},
        {"task": "\udfff"},
        {"source": ""},
        {"target": "."},
        {"session": 3.5},
    ]
    text = json.dumps(row | rng.choice(changes))
    return text if rng.random() < 0.8 else spoil(text.encode(), rng).replace(b"\n", b" ").decode("latin-1")


def test_three_hundred_spoiled_rows(tmp_path, make_picture):
    rng, lines, expected = random.Random(SEED), [], []
    for number in range(320):
        form = FORMS[number % len(FORMS)]
        files = {
            role: make_picture(16, 16, seed=number * 2 + k, form=form)
            for k, role in enumerate(("source", "target"))
        }
        row = {
            "key": f"row-{number}",
            "instruction": f"do {number}",
            "source": f"{number}-s",
            "target": f"{number}-t",
        }
        line = json.dumps(row)
        if number < 200:
            role = rng.choice(("source", "target"))
            files[role] = spoil(files[role], rng) if number < 150 else odd(make_picture, rng)
        elif number < 300:
            line = spoil_row(row, rng)
        for role, data in files.items():
            (tmp_path / f"{number}-{role[0]}").write_bytes(data)
        lines.append(line)
        expected.append(files)
    (tmp_path / "rows.jsonl").write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))

    out = tmp_path / "out"
    facts = prepare(f"pairs:{tmp_path / 'rows.jsonl'}", out, test=0, max_rejected=1.0)
    stored = {pair.key: pair for pair in StoredPairs(out, "train")}
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert len(stored) + len(rejected) == sum(1 for line in lines if line.strip()) == 320
    assert facts["rejected"]["rows"] == len(rejected) == sum(facts["rejected"]["reasons"].values()) > 120
    assert all(row["reason"] and row["detail"] for row in rejected)
    assert {f"row-{number}" for number in range(300, 320)} <= set(stored)
    for pair in stored.values():
        check(pair)
        decode(pair.target, name=pair.key)
        number = pair.key.removeprefix("row-")
        if number.isdigit() and pair.source:
            assert (
                pair.source == expected[int(number)]["source"]
                and pair.target == expected[int(number)]["target"]
            )
    verify(out)


def small_sources(tmp_path, make_picture):
    """One small data set in each layout, and the files of it that are spoiled."""
    prompt = tmp_path / "ip2p" / "0000001"
    prompt.mkdir(parents=True)
    for side in "01":
        (prompt / f"5_{side}.jpg").write_bytes(make_picture(form="JPEG"))
    (prompt / "prompt.json").write_text('{"edit": "go"}')
    (prompt / "metadata.jsonl").write_text(
        '{"seed": 5, "clip_sim_0": 0.3, "clip_sim_1": 0.3, "clip_sim_dir": 0.3, "clip_sim_image": 0.9}'
    )
    (tmp_path / "ip2p" / "seeds.json").write_text('[["0000001", ["5"]]]')
    prepare("toy", tmp_path / "stored", count=3, test=1, size=64)
    prepare("toy", tmp_path / "hub", count=3, test=1, size=64, format="parquet")
    prepare("toy", tmp_path / "old", count=3, test=1, size=64, format="legacy")
    return {
        f"ipr2pr:{tmp_path / 'ip2p'}": tmp_path / "ip2p",
        f"pairs:{tmp_path / 'stored'}": tmp_path / "stored",
        f"pairs:{tmp_path / 'hub'}": tmp_path / "hub",
        f"legacy:{tmp_path / 'old' / 'train'}": tmp_path / "old" / "train",
    }


@pytest.mark.filterwarnings("ignore")
def test_spoiled_files_are_a_sentence_or_counted(tmp_path, make_picture):
    rng, refused = random.Random(SEED), 0
    for source, folder in small_sources(tmp_path, make_picture).items():
        files = [
            path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.suffix not in (".md", ".jpg")
        ]
        for number in range(40):
            path = rng.choice(files)
            whole = path.read_bytes()
            path.write_bytes(spoil(whole, rng) if whole else b"{")
            out = tmp_path / f"out-{folder.name}-{number}"
            try:
                facts = prepare(
                    source, out, max_rejected=1.0, test=None, clip="paper" if "ip2p" in source else None
                )
                for split in stored_splits(out):
                    for pair in StoredPairs(out, split):
                        check(pair)
                assert (
                    facts["splits"]["train"]["rows"]
                    + facts["rejected"]["rows"]
                    + sum(facts["filtered"].values())
                    > 0
                )
            except UserError as error:
                assert "\n" not in str(error) and not out.exists(), path
                refused += 1
            path.write_bytes(whole)
    assert refused > 40
