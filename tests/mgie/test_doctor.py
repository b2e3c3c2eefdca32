"""What is said of a machine and of its releases."""

import json

import pytest

from mgie.cli import main
from mgie.doctor import INDEXES, NEEDS, doctor, report, wrong
from mgie.verbs import VERBS


def test_what_is_installed_and_what_would_work(capsys):
    facts = doctor()
    assert facts["packages"]["torch"].startswith("2.") and facts["problems"] == [] and wrong(facts) == ""
    assert facts["verbs"]["edit"] == {"works": True, "missing": [], "mend": ""}
    assert facts["device"].startswith(("cpu", "cuda")) and "attention" in facts["attention"]
    text = report(facts)
    assert "mgie edit" in text and "\nmemory " in text
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["python"] == facts["python"]


def test_what_is_missing_is_told_for_each_verb(monkeypatch, capsys):
    from mgie import doctor as room

    there = room._state
    gone = {"scikit-image": "missing", "torch": "is 1.0, not >=2.8"}
    monkeypatch.setattr(room, "_state", lambda name, asked: gone.get(name) or there(name, asked))
    facts = doctor()
    assert facts["verbs"]["prepare toy"]["missing"] == ["torch is 1.0, not >=2.8", "scikit-image missing"]
    assert facts["verbs"]["prepare toy"]["mend"] == "pip install 'mgie[toy]'"
    assert not facts["verbs"]["edit"]["works"]
    assert main(["doctor"]) == 2
    said = capsys.readouterr()
    assert "no: torch is 1.0" in said.out and said.err.startswith("mgie: packages that all verbs need")


def test_every_verb_is_looked_at():
    assert {name.split(" --")[0].split()[0] for name in NEEDS} == {name.split()[0] for name in VERBS} - {
        "delta"
    }


@pytest.fixture
def shelf(tmp_path):
    card = "---\ntags: [x]\n---\n# An editor that follows instructions\n\nIt was taught cats.\n"
    for name, index in (("mine", {"_encoder": {"kind": "llava"}, "_denoiser": {"kind": "unet"}}), ("sd", {})):
        (tmp_path / name).mkdir()
        (tmp_path / name / INDEXES[0]).write_text(json.dumps(index))
    (tmp_path / "mine" / "README.md").write_text(card)
    (tmp_path / "apple").mkdir()
    (tmp_path / "apple" / INDEXES[1]).write_bytes(bytes(2_000_000))
    (tmp_path / "runs").mkdir()
    return tmp_path


def test_releases_are_listed_with_what_their_cards_say(capsys, shelf, tmp_path):
    assert main(["models", "--folder", str(shelf)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{shelf}/apple  Apple's mllm.pt and unet.pt, 2 MB",
        f"{shelf}/mine  llava + unet, 0 MB",
        "  An editor that follows instructions",
        "  It was taught cats.",
        f"{shelf}/sd  a pipeline of diffusers, 0 MB",
    ]
    assert main(["models", "--folder", str(shelf / "runs")]) == 0
    assert "there is no release in" in capsys.readouterr().out
    assert main(["models", "--folder", str(tmp_path / "none")]) == 2
