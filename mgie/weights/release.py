"""A release on disk: a diffusers pipeline folder that holds all of an editor.

model_index.json   the parts and their classes, and how the editor edits unless it is told otherwise
llava/             LLaVA-v1 folder with tokenizer and preprocessing; its vision tower in llava/vision_tower
edit_head/         config.json, model.safetensors
unet/ vae/ scheduler/   as diffusers writes them
run.yaml           the configuration of the run that made it
README.md          the model card
manifest.json      size and SHA-256 of each of these files
"""

import json
from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import diffusers
import torch
from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn

from llava_patch.config import CONFIG_FILE, TOWER_FOLDER
from llava_patch.folders import whole_folder
from llava_patch.model import Llava
from llava_patch.processor import CLIP_IMAGE_FILE, Processor
from llava_patch.shards import each_shard, shard_files
from llava_patch.sizes import no_larger_than
from llava_patch.tokenizer import read_json as read_json_if_there
from llava_patch.weights import load_llava, write_llava
from mgie.errors import ConfigError, WeightsError
from mgie.models.encoders.edit_head import EditHead, EditHeadConfig
from mgie.tokens import visual_tokens
from mgie.weights.intact import intact
from mgie.weights.model_card import CARD, card

INDEX = "model_index.json"
RELEASE = "release"
"""Kind of the folder."""
RUN = "run.yaml"
PIPELINE = "MGIEPipeline"
DIFFUSERS_STEM = "diffusion_pytorch_model"
"""How diffusers' files of weights begin."""
HUB = ("revision", "cache_dir", "token", "local_files_only", "force_download")
"""What the hub's client may be told."""
OF_A_VERSION = ("revision", "force_download")
"""Which of these mean nothing to a folder that is here already, though whoever says them means something."""
LONGEST_SCHEDULE = 100_000
"""Most training steps of a schedule; published ones have 1000, and tables of that length are made at once."""
MOST_LAYERS = 100
"""Layers of an edit head; the published one has 4."""
LISTED = 20
"""How many tensors an error names before it counts the others."""

