"""Finished reports are compared from the command line, by numbers and by people."""

import json
from pathlib import Path

import pytest
from report_data import item, write_run

from mgie.cli import main
from mgie.compare import compare_reports
from mgie.errors import ConfigError, DataError
from mgie.evaluate import evaluate


@pytest.fixture
def reports(tmp_path):
    found = []
    for name, share in (("A", 2), ("B", 1), ("C", 3)):
        items = [item(number, right=number % 3 < share) for number in range(21)]
        found.append(str(write_run(tmp_path / name, items)))
    return found


def sentence(capsys):
    return capsys.readouterr().err


def test_a_comparison_from_the_command_line(reports, tmp_path, capsys):
    out = tmp_path / "out"
    for words in ([*reports, "--out", str(out)], ["--out", str(out), *reports, "--seed", "3"]):
        assert main(["evaluate", *words, "--json"]) == 0
        lines = capsys.readouterr().out.splitlines()
        facts = json.loads(lines[-1])
        assert list(facts["reports"]) == ["A", "B", "C"] and facts["n"] == 21
        assert any("A - B" in line for line in lines)
    written = json.loads((out / "compare.json").read_text())
    assert written["seed"] == 3 and (out / "report.html").is_file() and (out / "manifest.json").is_file()


def test_a_blind_page_and_its_answers(reports, tmp_path, capsys):
    out, page, people = (str(tmp_path / name) for name in ("out", "page", "people"))
    assert main(["evaluate", *reports[:2], "--out", out, "--ab", page, "--count", "5"]) == 0
    key = json.loads((tmp_path / "out" / "key.json").read_text())
    assert key["systems"] == ["A", "B"] and sum(task["sort"] == "pair" for task in key["tasks"].values()) == 5
    told = "".join(path.name for path in (tmp_path / "page").rglob("*"))
    told += (tmp_path / "page" / "index.html").read_text() + (tmp_path / "page" / "manifest.json").read_text()
    assert str(tmp_path) not in told and "key.json" not in told
    answers = [
        {
            "task": name,
            "question": question,
            "choice": "left" if task["left"] in (0, "copy") else "right",
            "ms": 9,
        }
        for name, task in key["tasks"].items()
        for question in ("follows", "keeps", "looks")
    ]
    said = {"page": key["page"], "rater": "ann", "answers": answers}
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers" / "results-ann.json").write_text(json.dumps(said))
    capsys.readouterr()
    words = ["evaluate", out, "--results", str(tmp_path / "answers"), "--out", people, "--json"]
    assert main(words) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["questions"]["follows"]["won"] == 5 and facts["raters"]["ann"]["counts"]
    assert (tmp_path / "people" / "answers.json").is_file()
    # What the numbers say of the same systems stands beside.
    for name in ("report.md", "report.html"):
        assert "By numbers, out. " in (tmp_path / "people" / name).read_text()


def test_answers_to_several_pages_put_systems_in_order(reports, tmp_path, capsys):
    """B before A, C before B, by everybody."""
    (tmp_path / "answers").mkdir()
    outs = []
    for one, two in ((0, 1), (1, 2)):
        out = tmp_path / f"out{one}"
        words = [
            "evaluate",
            reports[one],
            reports[two],
            "--out",
            str(out),
            "--ab",
            str(tmp_path / f"page{one}"),
        ]
        assert main([*words, "--count", "4"]) == 0
        key = json.loads((out / "key.json").read_text())
        answers = [
            {"task": name, "question": "keeps", "choice": "left" if task["left"] in (1, "copy") else "right"}
            for name, task in key["tasks"].items()
        ]
        said = {"page": key["page"], "rater": "ann", "answers": answers}
        (tmp_path / "answers" / f"{one}.json").write_text(json.dumps(said))
        outs.append(str(out))
    capsys.readouterr()
    words = ["evaluate", *outs, "--results", str(tmp_path / "answers"), "--out", str(tmp_path / "people")]
    assert main([*words, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    order = facts["ranking"]["keeps"]
    assert list(order) == ["C", "B", "A"] and order["C"]["elo"] > 1000 > order["A"]["elo"]
    assert len(facts["pages"]) == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([0], "is one report: name two or more"),
        ([0, 1, "--steps", "3"], "steps has no place beside"),
        ([0, 1, "--count", "3"], "count has no place beside"),
        ([0, 1, "--questions", "mgie"], "questions has no place beside"),
        ([0, 1, "--model", "x"], "model has no place beside"),
        ([0, 1, 2, "--ab", "page"], "3 are named: name two"),
        ([0, 1, "--ab", "out/page"], "lies in out"),
        ([0, 1, "--results", "x"], "has no key.json"),
        ([0, "--results", "x", "--ab", "page"], "results are of blind pages that were made before"),
        ([0, "--results", "x"], "has no key.json"),
        ([0, "nowhere"], "nowhere has no results.json"),
        ([], "nothing is named that could be measured"),
        (["--model", "m", "--ab", "page"], "ab is for finished reports, and a model is to be measured"),
        (["--model", "m", "--questions", "mgie"], "questions is for finished reports"),
    ],
)
def test_what_cannot_be_done_is_told_before(reports, tmp_path, capsys, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    given = [reports[word] if isinstance(word, int) else word for word in words]
    assert main(["evaluate", *given, "--out", "out"]) == 2
    assert says in sentence(capsys)
    assert not (tmp_path / "out").exists() and not (tmp_path / "page").exists()


def test_a_report_is_not_written_over(reports, capsys):
    before = Path(reports[1], "results.json").read_bytes()
    assert main(["evaluate", *reports[:2], "--out", str(reports[1])]) == 2
    assert "is one of the reports that are named: choose another --out" in sentence(capsys)
    assert Path(reports[1], "results.json").read_bytes() == before


def test_in_python_it_is_the_same(reports, tmp_path):
    facts = evaluate(reports=reports[:2], out=tmp_path / "one")
    assert facts["views"] == compare_reports(reports[:2], tmp_path / "two")["views"]
    with pytest.raises(ConfigError, match="metrics has no place"):
        evaluate(reports=reports, out=tmp_path / "three", metrics=["ssim"])
    assert evaluate(reports=reports, out=tmp_path / "three", metrics=[])["n"] == 21


def test_nothing_is_written_where_one_of_two_fails(reports, tmp_path):
    (tmp_path / "same").mkdir()
    same = str(
        write_run(tmp_path / "same" / "A", [item(number, right=number % 3 < 2) for number in range(21)])
    )
    with pytest.raises(DataError, match="equal outputs"):
        compare_reports([reports[0], same], tmp_path / "out", ab=tmp_path / "page")
    assert not (tmp_path / "out").exists() and not (tmp_path / "page").exists()
