"""What a user sees of the packages: public names, and how little `import mgie` costs."""

import ast
import inspect
import subprocess
import sys
from pkgutil import resolve_name

import pytest

import llava_patch
import mgie
from mgie.verbs import EVERY_VERB, LEFT_OUT, VERBS


@pytest.mark.parametrize("package", [mgie, llava_patch], ids=["mgie", "llava_patch"])
def test_public_names_are_there(package):
    names = dir(package)
    for name in package._HOMES:
        assert name in names
        value = getattr(package, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), f"{package.__name__}.{name} has no docstring"
    with pytest.raises(AttributeError, match="nonsense"):
        _ = package.nonsense


@pytest.mark.parametrize("package", [mgie, llava_patch], ids=["mgie", "llava_patch"])
def test_type_checkers_see_the_same_names(package):
    tree = ast.parse(inspect.getsource(package))
    seen = {
        alias.asname: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(package.__name__)
        for alias in node.names
    }
    homes = {
        name: home if home.startswith(package.__name__) else f"{package.__name__}.{home}"
        for name, home in package._HOMES.items()
    }
    assert seen == homes


def test_mgie_exports_what_it_lists():
    assert mgie.__all__ == sorted(mgie._HOMES)
    assert len(mgie.__all__) <= 14


@pytest.mark.parametrize("what", ["mgie", "llava_patch", "mgie.cli"])
def test_import_costs_nothing(what):
    code = f"import {what}, sys; sys.exit(str({{'torch', 'transformers', 'diffusers'}} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "set()"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_a_function_of_that_name(verb):
    story = resolve_name(VERBS[verb].story)
    assert inspect.isfunction(story) and inspect.getdoc(story)
    parameters = inspect.signature(story).parameters
    assert not {name.lstrip("-") for name in EVERY_VERB} & set(parameters)
    assert "progress" not in parameters or "progress" in LEFT_OUT
    assert VERBS[verb].example.startswith(f"mgie {verb}")
