"""What people answered is told, beside what the numbers say of the same systems."""

import json

from mgie.evaluation.comparing.ranking import Match, rank
from mgie.evaluation.people.ab import QUESTIONS
from mgie.evaluation.people.outcome import ANSWERS, as_text, read_numbers, write_outcome

QUESTION = {"n": 3, "items": 2, "won": 2, "tied": 0, "both_bad": 0, "lost": 1}
PAGE = {
    "systems": ["A", "<b>"], "equal": 0, "warnings": ["1 items with equal outputs were not asked about"],
    "questions": {
        "keeps": QUESTION | {"win_rate": {"value": 2 / 3, "low": 0.5, "high": 0.75}, "detectable": 0.1}
    },
    "raters": {
        "a|b": {"answers": 3, "attention": 1.0, "counts": True, "consistent": None, "left": 2, "right": 1,
                "side_p": 0.5}
    },
}  # fmt: skip
FACTS = {"pages": [PAGE], "seed": 0, "draws": 50}


def test_all_forms_are_written(tmp_path):
    write_outcome(tmp_path, FACTS, {})
    assert json.loads((tmp_path / ANSWERS).read_text()) == FACTS
    page, html = ((tmp_path / name).read_text() for name in ("report.md", "report.html"))
    for told in (page, html):
        assert "<b>" not in told and QUESTIONS["keeps"] in told and "66.7% (50.0% to 75.0%)" in told
        assert "1 items with equal outputs" in told
    assert "a\\|b" in page and "https://" not in html.replace("http://www.w3.org", "")


def test_several_pages_end_in_an_order(tmp_path):
    matches = [Match(first="A", second="<b>", outcome="first", cluster=str(n)) for n in range(5)]
    facts = FACTS | {"ranking": {"all questions": rank(matches, seed=0), "keeps": rank(matches, seed=0)}}
    write_outcome(tmp_path, facts, {})
    text = as_text(facts)
    assert "Order by all questions" in text and f"Order by {QUESTIONS['keeps']}" in text
    assert "Davidson" in text and "Davidson" in (tmp_path / "report.html").read_text()


def test_the_numbers_of_the_comparison_stand_beside(tmp_path):
    assert read_numbers(tmp_path) is None
    (tmp_path / "compare.json").write_text("{}")
    assert read_numbers(tmp_path) is None
