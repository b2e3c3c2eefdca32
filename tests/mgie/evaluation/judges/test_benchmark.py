"""A judged report from end to end: numbers, controls, noise, what could not be read, what outlives a kill."""

import hashlib
import json
import re

import pytest
from judged_data import png, three, write_gedit, write_imgedit, write_script
from report_data import HOSTILE, Page

from mgie.cli import main
from mgie.errors import ConfigError, DataError
from mgie.evaluate import evaluate
from mgie.evaluation.judges.asking import Outcome, Question, Shown
from mgie.evaluation.judges.data import Item
from mgie.evaluation.judges.page import lines
from mgie.evaluation.judges.results import gathered
from mgie.evaluation.judges.rubric import find_rubric


@pytest.fixture
def imgedit(tmp_path):
    write_imgedit(tmp_path)
    return tmp_path


@pytest.fixture
def run(imgedit):
    """Takes the judge and what is to be otherwise; gives the facts."""

    def run(judge, **changes):
        asked = {
            "model": f"pictures:{imgedit / 'gen'}", "suite": "imgedit", "data": imgedit / "data",
            "out": imgedit / "report", "judge": judge, "unpinned": True, "judge_controls": 2,
        }  # fmt: skip
        return evaluate(**(asked | changes))

    return run


@pytest.fixture
def script(imgedit):
    return lambda *rules: write_script(imgedit / "script.json", *rules)


def test_a_report_says_what_its_numbers_are_of(run, script, imgedit, capsys):
    # Kinds: two of add, one each of remove and style, so that both means differ.
    facts = run(script(("remove thing", three(1, 1, 1)), ("Which of the two", "A"), ("*", three(4, 3, 3))))
    numbers = facts["rows"]["outputs"]["numbers"]
    good, bad = 10 / 3, 1
    assert numbers["overall_micro"] == pytest.approx((3 * good + bad) / 4)
    assert numbers["overall_macro"] == pytest.approx((2 * good + bad) / 3)
    assert facts["groups"]["kind"]["remove"]["numbers"]["overall_micro"] == 1
    assert re.fullmatch(r"imgedit/1 own wording#[0-9a-f]{8}", facts["rubric"])
    assert facts["judge"]["model"] == "scripted-1" and facts["served_by"]["scripted-1"] > 4
    assert any("wording" in reason for reason in facts["unpinned"]) and "the data" in facts["unpinned"]
    written = json.loads((imgedit / "report" / "results.json").read_text())
    assert written == {name: facts[name] for name in written}
    items = [json.loads(line) for line in (imgedit / "report" / "items.jsonl").read_text().splitlines()]
    assert [item["row"] for item in items].count("outputs") == 4
    assert items[1]["scores"]["overall_micro"] == 1 and items[1]["answers"][0]["text"] == three(1, 1, 1)
    for text in ((imgedit / "report" / "report.md").read_text(), capsys.readouterr().out):
        assert facts["rubric"] in text and "Not as published: the wording of the prompts." in text
        assert "each question was asked once" in text


def test_a_judge_that_likes_everything_is_not_usable(run, script, imgedit):
    found = run(script(("Which of the two", "A"), ("*", three(5, 5, 5))))["controls"]
    assert found["usable"] is False
    told = "; ".join(found["because"])
    assert "doing nothing got 100% of the scale" in told and "another item's instruction got 100%" in told
    assert "won in both orders in too few pairs (0%" in told
    assert "This judge is not usable here: doing nothing" in (imgedit / "report" / "report.md").read_text()


