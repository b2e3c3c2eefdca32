"""Rubrics are data: a changed byte of meaning is another rubric; whose words were used is in the name."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import pytest

from mgie.errors import ConfigError
from mgie.evaluation.judges.base import Encoding
from mgie.evaluation.judges.parsers import PARSERS
from mgie.evaluation.judges.rubric import Case, find_rubric, parse_rubric, rubric_names, with_prompts

PINNED = {
    "complex_edit": "complex_edit/1 own wording#0ef46df9",
    "complex_edit@syn": "complex_edit@syn/1 own wording#d6d9cd38",
    "gedit": "gedit/1 own wording#05864d43",
    "gedit@cn": "gedit@cn/1 own wording#0172bf07",
    "gedit@qwen72": "gedit@qwen72/1 own wording#2e2df41a",
    "gedit@script": "gedit@script/1 own wording#c3f970b4",
    "imgedit": "imgedit/1 own wording#2e2f8bec",
    "imgedit@script": "imgedit@script/1 own wording#7cdf2f3a",
    "kris": "kris/2 own wording#9f0201de",
    "kris@script": "kris@script/2 own wording#e92551c7",
    "rise": "rise/1 own wording#20020aa4",
    "rise@script": "rise@script/1 own wording#10a0f283",
}
"""Name -> identity. A number that somebody has printed stands beside it: raise `version` with the hash."""


def test_hashes_of_shipped_rubrics():
    assert {name: find_rubric(name).identity for name in rubric_names()} == PINNED


@pytest.mark.parametrize("name", rubric_names())
def test_every_shipped_rubric_asks_what_it_counts(name):
    rubric = find_rubric(name)
    asked = {score for cases in rubric.asks.values() for case in cases for score in case.scores}
    known = set(asked)
    for number, made in rubric.numbers.items():
        assert set(made.of) <= known
        known.add(number)
    assert rubric.following.number in rubric.numbers and rubric.following.low < rubric.following.high
    assert not rubric.system or rubric.system in rubric.prompts
    for cases in rubric.asks.values():
        for case in cases:
            assert case.parser in PARSERS and set(case.pictures) <= {"source", "output", "reference"}
            assert "reference" not in case.pictures or "reference_picture" in case.needs
            assert len({tuple(scale) for scale in case.scores.values()}) == 1
            if case.parser == "json_fields":
                text = "".join(rubric.prompts[each] for each in case.prompt)
                assert all(f'"{score}": N' in text for score in case.named)
    spoken = " ".join(rubric.prompts.values())
    holes = [hole for hole in rubric.fill if hole.startswith("<")]
    assert all(hole in spoken for hole in holes)


def test_own_words_are_not_the_published_ones():
    """By the hashes of those whose text is known."""
    rubric = find_rubric("gedit")
    for cases in rubric.asks.values():
        for case in cases:
            text = "\n".join(rubric.prompts[name] for name in case.prompt)
            assert hashlib.sha256(text.encode()).hexdigest() != case.published_sha256


def test_what_an_item_is_asked():
    rise = find_rubric("rise")

    def prompts(kind, *has):
        return {ask: case.prompt[0] for ask, case in rise.cases(kind, frozenset(has)).items()}

    assert prompts("temporal") == {
        "consistency": "consist",
        "reasoning": "reasoning",
        "plausibility": "generation",
    }
    assert prompts("causal", "reasoning_img", "consistency_free") == {
        "reasoning": "reasoning_w_input", "plausibility": "generation"
    }  # fmt: skip
    assert prompts("spatial", "reference_picture")["reasoning"] == "spatial_ref_img"
    assert prompts("logical", "reference_txt", "reference_picture") == {
        "consistency": "logical_cons_ans", "reasoning": "logical_txt"
    }  # fmt: skip
    assert prompts("logical", "reference_picture", "reasoning_wo_ins")["reasoning"] == "logical_img_wo_q"
    kris = find_rubric("kris")
    assert set(kris.cases("physics", frozenset())["following"].scores) == {"following", "knowledge"}
    assert set(kris.cases("color_change", frozenset())["following"].scores) == {"following"}


def test_what_is_put_in_is_not_looked_at_again():
    rubric = find_rubric("rise")
    facts = {"instruction": "write <reference> {instruct}", "reference": "R"}
    text = rubric.words(rubric.asks["reasoning"][1], "temporal", facts)
    assert "write <reference> {instruct}" in text and "It should show: R" in text


def said(**changes):
    case = {"prompt": ["p"], "pictures": ["output"], "scores": {"a": [1, 5]}, "parser": "final_score"}
    whole = {
        "name": "mine", "version": 1, "about": "", "layout": "rise", "subset": "", "outputs": ["{key}.png"],
        "judges": [], "prompts": {"p": "words"}, "fill": {}, "asks": {"a": [case]},
        "numbers": {"n": {"rule": "mean", "of": ["a"]}}, "following": {"number": "n", "low": 1, "high": 5},
    }  # fmt: skip
    return whole | changes


def test_the_hash_is_of_what_is_said():
    mine = parse_rubric(said(), "mine")
    assert parse_rubric(dict(reversed(said().items())), "mine").sha256 == mine.sha256
    assert parse_rubric(said(about="other"), "mine").sha256 == mine.sha256
    for change in (
        {"prompts": {"p": "word"}},
        {"encoding": {"form": "jpeg"}},
        {"repeats": 2},
        {"version": 2},
    ):
        assert parse_rubric(said(**change), "mine").sha256 != mine.sha256
    assert mine.encoding == Encoding() and isinstance(mine.asks["a"][0], Case)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ask": {}}, "mine has 'ask'.*did you mean asks"),
        ({"asks": {"a": [{"prompts": ["p"]}]}}, "asks.a has 'prompts'.*did you mean prompt"),
        ({"following": {"number": "n"}}, "following is not whole"),
        ({"prompts": {}}, "mine has no prompt p"),
    ],
)
def test_what_nothing_reads_is_refused(changes, says):
    with pytest.raises(ConfigError, match=says):
        parse_rubric(said(**changes), "mine")


def test_what_is_unknown_is_told_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean gedit"):
        find_rubric("g-edit")


def test_a_rubric_is_read_without_torch():
    code = "import mgie.evaluation.judges.rubric as r, sys; r.find_rubric('rise'); "
    code += "sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# The user's prompts.


def test_a_folder_of_texts(tmp_path):
    for name in ("context_no_delimit", "two_image_edit_rule", "tie_rule_SC", "rule_PQ"):
        (tmp_path / f"{name}.txt").write_text(f"{name} <instruction>")
    rubric = with_prompts(find_rubric("gedit"), tmp_path, frozenset({"style_change"}))
    assert rubric.identity.startswith("gedit/1 wording ") and rubric.sha256 != find_rubric("gedit").sha256
    words = rubric.words(rubric.asks["follows"][0], "style_change", {"instruction": "go"})
    assert words == "context_no_delimit go\ntwo_image_edit_rule go\ntie_rule_SC go"


def test_published_words_are_known_by_their_hashes(tmp_path):
    """By a rubric whose published words are known here."""
    rubric = find_rubric("gedit")
    texts = {"context_no_delimit": "C", "two_image_edit_rule": "T", "tie_rule_SC": "S", "rule_PQ": "Q"}
    (tmp_path / "p.json").write_text(json.dumps(texts))
    hashes = {
        "follows": hashlib.sha256(b"C\nT\nS").hexdigest(),
        "quality": hashlib.sha256(b"C\nQ").hexdigest(),
    }
    asks = {
        ask: tuple(replace(case, published_sha256=hashes[ask]) for case in cases)
        for ask, cases in rubric.asks.items()
    }
    known = with_prompts(replace(rubric, asks=asks), tmp_path / "p.json", frozenset())
    assert known.identity.startswith("gedit/1 published wording#")
    whole = replace(
        rubric, published_file=hashlib.sha256((tmp_path / "p.json").read_bytes()).hexdigest()[:16]
    )
    assert with_prompts(whole, tmp_path / "p.json", frozenset()).wording == "published wording"


def test_texts_in_a_python_file_are_taken_and_nothing_is_run(tmp_path):
    rise = find_rubric("rise")
    names = [name for cases in rise.asks.values() for case in cases for name in case.prompt]
    lines = [f'prompt_{name} = """{name}: {{instruct}}"""' for name in names]
    program = "\n".join(["import os", f"open({str(tmp_path / 'ran')!r}, 'w')", "n = 3 + 4", *lines])
    (tmp_path / "utils.py").write_text(program)
    rubric = with_prompts(rise, tmp_path / "utils.py", frozenset({"temporal"}))
    assert rubric.words(rubric.asks["reasoning"][1], "temporal", {"instruction": "go"}) == "reasoning: go"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("p.json", "{", "cannot be read as prompts"),
        ("p.json", '{"rule_PQ": "x"}', "lacks 3 prompts, such as context_no_delimit"),
        ("p.json", '{"rule_PQ": 3}', "'rule_PQ' is no name with a text"),
        ("p.yaml", "a: [", "cannot be read as prompts"),
        ("p.yaml", "", "cannot be read as prompts"),
        ("p.py", "def f(:", "cannot be read as prompts"),
        ("p.py", "x = 3", "no text is in it"),
        (None, "", "cannot be read as prompts"),
    ],
)
def test_prompts_that_are_none(tmp_path, file, text, says):
    if file:
        (tmp_path / file).write_text(text)
    with pytest.raises(ConfigError, match=says):
        with_prompts(find_rubric("gedit"), tmp_path / (file or "none"), frozenset({"style_change"}))


def test_what_others_printed_has_a_figure_for_each_column_and_plays_no_part():
    """Also beside what counts as their program does; not beside another language or judge."""
    known = {name: find_rubric(name) for name in rubric_names()}
    printed = {name: each.printed for name, each in known.items() if each.printed}
    of_all = {"gedit", "imgedit", "kris", "rise"}
    assert set(printed) == of_all | {f"{name}@script" for name in of_all}
    for name, told in printed.items():
        assert set(told.columns) <= set(known[name].numbers) and set(told.figures) == {"all"} and told.source
        assert {len(row) for row in told.figures["all"].values()} == {len(told.columns)}
        assert replace(known[name], printed=None).identity == known[name].identity
