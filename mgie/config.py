"""RunConfig: everything a run is, in one record. Composed here; a part's own settings live beside the part.

One precedence, written once: the recipe file, then `--a.b value` on the command line. Both are read by
jsonargparse from the same dataclasses; there is no third place.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from jsonargparse import ArgumentParser

from llava_patch.ranges import Range, check_ranges
from mgie.controllers.identity_options import IdentityTraining
from mgie.controllers.layout_options import LayoutTraining
from mgie.diffusion.guidance import DropConfig
from mgie.errors import ConfigError, mended
from mgie.evaluation.in_training import EvaluateConfig
from mgie.keys import check_keys, flatten, is_known, keys_of
from mgie.models.adapters import AdapterConfig
from mgie.personalization.pairs import SubjectsConfig
from mgie.ranges import Few, NewTokens, Ngram, Number, NumberOrNone, Scale, Seed, Side, Steps, Threads, Weight
from mgie.training.deepspeed import OffloadConfig
from mgie.training.engine import Strategy
from mgie.training.groups import SAYING, spelt_out
from mgie.training.log import LogConfig, PreviewConfig
from mgie.training.optim import AverageConfig, OptimConfig
from mgie.training.task import LossConfig
from mgie.weights.checkpoint import SaveConfig
from mgie.weights.parts import RECIPES, denoiser_part, encoder_part


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which parts the editor is made of: an encoder and a denoiser, or a whole release."""

    encoder: Any = None
    """What understands. Its `kind` says which keys there are (mgie/weights/parts.py)."""
    denoiser: Any = None
    """What paints, likewise, with the codec that belongs to it."""
    release: str | None = None
    """Folder of a release that is trained further, edit head and visual tokens included; then `encoder` and
    `denoiser` are left out."""
    start: str | None = None
    """Run, checkpoint, release or .safetensors file of an editor's tensors that the run begins with, as
    `--from` gives it; None: as the parts are. The recorded run names the checkpoint."""

    def __post_init__(self) -> None:
        """Either a release or both parts. Raises ConfigError."""
        given = [name for name in ("encoder", "denoiser") if getattr(self, name) is not None]
        if len(given) != (0 if self.release else 2):
            has = " and ".join([*given, *(["release"] if self.release else [])]) or "no parts"
            begun = "--from RELEASE begins with a release's tensors over the parts of a recipe"
            raise ConfigError(f"model has {has}: expected encoder and denoiser, or release alone; {begun}.")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is learnt from, and how large its pictures and how long its texts may be."""

    path: str
    """Folder that `mgie prepare` wrote. With `streaming` also a hub id, or a folder of Parquet files."""
    size: Side
    """Side of the pictures the codec sees, in pixels."""
    max_length: Annotated[int, Range(ge=1, le=2**20)]
    """Longest sequence in tokens; the expressive text is shortened to fit, the visual tokens never."""
    workers: Annotated[int, Range(ge=0, le=1024)] = 1
    """Loader processes per training process; 0 for none."""
    mixture: dict[str, Annotated[float, Range(gt=0, le=10**9)]] | None = None
    """Folder: its share of the samples (of any sum); `path`, whose previews are shown, is one of them."""
    pair_weights: bool = False
    """Let a pair come as often as its own weight says: 2 twice per epoch, 0 never."""
    buckets: Literal["length", "shape"] | None = None
    """Steps of pairs that are alike: `length` in their texts, so that little is padded; `shape` in their
    pictures, which then keep about their ratio of width to height. None: any pairs, pictures cut square."""
    shape_step: Side = 64
    """Sides of pictures in shape buckets are multiples of it."""
    last: Literal["straddle", "drop", "pad"] | None = None
    """The last, incomplete step of an epoch (of a shape bucket): filled from the next epoch, left out, or
    filled again from its own. None: straddle; for shape buckets, which cannot, pad."""
    streaming: bool = False
    """Read `path` in passing instead of from a disk: for hub ids, and sets larger than the disk."""
    features: tuple[Literal["vae", "clip"], ...] | None = None
    """What is taken from the stored features (`mgie prepare --store`) instead of computed from pixels. None:
    all that is stored and that nothing trained, cropped or mirrored would change; [] for none."""
    crop: Annotated[float, Range(ge=0.1, le=1)] = 1.0
    """Smallest share of each side that a random part of the pictures keeps, before and after alike."""
    flip: Annotated[float, Range(ge=0, le=1)] = 0.0
    """Share of the samples that are mirrored; never one whose words name a side (left, right)."""
    subjects: SubjectsConfig | None = None
    """How one's own subjects are learnt: then `path` is a folder of them (docs/controls.md)."""

    @property
    def shares(self) -> dict[str, float]:
        """Folder: its share of the samples, also where there is only one."""
        return self.mixture or {self.path: 1.0}

    def __post_init__(self) -> None:
        """Refuse what cannot be had together. Raises ConfigError."""
        sole = {
            "streaming": ("mixture", "pair_weights", "buckets", "last", "features"),
            "pair_weights": ("buckets", "last"),
            "subjects": ("streaming", "mixture", "pair_weights", "buckets", "last", "features"),
        }
        for name, others in sole.items():
            clash = [other for other in others if getattr(self, name) and getattr(self, other)]
            if clash:
                raise ConfigError(f"data.{name} and data.{clash[0]} exclude each other: leave one out.")
        if self.mixture and self.last and not self.buckets:
            raise ConfigError("data.last has no meaning for data.mixture without buckets: leave it out.")
        if self.mixture and self.path not in self.mixture:
            others = ", ".join(self.mixture)
            raise ConfigError(f"data.mixture has no share for data.path={self.path}: add it to {others}.")
        if self.features and (self.crop < 1 or self.flip):
            clash = f"data.features and data.{'crop' if self.crop < 1 else 'flip'} exclude each other"
            raise ConfigError(f"{clash}: stored features are of whole pictures; leave one out.")
        if self.buckets == "shape" and (self.features or self.last == "straddle"):
            other = "data.features" if self.features else "data.last=straddle"
            why = "a step there has pictures of one shape, and stored features are of squares"
            raise ConfigError(f"data.buckets=shape and {other} exclude each other: {why}; leave one out.")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long and in which portions is trained, which parts, and towards what."""

    samples: Number | None = None
    """Length of the run in samples. Give this or `epochs`."""
    epochs: Annotated[float, Range(gt=0, le=10**6)] | None = None
    """Length of the run in passes over the data. Give this or `samples`."""
    batch_size: Annotated[int, Range(ge=1, le=10**6)]
    """Samples per optimizer step, over all processes and micro-batches."""
    micro_batch_size: Annotated[int, Range(ge=1, le=10**6)] | None = None
    """Samples that one process holds at a time; what is missing to `batch_size` is accumulated. None: a
    process holds its whole share of the batch."""
    groups: tuple[str, ...]
    """Names of the parameter groups that are trained; the others are frozen. A name in GROUP_SETS
    (mgie/training/groups.py: reference, new_tokens_only, head_only, lora, qlora) stands for several."""
    lora: AdapterConfig = field(default_factory=AdapterConfig)
    """Adapters of the groups lora_language_model and lora_denoiser."""
    layout: LayoutTraining = field(default_factory=LayoutTraining)
    """Blocks of the group layout, which paint regions with phrases."""
    identity: IdentityTraining = field(default_factory=IdentityTraining)
    """Tokens of the group identity, which keep a photo's look."""
    edit_weight: Weight = 0.5
    """Weight of the diffusion loss beside the language loss (MGIE, Fu et al. 2024, section 3.3). 0: words
    alone are learnt."""
    align_weight: Weight = 0.0
    """Weight, beside the diffusion loss, of the condition's distance from what the diffusion side's own text
    encoder makes of the same words (GILL, Koh et al. 2023, section 3.2)."""
    drop: DropConfig = field(default_factory=DropConfig)
    """How often conditions are dropped, for guidance."""
    loss: LossConfig = field(default_factory=LossConfig)
    """What the denoiser predicts, and how its errors count."""
    timestep_shift: Annotated[float, Range(gt=0, le=1000)] = 1.0
    """Shift of the drawn diffusion times towards noise (Stable Diffusion 3, equation 23); 1 is uniform."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Compute type; what is trained, and all that the optimizer knows of it, stays in float32."""
    frozen_dtype: Literal["float32", "bfloat16"] | None = None
    """Type of the weights that are not trained; `bfloat16` halves their memory, and wants precision=bf16.
    None: bfloat16 on a GPU with precision=bf16, float32 elsewhere."""
    strategy: Strategy = "ddp"
    """What several processes share out: `ddp` samples; `zero1` the optimizer's state too, `zero2` gradients
    too, `zero3` and `fsdp2` weights too, frozen ones included (mgie/training/)."""
    offload: OffloadConfig = field(default_factory=OffloadConfig)
    """What zero1 to zero3 keep on the CPU or on a disk."""
    ema: Annotated[float, Range(ge=0, lt=1)] | None = None
    """Decay of the averaged weights. None: no average."""
    ema_schedule: AverageConfig = field(default_factory=AverageConfig)
    """How the decay begins."""
    gradient_checkpointing: bool = False
    """Recompute the language model's activations in the backward pass."""
    checkpointing_every: Annotated[int, Range(ge=1, le=1024)] = 1
    """Of every so many of its layers only, with `gradient_checkpointing`: more memory for less time."""
    denoiser_checkpointing: Literal["none", "selective", "whole"] = "none"
    """Recompute the denoiser's activations: none, those of its largest layers, or all."""
    threads: Threads | None = None
    """Threads per process on a CPU. None: all cores shared among the processes."""
    timeout: Annotated[float, Range(gt=0, le=10**5)] = 180.0
    """Minutes that processes wait for one of them, which may be saving or hang, before they end."""

    def __post_init__(self) -> None:
        """Put groups in the place of the names that stand for several."""
        if "qlora" in self.groups and self.lora.bits is None:
            object.__setattr__(self, "lora", replace(self.lora, bits=4))
        object.__setattr__(self, "groups", spelt_out(self.groups))

    def micro_batch(self, processes: int) -> int:
        """Samples that each of so many processes holds at a time."""
        if self.micro_batch_size is None:
            return max(1, self.batch_size // processes)
        return self.micro_batch_size


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """The losses of held-out pairs, at noise that is always the same: comparable between checkpoints."""

    every: NumberOrNone = 0
    """Samples between them; 0 for none. They stand in validation.jsonl, and among the trackers' numbers."""
    count: Few = 64
    """How many held-out pairs, from the first."""
    levels: tuple[Annotated[float, Range(ge=0, lt=1)], ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    """Parts of the diffusion times at which the painting is measured; 0 is a picture without noise."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How the trained editor edits unless it is told otherwise; a release carries these."""

    steps: Steps
    guidance: Scale
    image_guidance: Scale
    scheduler: str
    """Name of a diffusers scheduler class, built from the training schedule."""
    max_new_tokens: NewTokens
    no_repeat_ngram_size: Ngram


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A run: what `mgie train` needs to know, and all that it needs to know."""

    name: str
    """Name of the run and of its folder."""
    out: str = "_ckpt/runs"
    """Folder of all runs."""
    seed: Seed = 0
    compat: Literal["default", "reference"] = "default"
    """`reference` reproduces the quirks of the original program (docs/coming-from-ml-mgie.md)."""
    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    optim: OptimConfig
    save: SaveConfig
    log: LogConfig
    preview: PreviewConfig
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    sampling: SamplingConfig
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    def __post_init__(self) -> None:
        """Hold every number to its range. Raises ConfigError."""
        check_ranges(self)
        drop = self.train.drop
        if drop.text + drop.both + drop.image > 1:
            told = f"train.drop.text={drop.text}, both={drop.both} and image={drop.image}"
            raise ConfigError(f"{told} are more than 1 together: they are shares of the samples; lower them.")

    @property
    def folder(self) -> Path:
        """Where this run keeps its checkpoints, log and previews."""
        return Path(self.out) / self.name

    def validate(self, world_size: int = 1) -> None:
        """Refuse, before any weight is read, what could only fail later. Raises ConfigError."""
        train = self.train
        if (train.samples is None) == (train.epochs is None):
            told = f"train.samples={train.samples} and train.epochs={train.epochs}"
            raise ConfigError(f"{told}: expected exactly one of them; set the other to null.")
        per_round = world_size * (1 if train.micro_batch_size is None else train.micro_batch_size)
        if train.batch_size % per_round:
            share = "null" if train.micro_batch_size is None else train.micro_batch_size
            raise ConfigError(
                f"train.batch_size={train.batch_size} with train.micro_batch_size={share} on {world_size} "
                f"process(es): the batch must be a multiple of {per_round}; change one of them."
            )
        train.offload.check(train.strategy, averaged=train.ema is not None)
        if train.frozen_dtype == "bfloat16" and train.precision != "bf16":
            raise ConfigError(
                f"train.frozen_dtype=bfloat16 with train.precision={train.precision}: such weights are for "
                "computing in bfloat16; set train.precision to bf16, or leave train.frozen_dtype out."
            )
        if self.compat == "reference" and train.timestep_shift != 1:
            told = f"train.timestep_shift={train.timestep_shift} with compat=reference"
            raise ConfigError(f"{told}: the original draws all times alike; set train.timestep_shift to 1.")
        if self.compat == "reference" and train.loss != LossConfig():
            raise ConfigError("train.loss with compat=reference: the original has none of it; leave it out.")
        if self.compat == "reference" and "layout" in train.groups:
            raise ConfigError("train.groups has layout with compat=reference: the original has no regions.")
        if self.compat == "reference" and "identity" in train.groups:
            raise ConfigError("train.groups has identity with compat=reference: the original has no such.")
        if self.preview.photos is not None and not self.preview.every:
            told = f"preview.photos is {self.preview.photos} with preview.every=0"
            raise ConfigError(f"{told}: they would never be shown; set preview.every, or leave it out.")
        if not re.fullmatch(r"[\w-][\w.-]*", self.name):
            wish = "use letters, digits, '-', '_' and, not first, '.'"
            raise ConfigError(f"name={self.name!r} is no folder name: {wish}.")
        if not train.groups:
            raise ConfigError("train.groups is empty: name the parameter groups to be trained.")
        for key in ("lrs", "warmups", "schedules"):
            if unknown := [name for name in getattr(self.optim, key) if name not in train.groups]:
                raise ConfigError(
                    f"optim.{key} names {', '.join(unknown)}: expected some of the trained groups "
                    f"{', '.join(train.groups)}; --optim.{key} {{}} has none."
                )
        if self.optim.muon is not None and train.strategy != "ddp":
            raise ConfigError(
                f"optim.muon with train.strategy={train.strategy}: Muon needs whole matrices, and there they "
                "are shared out; set train.strategy to ddp, or leave optim.muon out."
            )
        self._check_objective()
        if train.align_weight and self.model.release is not None:
            told = f"train.align_weight={train.align_weight} with model.release"
            raise ConfigError(f"{told}: a release has no text encoder; set it to 0.")

    def _check_objective(self) -> None:
        """Refuse what words alone, dco and subjects cannot be had with. Raises ConfigError."""
        train, subjects = self.train, self.data.subjects
        if not train.edit_weight and (mute := [name for name in train.groups if name not in SAYING]):
            told = f"train.edit_weight=0 with {', '.join(mute)} in train.groups"
            raise ConfigError(
                f"{told}: without painting they learn nothing; raise train.edit_weight, or train only "
                f"{' or '.join([', '.join(SAYING[:-1]), SAYING[-1]])}."
            )
        if train.loss.objective == "dco":
            alone = "dco holds an adapter to the model without it"
            if train.groups != ("lora_denoiser",) or train.strategy != "ddp":
                told = f"train.loss.objective=dco with {', '.join(train.groups)} and {train.strategy}"
                raise ConfigError(f"{told}: {alone}; expected train.groups=[lora_denoiser] and ddp.")
            if subjects and subjects.prior and not train.loss.dco_with_prior:
                told = "train.loss.objective=dco with data.subjects.prior"
                raise ConfigError(f"{told}: the one does the other's work; set train.loss.dco_with_prior.")
        looks = {"preview": self.preview.every, "validation": self.validation.every}
        looks["evaluate"] = self.evaluate.every
        if subjects and (wanted := next((name for name, every in looks.items() if every), None)):
            told = f"{wanted}.every={looks[wanted]} with data.subjects"
            raise ConfigError(f"{told}: a folder of subjects has no held-out pairs; set it to 0.")


def load_run(config: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read the recipe `config`, a name in mgie/recipes or a YAML file; `overrides` (`--a.b value`) win.

    Raises ConfigError for an unknown recipe, an unknown key (with the nearest known names) or a value of the
    wrong type.
    """
    path = recipe_path(config)
    try:
        raw = yaml.safe_load(path.read_text())
        keys = flatten(raw) if isinstance(raw, dict) else []
    except RecursionError as error:
        raise ConfigError(f"recipe {path} is nested too deeply: expected a few keys below keys.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"recipe {path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ConfigError(
            f"recipe {path} holds {type(raw).__name__}: expected keys like those of mgie/recipes/tiny.yaml."
        )
    kinds = _kinds(raw, overrides)
    known = {key: free for key, free in keys_of(RunConfig).items() if key not in kinds}
    for prefix, settings in kinds.items():
        known |= keys_of(settings, f"{prefix}.")
    check_keys([key for key in keys if not is_known(key, known)], known, f"recipe {path}")
    named = [word[2:].split("=", 1)[0] for word in overrides if word.startswith("--")]
    check_keys([key for key in named if not is_known(key, known)], known, "the command line")
    parser = _parser(kinds)
    try:
        # jsonargparse reads the file again, so that its types are checked by the same rules as the options.
        namespace = parser.parse_args(["--config", str(path), *overrides])
    except (SystemExit, Exception) as error:
        raise ConfigError(f"{config}: {mended(str(error)) or type(error).__name__}.") from error
    values = parser.instantiate(namespace)
    return RunConfig(**{f.name: values[f.name] for f in fields(RunConfig)})


def dump_run(run: RunConfig) -> str:
    """The resolved configuration as YAML that `load_run` reads back to an equal RunConfig."""
    return yaml.safe_dump(_plain(asdict(run)), sort_keys=False, allow_unicode=True, width=120)


def recipe_path(config: str) -> Path:
    """The YAML file of a recipe name or path. Raises ConfigError that names what exists."""
    if config.endswith((".yaml", ".yml")) or "/" in config:
        if not Path(config).is_file():
            raise ConfigError(
                f"recipe {config} does not exist: give a YAML file or one of {_recipe_names()}."
            )
        return Path(config)
    if config not in _recipe_names():
        near = difflib.get_close_matches(config, _recipe_names(), n=3, cutoff=0.4)
        raise ConfigError(
            f"no recipe is called {config!r}: expected {' or '.join(near or _recipe_names())}, "
            "or a YAML file."
        )
    return RECIPES / f"{config}.yaml"


def _recipe_names() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def _kinds(raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, type]:
    """Key -> settings of the kind of part that it holds. Raises ConfigError for a kind that is not known."""
    model = raw.get("model")
    found: dict[str, type] = {}
    for name, known in (("encoder", encoder_part), ("denoiser", denoiser_part)):
        given = model.get(name) if isinstance(model, dict) else None
        kind = given.get("kind") if isinstance(given, dict) else None
        option = f"--model.{name}.kind"
        for at, word in enumerate(overrides):
            if word.split("=", 1)[0] == option:
                kind = word.split("=", 1)[1] if "=" in word else " ".join(overrides[at + 1 : at + 2])
        if given is not None or kind is not None:
            found[f"model.{name}"] = known(str(kind)).settings
    return found


def _parser(kinds: dict[str, type]) -> ArgumentParser:
    parser = ArgumentParser(prog="mgie train", exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(RunConfig, fail_untyped=True, skip={"model"})
    parser.add_class_arguments(ModelConfig, "model", skip={"encoder", "denoiser"})
    for key in ("model.encoder", "model.denoiser"):
        if key in kinds:
            parser.add_class_arguments(kinds[key], key, fail_untyped=True)
        else:
            parser.add_argument(f"--{key}", type=type(None), default=None)
    return parser


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