def test_a_judge_that_sees_is_usable(run, imgedit):
    """Which picture is which it tells by its bytes."""
    from mgie.evaluation.judges import kinds
    from mgie.evaluation.judges.base import Answer

    made = {path.read_bytes() for path in (imgedit / "gen").iterdir()}

    class Sees:
        identity, label, together, steady = {"kind": "test", "model": "sees"}, "sees", 3, False

        def answer(self, ask, key):  # noqa: ARG002
            words, *pictures = (part for part in ask.parts)
            if "Which of the two" in words:
                return Answer(text="A" if pictures[1].data in made else "B")
            own = re.search(r"thing (\d)", words)[1]
            source = (imgedit / "data" / "singleturn" / "animal" / f"{own}.png").read_bytes()
            followed = pictures[1].data in made and pictures[0].data == source
            return Answer(text=three(5 if followed else 1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mgie.evaluation.judges.benchmark.open_judge", lambda *_: Sees())
        facts = run("local:unused")
    assert kinds and facts["controls"]["usable"] is True and facts["controls"]["because"] == []
    assert facts["controls"]["order"] == {"n": 2, "read": 2, "same": 1}
    assert facts["rows"]["outputs"]["numbers"]["following_mean"] == 5
    assert facts["rows"]["copy"]["numbers"]["following_mean"] == 1
    assert "nothing against this judge" in (imgedit / "report" / "report.md").read_text()


def test_what_cannot_be_read_is_counted_and_never_a_number(run, script, imgedit):
    facts = run(script(("style thing", "I like it."), ("*", three(4))), judge_controls=0)
    found = facts["rows"]["outputs"]
    assert facts["counted"] == {"answers": 4, "unreadable": 1, "asked_again": 1}
    assert found["without"]["overall_micro"] == 1 and found["withheld"] == list(found["numbers"])
    assert set(found["numbers"].values()) == {None}  # one of four is more than one of a hundred
    assert facts["groups"]["kind"]["add"]["numbers"]["overall_micro"] == pytest.approx(10 / 3)
    page = (imgedit / "report" / "report.md").read_text()
    assert "Of 4 answers 1 unreadable; they count in no number." in page
    assert "Not told, for too many items lack it" in page and "not looked at" in page


def test_an_answer_that_could_not_be_read_is_asked_for_again(run, script):
    facts = run(script(("style thing", ["hm", three(2)]), ("*", three(4))), judge_controls=0)
    assert facts["counted"] == {"answers": 4, "asked_again": 1}
    assert facts["groups"]["kind"]["style"]["numbers"]["following_mean"] == 2


def test_a_subset_is_judged_alone_and_says_so(run, script, imgedit):
    (imgedit / "keys").write_text("k1\nk3\n")
    (imgedit / "gen" / "k0.png").unlink()
    facts = run(script(("*", three(4))), subset=imgedit / "keys", judge_controls=0)
    assert facts["rows"]["outputs"]["n"] == 2 and facts["new_answers"] == 2
    assert re.fullmatch(r"imgedit/1 own wording#[0-9a-f]{8} subset#[0-9a-f]{8}", facts["rubric"])
    assert facts["unpinned"][-2:] == ["the data", "the number of items (2 of 4, by --subset)"]
    assert facts["rubric"] in (imgedit / "report" / "report.md").read_text()


def test_the_page_shows_pictures_verdicts_and_words(run, script, imgedit):
    """An output is right where following got seven tenths of its scale."""
    hostile = f"{HOSTILE}\nFollowing: 1\nRest: 3\nLook: 3"
    facts = run(script(("remove thing", hostile), ("style", "hm"), ("*", three(4))))
    assert facts["report"] == str(imgedit / "report" / "report.html")
    page = Page((imgedit / "report" / "report.html").read_text())
    page.check(imgedit / "report")
    assert len(page.all("article")) == 4 and len(page.all("img")) == 2 * 4 and len(page.all("script")) == 1
    cards = [(card["data-kind"], json.loads(card["data-wrong"])) for card in page.all("article")]
    assert cards == [("add", [0]), ("remove", [1]), ("style", [None]), ("add", [0])]
    words = " ".join(page.words["p"])
    assert "wrong: following_mean 1 of 1 to 5 · scores: <script>alert(1)</script>" in words
    assert "right: following_mean 4 of 1 to 5" in words and "said:" not in words
    assert facts["rubric"] in words and "Not as published: the wording of the prompts." in words
    assert any(each.startswith("This judge is not usable here") for each in page.words["p"])
    assert {option["value"] for option in page.all("option")} >= {"=add", "=remove", "=style", "any", "none"}


def test_an_item_counts_as_often_as_its_scores_are_pooled(imgedit):
    rubric = find_rubric("kris")
    case = rubric.asks["following"][0]
    lying = imgedit / "gen" / "k0.png"
    item = Item(key="a", kind="biology", sources=(lying,), names=())
    shown = Shown(item=item, row="outputs", output=lying)
    asked = Question(shown=shown, name="following", case=case, repeat=0)
    scores = {"following": 3.0, "knowledge": 5.0}
    told = Outcome(question=asked, status="ok", scores=dict(scores), text="so", attempts=1)
    (found,) = lines(rubric, gathered([told]), [item])
    assert found["scores"]["overall"] == 75 and found["of"] == {"overall": 2} and found["right"] is False


def test_judged_reports_are_compared(run, script, imgedit):
    """By the rubric's numbers and means; not where words or judges differ."""
    others = [png(200 + place) for place in range(4)]
    rules = [(hashlib.sha256(each).hexdigest(), three(1 if each == others[1] else 3)) for each in others]
    judge = script(*rules, ("*", three(4)))
    run(judge, out=imgedit / "a")
    for place, each in enumerate(others):
        (imgedit / "gen" / f"k{place}.png").write_bytes(each)
    run(judge, out=imgedit / "b")
    facts = evaluate(reports=[str(imgedit / "a"), str(imgedit / "b")], out=imgedit / "both")
    metrics = facts["views"][""]["metrics"]
    values = {name: each["values"]["b"]["value"] for name, each in metrics.items()}
    assert values == pytest.approx(
        {"following_mean": 7 / 3, "overall_macro": 25 / 9, "overall_micro": 17 / 6}, abs=1e-9
    )
    assert metrics["overall_micro"]["better"] == "higher" and facts["views"][""]["clusters"] == 4
    assert facts["protocol"].startswith("imgedit/1 own wording#") and "scripted" in facts["protocol"]
    assert len(Page((imgedit / "both" / "report.html").read_text()).all("article")) == 4
    run(script(("*", three(4))), out=imgedit / "c")
    with pytest.raises(DataError, match="differ in judge"):
        evaluate(reports=[str(imgedit / "a"), str(imgedit / "c")], out=imgedit / "neither")


def test_noise_is_told_of_repeats(run, script, imgedit):
    facts = run(script(("remove", [three(1), three(3)]), ("*", three(4))), judge_controls=0, judge_repeats=2)
    found = facts["noise"]
    assert found["repeats"] == 2
    # Of four items one has the scores 1 and 3: variance 2, mean over items 0.5.
    assert found["scores"]["following"] == {"deviation": pytest.approx(0.5**0.5), "far_apart": 0.25, "n": 4}
    assert found["numbers"]["overall_micro"]["values"] == pytest.approx(
        [(3 * 10 / 3 + 7 / 3) / 4, (3 * 10 / 3 + 3) / 4]
    )
    assert facts["rows"]["outputs"]["numbers"]["following_mean"] == pytest.approx((4 + 2 + 4) / 3)
    assert (
        "deviation within an item following 0.71 (25% of items"
        in (imgedit / "report" / "report.md").read_text()
    )


def test_no_answer_is_asked_for_twice(run, script, imgedit):
    judge = script(("*", three(4)))
    first = run(judge)
    again = run(judge)
    assert first["new_answers"] > 4 and again["new_answers"] == 0
    for facts in (first, again):
        facts.pop("seconds"), facts.pop("new_answers")
    assert first == again
    assert (imgedit / "report.answers.jsonl").is_file()


def test_a_budget_ends_a_run_which_goes_on_from_there(run, script, imgedit):
    judge = script(("*", three(4)))
    with pytest.raises(ConfigError, match=r"budget of 3 new answers is used up.*report.answers.jsonl"):
        run(judge, judge_budget=3)
    assert not (imgedit / "report").exists()
    assert len((imgedit / "report.answers.jsonl").read_text().splitlines()) == 3
    assert run(judge, judge_controls=0)["new_answers"] == 1


def test_a_recorded_result_is_reproduced_or_refused(run, script, imgedit):
    first = run(script(("*", three(4))), judge_answers=imgedit / "kept.jsonl")
    again = run(f"replay:{imgedit / 'kept.jsonl'}", out=imgedit / "again")
    assert again["rows"] == first["rows"] and again["judge"] == first["judge"]
    (imgedit / "gen" / "k1.png").write_bytes((imgedit / "gen" / "k0.png").read_bytes())
    with pytest.raises(DataError, match=r"kept.jsonl has no answer to question [0-9a-f]{12}"):
        run(f"replay:{imgedit / 'kept.jsonl'}", out=imgedit / "again")


def test_the_cache_is_of_what_was_shown(run, script):
    """Other numbers from the same answers cost nothing; another picture does."""
    judge = script(("*", three(4)))
    run(judge, judge_controls=0)
    assert run(judge, judge_controls=0, judge_repeats=2)["new_answers"] == 4


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"judge": ""}, "needs a judge: give --judge"),
        ({"model": "_ckpt/tiny"}, "say --model pictures:DIR"),
        ({"data": None}, "needs its published data"),
        ({"seed": 3}, "seed has no place here"),
        ({"clip": "x"}, "clip has no place here"),
        ({"judge": "gpt-4.1"}, "no judge of the kind 'gpt-4.1'"),
        ({"judge_key_env": "X"}, "--judge_key_env is for endpoints"),
        ({"judge_model": "X"}, "--judge_model is for endpoints"),
        ({"suite": "toy", "data": None}, "there is nothing to judge in toy"),
        ({"judge_repeats": 0}, "judge_repeats=0: expected a whole number, at least 1"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_asked(run, script, imgedit, changes, says):
    judge = changes.pop("judge", None)
    with pytest.raises(ConfigError, match=says):
        run(script(("*", three(4))) if judge is None else judge, **changes)
    assert not (imgedit / "report.answers.jsonl").exists()


def test_one_output_that_is_missing_ends_it(run, script, imgedit):
    (imgedit / "gen" / "k2.png").unlink()
    with pytest.raises(DataError, match=r"lacks 1 of 4 outputs, such as k2.png: nothing is judged"):
        run(script(("*", three(4))))
    (imgedit / "gen" / "k2.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1 of 4 outputs are no pictures, such as .*k2.png: nothing is"):
        run(script(("*", three(4))))
    assert not (imgedit / "report.answers.jsonl").exists()


def test_gedit_from_the_command_line(tmp_path, capsys):
    write_gedit(tmp_path)
    judge = write_script(
        tmp_path / "script.json",
        ("before an edit", '{"score": [9, 4], "reasoning": "so"}'),
        ("*", '{"score": [9, 9], "reasoning": ""}'),
    )  # fmt: skip
    words = (
        f"evaluate --model pictures:{tmp_path}/gen --suite gedit --data {tmp_path}/data --out {tmp_path}/out"
    )
    code = main([*words.split(), "--judge", judge, "--judge_controls", "0", "--unpinned", "--json"])
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert code == 0 and facts["rows"]["outputs"]["n"] == 3
    for name in ("report.md", "report.html"):
        told = (tmp_path / "out" / name).read_text()
        assert "Printed elsewhere, not measured here" in told and "UniWorld-V1" in told
    assert facts["rows"]["outputs"]["numbers"] == {"sc": 4, "pq": 9, "overall": 6}
    assert facts["shared_outputs"] == ["fullset/subject-remove/en/g1.png"]


def test_gedit_as_its_program_counts_draws_numbers_and_says_so(tmp_path):
    """An answer without braces is drawn from the second time on, in which the other question is put again,
    too; one with braces that mean nothing is asked for ten times."""
    write_gedit(tmp_path)
    asked = {
        "model": f"pictures:{tmp_path / 'gen'}", "suite": "gedit@script", "data": tmp_path / "data",
        "unpinned": True, "judge_controls": 0,
    }  # fmt: skip

    def told(name, follows, quality):
        judge = write_script(tmp_path / name, ("before an edit", follows), ("*", quality))
        return evaluate(**asked, judge=judge, out=tmp_path / f"{name}-out")

    good = '{"score": [12, 9, 11]}'
    read = told("read", good, good)
    assert read["rows"]["outputs"]["numbers"] == {"sc": 9, "pq": 9, "overall": 9}
    assert read["counted"] == {"answers": 6, "asked_again": 0} and read["new_answers"] == 5  # two share one
    drawn = told("drawn", [good, "4"], "no idea")
    numbers = drawn["rows"]["outputs"]["numbers"]
    assert drawn["counted"] == {"answers": 6, "guessed": 6, "asked_again": 6}  # of 4, too: it has no braces
    assert (
        numbers == told("drawn", [good, "4"], "no idea")["rows"]["outputs"]["numbers"] and numbers["sc"] != 4
    )
    page = (tmp_path / "drawn-out" / "report.md").read_text()
    assert "Of 6 answers 6 could not be read and count as numbers drawn at random" in page
    never = told("never", good, '{"nothing": 1}')
    assert never["counted"] == {"answers": 6, "unreadable": 3, "asked_again": 6}
    assert never["new_answers"] == 50 and never["rows"]["outputs"]["numbers"]["overall"] is None
    assert never["rubric"].startswith("gedit@script/1 ")
