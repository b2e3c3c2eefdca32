"""Finished reports for tests, of systems that are right where a test says so; how pages are read."""

import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from PIL import Image

from mgie.evaluation.report import Item, write_report

HOSTILE = "<script>alert(1)</script> \"'><img src=x onerror=alert(2)> & \u2028 ]]> <!-- \\ `"
"""Words that would do harm on a page that took them for its own."""


def picture(number: int, side: int = 8) -> Image.Image:
    """One colour for each number."""
    return Image.new("RGB", (side, side), (number % 256, 31 * number % 256, 127))


def item(number: int, *, right: bool | None = True, **changes: Any) -> Item:
    """An item whose output is its target, or its source where it is wrong."""
    source, target = picture(number), picture(number + 100)
    far = 0.1 + number / 100
    facts = {
        "key": f"k{number:02d}", "kind": ("add", "remove")[number % 2], "instruction": f"edit {number}",
        "expected": f"it is {number}", "said": f"it is {number}" if right else "it was", "forced": False,
        "source": source, "output": source if right is False else target, "target": target, "right": right,
        "why": "as asked" if right else "nothing changed",
        "scores": {"l1": far if right is False else 0.0, "copy_l1": far},
    }  # fmt: skip
    return Item(**(facts | changes))


def write_run(folder: Path, items: Sequence[Item], **facts: Any) -> Path:
    """A report of these items."""
    told = {
        "model": f"_ckpt/{folder.name}",
        "suite": "toy",
        "seed": 1,
        "n": len(items),
        "by_kind": {},
    } | facts
    folder.mkdir(parents=True)
    write_report(folder, told, items)
    return folder


def write_published_run(folder: Path, rows: Sequence[dict[str, Any]], **facts: Any) -> Path:
    """A report of a published protocol with these rows."""
    told = {"model": "pictures:x", "suite": "magicbrush", "protocol": "magicbrush/1#0"} | facts
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(told))
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


EMPTY = {"meta", "img", "input", "rect", "circle", "path", "polyline", "br"}
"""Tags of pages and plots that nothing stands in."""


class Page(HTMLParser):
    """What a browser makes of a page: elements with their attributes, and the words in them."""

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == [], "a tag is not closed"

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), f"{tag} has an attribute twice"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        for tag in set(self.open[-1:]):
            self.words.setdefault(tag, []).append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def check(self, folder: Path) -> None:
        """No host, nothing acts but the page's own script, all files are there, all pictures have words."""
        for tag, attributes in self.elements:
            assert not [name for name in attributes if name.startswith("on")], f"{tag} acts by itself"
            for name in ("src", "href"):
                if attributes.get(name):
                    assert "/" not in attributes[name].removeprefix("pictures/"), attributes[name]
                    assert (folder / attributes[name]).is_file()
        policy = next(meta["content"] for meta in self.all("meta") if "http-equiv" in meta)
        assert policy.startswith("default-src 'none'") and "http" not in policy
        assert all(image.get("alt") for image in self.all("img"))
        assert self.all("html")[0]["lang"] == "en"
        assert any("width=device-width" in meta.get("content", "") for meta in self.all("meta"))
        ids = [attributes["id"] for _, attributes in self.elements if "id" in attributes]
        assert len(ids) == len(set(ids))