_Module = TypeVar("_Module", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Release:
    """Everything in the folder."""

    llava: Llava
    edit_head: EditHead
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    scheduler: SchedulerMixin
    processor: Processor
    settings: dict[str, Any]
    """How the editor edits unless it is told otherwise: optional arguments of MGIEPipeline."""
    run_yaml: str = ""
    card: str = ""

    def __post_init__(self) -> None:
        """Refuse parts that were not made for each other. Raises WeightsError."""
        widths = (self.edit_head.d_in, self.edit_head.e_out)
        others = (self.llava.config.language.hidden_size, self.unet.config.cross_attention_dim)
        if widths != others:
            raise WeightsError(
                f"the edit head leads from width {widths[0]} to {widths[1]}, but the language model has "
                f"{others[0]} and the UNet takes {others[1]}: use parts that were trained together."
            )

    @property
    def parts(self) -> dict[str, Any]:
        """The components of the pipeline."""
        names = ("llava", "edit_head", "unet", "vae", "scheduler", "processor")
        return {name: getattr(self, name) for name in names}


def write_release(release: Release, out: str | Path) -> Path:
    """Write the folder `out`, whole or not at all, over an older release."""
    with whole_folder(out, kind=RELEASE) as partial:
        write_llava(release.llava, release.processor.tokenizer, partial / "llava")
        release.processor.save_pretrained(partial / "llava")
        _write_head(release.edit_head, partial / "edit_head")
        for part in ("unet", "vae", "scheduler"):
            getattr(release, part).save_pretrained(partial / part)
        for config in partial.glob("*/*config.json"):
            _forget_paths(config)
        (partial / INDEX).write_text(json.dumps(_index(release), indent=2) + "\n", encoding="utf-8")
        (partial / RUN).write_text(release.run_yaml, encoding="utf-8")
        (partial / CARD).write_text(release.card or card(release.parts, release.settings), encoding="utf-8")
    return Path(out)


def read_release(
    folder: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    attention: str = "sdpa",
    progress: bool = False,
    verify: bool = True,
) -> Release:
    """Read a release: every tensor equals the file's. Raises WeightsError listing what does not fit.

    With `verify` its files are compared with its manifest while they are read.
    """
    folder = Path(folder)
    with intact(folder, kind=RELEASE, verify=verify):
        index = read_json(folder / INDEX)
        if index.get("_class_name") != PIPELINE:
            raise WeightsError(
                f"{folder} holds a {index.get('_class_name')}, expected a {PIPELINE}; "
                "`mgie extract RUN_DIR --out FOLDER` writes one."
            )
        # A LLaVA folder may lack this, or name a tower elsewhere; a release has it all inside.
        own = folder / "llava"
        read_json(own / CLIP_IMAGE_FILE)
        _check_tower(own)
        processor = Processor.from_pretrained(own)
        llava, _ = load_llava(own, dtype=dtype, attn_implementation=attention, progress=progress)
        return Release(
            llava=llava.eval(),
            edit_head=_read_head(folder / "edit_head", dtype),
            unet=read_model(UNet2DConditionModel, folder / "unet", dtype=dtype, progress=progress),
            vae=read_model(AutoencoderKL, folder / "vae", dtype=dtype, progress=progress),
            scheduler=_read_scheduler(folder / "scheduler"),
            processor=processor,
            settings={
                name: value
                for name, value in index.items()
                if not name.startswith("_") and not isinstance(value, list)
            },
            run_yaml=_read_text(folder / RUN),
            card=_read_text(folder / CARD),
        )


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


def visual_ids(processor: Processor, count: int) -> tuple[int, ...]:
    """Ids of the visual tokens in this tokenizer. Raises WeightsError where it lacks them."""
    if count > len(processor.tokenizer):
        raise WeightsError(
            f"there are to be {count} visual tokens, but the tokenizer has {len(processor.tokenizer)} tokens "
            "in all: use parts that were trained together."
        )
    return tuple(processor.tokenizer.id_of(name) for name in visual_tokens(count))


def put(
    module: _Module, tensors: MutableMapping[str, Tensor], *, where: str | Path, dtype: torch.dtype
) -> _Module:
    """Give a module exactly these tensors. Raises one WeightsError listing all that do not fit."""
    return put_shards(module, [tensors], where=where, dtype=dtype)


def put_shards(
    module: _Module,
    shards: Iterable[MutableMapping[str, Tensor]],
    *,
    where: str | Path,
    dtype: torch.dtype,
) -> _Module:
    """Give a module exactly the tensors of these files. Raises one WeightsError listing all that do not fit.

    They are copied and taken out of each file one by one: nothing is in memory twice, and no file stays
    mapped behind the module.
    """
    absent = {name: tensor.shape for name, tensor in module.state_dict().items()}
    parameters = dict(module.named_parameters(remove_duplicate=False))
    problems: list[str] = []
    for tensors in shards:
        for name in list(tensors):
            tensor, shape = tensors.pop(name), absent.pop(name, None)
            if shape is None:
                problems.append(f"unexpected {name}")
            elif tensor.shape != shape:
                problems.append(f"misshapen {name}: {list(tensor.shape)}, expected {list(shape)}")
            else:
                tensor = tensor.to(dtype, copy=True)
                if (old := parameters.pop(name, None)) is not None:
                    tensor = nn.Parameter(tensor, requires_grad=old.requires_grad)
                owner, _, own = name.rpartition(".")
                setattr(module.get_submodule(owner), own, tensor)
    problems = [*(f"missing {name}" for name in absent), *problems]
    if problems:
        more = f"; and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        raise WeightsError(
            f"{where} does not fit its configuration, {len(problems)} tensors differ; use the files that "
            f"belong together: {'; '.join(problems[:LISTED])}{more}"
        )
    left = [name for name, tensor in (*module.named_parameters(), *module.named_buffers()) if tensor.is_meta]
    assert not left, f"on the meta device after loading: {left}"
    return module.eval()


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file that must be there. Raises WeightsError."""
    if not path.is_file():
        raise WeightsError(
            f"{path.parent} has no {path.name}: expected a whole folder; extract or fetch it again."
        )
    return read_json_if_there(path)


def _index(release: Release) -> dict[str, Any]:
    """The content of model_index.json. The processor has no folder of its own: it lies in llava/."""
    index: dict[str, Any] = {"_class_name": PIPELINE, "_diffusers_version": diffusers.__version__}
    for name, part in release.parts.items():
        if name != "processor":
            home = type(part).__module__
            index[name] = ["diffusers" if home.startswith("diffusers.") else home, type(part).__name__]
    return index | dict(release.settings)


def _write_head(head: EditHead, folder: Path) -> None:
    folder.mkdir()
    content = {"d_in": head.d_in, "e_out": head.e_out, "own_embeddings": head.own_embeddings is not None}
    (folder / "config.json").write_text(json.dumps(asdict(head.config) | content, indent=2) + "\n")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _check_tower(llava: Path) -> None:
    """Refuse a release whose vision tower lies elsewhere."""
    named = read_json(llava / CONFIG_FILE).get("mm_vision_tower")
    if named != TOWER_FOLDER or not (llava / TOWER_FOLDER).is_dir():
        raise WeightsError(
            f"{llava} names the vision tower {named!r}, expected its own {TOWER_FOLDER}: a release has "
            "all its parts inside; extract or fetch it again."
        )


def _read_head(folder: Path, dtype: torch.dtype) -> EditHead:
    content = read_json(folder / CONFIG_FILE)
    with no_larger_than(shard_files(folder), folder):
        try:
            d_in, e_out = content.pop("d_in"), content.pop("e_out")
            own, config = content.pop("own_embeddings", False), EditHeadConfig(**content)
            if config.layers > MOST_LAYERS:  # torch copies layers without telling of their parameters
                raise ValueError(f"{config.layers} layers, expected at most {MOST_LAYERS}")
            with torch.device("meta"):
                head = EditHead(config, d_in=d_in, e_out=e_out)
                if own:
                    head.own_embeddings = torch.empty(config.visual_tokens, d_in)
        except Exception as error:  # torch has no one type for sizes that do not go together
            raise WeightsError(
                f"{folder}/config.json describes no edit head ({error}): fetch the release again."
            ) from error
    files = (held for _, held in each_shard(folder, progress=False))
    return put_shards(head, files, where=folder, dtype=dtype)


def empty_model(
    kind: type[_Module], folder: Path, *, files: Sequence[Path] | None = None, **changes: Any
) -> _Module:
    """A model of diffusers without values, by its config.json but for `changes`. Raises WeightsError.

    `files` are those of its weights, where they are known already: it may not be larger than they are.
    """
    content = read_json(folder / CONFIG_FILE)
    try:
        with torch.device("meta"), no_larger_than(files, folder):
            model = kind.from_config(content | changes)  # pyright: ignore - of ConfigMixin
        assert isinstance(model, kind)
        return model
    except WeightsError:
        raise
    except Exception as error:  # the library and torch have no one type for what does not go together
        raise WeightsError(
            f"{folder}/config.json describes no {kind.__name__} ({error}): fetch the folder again."
        ) from error


def read_model(kind: type[_Module], folder: Path, *, dtype: torch.dtype, progress: bool = False) -> _Module:
    """A model of diffusers from its folder: every tensor equals the file's. Raises WeightsError."""
    stems = (DIFFUSERS_STEM, DIFFUSERS_STEM)
    model = empty_model(kind, folder, files=shard_files(folder, stems=stems))
    shards = each_shard(folder, progress=progress, stems=stems)
    return put_shards(model, (_with_todays_names(held) for _, held in shards), where=folder, dtype=dtype)


