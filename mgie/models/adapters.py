"""Low-rank adapters in a part of an editor (LoRA), by peft; frozen layers in few bits.

W x becomes W x + (alpha / rank) B A x (Hu et al. 2022), of which A and B are trained and B begins as zero.
With few bits (QLoRA, Dettmers et al. 2023) bitsandbytes keeps the frozen W.
"""

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llava_patch.ranges import Range
from mgie.errors import ConfigError, WeightsError
from mgie.keys import nearest

NAME = "default"
"""What peft calls an adapter that nobody gave a name."""
PREFIX = "unet."
"""Before the names of a UNet's layers in diffusers' files."""
Bits = Literal[4, 8]


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """What adapters look like, and where they are put, for the groups `lora_language_model` and
    `lora_denoiser`."""

    rank: Annotated[int, Range(ge=1, le=1024)] = 16
    alpha: Annotated[float, Range(gt=0, le=10_000)] = 16.0
    """What an adapter adds is multiplied by alpha / rank."""
    language_model: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    """Layers of the language model, by the end of their names."""
    denoiser: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    """Layers of the denoiser, likewise."""
    init: Literal["uniform", "gaussian"] = "uniform"
    """What A is drawn from: as other layers are (He et al. 2015), or a normal distribution of deviation
    1 / rank, as diffusers' programs for Stable Diffusion do."""
    bits: Bits | None = None
    """Bits in which the frozen layers of the language model are kept while it is trained; 4 for the group
    `qlora` unless it is said here. None: as other frozen weights."""


def add_adapters(
    part: nn.Module, config: AdapterConfig, *, targets: Sequence[str], key: str, seed: int
) -> None:
    """Put new adapters into the layers of `part` whose names end in `targets`; float32, drawn from `seed`.

    Raises ConfigError for a target that no layer is called by, with those spelt alike; `key` is where the
    recipe names them.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = [name for name, module in part.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    ends = sorted({".".join(name.split(".")[-parts:]) for name in names for parts in (1, 2)})
    for target in targets or ("",):
        if not target or not any(f".{name}".endswith(f".{target}") for name in names):
            near = [end for end in nearest(target, ends) if re.search("[a-z]", end)] or ends[:3]
            raise ConfigError(
                f"{key} names {target or 'no layer'}, so its adapter would train nothing: did you mean "
                f"{' or '.join(near)}?"
            )
    lora = LoraConfig(
        r=config.rank, lora_alpha=config.alpha, target_modules=list(targets),  # type: ignore[arg-type]
        init_lora_weights="gaussian" if config.init == "gaussian" else True,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(lora, part)
    for parameter in adapter_parameters(part):
        parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))


def adapter_parameters(part: nn.Module) -> list[nn.Parameter]:
    """Those of the adapters in it; none where there are no adapters."""
    return [parameter for name, parameter in part.named_parameters() if ".lora_" in name]


@contextmanager
def without_adapters(part: nn.Module) -> Iterator[None]:
    """Meanwhile `part` computes what it would without adapters; which of them are trained stays as it is."""
    from peft.tuners.lora import LoraLayer

    trained = [parameter for parameter in adapter_parameters(part) if parameter.requires_grad]
    layers = [layer for layer in part.modules() if isinstance(layer, LoraLayer)]
    try:
        for layer in layers:
            layer.enable_adapters(False)  # type: ignore[operator]
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)  # type: ignore[operator]
        for parameter in trained:
            parameter.requires_grad_(True)


def wear_adapter(
    part: Any, tensors: Mapping[str, Tensor], *, name: str, where: str, scale: float = 1.0
) -> None:
    """Put the adapter of a diffusers file, whose tensors these are, beside those that `part` wears already;
    all of them act together, none is trained.

    Raises WeightsError for one of another model, calling it by `where` it lies.
    """
    from peft.tuners.lora import LoraLayer

    modules = dict(part.named_modules())
    for key, tensor in tensors.items():
        layer, _, last = key.removeprefix(PREFIX).partition(".lora_")
        own = modules.get(layer)
        own = own.get_base_layer() if isinstance(own, LoraLayer) else own
        weight = getattr(own, "weight", None)
        side = {"A.weight": 1, "B.weight": 0}.get(last)
        if not key.startswith(PREFIX) or side is None or weight is None:
            raise WeightsError(
                f"the adapter {where} is for another model: this one has no place for {key}; take its own."
            )
        if tensor.shape[side] != weight.shape[side]:
            raise WeightsError(
                f"the adapter {where} is for another model: its {key} has {tuple(tensor.shape)}, and the "
                f"layer here {tuple(weight.shape)}; take its own base."
            )
    worn = [*getattr(part, "peft_config", {})]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several are meant
        part.load_lora_adapter(dict(tensors), prefix=PREFIX[:-1], adapter_name=name)
    for layer in part.modules():
        if isinstance(layer, LoraLayer):
            layer.set_adapter([*worn, name])  # type: ignore[operator]
            if name in layer.scaling:  # type: ignore[operator]
                layer.set_scale(name, scale)  # type: ignore[operator]
    for parameter in adapter_parameters(part):
        parameter.requires_grad_(False)
        parameter.data = parameter.data.to(part.dtype)


def diffusers_tensors(trained: Mapping[str, Tensor], config: AdapterConfig) -> dict[str, Tensor]:
    """What a run has trained of a UNet's adapter, by its names there, as diffusers calls it within the UNet.

    Such a file is read with an alpha that is its rank: what ours makes of it is in B.
    """
    found = {}
    for name, tensor in trained.items():
        if ".lora_" not in name:
            continue
        key = name.partition(f".{PREFIX}")[2].replace(f".{NAME}.", ".")
        scale = config.alpha / config.rank if ".lora_B." in key else 1.0
        found[key] = (tensor * scale).contiguous()
    return found


def merge_adapters(part: nn.Module) -> None:
    """Add what adapters have learnt to the layers around which they lie, and take them away."""
    from peft.tuners.lora import LoraLayer

    for name, layer in list(part.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge(safe_merge=True)  # type: ignore[operator]
            _put(part, name, layer.get_base_layer())
    _forget(part)


def save_adapters(part: nn.Module, folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors, as peft names them, and take the adapters
    away from `part`."""
    from peft import get_peft_model_state_dict
    from peft.tuners.lora import LoraLayer

    folder.mkdir(parents=True)
    tensors = get_peft_model_state_dict(part, adapter_name=NAME)
    save_file({name: each.detach().cpu().contiguous() for name, each in tensors.items()},
              folder / "adapter_model.safetensors", metadata={"format": "pt"})  # fmt: skip
    part.peft_config[NAME].save_pretrained(str(folder))  # type: ignore[index, union-attr]
    for name, layer in list(part.named_modules()):
        if isinstance(layer, LoraLayer):
            _put(part, name, layer.get_base_layer())
    _forget(part)


