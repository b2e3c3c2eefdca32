"""The code as data: every module of the packages, parsed."""

import ast
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, kw_only=True)
class Module:
    """One Python file of the project."""

    path: str
    """From the project's folder, such as "mgie/toy/pairs.py"."""
    name: str
    """As it is imported, such as "mgie.toy.pairs"."""
    tree: ast.Module
    lines: int

    def imports(self) -> list[str]:
        """Every module or name that is imported, at the top or inside a function, in full."""
        found = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{self.path}:{node.lineno} imports relatively: write the whole name"
                found += [f"{node.module}.{alias.name}" for alias in node.names]
        return found

    def calls(self) -> list[tuple[str, ast.Call]]:
        """Every call, with what is called as it is written, such as "torch.load"."""
        return [(ast.unparse(node.func), node) for node in ast.walk(self.tree) if isinstance(node, ast.Call)]


def read(root: Path, folder: str) -> list[Module]:
    found = []
    for path in sorted((root / folder).rglob("*.py")):
        relative = path.relative_to(root)
        name = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        text = path.read_text()
        lines = text.count("\n")
        found.append(Module(path=relative.as_posix(), name=name, tree=ast.parse(text), lines=lines))
    return found


@pytest.fixture(scope="session")
def packages(root: Path) -> list[Module]:
    """The modules of llava_patch and mgie."""
    return read(root, "llava_patch") + read(root, "mgie")


@pytest.fixture(scope="session")
def everything(root: Path, packages: list[Module]) -> list[Module]:
    """All Python of the project."""
    others = [folder for folder in ("tests", "benchmarks") if (root / folder).is_dir()]
    return packages + [module for folder in others for module in read(root, folder)]
