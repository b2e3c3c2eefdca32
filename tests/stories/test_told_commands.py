"""The commands of README and docs, run one after the other as they stand, but for their length."""

import json
import os
import shlex
import shutil
from itertools import count
from pathlib import Path

import pytest
from PIL import Image
from told_commands import told

from mgie.cli import main
from mgie.toy.pairs import ToyPairs

SHORTER = {
    "prepare toy": "--count 16 --test 4 --overwrite",
    "prepare --check": "",
    "prepare": "--overwrite",
    "train": "--train.samples 4 --train.batch_size 4 --train.micro_batch_size 4 --train.threads 1 "
    "--data.workers 0 --log.every 4 --save.every 4 --preview.count 1",
    "edit": "--steps 1 --overwrite",
    "evaluate": "--count 3",
}
"""What is put behind a command that begins so."""
COMMANDS = list(dict.fromkeys(command.mgie for command in told() if not command.needs))
RUNS = count()


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with what the pages speak of: photos, pairs, a mask, regions, a list, a published data set."""
    before, folder = Path.cwd(), tmp_path_factory.mktemp("told")
    os.chdir(folder)
    pairs = list(ToyPairs(12, seed=0, kinds=["recolour", "remove", "sepia"]))
    for place in ("photos", "my_pairs/before", "my_pairs/after", "clip-filtered-dataset"):
        Path(place).mkdir(parents=True)
    rows, texts = ["file,instruction"], {}
    for number, pair in enumerate(pairs):
        for side, picture in (("before", pair.source), ("after", pair.target)):
            Path(f"my_pairs/{side}/{number}.png").write_bytes(picture or b"")
        rows.append(f'{number}.png,"{pair.instruction}"')
        prompt = Path(f"clip-filtered-dataset/{number:07d}")
        prompt.mkdir()
        (prompt / "prompt.json").write_text(json.dumps({"edit": pair.instruction}))
        (prompt / "1_0.png").write_bytes(pair.source or b"")
        (prompt / "1_1.png").write_bytes(pair.target)
        texts[f"{number:07d}_1_0"] = {"instruction": pair.instruction, "expressive": "It looks so."}
    Path("my_pairs/instructions.csv").write_text("\n".join(rows))
    shutil.copytree("my_pairs", "my_layouts")
    Path("ipr2pr_expressive.json").write_text(json.dumps(texts))
    photo = Image.effect_noise((72, 48), 90).convert("RGB")
    for name in ("photo.jpg", "cat.jpg", "room.jpg", "photos/beach.jpg", "photos/street.jpg"):
        photo.save(name)
    for name in ("drawn.png", "spoon.png"):
        mask = Image.new("L", photo.size)
        mask.paste(255, (10, 10, 40, 40))
        mask.save(name)
    regions = [
        {"phrase": "make the cup red", "box": [0.1, 0.2, 0.4, 0.6]},
        {"phrase": "remove the spoon", "mask": "spoon.png"},
    ]
    Path("layout.json").write_text(json.dumps(regions))
    Path("edits.csv").write_text("photo,instruction\nphoto.jpg,make it dark\ncat.jpg,make it warmer\n")
    yield folder
    os.chdir(before)


def shorter(command: str) -> list[str]:
    """The words of a command that takes seconds; each training has a folder of its own, but for the first."""
    words = shlex.split(command)[1:]
    verb = next((verb for verb in SHORTER if " ".join(words).startswith(verb)), "")
    words += shlex.split(SHORTER.get(verb, ""))
    if verb == "train" and next(RUNS):
        words += ["--out", f"runs/{next(RUNS)}"]
    return words


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_it_runs(command, here, capsys):
    assert Path.cwd() == here
    if "_ckpt/runs/longer" in command:
        shutil.copytree("_ckpt/runs/tiny", "_ckpt/runs/longer")
    status = main(shorter(command))
    assert status == 0, capsys.readouterr().err
