"""Curves and previews of runs on one page that needs nothing else."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from report_data import HOSTILE

from mgie.cli import main
from mgie.errors import ConfigError, DataError
from mgie.plot import plot, read


def left_by_a_run(folder: Path, *, rate: float = 1.0, previews: tuple[int, ...] = (8, 16)) -> Path:
    """What a run leaves that is looked at."""
    (folder / "previews").mkdir(parents=True)
    lines = [{"step": n, "samples": 8 * n, "loss_ce": rate / n, "grad_norm": None if n == 2 else 1.0,
              "lr_denoiser": rate, "skipped": 0} for n in (1, 2, 3)]  # fmt: skip
    lines.append({"step": 3, "samples": 24, "evaluate/pairs/l1": 0.25})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '[1]\nnote\n{"st')
    (folder / "validation.jsonl").write_text('{"step": 1, "samples": 8, "ce": 2.0, "edit": 0.5}\n')
    (folder / "run.yaml").write_text(f"name: {folder.name}\noptim: {{lr: {rate}}}\n")
    for samples in previews:
        Image.new("RGB", (12, 8), "red").save(folder / f"previews/{samples:010d}.png")
    return folder


def test_one_file_has_the_curves_and_previews_of_all(tmp_path):
    one, two = (left_by_a_run(tmp_path / name, rate=rate) for name, rate in (("a<b", 1.0), ("two", 2.0)))
    out = tmp_path / "runs.html"
    facts = plot([str(one), str(two)], out=out)
    assert facts == {"out": str(out), "runs": 2, "plots": 6, "previews": 2}
    page = out.read_text()
    captions = re.findall("<figcaption>(.*?)</figcaption>", page)
    assert captions[:6] == [
        "loss_ce", "held_out_ce", "held_out_edit", "evaluate/pairs/l1", "grad_norm", "lr_denoiser"
    ]  # fmt: skip
    assert captions[6:] == ["a&lt;b", "two"] * 2 and "a<b" not in page
    assert page.index("after 16 samples") < page.index("after 8 samples")
    assert page.count("data:image/png;base64,") == 4
    assert not re.search(r'(?:src|href)="(?!data:)', page)  # it needs no other file
    assert re.search(r"<td>optim.lr</td><td>1.0</td><td>2.0</td>", page) and "<td>name</td>" not in page
    plot([str(one)], out=out, previews=0)
    assert "Previews" not in out.read_text() and "What differs" not in out.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a<b", "runs.html", "two"]


def test_names_are_words(tmp_path):
    folder = left_by_a_run(tmp_path / "run")
    (folder / "log.jsonl").write_text(json.dumps({"samples": 1, HOSTILE: 1.0}) + "\n")
    plot([str(folder)], out=tmp_path / "runs.html")
    assert "<script>alert" not in (tmp_path / "runs.html").read_text()


def test_previews_are_spread_and_large_ones_made_smaller(tmp_path):
    folder = left_by_a_run(tmp_path / "run", previews=tuple(range(8, 88, 8)))
    large = Image.effect_noise((2000, 600), 80)
    large.convert("RGB").save(folder / "previews/0000000080.png")
    assert plot([str(folder)], out=tmp_path / "runs.html", previews=3)["previews"] == 3
    page = (tmp_path / "runs.html").read_text()
    assert re.findall("<h3>after (.*?) samples</h3>", page) == ["80", "48", "8"]
    assert page.count("data:image/jpeg") == 1


def test_the_same_name_twice_is_told_apart(tmp_path):
    folders = [left_by_a_run(tmp_path / place / "tiny") for place in ("here", "there")]
    plot([str(folder) for folder in folders], out=tmp_path / "runs.html")
    assert "<td>here/tiny</td>" in (tmp_path / "runs.html").read_text()
    with pytest.raises(ConfigError, match="is named twice"):
        plot([str(folders[0])] * 2, out=tmp_path / "runs.html")


def test_what_cannot_be_drawn_is_a_sentence(tmp_path, capsys):
    with pytest.raises(DataError, match=r"has no log\.jsonl: expected the folder of a run"):
        read(tmp_path)
    (tmp_path / "log.jsonl").write_text("\n")
    with pytest.raises(DataError, match="holds no figures yet"):
        read(tmp_path)
    with pytest.raises(ConfigError, match=r"expected a name that ends in \.html"):
        plot([str(tmp_path)], out=tmp_path / "runs.png")
    with pytest.raises(ConfigError, match="expected a file in a folder that is there"):
        plot([str(tmp_path)], out=tmp_path / "nowhere/runs.html")
    with pytest.raises(ConfigError, match="no run to draw"):
        plot([], out=tmp_path / "runs.html")
    left_by_a_run(tmp_path / "run")
    words = ["plot", str(tmp_path / "run"), "--out", str(tmp_path / "runs.html"), "--json"]
    assert main(words) == 0 and json.loads(capsys.readouterr().out)["plots"] == 6
