"""What README and docs promise: files that exist, and what each is (commands: test_commands.py)."""

import ast
import re
from pathlib import Path

import pytest
from told_commands import PAGES, blocks

ROOT = Path(__file__).parents[2]
FOLDERS = ("mgie", "llava_patch", "tests", "benchmarks", "scripts", "notebooks", "docs")
LONGEST = 90
"""Characters of a module's first sentence: it is a line of the README's tree."""


def listing() -> str:
    """The README's file tree."""
    return next(block for block in blocks(ROOT / "README.md", "text") if "llava_patch/" in block)


def tree() -> dict[str, str]:
    """Path -> clause, as the file tree tells it. Indentation is by two; folders end in a slash."""
    found, folders = {}, []
    for line in listing().splitlines():
        indent, rest = (len(line) - len(line.lstrip())) // 2, line.strip()
        name, _, clause = rest.partition("  ")
        folders = [*folders[:indent], name]
        found["".join(folders)] = clause.strip()
    return found


def opening(path: str) -> str:
    """The first sentence of a module, or of a package for its folder; it must end in the first line.

    Empty for what has none: other files, other folders, and an `__init__.py` that is listed in its folder.
    """
    file = ROOT / path / "__init__.py" if path.endswith("/") else ROOT / path
    if file.suffix != ".py" or not file.is_file() or path.endswith("/__init__.py"):
        return ""
    line = (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n")[0]
    sentence = re.match(r"(.+?[.?])(?= [A-Z`]|$)", line)
    assert sentence, f"{path} begins with {line!r}: let its first sentence end in this line"
    assert len(sentence[1]) <= LONGEST, f"{path} begins with {sentence[1]!r}: say it in {LONGEST} characters"
    return sentence[1]


def clause(path: str, now: str) -> str:
    """How a file begins, without capital and full stop; where it cannot say it, what the tree says `now`.

    A capital stays that is one in the tree too (Stable Diffusion), or not the word's only one (EditPair).
    """
    words = opening(path).removesuffix(".") or now
    first = words.split(" ")[0]
    return words if words == now or first[1:] != first[1:].lower() else words[:1].lower() + words[1:]


def to_be_listed(modules: list[str]) -> list[str]:
    """What the tree lists and is there, in its order; modules and folders that it lacks, last in theirs."""
    paths = [path for path in tree() if (ROOT / path).exists()]
    for module in modules:
        for path in (f"{module.rpartition('/')[0]}/", module):
            if path not in paths:
                folder = f"{path.rstrip('/').rpartition('/')[0]}/"
                last = max(place for place, other in enumerate(paths) if other.startswith(folder))
                paths.insert(last + 1, path)
    return paths


def test_the_tree_tells_how_each_file_begins(everything, request):
    """`make golden` writes it anew."""
    files = [module.path for module in everything if not module.path.startswith("tests/")]
    files = [path for path in files if not path.endswith("/__init__.py") or path.count("/") == 1]
    listed, text = tree(), ""
    for path in to_be_listed(files):
        *above, name = path.rstrip("/").split("/")
        slash = "/" if path.endswith("/") else ""
        text += f"{'  ' * len(above)}{name}{slash}  {clause(path, listed.get(path, ''))}\n"
    if request.config.getoption("--rewrite-golden"):
        page = ROOT / "README.md"
        page.write_text(page.read_text().replace(listing(), text))
    assert listing().splitlines() == text.splitlines(), "`make golden` writes the tree"


def test_each_listed_file_has_a_clause():
    assert not [path for path, clause in tree().items() if not clause]


@pytest.mark.parametrize("folder", ["scripts", "docs", "notebooks", "benchmarks"])
def test_each_page_script_and_notebook_is_listed(folder):
    listed = tree()
    files = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".sh", ".md", ".ipynb", ".py"} and ".ipynb_checkpoints" not in path.parts
    ]
    assert not [path for path in files if path not in listed]


def headings(page: Path) -> set[str]:
    """The anchors of a page, as links write them."""
    lines = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
        if "://" not in target:
            goal = page.parent / target if target else page
            assert goal.exists(), target
            assert not anchor or anchor in headings(goal), f"{target} has no heading #{anchor}"


def test_what_is_referred_to_is_there():
    """Files of the project, and numbered quirks of the original: in code, comments, pages and notebooks."""
    quirks = re.findall(r"\bQ\d+\b", (ROOT / "docs" / "coming-from-ml-mgie.md").read_text())
    path = re.compile(rf"(?<![\w/.:-])(?:{'|'.join(FOLDERS)})/[\w./-]*\.(?:py|md|sh|yaml|ipynb)\b")
    missing = []
    for file in [*PAGES, *(file for folder in FOLDERS for file in (ROOT / folder).rglob("*"))]:
        if file.suffix in {".py", ".md", ".sh", ".yaml", ".ipynb"}:
            text = file.read_text()
            missing += [f"{file}: {found}" for found in path.findall(text) if not (ROOT / found).exists()]
            missing += [f"{file}: {found}" for found in re.findall(r"\bQ\d+\b", text) if found not in quirks]
    assert not missing


def test_the_two_commands_are_there():
    text = (ROOT / "README.md").read_text()
    for script in ("scripts/quickstart.sh", "scripts/test.sh"):
        assert script in text
        assert (ROOT / script).stat().st_mode & 0o100, f"{script} cannot be executed"


def test_the_changelog_knows_this_version():
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert version
    assert f"## [{version[1]}]" in (ROOT / "CHANGELOG.md").read_text()
