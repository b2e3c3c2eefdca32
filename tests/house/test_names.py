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


MODELS = {"transformers", "diffusers", "accelerate", "peft"}
DATA = {"datasets", "pandas", "pyarrow"}
EXTRAS = {"sklearn", "skimage", "torchmetrics", "deepspeed", "tensorboard", "IPython", "matplotlib"}


@pytest.mark.parametrize(
    ("what", "others"),
    [
        ("mgie", {"torch"} | MODELS | DATA | EXTRAS),
        ("llava_patch", {"torch"} | MODELS | DATA | EXTRAS),
        ("mgie.cli", {"torch"} | MODELS | DATA | EXTRAS),
        ("mgie.plot", {"torch"} | MODELS | DATA | EXTRAS),
        ("mgie.edit", MODELS | DATA | EXTRAS),  # all that looks at a request before a model is wanted
        ("mgie.pipeline", DATA | EXTRAS),  # diffusers and transformers bring accelerate, scipy and peft
        ("mgie.prepare", MODELS | EXTRAS),
        ("mgie.evaluate", MODELS | DATA | EXTRAS),
    ],
)
def test_only_what_is_used_is_imported(what, others):
    """A verb's seconds before it begins are those of its imports; benchmarks/imports.md counts them."""
    code = f"import {what}, sys; sys.exit(' '.join({{*sys.modules}} & {others}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == ""


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_a_function_of_that_name(verb):
    story = resolve_name(VERBS[verb].story)
    assert inspect.isfunction(story) and inspect.getdoc(story)
    parameters = inspect.signature(story).parameters
    assert not {name.lstrip("-") for name in EVERY_VERB} & set(parameters)
    assert "progress" not in parameters or "progress" in LEFT_OUT
    assert VERBS[verb].example.startswith(f"mgie {verb}")
