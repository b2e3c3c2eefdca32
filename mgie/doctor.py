"""`mgie doctor` and `mgie models`: what there is on this machine, and what is missing.

mgie doctor
"""

import json
import os
import platform
import re
import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from mgie.errors import ConfigError

EXTRA = re.compile(r"""extra\s*==\s*["']([\w-]+)["']""")
OPTIONAL = {
    "flash-attn": "flash attention on a GPU", "shtab": "`mgie --print_completion`",
    "pillow-heif": "HEIC photos",
}  # fmt: skip
"""Packages that no verb stops without, and what they are for."""
NEEDS = {
    "prepare": (), "prepare toy": ("toy",), "train": (),
    "train --train.strategy zero1": ("train",), "train --train.groups [qlora]": ("quant",), "extract": (),
    "edit": (), "web": ("web",),
    "evaluate": ("eval",), "personalize": (), "plot": (), "push": (), "models": (),
    "doctor": (),
}  # fmt: skip
"""What may be run -> the extras that it needs besides what all need."""
PUBLISHED = {"mllm.pt": "Apple's mllm.pt and unet.pt", "model.pth": "MIGE's model.pth"}
"""Published files of weights, and what they are."""
INDEXES = ("model_index.json", *PUBLISHED)
"""Files that a folder with an editor's weights has one of."""


def doctor() -> dict[str, Any]:
    """Tell what is installed, which device and attention are taken, and which verbs would work; the facts:
    mgie, python, system, packages, device, memory, disk, hub, verbs, problems."""
    wanted = _requirements()
    packages = {name: _state(name, asked) for _, group in sorted(wanted.items()) for name, asked in group}
    packages |= {name: _state(name, "") for name in OPTIONAL if name not in packages}
    broken = {
        extra: [f"{name} {packages[name]}" for name, _ in group if not packages[name][:1].isdigit()]
        for extra, group in wanted.items()
    }
    verbs = {}
    for verb, extras in NEEDS.items():
        missing = [each for extra in ("", *extras) for each in broken.get(extra, ())]
        named = ",".join(extra for extra in extras if broken.get(extra))
        mend = f"pip install 'mgie[{named}]'" if named else "pip install mgie"
        verbs[verb] = {"works": not missing, "missing": missing, "mend": mend if missing else ""}
    device = _device() if packages.get("torch", "")[:1].isdigit() else {"device": "none: torch is missing"}
    return {
        "mgie": _state("mgie", ""), "python": platform.python_version(), "system": platform.platform(),
        **device, "disk": f"{shutil.disk_usage('.').free / 1e9:.0f} GB free here",
        "hub": "not asked (HF_HUB_OFFLINE)" if os.environ.get("HF_HUB_OFFLINE") == "1" else _token(),
        "packages": packages, "verbs": verbs, "problems": broken.get("", []),
    }  # fmt: skip


def report(facts: dict[str, Any]) -> str:
    """The facts as lines to print."""
    plain = {name: value for name, value in facts.items() if isinstance(value, str)}
    lines = [f"{name:<10} {value}" for name, value in plain.items()]
    lines += ["", "packages"]
    lines += [f"  {name:<18} {state}" for name, state in facts["packages"].items()]
    lines += ["", "would work"]
    for verb, state in facts["verbs"].items():
        told = "yes" if state["works"] else f"no: {', '.join(state['missing'])} -> {state['mend']}"
        lines.append(f"  mgie {verb:<30} {told}")
    lines += [f"  {what:<35} {'yes' if _there(facts, name) else f'no: {name} is missing'}" for name, what in
              OPTIONAL.items()]  # fmt: skip
    return "\n".join(lines)


def wrong(facts: dict[str, Any]) -> str:
    """What keeps everything from working, as one sentence; empty where nothing does."""
    problems = facts["problems"]
    return f"packages that all verbs need are not there: {', '.join(problems)}." if problems else ""


