"""Systems side by side: both orders, verdicts that disagree, one order of all systems, what cannot be."""

import json
from dataclasses import dataclass, field

import pytest
from judged_data import write_pairs

from mgie.errors import ConfigError, DataError
from mgie.evaluate import evaluate
from mgie.evaluation.judges.answers import Answers
from mgie.evaluation.judges.base import Answer
from mgie.evaluation.judges.data import Item
from mgie.evaluation.judges.pair_rubric import find_pair_rubric, pair_rubric_names, with_pair_prompts
from mgie.evaluation.judges.pairs import Decided, Duel, ask_of, decide, duels
from mgie.evaluation.judges.parsers import winner

SEEDS = {"one": 100, "two": 200, "three": 300}
COUNT = 4


@pytest.fixture
def world(tmp_path):
    """Four items in the published layout, and the pictures of three systems."""
    write_pairs(tmp_path, SEEDS, COUNT)
    return tmp_path


@dataclass
class Fond:
    """Likes the systems in an order, or a place; knows them by what it is shown."""

    order: tuple[str, ...] = ("three", "two", "one")
    place: str = ""
    garbled: str = ""
    """Question whose answers are none."""
    identity: dict = field(default_factory=lambda: {"kind": "test", "model": "fond"})
    label: str = "fond"
    together: int = 1
    steady: bool = False
    whose: dict = field(default_factory=dict)

    def answer(self, ask, key):  # noqa: ARG002
        words, *pictures = ask.parts
        if self.garbled and self.garbled in words:
            return Answer(text="hm")
        if self.place:
            return Answer(text=f'{{"winner": "Image {self.place}"}}')
        first, second = (self.order.index(self.whose[each.sha256]) for each in pictures[-2:])
        return Answer(text=json.dumps({"reason": "it is A", "winner": "A" if first < second else "b"}))


@pytest.fixture
def run(world, monkeypatch):
    """Takes who judges, which systems, and what is to be otherwise; gives the facts."""
    rubric, whose = find_pair_rubric("gedit_v2"), {}
    for name in SEEDS:
        for place in range(COUNT):
            key = f"add_{place:06d}"
            item = Item(key=key, kind="", sources=(world / "data" / "images" / f"{place}.png",), names=())
            alone = Duel(item=item, question="quality", first=name, second=name)
            asked = ask_of(rubric, alone, {name: {key: world / name / f"{key}.png"}})
            whose[asked.parts[1].sha256] = name

    def run(who=None, systems=SEEDS, **changes):
        who = who or Fond()
        who.whose = whose
        monkeypatch.setattr("mgie.evaluation.judges.pair_report.open_judge", lambda *_: who)
        monkeypatch.setattr("mgie.evaluation.judges.pair_report.DRAWS", 10)  # a thousand take a second
        given = {
            "suite": "gedit_v2", "data": world / "data", "out": world / "out", "judge": "local:x",
            "unpinned": True,
        }  # fmt: skip
        return evaluate(reports=[f"pictures:{world / name}" for name in systems], **(given | changes))

    return run


def test_systems_are_put_in_order(run, world, capsys):
    facts = run()
    assert list(facts["ranking"]) == ["all questions", "following", "quality", "consistency"]
    assert all(list(order) == ["three", "two", "one"] for order in facts["ranking"].values())
    assert facts["flips"] == 0 and facts["counted"] == {"pairs": 3 * 3 * COUNT, "unreadable": 0}
    assert facts["new_answers"] == 2 * 3 * 3 * COUNT
    assert {"question": "quality", "first": "one", "second": "two", "won": 0, "tied": 0, "lost": 4} in facts[
        "pairs"
    ]
    assert facts["rubric"].startswith("gedit_v2/1 own wording#") and "the data" in facts["unpinned"]
    told = json.loads((world / "out" / "pairs.json").read_text())
    assert told == {name: facts[name] for name in told}
    rows = [json.loads(line) for line in (world / "out" / "pairs.jsonl").read_text().splitlines()]
    assert (
        len(rows) == 36 and rows[0]["verdicts"] == ["second", "second"] and "it is A" in rows[0]["answers"][0]
    )
    for words in (capsys.readouterr().out, (world / "out" / "report.md").read_text()):
        assert "Order by all questions" in words and "In 0.0% of pairs the two orders disagree" in words
    assert "three" in (world / "out" / "report.html").read_text()


def test_who_likes_a_place_is_found_out(run, world):
    facts = run(Fond(place="A"))
    assert facts["flips"] == 1 and {each["tied"] for each in facts["pairs"]} == {4}
    assert all(each["elo"] == pytest.approx(1000) for each in facts["ranking"]["all questions"].values())
    assert "This judge is not usable here" in (world / "out" / "report.md").read_text()
    official = run(Fond(place="A"), suite="gedit_v2@official", out=world / "official")
    assert "one order: how much" in (world / "official" / "report.md").read_text()
    assert "flips" not in official and {each["won"] for each in official["pairs"]} == {4}
    assert official["new_answers"] == 3 * 3 * COUNT
    assert list(official["ranking"]["all questions"]) == ["one", "three", "two"]  # the names' order


