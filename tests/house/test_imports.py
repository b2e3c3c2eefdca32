"""Who may import whom: a row may import the rows below it, never the reverse."""

import re
import sys
from importlib.metadata import packages_distributions

ROWS = [
    {"types", "tokens", "errors", "ranges", "lines"},
    {"instructions"},
    {"devices", "diffusion", "keys", "prompts"},
    {"controllers"},
    {"models"},
    {"data", "toy", "weights"},
    {"training", "evaluation", "personalization"},
    {"config"},
    {"build", "build_data", "identities", "layouts", "masks", "request", "compare", "jobs"},
    {"painting", "telling", "asked"},
    {
        "prepare",
        "start",
        "train",
        "watch",
        "fits",
        "extract",
        "pipeline",
        "edit",
        "evaluate",
        "plot",
        "push",
        "doctor",
        "toy.pretrain",
        "personalize",
        "web",
    },
    {"verbs"},
    {"cli"},
    {"__main__"},
]
"""From the floor up. A room may always import itself."""

ALSO = {
    ("edit", "pipeline"),
    ("train", "pipeline"),  # what cannot be extracted is not trained
    ("train", "start"),
    ("train", "watch"),
    ("watch", "pipeline"),  # previews, evaluations
    ("evaluate", "pipeline"),
    ("web", "pipeline"),
    ("personalize", "pipeline"),  # prior pictures
    ("personalize", "train"),
    ("toy.pretrain", "start"),
    ("toy.pretrain", "train"),
    ("layouts", "identities"),  # one plan of all controls
    ("layouts", "masks"),  # for its type: what lies outside a mask cannot show
    ("data", "toy"),  # the toy world is a source
    ("evaluation", "personalization"),  # subjects are measured as they are learnt: from one folder
    ("toy", "data"),  # whose pictures are read as any
}
"""Imports within one row that are wanted: one story told through another."""

LLAVA_USERS = {"prompts", "models", "data", "weights", "config", "build", "toy", "toy.pretrain"}
"""Rooms of mgie that may import llava_patch."""

SHARED = ("llava_patch.folders", "llava_patch.errors", "llava_patch.ranges", "llava_patch.loading")
"""What everybody may import: how folders are written, how requests fail, how numbers are held to ranges, how
tensors come into modules."""

LLAVA_NEEDS = {
    "torch", "transformers", "einops", "safetensors",
    "sentencepiece", "huggingface_hub", "PIL", "numpy", "jaxtyping", "tqdm", "filelock",
}  # fmt: skip
"""All that llava_patch imports besides the standard library."""

HOMES = {
    "accelerate": ("mgie.training",),
    "deepspeed": ("mgie.training",),
    "torch.distributed": ("mgie.training", "mgie.weights.shards"),
    "diffusers": (
        "mgie.models", "mgie.diffusion", "mgie.controllers", "mgie.weights", "mgie.build", "mgie.pipeline",
        "mgie.painting",  # the type of a sampler
        # Averaged weights; the type of a task's schedule; parts that are made from nothing.
        "mgie.train", "mgie.training.task", "mgie.training.optim", "mgie.toy.pretrain",
        "mgie.toy.copying", "mgie.toy.parts",
    ),
    "transformers": (
        "llava_patch", "mgie.models.encoders", "mgie.models.finders", "mgie.weights", "mgie.evaluation",
        "mgie.data.express", "mgie.toy.parts", "mgie.toy.pointing",
    ),
    "jsonargparse": ("mgie.config", "mgie.cli", "mgie.toy.pretrain"),
}  # fmt: skip
"""Libraries that only these modules, and what is inside them, may import."""


USED_BY_OTHERS = {
    "protobuf": "transformers reads the sentencepiece files of a summariser by it",
    "scikit-image": "mgie/toy/photos.py opens its pictures",
    "scikit-learn": "mgie/toy/photos.py opens its pictures",
    "tensorboard": "accelerate's tracker of that name",
}
"""Dependencies that no module imports."""