def models(*, folder: str | Path = "_ckpt") -> dict[str, Any]:
    """List the releases in a folder, each with what its card says first; the facts: folder, releases.

    Args:
        folder: Where the releases lie.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}: expected the one that releases lie in.")
    found = []
    for place in sorted([folder, *folder.iterdir()]):
        index = next((place / name for name in INDEXES if (place / name).is_file()), None)
        if index is not None:
            size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
            found.append({"path": str(place), "bytes": size, **_kinds(index), "about": _about(place)})
    return {"folder": str(folder), "releases": found}


def shelf(facts: dict[str, Any]) -> str:
    """The releases as lines to print."""
    if not facts["releases"]:
        return f"there is no release in {facts['folder']}: `mgie extract RUN_DIR --out FOLDER` makes one."
    lines = []
    for each in facts["releases"]:
        lines.append(f"{each['path']}  {each['parts']}, {each['bytes'] / 1e6:.0f} MB")
        lines += [f"  {line}" for line in each["about"]]
    return "\n".join(lines)


def _requirements() -> dict[str, list[tuple[str, str]]]:
    """Extra ("" for what all need) -> names and versions that are asked for."""
    from packaging.requirements import Requirement

    found: dict[str, list[tuple[str, str]]] = {}
    try:
        asked = requires("mgie") or []
    except PackageNotFoundError as error:
        raise ConfigError("mgie is not installed here: `pip install -e .` in its folder.") from error
    for line in asked:
        requirement = Requirement(line)
        extra = EXTRA.search(str(requirement.marker or ""))
        if extra is None and requirement.marker is not None and not requirement.marker.evaluate():
            continue
        name = extra[1] if extra else ""
        if name not in ("dev", "notebooks", "docs"):
            found.setdefault(name, []).append((requirement.name, str(requirement.specifier)))
    return found


def _state(name: str, asked: str) -> str:
    """The version of a package that is installed, or what is wrong with it."""
    from packaging.specifiers import SpecifierSet

    try:
        there = version(name)
    except PackageNotFoundError:
        return "missing"
    return there if SpecifierSet(asked).contains(there, prereleases=True) else f"is {there}, not {asked}"


def _device() -> dict[str, Any]:
    """Where a model would run, and how its attention is computed. Imports torch."""
    import torch

    from mgie.devices import find_device

    place = find_device(None)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    told = f"{place.type} ({cores} cores, torch {torch.__version__})"
    attention = "torch's scaled_dot_product_attention"
    if place.type == "cuda":
        facts = torch.cuda.get_device_properties(place)
        more = f", {torch.cuda.device_count()} of them" if torch.cuda.device_count() > 1 else ""
        told = f"cuda ({facts.name}{more}, {facts.total_memory / 2**30:.0f} GiB, torch {torch.__version__})"
        if _state("flash-attn", "")[:1].isdigit():
            attention = f"flash-attn {_state('flash-attn', '')} in half precision, else {attention}"
    import psutil

    memory = psutil.virtual_memory()
    return {
        "device": told, "attention": attention,
        "memory": f"{memory.available / 2**30:.0f} of {memory.total / 2**30:.0f} GiB free",
    }  # fmt: skip


def _token() -> str:
    from huggingface_hub import get_token

    return "asked with a token" if get_token() else "asked without a token (`mgie push` needs one)"


def _there(facts: dict[str, Any], name: str) -> bool:
    return facts["packages"][name][:1].isdigit()


def _kinds(index: Path) -> dict[str, str]:
    """What a release is made of, as its index says."""
    if index.name in PUBLISHED:
        return {"parts": PUBLISHED[index.name]}
    try:
        told = json.loads(index.read_text(encoding="utf-8"))
        kinds = [told[f"_{part}"]["kind"] for part in ("encoder", "denoiser")]
        return {"parts": " + ".join(map(str, kinds))}
    except (OSError, ValueError, LookupError, TypeError):
        return {"parts": "a pipeline of diffusers"}


def _about(folder: Path) -> list[str]:
    """The title of a card and the first line below it."""
    card = folder / "README.md"
    if not card.is_file():
        return []
    text = re.sub(r"\A---\n.*?\n---\n", "", card.read_text(encoding="utf-8", errors="replace"), flags=re.S)
    lines = [line.strip().lstrip("# ") for line in text.splitlines() if line.strip()]
    return [line[:160] for line in lines[:2] if not line.startswith(("```", "|"))]
