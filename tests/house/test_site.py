"""The site: every page is in it, it is built without a warning, and loads nothing from elsewhere."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name

import pytest
import yaml

import mgie

ROOT = Path(__file__).parents[2]
BUILDS = all(find_spec(name) for name in ("mkdocs", "material", "mkdocstrings"))
NOT_LISTED = {"log.md"}
"""Pages for those who work on the program."""
ELSEWHERE = re.compile(r"^(?:https?:)?//")
LOADED = {
    "script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "video": "src",
    "audio": "src", "embed": "src", "object": "data", "use": "href",
}  # fmt: skip
"""What a browser loads by itself, by tag."""


class Loads(HTMLParser):
    """Addresses of other hosts that a page loads."""

    def __init__(self, page: Path):
        super().__init__()
        self.found: list[str] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """One tag."""
        self.found += [
            f"{tag} {value}"
            for name, value in attrs
            if name == LOADED.get(tag) and ELSEWHERE.match(value or "")
        ]


def settings() -> dict:
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def listed(nav: list | dict | str) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for entry in (nav.values() if isinstance(nav, dict) else nav) for page in listed(entry)]


def objects() -> list[str]:
    """What the page of the API shows."""
    return re.findall(r"^::: ([\w.]+)$", (ROOT / "docs" / "api.md").read_text(), flags=re.MULTILINE)


def test_every_page_is_listed():
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - NOT_LISTED
    assert set(listed(settings()["nav"])) == pages | {"index.md"}


def test_the_page_of_the_api_has_all_public_names_and_doors():
    shown = [name.rpartition(".")[2] for name in objects()]
    assert set(mgie.__all__) <= set(shown)
    doors = re.findall(r"\((Abstract\w+)\)", (ROOT / "docs" / "extending.md").read_text())
    assert len(doors) >= 5 and set(doors) <= set(shown)
    for name in objects():
        place = name if name.endswith("errors") else ":".join(name.rsplit(".", 1))
        assert resolve_name(place).__doc__, name


def test_nothing_is_asked_for_that_a_browser_would_fetch():
    """Material fetches fonts, a repository's stars and mermaid from other hosts where it is told to."""
    said = settings()
    assert said["theme"]["font"] is False
    assert not {"repo_url", "extra_javascript"} & set(said)
    assert not [page for page in (ROOT / "docs").glob("*.md") if "```mermaid" in page.read_text()]


@pytest.mark.skipif(not BUILDS, reason="needs the extra `docs`: pip install 'mgie[docs]'")
def test_it_is_built_and_loads_nothing_from_elsewhere(tmp_path):
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page in listed(settings()["nav"]):
        assert (tmp_path / page).with_suffix(".html").is_file(), page
    assert not {page: loads for page in tmp_path.rglob("*.html") if (loads := Loads(page).found)}
    styles = " ".join(path.read_text() for path in tmp_path.rglob("*.css"))
    assert not re.findall(r"(?:url\(|@import\s+)[\"']?(?:https?:)?//[^)\"']*", styles)
    shown = (tmp_path / "api.html").read_text()
    assert not [name for name in objects() if f'id="{name}"' not in shown]
    assert "said the edit would look like" in shown, "docstrings of fields"
    assert "Where everything is" not in (tmp_path / "index.html").read_text()