def _with_todays_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Attention of a VAE had other names when Stable Diffusion 1 was published."""
    older = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
    for name in [name for name in tensors if any(part in name for part in older)]:
        new = name
        for old, today in older.items():
            new = new.replace(old, today)
        tensors[new] = tensors.pop(name)
    return tensors


def _read_scheduler(folder: Path) -> SchedulerMixin:
    content = read_json(folder / "scheduler_config.json")
    kind = getattr(diffusers, str(content.get("_class_name")), None)
    if not (isinstance(kind, type) and issubclass(kind, SchedulerMixin)):
        raise WeightsError(
            f"{folder} names the scheduler {content.get('_class_name')!r}, expected one of diffusers; "
            "install the diffusers that wrote it, or fetch the release again."
        )
    return schedule(kind, content, folder)


def schedule(kind: Any, content: dict[str, Any], folder: Path) -> Any:
    """A scheduler of this class from a folder's scheduler_config.json. Raises WeightsError."""
    steps = content.get("num_train_timesteps", 1000)
    try:
        if not 1 <= steps <= LONGEST_SCHEDULE:
            raise ValueError(f"num_train_timesteps is {steps}, expected 1 to {LONGEST_SCHEDULE}")
        return kind.from_config(content)
    except Exception as error:  # the library has no one type for what makes no schedule
        raise WeightsError(
            f"{folder}/scheduler_config.json describes no schedule ({error}): fetch the folder again."
        ) from error


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
