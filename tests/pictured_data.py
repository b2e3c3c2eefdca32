"""For tests: MIGEBench and DreamBench as they lie on a disk, small."""

import json
from pathlib import Path

from benchmark_data import pic


def write_migebench(folder: Path, count: int = 2) -> Path:
    """`count` additions and as many replacements."""
    for view in ("add", "replace"):
        records = []
        for number in range(count):
            names = {role: f"{view}_{role}/{number}.png" for role in ("entity", "source", "target")}
            for place, name in enumerate(names.values()):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                pic(10 * number + place + (view == "add"), 40, 32).save(folder / name)
            entity, source = names["entity"], names["source"]
            first = [entity, source] if view == "add" else [source, entity]
            words = {
                "add": "Add <imagehere> to the left of<imagehere>",
                "replace": "In <imagehere>put <imagehere>.",
            }
            records.append(
                {
                    "idx": number, "multi_prompt": words[view], "entity_path": first, "source_path": [source],
                    "image": names["target"], "object": "the dog", "target_caption": "a red d",
                    "caption": "a d", "width": 40, "height": 32,
                }
            )  # fmt: skip
        (folder / f"{view}_bench.json").write_text(json.dumps(records))
    return folder


CLASSES = """Classes
subject_name,class
cup0,red cup
dog2,dog

Prompts

Object Prompts

prompt_list = [
  'a {0} {1} in the jungle'.format(unique_token, class_token),
  "a {0} {1} on top of the dog's bed".format(unique_token, class_token),
]

Live Subject Prompts

prompt_list = [
  'a {0} {1} in a hat'.format(unique_token, class_token),
]
"""


def write_dreambench(folder: Path) -> Path:
    """Two subjects with two photos each; three pictures are to be made."""
    for subject in ("cup0", "dog2"):
        (folder / "dataset" / subject).mkdir(parents=True)
        for number in range(2):
            pic(len(subject) + number, 40, 32).save(folder / "dataset" / subject / f"{number:02d}.jpg")
    (folder / "dataset" / "prompts_and_classes.txt").write_text(CLASSES)
    return folder
