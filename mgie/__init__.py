"""Instruction-based image editing: a story for each verb, and the parts of stories.

The public names are imported on first use, so that `import mgie` costs nothing:

    from mgie import MGIEPipeline
    pipeline = MGIEPipeline.from_pretrained("_ckpt/tiny")
    pipeline(image=picture, prompt="make it black and white").images[0]
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mgie.config import RunConfig as RunConfig
    from mgie.config import load_run as load_run
    from mgie.edit import edit as edit
    from mgie.evaluate import evaluate as evaluate
    from mgie.extract import extract as extract
    from mgie.personalize import personalize as personalize
    from mgie.pipeline import EditOutput as EditOutput
    from mgie.pipeline import MGIEPipeline as MGIEPipeline
    from mgie.prepare import prepare as prepare
    from mgie.train import train as train

_HOMES = {
    "EditOutput": "mgie.pipeline",
    "MGIEPipeline": "mgie.pipeline",
    "RunConfig": "mgie.config",
    "edit": "mgie.edit",
    "evaluate": "mgie.evaluate",
    "extract": "mgie.extract",
    "load_run": "mgie.config",
    "personalize": "mgie.personalize",
    "prepare": "mgie.prepare",
    "train": "mgie.train",
}

__all__ = [
    "EditOutput",
    "MGIEPipeline",
    "RunConfig",
    "edit",
    "evaluate",
    "extract",
    "load_run",
    "personalize",
    "prepare",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mgie' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
