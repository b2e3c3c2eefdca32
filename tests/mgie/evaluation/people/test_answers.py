"""What raters answered becomes wins of systems, and raters who do not look become nothing."""

import json

import pytest

from mgie.errors import DataError
from mgie.evaluation.people.ab import ASKED, KEY
from mgie.evaluation.people.answers import Rater, judge_answers, matches_of, read_answers, read_key

PAIRS = 30


@pytest.fixture
def key(tmp_path):
    """Thirty pairs, sides in turn; three of them twice; two tasks that show who looks."""
    tasks = {
        f"p{n:02d}": {
            "key": ["", f"k{n}"],
            "cluster": f"c{n}",
            "left": n % 2,
            "right": 1 - n % 2,
            "sort": "pair",
        }
        for n in range(PAIRS)
    }
    for n in range(3):
        pair = tasks[f"p{n:02d}"]
        tasks[f"r{n}"] = pair | {"left": pair["right"], "right": pair["left"], "sort": "repeat"}
    tasks["a0"] = tasks["p00"] | {"left": "copy", "right": ["", "k5"], "sort": "attention"}
    tasks["a1"] = tasks["p01"] | {"left": ["", "k6"], "right": "copy", "sort": "attention"}
    told = {"page": "f" * 64, "systems": ["A", "<b>"], "seed": 1, "equal": 2, "tasks": tasks}
    (tmp_path / KEY).write_text(json.dumps(told))
    return read_key(tmp_path)


def file(folder, key, rater, choose, page=None, name=None):
    """A rater's file; `choose` says of each task, by its name and its facts, whom the rater means: 0, 1, a
    word, or None for no answer."""
    folder.mkdir(exist_ok=True)
    answers = []
    for task, facts in key["tasks"].items():
        for question in ASKED[key["questions"]]:
            meant = choose(task, facts)
            choice = meant if isinstance(meant, str) else "left" if facts["left"] == meant else "right"
            if facts["sort"] == "attention" and meant in (0, 1):
                choice = "left" if facts["left"] == "copy" else "right"
            if meant is not None:
                answers.append({"task": task, "question": question, "choice": choice, "ms": 100})
    path = folder / f"results-{name or rater}.json"
    path.write_text(json.dumps({"page": page or key["page"], "rater": rater, "answers": answers}))
    return path


def number(task):
    return int(task[1:])


def test_sides_are_mapped_back_to_systems(key, tmp_path):
    path = file(tmp_path / "r", key, "ann", lambda task, _: 0 if number(task) < 21 else 1)
    facts = judge_answers(key, read_answers(path, key)[0], seed=0, draws=500)
    for each in facts["questions"].values():
        assert (each["n"], each["items"], each["won"], each["lost"], each["tied"]) == (30, 30, 21, 9, 0)
        rate = each["win_rate"]
        assert rate["value"] == 0.7 and 0.5 < rate["low"] < 0.6 and 0.8 < rate["high"] < 0.9
        assert "agreement" not in each
    ann = facts["raters"]["ann"]
    assert (ann["attention"], ann["consistent"], ann["counts"]) == (1, 1, True)
    assert (ann["left"], ann["right"]) == (51, 48) and ann["side_p"] > 0.5


def test_ties_and_both_bad_are_half_a_win(key, tmp_path):
    def choose(task, facts):
        return 0 if facts["sort"] == "attention" else ("tie", "bad", 0)[number(task) % 3]

    path = file(tmp_path / "r", key, "ann", choose)
    each = judge_answers(key, read_answers(path, key)[0], seed=0, draws=100)["questions"]["looks"]
    assert (each["tied"], each["both_bad"], each["won"]) == (10, 10, 10)
    assert each["win_rate"]["value"] == pytest.approx(2 / 3)


def test_who_does_not_look_does_not_count(key, tmp_path):
    file(tmp_path / "r", key, "ann", lambda *_: 0)
    file(tmp_path / "r", key, "left", lambda *_: "left")
    facts = judge_answers(key, read_answers(tmp_path / "r", key)[0], seed=0, draws=100)
    left = facts["raters"]["left"]
    assert (left["attention"], left["counts"], left["consistent"]) == (0.5, False, 0)
    assert left["side_p"] < 1e-6 and left["right"] == 0
    assert facts["questions"]["keeps"]["won"] == facts["questions"]["keeps"]["n"] == PAIRS
    assert any("left failed the attention tasks" in warning for warning in facts["warnings"])
    assert any("2 items with equal outputs" in warning for warning in facts["warnings"])
    with pytest.raises(DataError, match="none of 1 raters"):
        judge_answers(key, read_answers(tmp_path / "r" / "results-left.json", key)[0], seed=0)


