"""The report says what happened, in every form."""

import json
import re
from html.parser import HTMLParser

from PIL import Image

from mgie.evaluation.report import Item, _wrapped, as_table, chosen, sheet, write_report

FACTS = {
    "model": "<tiny>",
    "suite": "toy",
    "seed": 1,
    "n": 3,
    "right": 2 / 3,
    "l1_ratio": 0.25,
    "by_kind": {
        "add": {"n": 2, "right": 0.5, "l1_ratio": None},
        "swap": {"n": 1, "right": 1.0, "l1_ratio": 0.1},
    },
}


def item(kind="add", **changes) -> Item:
    colours = {"source": "red", "output": "green", "target": "blue"}
    pictures = {name: Image.new("RGB", (16, 16), colour) for name, colour in colours.items()}
    texts = {
        "instruction": "make <b> bold",
        "expected": "it is bold",
        "said": "it is & was",
        "why": "0.2 off",
    }
    facts = {"key": "k", "kind": kind, "forced": False, "right": True}
    return Item(**(facts | pictures | texts | changes))


def test_the_table_has_a_row_for_each_kind_and_one_for_all():
    lines = as_table(FACTS).splitlines()
    assert len({len(line) for line in lines}) == 1
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["kind", "items", "judged right", "L1 / copy's L1"]
    assert cells[2:] == [
        ["add", "2", "50%", ""],
        ["swap", "1", "100%", "0.100"],
        ["all", "3", "67%", "0.250"],
    ]


HOSTILE = "a|b `c` <img src=x>\n# d \x1b[31m\\ [e](f) &lt;"


def test_no_name_of_a_kind_or_model_breaks_the_page(tmp_path):
    """Every name is one cell or one title, read as it was written; a kind may even be called `all`."""
    kinds = {HOSTILE: {"n": 1, "right": 1.0}, "all": {"n": 2, "right": 0.5}}
    facts = FACTS | {"model": HOSTILE + "\udcff", "by_kind": kinds}
    write_report(tmp_path, facts, [item(HOSTILE)])
    title, empty, *table = (tmp_path / "report.md").read_text().splitlines()
    read = "a|b `c` <img src=x> # d [31m\\ [e](f) &lt;"
    assert plain(title) == f"# {read} on toy: 3 items, seed 1" and not empty
    rows = [re.split(r"(?<!\\) \| ", line[2:-2]) for line in table]
    assert len(rows) == 5 and {len(row) for row in rows} == {4}
    assert [plain(row[0]).strip() for row in rows[2:]] == [read, "all", "all"]
    assert not re.search(r"(?<!\\)[`<]", title + "".join(table)) and "\x1b" not in "".join(table)
    assert json.loads((tmp_path / "results.json").read_text())["model"] == HOSTILE + "\udcff"
    page = (tmp_path / "report.html").read_text()
    assert "<td>a|b `c` &lt;img src=x&gt; # d [31m\\ [e](f) &amp;lt;</td><td>1</td>" in page
    assert page.count("<tr") == 4


def plain(markdown: str) -> str:
    """What a reader of Markdown sees: a backslash before punctuation goes away."""
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", markdown)


def test_a_warning_is_below_the_table_and_on_the_page(tmp_path):
    write_report(tmp_path, FACTS | {"warning": "3 < 20"}, [item()])
    assert as_table(FACTS | {"warning": "3 < 20"}).splitlines()[-2:] == ["", "Warning: 3 < 20"]
    assert (tmp_path / "report.md").read_text().endswith("|\n\nWarning: 3 < 20\n")
    assert "Warning: 3 &lt; 20" in (tmp_path / "report.html").read_text()
    assert "arning" not in as_table(FACTS)


def test_what_is_shown_is_chosen_by_place_and_has_every_kind():
    items = [item("add", key=f"{index}") for index in range(5)] + [item("swap", key="5", right=False)]
    assert [shown.key for shown in chosen(items, 3)] == ["0", "1", "5"]
    assert chosen(items, 9) == items


def test_the_sheet_shows_before_after_and_target_in_their_colours():
    page = sheet([item(), item(right=False), item(right=None)], "title", columns=2)
    colours = dict((colour, count) for count, colour in page.getcolors(1 << 20))
    for colour in ((255, 0, 0), (0, 128, 0), (0, 0, 255)):
        assert colours[colour] == 3 * 128 * 128
    red = [page.getpixel((x, 80)) for x in range(page.width)]
    assert red.index((255, 0, 0)) < red.index((0, 128, 0)) < red.index((0, 0, 255))
    assert sheet([], "nothing").height > 0


def test_long_texts_are_wrapped_and_pictures_of_any_shape_are_shown_whole():
    wide = Image.new("RGB", (300, 100), "red")
    page = sheet([item(instruction="word " * 200, said="w" * 500, source=wide)], columns=1)
    short = sheet([item()], columns=1)
    assert page.width == short.width and page.height <= short.height + 6 * 17
    colours = dict((colour, count) for count, colour in page.getcolors(1 << 20))
    assert abs(colours[(255, 0, 0)] - 128 * 43) < 3 * 128


def test_no_line_is_longer_than_the_place_it_has():
    class Fixed:
        def getlength(self, text):
            return len(text)

    assert _wrapped("one two three four", 8, Fixed()) == ["one two", "three", "four"]
    assert _wrapped("one two three four five", 8, Fixed(), most=2) == ["one two", "three …"]
    assert all(len(line) <= 8 for line in _wrapped("abcdefghijklmnop q", 8, Fixed()))
    assert _wrapped("", 8, Fixed()) == [""]


def test_the_page_escapes_what_models_and_users_say(tmp_path):
    write_report(tmp_path, FACTS, [item(), item("swap", key="2")])
    page = (tmp_path / "report.html").read_text()
    assert "make &lt;b&gt; bold" in page and "it is &amp; was" in page and "&lt;tiny&gt;" in page
    assert "<b>" not in page and "<tiny>" not in page

    class Pictures(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag == "img":
                assert (tmp_path / dict(attrs)["src"]).is_file()
                seen.append(tag)

    seen = []
    Pictures().feed(page)
    assert len(seen) == 6