BASE = ("pretrain", "parts", "tasks", "lessons", "seeing", "pointing", "reading", "heeding", "copying")
"""The toy world's story, and the parts of it."""


def room(name: str) -> str:
    """The part of mgie that a module belongs to: "mgie.data.batches" -> "data"."""
    if name.startswith("mgie.toy.") and name.split(".")[2] in BASE:
        return "toy.pretrain"
    return name.split(".")[1] if "." in name else ""


def inside(name: str, home: str) -> bool:
    return name == home or name.startswith(home + ".")


def test_every_room_has_a_row_and_every_row_its_rooms(packages):
    rooms = {room(module.name) for module in packages if inside(module.name, "mgie")} - {""}
    assert rooms == set().union(*ROWS), "say in ROWS who may import it, or take it out"
    assert set().union(*ALSO) | LLAVA_USERS <= rooms
    names = [module.name for module in packages]
    homes = {home for libraries in HOMES.values() for home in libraries}
    assert not {home for home in homes if not any(inside(name, home) for name in names)}


def test_rows(packages):
    row = {name: index for index, names in enumerate(ROWS) for name in names}
    wrong = []
    for module in packages:
        user = room(module.name)
        if not inside(module.name, "mgie") or not user:
            continue  # the package itself imports nothing at once: test_names.py
        for used in {room(name) for name in module.imports() if inside(name, "mgie")}:
            allowed = used == user or row[used] < row[user] or (user, used) in ALSO
            if not allowed:
                wrong.append(f"{module.path} imports mgie.{used}")
    assert not wrong


def test_llava_patch_knows_nothing_of_editing(packages):
    wrong = [
        f"{module.path} imports {name}"
        for module in packages
        if inside(module.name, "llava_patch")
        for name in module.imports()
        if name.split(".")[0] not in {*LLAVA_NEEDS, *sys.stdlib_module_names, "llava_patch"}
    ]
    assert not wrong


def test_who_uses_llava_patch(packages):
    wrong = [
        f"{module.path} imports {name}"
        for module in packages
        if inside(module.name, "mgie") and room(module.name) not in LLAVA_USERS
        for name in module.imports()
        if inside(name, "llava_patch") and not any(inside(name, shared) for shared in SHARED)
    ]
    assert not wrong


def test_libraries_stay_in_their_rooms(packages):
    wrong = [
        f"{module.path} imports {name}"
        for module in packages
        for name in module.imports()
        for library, homes in HOMES.items()
        if inside(name, library) and not any(inside(module.name, home) for home in homes)
    ]
    assert not wrong


def test_nothing_that_needs_torchvision(everything, root):
    banned = {"torchvision", "lpips", "open_clip", "timm", "cleanfid", "torch_fidelity"}
    wrong = [
        f"{module.path} imports {name}"
        for module in everything
        for name in module.imports()
        if name.split(".")[0] in banned
    ]
    assert not wrong
    # What is installed: nothing that drags it in.
    names = "|".join(banned | {"open_clip_torch", "clean_fid"}).replace("_", "[_-]")
    for file in ("pyproject.toml", "constraints.txt"):
        assert not re.search(rf"(?im)^\s*\"?({names})\b", (root / file).read_text())


def test_what_is_imported_is_a_dependency_and_what_is_one_is_used(packages, root):
    text = (root / "pyproject.toml").read_text()
    lists = re.findall(
        r"^(?:dependencies|toy|train|eval|grounding|quant|heic|web) = \[(.*?)\]",
        text,
        flags=re.DOTALL | re.MULTILINE,
    )
    declared = set(re.findall(r'"([\w-]+)', " ".join(lists)))
    libraries = {name.split(".")[0] for module in packages for name in module.imports()}
    libraries -= {*sys.stdlib_module_names, "mgie", "llava_patch"}
    found = packages_distributions()
    used = {found.get(library, [library])[0].lower().replace("_", "-") for library in libraries}
    assert used - declared == set(), "name it in pyproject.toml"
    assert declared - used == set(USED_BY_OTHERS), "take it out of pyproject.toml, or say here who uses it"