def load_adapters(part: nn.Module, folder: Path) -> None:
    """Read what `save_adapters` wrote, and add it to the layers. Raises WeightsError where it does not
    fit."""
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    try:
        config = LoraConfig.from_pretrained(str(folder))
        inject_adapter_in_model(config, part)
        tensors = load_file(folder / "adapter_model.safetensors")
        report = set_peft_model_state_dict(part, tensors, adapter_name=NAME)
    except Exception as error:  # the library has no one type for what does not fit
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"the adapter in {folder} does not fit ({reason}): extract it again.") from error
    missing = [name for name in report.missing_keys if ".lora_" in name]
    if missing or report.unexpected_keys:
        odd = (missing or report.unexpected_keys)[0]
        raise WeightsError(f"the adapter in {folder} does not fit, such as {odd}: extract it again.")
    merge_adapters(part)


def plainly(named: Iterable[tuple[str, nn.Parameter]]) -> dict[str, nn.Parameter]:
    """Parameters by the names that they have where there are no adapters."""
    return {name.replace(".base_layer.", "."): parameter for name, parameter in named}


def keep_in_bits(part: nn.Module, bits: Bits) -> None:
    """Keep the weights of linear layers in so few bits; what they multiply stays as it is.

    4 bits are QLoRA's normal float. Raises ConfigError where bitsandbytes is missing.
    """
    if not find_spec("bitsandbytes"):
        raise ConfigError(
            f"train.lora.bits={bits} (train.groups=[qlora]) needs the package bitsandbytes, which is not "
            "installed: pip install bitsandbytes, or take lora instead of qlora."
        )
    import bitsandbytes

    kinds = bitsandbytes.nn
    for name, layer in list(part.named_modules()):
        if not isinstance(layer, nn.Linear) or name.endswith("lm_head"):
            continue
        shape, weight = (layer.in_features, layer.out_features), layer.weight.data
        bias, more = layer.bias, {"requires_grad": False}
        with torch.device("meta"):
            if bits == 4:
                short = kinds.Linear4bit(
                    *shape, bias=bias is not None, compute_dtype=weight.dtype, quant_type="nf4"
                )
            else:
                short = kinds.Linear8bitLt(*shape, bias=bias is not None, has_fp16_weights=False)
        short.weight = (
            kinds.Params4bit(weight, quant_type="nf4", **more)
            if bits == 4
            else kinds.Int8Params(weight, has_fp16_weights=False, **more)
        )
        short.bias = bias
        # The weights are shortened when they come to where they stay.
        _put(part, name, short.to(weight.device))


def _put(part: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, last = name.rpartition(".")
    setattr(part.get_submodule(owner), last, module)


def _forget(part: nn.Module) -> None:
    """What peft leaves on a model of adapters that are gone."""
    if hasattr(part, "peft_config"):
        del part.peft_config
