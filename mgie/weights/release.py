"""A release on disk: a diffusers pipeline folder that holds all of an editor.

model_index.json   the kinds of its parts, how the denoiser was trained, how the editor edits by default
llava/             LLaVA-v1 folder with tokenizer and preprocessing; its vision tower in llava/vision_tower
edit_head/         config.json, model.safetensors
unet/ vae/ scheduler/   as diffusers writes them
adapters/          low-rank adapters that were kept apart, of encoder and denoiser, as peft writes them
run.yaml           the configuration of the run that made it
controllers/       what was trained to control the denoiser, where something was (controllers.py)
README.md          the model card
manifest.json      size and SHA-256 of each of these files

The folders of the parts are those of the kinds "llava" and "unet"; others write their own (parts.py).
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import SchedulerMixin

from llava_patch.folders import read_manifest, whole_folder
from llava_patch.loading import Dtypes
from mgie.diffusion.process import PROCESSES, AbstractProcess, process_of
from mgie.diffusion.solver import scheduler_class
from mgie.errors import ConfigError, WeightsError
from mgie.models.adapters import adapter_parameters, load_adapters, save_adapters
from mgie.models.editor import Editor
from mgie.prompts import AbstractPrompts, Compat
from mgie.weights.controllers import read_controllers, write_controllers
from mgie.weights.intact import intact
from mgie.weights.model_card import CARD, adapters_apart, all_in_one, card
from mgie.weights.models import read_json, schedule
from mgie.weights.parts import AbstractDenoiserPart, AbstractEncoderPart, denoiser_part, encoder_part, part_of

INDEX = "model_index.json"
RELEASE = "release"
"""Kind of the folder."""
RUN = "run.yaml"
ADAPTERS = "adapters"
"""Folder of adapters that are kept apart."""
PIPELINE = "MGIEPipeline"
HUB = ("revision", "cache_dir", "token", "local_files_only", "force_download")
"""What the hub's client may be told."""
OF_A_VERSION = ("revision", "force_download")
"""Which of these mean nothing to a folder that is here already, though whoever says them means something."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """Everything in the folder."""

    editor: Editor
    prompts: AbstractPrompts
    process: AbstractProcess
    scheduler: SchedulerMixin
    """The sampler."""
    settings: dict[str, Any]
    """How the editor edits unless it is told otherwise: optional arguments of MGIEPipeline."""
    run_yaml: str = ""
    card: str = ""


def write_release(release: Release, out: str | Path) -> Path:
    """Write the folder `out`, whole or not at all, over an older release."""
    editor = release.editor
    encoder, denoiser = part_of(editor.encoder), part_of(editor.denoiser)
    with whole_folder(out, kind=RELEASE) as partial:
        # Adapters that were not merged lie beside the parts, which are then as they were without them.
        apart = []
        for name, part in (("encoder", editor.encoder), ("denoiser", editor.denoiser)):
            if adapters := adapter_parameters(part):
                save_adapters(part.adaptable, partial / ADAPTERS / name)
                apart.append(adapters_apart(f"{ADAPTERS}/{name}", adapters))
        parts = {
            "encoder": {"kind": encoder.kind} | encoder.save(editor.encoder, release.prompts, partial),
            "denoiser": {"kind": denoiser.kind} | denoiser.save(editor.denoiser, editor.codec, partial),
        }
        write_controllers(dict(editor.controllers.items()), partial)
        release.scheduler.save_pretrained(partial / "scheduler")
        for config in partial.glob("*/*config.json"):
            _forget_paths(config)
        index = {"_class_name": PIPELINE, "_diffusers_version": diffusers.__version__}
        index["_process"] = _process_facts(release.process)
        index |= {f"_{name}": facts for name, facts in parts.items()} | release.settings
        (partial / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        (partial / RUN).write_text(release.run_yaml, encoding="utf-8")
        made = dict(editor.named_children()) | dict(editor.controllers.items())
        del made["controllers"]
        text = release.card or card(made, release.settings, [encoder.about, denoiser.about, *apart])
        (partial / CARD).write_text(text, encoding="utf-8")
    return Path(out)


def release_identity(folder: str | Path) -> str:
    """SHA-256 of what a release's manifest says of its files, but for the card, which is for editing by hand.
    Raises WeightsError where there is no release, or no manifest in it."""
    if not (Path(folder) / INDEX).is_file():
        wish = "name the place where it is (model.release of a recipe, --release of `mgie extract`)"
        raise WeightsError(f"there is no release in {folder}: {wish}.")
    files = {name: facts for name, facts in read_manifest(folder)["files"].items() if name != CARD}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def identity_of(release: Release) -> str:
    """SHA-256 of an editor as it is in memory: every tensor, the settings, the sampler."""
    digest = hashlib.sha256()
    for name, tensor in release.editor.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    sampler = release.scheduler
    told = [_process_facts(release.process), release.settings, type(sampler).__name__, dict(sampler.config)]
    if (blocks := release.editor.controllers.for_layout) is not None:
        told.append(asdict(blocks.way))
    digest.update(json.dumps(told, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def read_release(
    folder: str | Path,
    *,
    compat: Compat | None = None,
    dtype: Dtypes = torch.float32,
    attention: str = "sdpa",
    progress: bool = False,
    verify: bool = True,
    controller: str | Path | None = None,
) -> Release:
    """Read a release: every tensor equals the file's. Raises WeightsError listing what does not fit.

    With `verify` its files are compared with its manifest while they are read. `compat` replaces its own, and
    `controller`, a published file of MIGC or MIGC++ or a controller's folder, its layout's blocks.
    """
    folder = Path(folder)
    with intact(folder, kind=RELEASE, verify=verify):
        index = read_index(folder)
        settings = {name: value for name, value in index.items() if not name.startswith("_")}
        (maker, facts), (painter, more) = parts_of(index, folder)
        encoder, prompts = maker.load(
            folder,
            facts,
            compat=compat or settings.get("compat", "default"),
            dtype=dtype,
            attention=attention,
            progress=progress,
        )
        denoiser, codec = painter.load(folder, more, dtype=dtype, progress=progress)
        for name, part in (("encoder", encoder), ("denoiser", denoiser)):
            if (folder / ADAPTERS / name).is_dir():
                load_adapters(part.adaptable, folder / ADAPTERS / name)
        controllers = read_controllers(folder, controller=controller, dtype=dtype)
        scheduler = read_scheduler(folder / "scheduler")
        return Release(
            editor=Editor(encoder=encoder, denoiser=denoiser, codec=codec, controllers=controllers).eval(),
            prompts=prompts,
            process=_read_process(index, folder / INDEX, scheduler),
            scheduler=scheduler,
            settings=settings,
            run_yaml=_read_text(folder / RUN),
            card=all_in_one(_read_text(folder / CARD)),
        )


def read_index(folder: Path) -> dict[str, Any]:
    """The content of a release's model_index.json. Raises WeightsError where it is another pipeline's."""
    index = read_json(folder / INDEX)
    if index.get("_class_name") != PIPELINE:
        raise WeightsError(
            f"{folder} holds a {index.get('_class_name')}, expected a {PIPELINE}; "
            "`mgie extract RUN_DIR --out FOLDER` writes one."
        )
    return index


def parts_of(
    index: dict[str, Any], folder: Path
) -> tuple[tuple[AbstractEncoderPart, dict[str, Any]], tuple[AbstractDenoiserPart, dict[str, Any]]]:
    """The kinds of a release's encoder and denoiser, with their facts. Raises WeightsError."""
    facts = [index.get(f"_{name}") for name in ("encoder", "denoiser")]
    if not all(isinstance(each, dict) and isinstance(each.get("kind"), str) for each in facts):
        raise WeightsError(
            f"{folder / INDEX} does not say of which kinds its parts are: extract the release again."
        )
    first, second = (each for each in facts if isinstance(each, dict))
    try:
        return (encoder_part(first["kind"]), first), (denoiser_part(second["kind"]), second)
    except ConfigError as error:
        raise WeightsError(f"{folder} cannot be opened: {error}") from error


