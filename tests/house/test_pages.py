"""What README and docs promise: files that exist, commands that run."""

import re
import shlex
from pathlib import Path

import pytest

from mgie.cli import arguments, main
from mgie.verbs import VERBS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def tree() -> dict[str, str]:
    """Path -> clause, as the README's file tree tells it. Indentation is by two; folders end in a slash."""
    found, folders = {}, []
    text = next(block for block in blocks(ROOT / "README.md", "text") if "llava_patch/" in block)
    for line in text.splitlines():
        if not line.strip():
            continue
        indent, rest = divmod(len(line) - len(line.lstrip()), 2)[0], line.strip()
        name, _, clause = rest.partition("  ")
        folders = [*folders[:indent], name]
        assert not clause or clause.strip(), line
        found["".join(folders)] = clause.strip()
    return found


def test_each_listed_file_exists():
    missing = [path for path in tree() if not (ROOT / path).exists()]
    assert not missing


def test_each_listed_file_has_a_clause():
    assert not [path for path, clause in tree().items() if not clause]


def test_each_module_is_listed(packages):
    listed = tree()
    modules = [
        module.path
        for module in packages
        if not module.path.endswith("/__init__.py") or module.path.count("/") == 1
    ]
    assert not [path for path in modules if path not in listed]


@pytest.mark.parametrize("folder", ["scripts", "docs", "notebooks", "benchmarks"])
def test_each_page_script_and_notebook_is_listed(folder):
    listed = tree()
    files = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".sh", ".md", ".ipynb", ".py"} and ".ipynb_checkpoints" not in path.parts
    ]
    assert not [path for path in files if path not in listed and not path.startswith("benchmarks/reports/")]


def commands() -> list[tuple[str, str]]:
    """(page, command): every `mgie ...` in the shell blocks; lines that end in a backslash are joined."""
    found = []
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                words = line.split("#")[0].strip()
                words = re.sub(r"^torchrun .*?-m mgie ", "mgie ", words)
                words = re.sub(r"^python3? -m mgie ", "mgie ", words)
                if words.startswith("mgie "):
                    found.append((page.name, words))
    return found


@pytest.mark.parametrize(("page", "command"), commands())
def test_commands_run(page, command, capsys):
    words = shlex.split(command)[1:]
    if words[0] == "train":
        assert main([*words, "--dry_run"]) == 0, (page, capsys.readouterr().err)
    else:
        name = next(name for name in (" ".join(words[:2]), words[0]) if name in VERBS)
        words = [word for word in words[len(name.split()) :] if word not in ("--json", "--debug")]
        arguments(name, words)  # raises where the page is wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_two_commands_are_there():
    text = (ROOT / "README.md").read_text()
    for script in ("scripts/quickstart.sh", "scripts/test.sh"):
        assert script in text
        assert (ROOT / script).stat().st_mode & 0o100, f"{script} cannot be executed"


def test_the_changelog_knows_this_version():
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert version
    assert f"## [{version[1]}]" in (ROOT / "CHANGELOG.md").read_text()
