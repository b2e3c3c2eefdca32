"""The Python of the pages: it parses, what it imports is there, what it calls takes these arguments."""

import ast
import inspect
import re
from importlib import import_module
from importlib.util import find_spec

import pytest
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix import (
    StableDiffusionInstructPix2PixPipeline,
)
from told_commands import PAGES, ROOT, blocks

from mgie import MGIEPipeline

CALLED = {
    "pipeline": MGIEPipeline.__call__, "pipeline.imagine": MGIEPipeline.imagine,
    "pipeline.paint": MGIEPipeline.paint, "pipeline.load_subjects": MGIEPipeline.load_subjects,
    "MGIEPipeline.from_pretrained": MGIEPipeline.from_pretrained,
}  # fmt: skip
"""Calls as pages write them, and what is called."""
EXTRA = {"gradio_client"}
"""Packages that a snippet may need besides ours; it is run in tests/mgie/web/test_page.py."""
SNIPPETS = [(page.name, number, text) for page in PAGES for number, text in enumerate(blocks(page, "python"))]


@pytest.mark.parametrize(("page", "number", "text"), SNIPPETS, ids=lambda part: str(part)[:20])
def test_it_is_python_of_ours(page, number, text):
    del page, number  # the test's name
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module in EXTRA and find_spec(node.module) is None:
                pytest.skip(f"needs {node.module}")
            module = import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
        if isinstance(node, ast.Call) and (story := CALLED.get(ast.unparse(node.func))):
            known = inspect.signature(story).parameters
            assert not [each.arg for each in node.keywords if each.arg not in known], ast.unparse(node)


def rows(page: str, heading: str) -> list[tuple[str, str]]:
    """The two cells of each row of the table below a heading."""
    text = (ROOT / "docs" / page).read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| (.*?) \| (.+) \|$", text, flags=re.MULTILINE)[2:]


def test_every_argument_of_diffusers_pipeline_has_a_row():
    theirs = inspect.signature(StableDiffusionInstructPix2PixPipeline.__call__).parameters
    ours = inspect.signature(MGIEPipeline.__call__).parameters
    told = rows("coming-from-diffusers.md", "Arguments of a call")
    named = re.findall(r"`(\w+)", " ".join(left for left, _ in told))
    assert set(theirs) - {"self", "kwargs"} <= set(named)
    same = [
        name for left, right in told if right.startswith("the same") for name in re.findall(r"`(\w+)", left)
    ]
    assert len(same) >= 8 and set(same) <= set(ours), "what is the same is an argument of ours"