def fetch(where: str | Path, **hub: Any) -> Path:
    """The folder that `where` names, fetched first where it is a hub id; `hub` takes the names in HUB.

    Raises WeightsError, and ConfigError for what a folder that is here already cannot heed.
    """
    if Path(where).is_dir():
        if told := [name for name in OF_A_VERSION if hub.get(name)]:
            raise ConfigError(
                f"{told[0]}={hub[told[0]]!r} is for the hub, but {where} is a folder here: leave it out, or "
                "name a hub id."
            )
        return Path(where)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(where), **hub))
    except Exception as error:  # the client's own types of errors differ between versions
        raise WeightsError(
            f"there is no release folder {where}, and the hub does not give it ({type(error).__name__}): "
            "expected a folder that `mgie extract` wrote, or a hub id."
        ) from error


def read_scheduler(folder: Path) -> SchedulerMixin:
    """The sampler of a folder scheduler/. Raises WeightsError."""
    content = read_json(folder / "scheduler_config.json")
    kind = scheduler_class(str(content.get("_class_name")))
    if kind is None:
        raise WeightsError(
            f"{folder} names the scheduler {content.get('_class_name')!r}, expected one of diffusers; "
            "install the diffusers that wrote it, or fetch the release again."
        )
    return schedule(kind, content, folder / "scheduler_config.json")


def _process_facts(process: AbstractProcess) -> dict[str, Any]:
    """Its kind, and what was said of its schedule: samplers have other defaults."""
    config = json.loads(process.schedule.to_json_string())
    default = process.schedule.config.get("_use_default_values", ())
    said = {key: value for key, value in config.items() if not key.startswith("_") and key not in default}
    return {"kind": process.kind, "schedule": said}


def _read_process(index: dict[str, Any], where: Path, scheduler: SchedulerMixin) -> AbstractProcess:
    """What the index notes; of one that was written before it did, what its sampler is most likely of."""
    facts = index.get("_process")
    if facts is None:
        return process_of(scheduler)
    kind = PROCESSES.get(str(facts.get("kind"))) if isinstance(facts, dict) else None
    if kind is None or not isinstance(facts.get("schedule"), dict):
        raise WeightsError(
            f"{where} says of its process {facts!r}, expected a kind ({' or '.join(PROCESSES)}) and a "
            "schedule; update mgie, or fetch the release again."
        )
    try:
        return kind(schedule(kind.schedules, facts["schedule"], where))
    except ConfigError as error:
        raise WeightsError(f"{where}: {error}") from error


def _forget_paths(config: Path) -> None:
    """Where a part was loaded from is no fact about it."""
    content = json.loads(config.read_text(encoding="utf-8"))
    if content.pop("_name_or_path", None) is not None:
        config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _read_text(path: Path) -> str:
    """A text, or nothing where there is none."""
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else ""
    except UnicodeDecodeError as error:
        raise WeightsError(f"{path} is no text in UTF-8 ({error}); extract or fetch it again.") from error
