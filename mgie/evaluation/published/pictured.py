"""Benchmarks whose instructions hold pictures, as they lie on a disk: MIGEBench, DreamBench.

Tian et al., "MIGE", 2025; Ruiz et al., "DreamBooth", CVPR 2023.
"""

import re
from pathlib import Path
from typing import Any

from mgie.data.files import MALFORMED, is_name, read_json, reason, regular
from mgie.errors import DataError
from mgie.evaluation.published.entries import Entry, Views
from mgie.evaluation.published.protocol import Protocol
from mgie.instructions import named
from mgie.types import PICTURE

MIGEBENCH = {"add": "add_bench.json", "replace": "replace_bench.json"}
"""View -> file."""
RECORDS = '[{"idx", "multi_prompt", "entity_path", "source_path", "image", "object", "target_caption"}, ...]'


def read_migebench(protocol: Protocol, folder: Path) -> Views:
    """MIGEBench's two files and the pictures that they name, inside the folder. In an instruction the place
    of the source picture is `<source>`, that of the thing `<image>`. Raises DataError."""
    views: Views = {}
    for name, view in protocol.views.items():
        for told in read_json(folder / MIGEBENCH[name], _records, RECORDS):
            source, (instruction, entity) = told["source_path"][0], _placed(told, folder / MIGEBENCH[name])
            entry = Entry(
                key=told["idx"], kind=name, instruction=instruction,
                source=_inside(folder, source), target=_inside(folder, told["image"]),
                images=(_inside(folder, entity),), entity=_inside(folder, entity), thing=told["object"],
                caption=told["target_caption"], source_caption=told["caption"],
                output=view.output[0].format(key=told["idx"]),
            )  # fmt: skip
            views.setdefault(name, []).append(entry)
    return views


def _records(held: Any) -> list[dict[str, Any]]:
    texts = ("multi_prompt", "image", "object", "target_caption")
    found = [
        {name: str(told[name]) for name in texts}
        | {"idx": str(told["idx"]), "caption": str(told.get("caption") or "")}
        | {name: [str(path) for path in told[name]] for name in ("entity_path", "source_path")}
        for told in held
    ]
    for told in found:
        if len(told["source_path"]) != 1 or not is_name(str(told["idx"])):
            raise ValueError(f"record {told['idx']} has {len(told['source_path'])} sources: expected one")
    return found


def _placed(told: dict[str, Any], path: Path) -> tuple[str, str]:
    """The instruction with `<source>` and `<image>` where its pictures are, and the one that is not its
    source. Raises DataError for others."""
    where = f"{path}, record {told['idx']}"
    try:
        instruction, others = named(told["multi_prompt"], told["entity_path"], source=told["source_path"][0])
    except DataError as error:
        raise DataError(f"{where} has {error}") from error
    if len(others) != 1:
        raise DataError(f"{where} shows {len(others)} things: expected one beside its source.")
    return instruction, others[0]


PROMPTS = "prompts_and_classes.txt"
LIVE = {"cat", "dog"}
"""Classes with prompts of their own."""
PROMPT = re.compile(r"""^\s*(['"])(.*\{0\} \{1\}.*)\1\.format\(unique_token""", re.MULTILINE)
CLASS = re.compile(r"^([a-z0-9_]+),([a-z ]+)$", re.MULTILINE)


def read_dreambench(protocol: Protocol, folder: Path) -> Views:
    """DreamBooth's data set: a folder of photos for each subject beside prompts_and_classes.txt, in the
    folder or in its dataset/. Each subject has 25 prompts, live ones their own; what is shown is its first
    photo, and outputs are compared with all of them. Raises DataError."""
    folder = folder if (folder / PROMPTS).is_file() else folder / "dataset"
    try:
        text = regular(folder / PROMPTS).read_text(encoding="utf-8")
        objects, live = text.split("Live Subject Prompts")
    except MALFORMED as error:
        raise DataError(
            f"{folder / PROMPTS} cannot be read ({reason(error)}): --data expects DreamBooth's data set."
        ) from error
    prompts = {False: PROMPT.findall(objects), True: PROMPT.findall(live)}
    found: list[Entry] = []
    ((name, view),) = protocol.views.items()
    for subject, thing in CLASS.findall(objects):
        if subject == "subject_name":
            continue
        photos = sorted(
            path for path in (folder / subject).glob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png")
        )
        if not photos:
            raise DataError(f"{folder / subject} has no photo: download DreamBooth's data set again.")
        for number, (_, prompt) in enumerate(prompts[thing in LIVE]):
            entry = Entry(
                key=f"{subject}-{number:02d}", cluster=subject, kind=thing, source=None,
                instruction=prompt.replace("{0} {1}", PICTURE), caption=prompt.replace("{0} {1}", thing),
                images=(photos[0],), references=tuple(photos),
                output=view.output[0].format(session=subject, key=f"{number:02d}"),
            )  # fmt: skip
            found.append(entry)
    return {name: found}


def _inside(folder: Path, name: str) -> Path:
    """A picture that a record names. Raises DataError where that leads elsewhere, or to nothing."""
    if not is_name(name):
        raise DataError(f"a record of {folder} names {name!r}: expected a file inside the folder.")
    if not (folder / name).is_file():
        raise DataError(f"{folder / name} is missing: download the benchmark's data again.")
    return folder / name
