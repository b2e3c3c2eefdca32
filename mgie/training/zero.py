"""What ZeRO shares out among the processes, put together and taken apart again (DeepSpeed).

Stage 1 shares the state of the optimizer, 2 the gradients too, 3 the weights too, frozen ones included.
Processes talk to each other in some of the functions: those that every process calls, in the same order.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from mgie.errors import ConfigError
from mgie.types import Batch, Draws, Losses, Term


def deepspeed_config(
    stage: int, *, processes: int, batch_size: int, micro_batch_size: int, clip: float
) -> dict[str, Any]:
    """DeepSpeed's dictionary of a run. Raises ConfigError where DeepSpeed is not installed."""
    try:
        import deepspeed as _  # noqa: F401  (whether it can be used, not only found)
    except ImportError as error:
        raise ConfigError(
            f"train.strategy=zero{stage} needs DeepSpeed ({error}): pip install 'mgie[train]', or take "
            "train.strategy=ddp."
        ) from error
    return {
        "train_batch_size": batch_size,
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": batch_size // (micro_batch_size * processes),
        "gradient_clipping": clip,
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": torch.cuda.is_available(),
            # Linear layers stay torch's: DeepSpeed's rounds twice in bfloat16, a product and its bias.
            "memory_efficient_linear": False,
        },
        # The run's own AdamW steps, on each process's share.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


class AsTuples(nn.Module):
    """A task that tells its losses as plain tuples: DeepSpeed looks for tensors in those, not in records.

    It computes in bfloat16 if `short`; weights and gradients stay in float32, as without DeepSpeed. This is
    inside, as the engine turns off what is turned on outside of it.
    """

    def __init__(self, task: nn.Module, *, short: bool):
        super().__init__()
        self.task = task
        self.short = short

    def forward(self, batch: Batch, draws: Draws) -> dict[str, tuple[Any, ...]]:
        """Sum and count of each loss."""
        with torch.autocast(batch.target.device.type, torch.bfloat16, enabled=self.short):
            # Not called as a module: its own hooks would look, too.
            losses = self.task.forward(batch, draws)
        return {name: (term.sum, term.count) for name, term in losses.items()}


class AsLosses(nn.Module):
    """The other way round: DeepSpeed's engine as a task."""

    def __init__(self, engine: nn.Module):
        super().__init__()
        self.engine = engine

    def forward(self, batch: Batch, draws: Draws) -> Losses:
        """What the task inside said."""
        told = self.engine(batch, draws)
        return {name: Term(sum=total, count=count) for name, (total, count) in told.items()}


def local_shards(parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    """This process's shares of partitioned parameters: the same memory, so that they follow every step."""
    return [nn.Parameter(shard_of(parameter).detach()) for parameter in parameters]


def shard_of(parameter: nn.Parameter) -> Tensor:
    """This process's share of a partitioned parameter: flat, padded to the same length everywhere."""
    return parameter.ds_tensor  # type: ignore[attr-defined]


def shard(tensor: Tensor, share: Tensor) -> Tensor:
    """This process's share of a whole tensor, as long as `share` is."""
    flat = tensor.flatten()
    return F.pad(flat, (0, share.numel() * dist.get_world_size() - flat.numel())).chunk(
        dist.get_world_size()
    )[dist.get_rank()]


def unshard(share: Tensor, parameter: nn.Parameter) -> Tensor:
    """The whole tensor, shaped like the whole `parameter`, of everyone's shares. Every process calls it."""
    everyones = [torch.empty_like(share) for _ in range(dist.get_world_size())]
    dist.all_gather(everyones, share.detach().contiguous())
    return torch.cat(everyones)[: parameter.ds_numel].view(parameter.ds_shape)  # type: ignore[attr-defined]


def optimizer_state(trained: dict[str, nn.Parameter], optimizer: Any) -> Iterator[tuple[str, Tensor]]:
    """The moments of every trained tensor, whole, as "<name>|<kind>". Every process calls it.

    `optimizer` is DeepSpeed's.
    """
    from deepspeed.utils import safe_get_full_optimizer_state

    state = next(iter(optimizer.optimizer.state.values()))
    _link(optimizer)
    for name, parameter in trained.items():
        for kind, value in state.items():
            if kind == "step":
                yield f"{name}|step", value.clone()
                continue
            whole = safe_get_full_optimizer_state(parameter, kind)
            assert whole is not None
            yield f"{name}|{kind}", whole


def load_optimizer_state(whole: dict[str, Tensor], trained: dict[str, nn.Parameter], optimizer: Any) -> None:
    """Give each process its share of the moments that a checkpoint holds, before the first step."""
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    partitioned = hasattr(optimizer, "fp32_partitioned_groups_flat")
    flats = (
        optimizer.fp32_partitioned_groups_flat if partitioned else optimizer.single_partition_of_fp32_groups
    )
    kinds = sorted({key.rsplit("|", 1)[1] for key in whole} - {"step"})
    # All tensors are stepped together, so the oldest one tells how often.
    step = torch.stack([value for key, value in whole.items() if key.endswith("|step")]).max()
    for flat in flats:
        optimizer.optimizer.state[flat] = {
            "step": step.clone(), **{kind: torch.zeros_like(flat) for kind in kinds}
        }  # fmt: skip
    _link(optimizer)
    for name, parameter in trained.items():
        for kind in kinds:
            value = whole.get(f"{name}|{kind}")
            if value is None:
                continue
            value = value.to(flats[0].device)
            if partitioned:
                safe_set_local_optimizer_state(parameter, shard(value, shard_of(parameter)), kind)
            else:
                safe_set_full_optimizer_state(parameter, value, kind)


def _link(optimizer: Any) -> None:
    """Tell the parameters where their moments are.

    DeepSpeed itself does so for all groups in the first step, when only those of the first group are there.
    """
    if hasattr(optimizer, "_hp_optimizer_states_linked"):
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


@contextmanager
def full_parameters(task: Any) -> Iterator[None]:
    """Inside, every process has all of the weights, in modules that run without the others.

    They are put together from the shares, and changes to them are forgotten. Every process calls it.
    """
    import deepspeed
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    engine = task.engine
    parameters, offload = list(engine.module.parameters()), engine.optimizer.parameter_offload
    # Small ones are kept whole between steps: these too shall be what the shares are now.
    kept = [each for each in parameters if each.ds_status == ZeroParamStatus.AVAILABLE]
    for parameter in parameters:
        parameter.ds_active_sub_modules.clear()
    if kept:
        kept[0].partition(param_list=kept)
    with deepspeed.zero.GatheredParameters(parameters):
        for hook in (*offload.forward_hooks, *offload.backward_hooks):
            hook.remove()
        offload.forward_hooks, offload.backward_hooks = [], []
        try:
            yield
        finally:
            offload._register_deepspeed_module(engine.module)