def test_raters_of_one_item_are_drawn_together(key, tmp_path):
    """Five raters who say the same know no more than one."""
    found = []
    for count in (1, 5):
        for place in range(count):
            file(tmp_path / f"{count}", key, f"r{place}", lambda task, _: 0 if number(task) < 21 else 1)
        raters = read_answers(tmp_path / f"{count}", key)[0]
        found.append(judge_answers(key, raters, seed=0, draws=500)["questions"]["looks"])
    assert found[1]["n"] == 5 * found[0]["n"]
    assert found[0]["win_rate"] == pytest.approx(found[1]["win_rate"]) and "agreement" not in found[0]
    assert found[1]["agreement"] == {"krippendorff": 1, "cohen": 1, "fleiss": 1}


def test_raters_who_disagree_by_chance(key, tmp_path):
    file(tmp_path / "r", key, "a", lambda task, _: number(task) % 2)
    file(tmp_path / "r", key, "b", lambda task, _: number(task) // 2 % 2)
    agreed = judge_answers(key, read_answers(tmp_path / "r", key)[0], seed=0, draws=50)["questions"]["looks"][
        "agreement"
    ]
    assert all(abs(value) < 0.1 for value in agreed.values())


def test_half_a_file_counts_as_far_as_it_goes(key, tmp_path):
    path = file(tmp_path / "r", key, "ann", lambda task, _: 0 if task < "p10" and task > "b" else None)
    facts = judge_answers(key, read_answers(path, key)[0], seed=0, draws=50)
    assert facts["questions"]["looks"]["n"] == 10
    assert facts["raters"]["ann"]["attention"] is None and facts["raters"]["ann"]["consistent"] is None


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"page": "0" * 64}, "answered on another page"),
        ({"answers": [{"task": "zz", "question": "looks", "choice": "left"}]}, "of task 'zz': expected"),
        ({"answers": [{"task": "p00", "question": "x", "choice": "left"}]}, "answers 'left' to 'x'"),
        ({"answers": [{"task": "p00", "question": "looks", "choice": "up"}]}, "answers 'up'"),
        ({"answers": [{"task": "p00", "question": "looks", "choice": "tie"}] * 2}, "'p00' twice"),
        ({"answers": 3}, "cannot be read"),
    ],
)
def test_what_was_not_asked_is_refused(key, tmp_path, changes, says):
    path = file(tmp_path / "r", key, "ann", lambda *_: 0)
    change(path, **changes)
    with pytest.raises(DataError, match=says):
        read_answers(path, key)


def test_nobody_answers_twice(key, tmp_path):
    for name in ("1", "2"):
        file(tmp_path / "r", key, "ann", lambda *_: 0, name=name)
    with pytest.raises(DataError, match="both by 'ann'"):
        read_answers(tmp_path / "r", key)[0]
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"holds no \*\.json"):
        read_answers(tmp_path / "none", key)[0]


def test_what_is_no_key_is_told(tmp_path):
    with pytest.raises(DataError, match=r"has no key\.json"):
        read_key(tmp_path)
    (tmp_path / KEY).write_text("{}")
    with pytest.raises(DataError, match="cannot be read"):
        read_key(tmp_path)


def test_several_pages_make_one_order(key):
    """Both bad is a tie; repeats and who does not look count nowhere."""
    ann = Rater(
        name="ann", choices={("p00", "looks"): "left", ("p01", "looks"): "bad", ("r0", "looks"): "left"}
    )
    found = matches_of(key, [ann])
    assert [(m.first, m.second, m.outcome, m.cluster) for m in found] == [
        ("A", "<b>", "first", "c0"), ("A", "<b>", "tie", "c1")
    ]  # fmt: skip
    blind = Rater(name="bob", choices={("a0", "keeps"): "right", ("p00", "keeps"): "left"})
    assert not matches_of(key, [blind])


def test_each_page_has_its_own_raters(key, tmp_path):
    other = key | {"page": "e" * 64, "systems": ["A", "C"]}
    file(tmp_path / "r", key, "ann", lambda *_: 0)
    file(tmp_path / "r", other, "ann", lambda *_: 1, name="ann-2")
    first, second = read_answers(tmp_path / "r", key, other)
    assert [rater.name for rater in (*first, *second)] == ["ann", "ann"]
    with pytest.raises(DataError, match="was answered on another page"):
        read_answers(tmp_path / "r", key)


def test_other_questions_have_other_answers(key, tmp_path):
    """Whoever looks is seen by the question about the target; what is not asked is refused."""
    key["questions"] = "mgie"
    path = file(tmp_path / "r", key, "ann", lambda *_: 0)
    (raters,) = read_answers(path, key)
    found = judge_answers(key, raters, seed=1, draws=10)
    assert (
        list(found["questions"]) == ["follows", "target", "overall"]
        and found["raters"]["ann"]["attention"] == 1
    )
    key["questions"] = "own"
    with pytest.raises(DataError, match="'target' of task"):
        read_answers(path, key)


def test_a_key_of_questions_that_nobody_asks(key, tmp_path):
    told = json.dumps({**key, "questions": "others"})
    (tmp_path / KEY).write_text(told)
    with pytest.raises(DataError, match="questions 'others' that nobody asks"):
        read_key(tmp_path)