def test_what_cannot_be_read_counts_for_nobody(run, world):
    nothing = run(Fond(garbled="A"), out=world / "nothing")
    assert nothing["ranking"] == {} and nothing["pairs"] == [] and "flips" not in nothing
    assert "one order" not in (world / "nothing" / "report.md").read_text()
    facts = run(Fond(garbled="looks better"))
    assert facts["counted"] == {"pairs": 36, "unreadable": 12} and facts["ranking"] == {}
    assert facts["new_answers"] == 2 * 24 + 2 * 12 * 3
    words = (world / "out" / "report.md").read_text()
    assert "12 have no verdict that could be read" in words and "No order is told" in words


def test_pictures_are_shown_in_both_orders_and_at_the_source_s_size(world):
    rubric = find_pair_rubric("gedit_v2")
    (item,) = (
        Item(
            key="k",
            kind="",
            sources=(world / "data" / "images" / "0.png",),
            names=(),
            facts={"instruction": "x"},
        ),
    )
    outputs = {name: {"k": world / name / "add_000000.png"} for name in ("one", "two")}
    asked = duels(rubric, [item], ["two", "one"])
    assert [(each.question, each.first, each.second) for each in asked] == [
        (question, "one", "two") for question in ("following", "quality", "consistency")
    ]
    plain, turned = (ask_of(rubric, asked[0], outputs, turned=turned).parts for turned in (False, True))
    assert plain[1:] == (turned[1], turned[3], turned[2]) and plain[0] == turned[0] and "\nx\n" in plain[0]
    assert {part.open().size for part in plain[1:]} == {(24, 18)}
    assert len(ask_of(rubric, asked[1], outputs).parts) == 3


def decided(*verdicts):
    item = Item(key="k", kind="", sources=(), names=())
    return Decided(duel=Duel(item=item, question="q", first="a", second="b"), verdicts=verdicts, texts=())


def test_verdicts_that_disagree_are_a_tie():
    assert decided("first", "first").outcome == "first" and decided("second").outcome == "second"
    assert decided("first", "second").outcome == decided("first", "tie").outcome == "tie"
    assert decided("first", None).outcome is None and decided("first", None).match() is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"reason": "B is worse", "winner": "Image A"}', "A"),
        ('so: {"winner": "tie"}', "TIE"),
        ('{"winner": "C"} A', None),
        ("I take B", "B"),
        ("a or b", None),
    ],
)
def test_winners(text, found):
    assert winner(text) == found


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"systems": ["one"]}, ConfigError, "side by side and pictures:.*one came: name two or more"),
        ({"systems": []}, ConfigError, "none came: name two or more"),
        ({"systems": ["one", "one"]}, ConfigError, "is named twice"),
        ({"judge": ""}, ConfigError, "needs a judge"),
        ({"data": None}, ConfigError, "needs its published data"),
        ({"model": "m"}, ConfigError, "model has no place here"),
        ({"judge_repeats": 3}, ConfigError, "judge_repeats has no place here"),
        ({"unpinned": False}, DataError, "holds 4 items and the published data of gedit_v2 1200"),
        ({"suite": "gedit_v3"}, ConfigError, "are pictures and no finished report.*judged by gedit_v2"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_asked(run, world, changes, error, says):
    with pytest.raises(error, match=says):
        run(**changes)
    assert not (world / "out").exists()


def test_one_output_that_is_missing_ends_it(run, world):
    (world / "two" / "add_000002.png").unlink()
    with pytest.raises(DataError, match=r"two lacks 1 of 4 outputs, such as add_000002.png"):
        run()


@pytest.mark.parametrize(
    "line", ["{", '{"key": "a"}', '{"key": "../a", "instruction": "", "source_image": "x"}']
)
def test_damaged_data_are_named(run, world, line):
    with (world / "data" / "metadata.jsonl").open("a") as file:
        file.write(line)
    with pytest.raises(DataError, match=r"metadata.jsonl, line 5|'../a'"):
        run()


def test_prompts_of_one_s_own(tmp_path):
    (tmp_path / "p.json").write_text(
        json.dumps({"following": "<instruction>?", "quality": "q", "consistency": "c"})
    )
    rubric = with_pair_prompts(find_pair_rubric("gedit_v2"), tmp_path / "p.json")
    assert rubric.words("following", {"instruction": "x"}) == "x?" and "wording " in rubric.identity
    (tmp_path / "p.json").write_text('{"following": "x"}')
    with pytest.raises(ConfigError, match="lacks the prompt quality"):
        with_pair_prompts(rubric, tmp_path / "p.json")


PINNED = {
    "gedit_v2": "gedit_v2/1 own wording#23d7eab9",
    "gedit_v2@official": "gedit_v2@official/1 own wording#9c79e97e",
}
"""Name -> identity. A number that somebody has printed stands beside it: raise `version` with the hash."""


def test_hashes_of_shipped_rubrics():
    assert {name: find_pair_rubric(name).identity for name in pair_rubric_names()} == PINNED


def test_several_at_once_are_as_one_after_the_other(world):
    rubric = find_pair_rubric("gedit_v2")
    items = [Item(key="k", kind="", sources=(world / "data" / "images" / "0.png",), names=())]
    outputs = {name: {"k": world / name / "add_000000.png"} for name in SEEDS}
    asked = duels(rubric, items, list(SEEDS))
    one, several = (
        [
            each.outcome
            for each in decide(rubric, Fond(place="B", together=n), Answers(path=None), asked, outputs)
        ]
        for n in (1, 4)
    )
    assert one == several == ["tie"] * 9
