"""What the site shows from outside docs/: the README comes first, links bring their files."""

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()([^)\s#:]+)")
TREE = re.compile(r"^## Where everything is$.*?(?=^## )", flags=re.DOTALL | re.MULTILINE)
"""The README's file tree, which is for those who read the repository."""
FIRST = {"README.md": "index.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the README, and whatever it and the pages link to outside docs/, and so on."""
    waiting = ["README.md", *(f"docs/{file.src_uri}" for file in files.documentation_pages())]
    for path in waiting:
        if not path.startswith("docs/"):
            files.append(File.generated(config, place(path), abs_src_path=str(ROOT / path)))
        if path.endswith(".md"):
            text = TREE.sub("", (ROOT / path).read_text(encoding="utf-8"))
            found = [goal(path, target) for target in LINK.findall(text)]
            waiting += [one for one in found if one and not one.startswith("docs/") and one not in waiting]
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Links of a file in the repository as links of its page."""
    here = page.file.src_uri
    outside = page.file.generated_by is not None
    path = next((path for path, uri in FIRST.items() if uri == here), here if outside else f"docs/{here}")

    def led(link: re.Match[str]) -> str:
        there = goal(path, link[1])
        return os.path.relpath(place(there), PurePosixPath(here).parent) if there else link[1]

    return LINK.sub(led, TREE.sub("", markdown))


def goal(path: str, target: str) -> str:
    """The file that a link of the file `path` leads to, from the repository's root; empty for none."""
    there = os.path.normpath(PurePosixPath(path).parent / target)
    return there if (ROOT / there).is_file() else ""


def place(path: str) -> str:
    """Where a file of the repository lies on the site."""
    return FIRST.get(path, path.removeprefix("docs/"))
