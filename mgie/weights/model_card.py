"""The model card of a release that has none."""

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

CARD = "README.md"
PLACE = "THIS_FOLDER"
"""Where a card names the place of its release."""
APART = re.compile(r"\nLow-rank adapters \([^`]*`adapters/\w+`, as peft writes them;[^.]*\.\n")
"""What `adapters_apart` says."""


def adapters_apart(folder: str, adapters: Sequence[nn.Parameter]) -> str:
    """What a card says of adapters that lie in a folder of their own."""
    count = sum(parameter.numel() for parameter in adapters)
    return (
        f"Low-rank adapters (LoRA, Hu et al. 2022; {count:,} parameters) are kept apart in\n`{folder}`, "
        "as peft writes them; the weights beside are those without, and get them whenever this is read."
    )


def all_in_one(text: str) -> str:
    """The card of a release whose adapters are in its weights by now."""
    return APART.sub("", text)


def card(parts: dict[str, Any], settings: dict[str, Any], about: Sequence[str]) -> str:
    """What the release is made of, how it is used, and how it edits; `about` are its parts' own words."""
    sentences = "".join(f"\n{sentence}\n" for sentence in about if sentence)
    setting_rows = "\n".join(f"| {name} | {value} |" for name, value in settings.items())
    part_rows = "\n".join(
        f"| {name} | {type(part).__name__} | {sum(p.numel() for p in part.parameters()):,} |"
        for name, part in parts.items()
        if isinstance(part, nn.Module)
    )
    return f"""---
library_name: diffusers
pipeline_tag: image-to-image
tags: [image-editing, instruction-based-image-editing]
---
# An editor that follows instructions
{sentences}
```python
from mgie import MGIEPipeline

pipeline = MGIEPipeline.from_pretrained("{PLACE}")
result = pipeline(image=picture, prompt="make it black and white", seed=0)
result.images[0], result.said[0]
```

| part | class | parameters |
| --- | --- | --- |
{part_rows}

| setting | value |
| --- | --- |
{setting_rows}

`run.yaml` is the configuration of the training run. The licences of the language model, the diffusion model
and the data that it was trained on hold for it too.
"""
