"""What was learnt of one's own subjects, on disk: a folder with diffusers' own LoRA file.

pytorch_lora_weights.safetensors   for `load_lora_weights` of any Stable Diffusion pipeline of diffusers, too
adapter.json                       what its subjects are called, and of which base it is
cutouts/                           the subjects themselves, for starts from noise that shows them
run.yaml  README.md  manifest.json
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from llava_patch.folders import whole_folder
from mgie.errors import WeightsError
from mgie.models.adapters import PREFIX
from mgie.weights.intact import intact
from mgie.weights.models import read_json

ADAPTER = "adapter"
"""Kind of the folder."""
FILE, FACTS, CUTOUTS = "pytorch_lora_weights.safetensors", "adapter.json", "cutouts"


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """A subject of an adapter."""

    name: str
    phrase: str
    """What it is called: "olis russian blue"."""
    cut_outs: tuple[str, ...] = ()
    """Files of the thing by itself, with an alpha channel."""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """What is in the folder, or in a LoRA file from elsewhere."""

    name: str
    """For messages: where it lies."""
    tensors: Mapping[str, Tensor]
    """By diffusers' names."""
    learnt: tuple[Learnt, ...] = ()


def write_adapter(
    out: str | Path,
    tensors: Mapping[str, Tensor],
    *,
    learnt: Mapping[str, tuple[str, Sequence[Image.Image]]],
    base: str,
    identity: str,
    run_yaml: str,
) -> Path:
    """Write the folder, whole or not at all. `tensors` are by diffusers' names, without `unet.`; `learnt`
    gives each subject's phrase and cut-outs, `base` and `identity` what it was trained over."""
    from diffusers import StableDiffusionPipeline

    with whole_folder(out, kind=ADAPTER) as partial:
        StableDiffusionPipeline.save_lora_weights(partial, unet_lora_layers=dict(tensors))
        (partial / CUTOUTS).mkdir()
        subjects = []
        for number, (name, (phrase, cut_outs)) in enumerate(learnt.items()):
            files = [f"{CUTOUTS}/{number}_{place:02d}.png" for place in range(len(cut_outs))]
            for file, cut_out in zip(files, cut_outs):
                cut_out.save(partial / file)
            subjects.append({"name": name, "phrase": phrase, "cut_outs": files})
        facts = {"subjects": subjects, "base": base, "base_identity": identity}
        (partial / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        (partial / "run.yaml").write_text(run_yaml, encoding="utf-8")
        phrases = [phrase for phrase, _ in learnt.values()]
        (partial / "README.md").write_text(_card(phrases, base), encoding="utf-8")
    return Path(out)


def read_adapter(where: str | Path, *, verify: bool = True) -> Adapter:
    """Read such a folder; or a folder or file of a LoRA from elsewhere, of which only the weights are known.
    Raises WeightsError."""
    told, file = outline(where), _file(where)
    if not told.learnt:
        return replace(told, tensors=_tensors(file))
    with intact(Path(where), kind=ADAPTER, verify=verify):
        return replace(told, tensors=_tensors(file))


def outline(where: str | Path) -> Adapter:
    """The same without tensors, by its small files. Raises WeightsError."""
    _file(where)
    learnt = _learnt(Path(where)) if (Path(where) / FACTS).is_file() else ()
    return Adapter(name=str(where), tensors={}, learnt=learnt)


def _file(where: str | Path) -> Path:
    where = Path(where)
    file = where / FILE if where.is_dir() else where
    if not file.is_file():
        raise WeightsError(
            f"there is no adapter {where}: expected a folder that `mgie personalize` wrote ({FILE})."
        )
    return file


def _learnt(where: Path) -> tuple[Learnt, ...]:
    facts = read_json(where / FACTS)
    try:
        return tuple(
            Learnt(
                name=str(each["name"]),
                phrase=str(each["phrase"]),
                cut_outs=tuple(str(where / file) for file in each["cut_outs"]),
            )
            for each in facts["subjects"]
        )
    except (KeyError, TypeError) as error:
        wrong = f"{where / FACTS} does not name its subjects"
        raise WeightsError(f"{wrong}: run `mgie personalize` again.") from error


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file} cannot be read ({error}): expected a file of safetensors.") from error
    strange = [name for name in tensors if not name.startswith(PREFIX) or ".lora_" not in name]
    if strange or not tensors:
        odd = strange[0] if strange else "nothing"
        raise WeightsError(
            f"{file} holds {odd}: expected adapters of a UNet alone, by diffusers' names ({PREFIX}...lora_A)."
        )
    return tensors


def _card(phrases: Sequence[str], base: str) -> str:
    named = " and a ".join(phrases)
    return f"""---
library_name: diffusers
base_model: {base}
tags: [lora, text-to-image, image-editing]
---
# Subjects: {", ".join(phrases)}

A low-rank adapter (Hu et al., LoRA, ICLR 2022), trained with Seg-Mix (Jang et al., Identity Decoupling for
Multi-Subject Personalization of Text-to-Image Models, NeurIPS 2024).

```bash
mgie edit "a photo of a {named} on a beach" --new --model {base} --subjects THIS_FOLDER --out out.png
```

With diffusers: `pipeline.load_lora_weights("THIS_FOLDER")`. The photos in `cutouts/`, and the licence of the
base, are whose they are.
"""
