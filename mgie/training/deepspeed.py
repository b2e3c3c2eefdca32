"""Processes that share out optimizer, gradients and weights too (ZeRO).

ZeRO (Rajbhandari et al. 2020), by the library DeepSpeed: stage 1 shares out the optimizer's state, 2 the
gradients too, 3 the weights too, frozen ones included.

All that touches DeepSpeed is here. Of what is not in its documentation that is `fp32_partitioned_groups_flat`
and `lazy_init_hp_params_optimizer_state`; tests/mgie/training/test_deepspeed.py tells when they move.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from mgie.errors import ConfigError
from mgie.training.engine import AbstractEngine, InTuples, exchanged, in_records
from mgie.training.task import AbstractTask
from mgie.training.world import World
from mgie.types import Batch, Draws, Losses
from mgie.weights.checkpoint import Snapshot

Place = Literal["none", "cpu", "nvme"]


@dataclass(frozen=True, kw_only=True)
class OffloadConfig:
    """Where ZeRO keeps what a GPU has no room for (ZeRO-Offload, Ren et al. 2021; ZeRO-Infinity, Rajbhandari
    et al. 2021). A step takes longer, as all of it travels."""

    optimizer: Place = "none"
    """The trained weights in float32 and their moments, which are stepped there: with zero1 to zero3 on the
    `cpu`, with zero3 on `nvme`."""
    parameters: Place = "none"
    """With zero3, the weights, frozen ones included, while they are not computed with."""
    nvme: str | None = None
    """Folder on a disk of the machine itself, for `nvme`; DeepSpeed reads and writes it by libaio."""

    @property
    def any(self) -> bool:
        """Whether there is something to be kept elsewhere."""
        return self.optimizer != "none" or self.parameters != "none"

    def check(self, strategy: str, *, averaged: bool) -> None:
        """Refuse what DeepSpeed cannot do with this strategy, or this program cannot do with DeepSpeed: the
        average (`averaged`) of what is elsewhere. Raises ConfigError."""
        told = f"train.offload with train.strategy={strategy}"
        if self.any and not strategy.startswith("zero"):
            raise ConfigError(f"{told}: only zero1, zero2 and zero3 keep things elsewhere; take one of them.")
        infinite = self.parameters != "none" or self.optimizer == "nvme"
        if infinite and strategy != "zero3":
            raise ConfigError(f"{told}: parameters, and anything on nvme, want zero3; take that.")
        if ("nvme" in (self.optimizer, self.parameters)) != (self.nvme is not None):
            raise ConfigError(
                f"train.offload.nvme is {self.nvme}: expected the folder of a disk where something is put on "
                "nvme, and only there."
            )
        if self.optimizer != "none" and averaged:
            raise ConfigError(
                "train.ema with train.offload.optimizer: the average follows weights on the GPU, and these "
                "are stepped elsewhere; set train.ema to null."
            )


class ZeroEngine(AbstractEngine):
    """DeepSpeed's engine around a task; the run's own AdamW steps, on each process's share."""

    model: Any
    """DeepSpeed's."""
    groups: list[list[nn.Parameter]]
    """The parameters of each of the optimizer's groups."""
    shapes: dict[str, torch.Size]
    """Of the trained tensors, whole."""

    def __init__(
        self, world: World, *, clip: float, bf16: bool, stage: int, batch_size: int, micro_batch_size: int,
        offload: OffloadConfig | None = None,
    ):  # fmt: skip
        """Sizes are the run's: DeepSpeed wants to know them beforehand. `offload` has been checked.

        Raises ConfigError where DeepSpeed is not installed, and where there is no GPU to offload from.
        """
        super().__init__(world, clip=clip, bf16=bf16)
        try:
            import deepspeed as _  # noqa: F401  (whether it can be used, not only found)
        except ImportError as error:
            raise ConfigError(
                f"train.strategy=zero{stage} needs DeepSpeed ({error}): pip install 'mgie[train]', or take "
                "train.strategy=ddp."
            ) from error
        if offload and offload.any and world.device.type != "cuda":
            raise ConfigError(
                f"train.offload on {world.device.type}: what is kept elsewhere is kept off a GPU, and there "
                "is none here; leave it out."
            )
        if world.size == 1:
            world.meet_alone()
        self.stage = stage
        self.config = deepspeed_config(
            stage, processes=world.size, batch_size=batch_size, micro_batch_size=micro_batch_size, clip=clip,
            offload=offload,
        )  # fmt: skip

    def prepare(
        self, task: AbstractTask, optimizer: torch.optim.Optimizer, trained: dict[str, nn.Parameter]
    ) -> None:
        """In stage 3 the parameters hold nothing afterwards, outside of forward and backward."""
        import deepspeed

        self.groups = [list(group["params"]) for group in optimizer.param_groups]
        self.shapes = {name: parameter.shape for name, parameter in trained.items()}
        self.optimizer, self.trained = optimizer, trained
        self.model, *_ = deepspeed.initialize(
            model=InTuples(task, bf16=self.bf16), optimizer=optimizer, config=self.config
        )

    def __call__(self, batch: Batch, draws: Draws) -> Losses:
        """Told in tuples, and made into records again."""
        return in_records(self.model(batch, draws))

    def accumulating(self, *, last: bool) -> AbstractContextManager:
        """Stages 2 and 3 send gradients with every micro-batch, as nobody keeps them all."""
        self.model.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """DeepSpeed averages over processes and micro-batches, so the loss is multiplied by their numbers."""
        self.model.backward(loss * self.world.size * self.config["gradient_accumulation_steps"])

    def step(self) -> tuple[Tensor, Tensor]:
        """DeepSpeed clips, and looks at the norm itself."""
        self.model.step()
        norm = torch.as_tensor(self.model.get_global_grad_norm(), device=self.world.device)
        return norm, norm.isfinite().float()

    def local_parameters(self) -> list[nn.Parameter]:
        """In stage 3 this process's shares: the same memory, so that they follow every step."""
        parameters = list(self.trained.values())
        return [nn.Parameter(share_of(each)) for each in parameters] if self.stage == 3 else parameters

    @contextmanager
    def full_parameters(self, averages: list[Tensor] | None) -> Iterator[None]:
        """In stage 3 put together from the shares; what is changed inside is forgotten."""
        if self.stage < 3:
            with exchanged(self.trained.values() if averages else (), averages or ()):
                yield
            return
        import deepspeed

        with deepspeed.zero.unwrap_model_for_generation(self.model):
            for (_, average), parameter in zip(self._whole(averages or ()), self.trained.values()):
                parameter.data.copy_(average)
            yield

    def state_dict(self, averages: list[Tensor] | None) -> Snapshot:
        """Put together from the shares, tensor by tensor."""
        return Snapshot(
            trained=self._kept(self._whole(self.local_parameters())),
            optimizer=self._kept(self._moments()),
            ema=None if averages is None else self._kept(self._whole(averages)),
        )

    def load_state_dict(self, snapshot: Snapshot, averages: list[Tensor] | None) -> None:
        """Each process takes its shares, before the first step."""
        for name, average in zip(self.trained, averages or ()):
            whole = (snapshot.ema or snapshot.trained)[name]
            average.copy_(shard(whole, average) if self.stage == 3 else whole)
        self._load_moments(snapshot.optimizer)

    def _whole(self, held: Iterable[Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Names and whole tensors of what this process holds of them."""
        for (name, shape), tensor in zip(self.shapes.items(), held):
            yield name, unshard(tensor, shape) if self.stage == 3 else tensor

    def _moments(self) -> Iterator[tuple[str, Tensor]]:
        """The moments of every trained tensor, whole, as "<name>|<kind>"."""
        from deepspeed.utils import safe_get_full_optimizer_state

        self._link()
        state = next(iter(self.optimizer.state.values()), {})
        for name, parameter in self.trained.items():
            for kind, value in state.items():
                # All tensors are stepped together.
                whole = value if kind == "step" else safe_get_full_optimizer_state(parameter, kind)
                yield f"{name}|{kind}", whole.clone()

    def _load_moments(self, whole: dict[str, Tensor]) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        kinds = sorted({key.rsplit("|", 1)[1] for key in whole} - {"step"})
        if not whole:  # no step was taken
            return
        # All tensors are stepped together, so the oldest one tells how often.
        step = torch.stack([value for key, value in whole.items() if key.endswith("|step")]).max()
        for flat in self._flats():
            zeros = {kind: torch.zeros_like(flat) for kind in kinds}
            self.optimizer.state[flat] = {"step": step.clone(), **zeros}
        self._link()
        for name, parameter in self.trained.items():
            for kind in kinds:
                value = whole.get(f"{name}|{kind}")
                if value is None:
                    continue
                value = value.to(self.world.device)
                if self.stage == 3:
                    safe_set_local_optimizer_state(parameter, shard(value, share_of(parameter)), kind)
                else:
                    safe_set_full_optimizer_state(parameter, value, kind)

    def _flats(self) -> list[Tensor]:
        """What the optimizer steps: this process's shares, one after the other in a few long tensors."""
        if self.stage == 3:
            return self.model.optimizer.fp32_partitioned_groups_flat
        return [group["params"][0] for group in self.optimizer.param_groups]

    def _link(self) -> None:
        """Tell the parameters where their moments are.

        In stages 1 and 2 DeepSpeed does so in the first step, when only those of the first group are there.
        """
        from deepspeed.utils import lazy_init_hp_params_optimizer_state

        if self.stage < 3:
            for members, flat in zip(self.groups, self._flats()):
                lazy_init_hp_params_optimizer_state(members, flat, self.optimizer.state)


def deepspeed_config(
    stage: int, *, processes: int, batch_size: int, micro_batch_size: int, clip: float,
    offload: OffloadConfig | None = None,
) -> dict[str, Any]:  # fmt: skip
    """DeepSpeed's dictionary of a run."""
    elsewhere: dict[str, Any] = {}
    for key, place in (("offload_optimizer", offload and offload.optimizer),
                       ("offload_param", offload and offload.parameters)):  # fmt: skip
        if offload and place not in (None, "none"):
            disk = {"nvme_path": offload.nvme} if place == "nvme" else {}
            elsewhere[key] = {"device": place, "pin_memory": True, **disk}
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
            **elsewhere,
        },
        # The run's own AdamW steps, on each process's share.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
    }


def share_of(parameter: nn.Parameter) -> Tensor:
    """This process's share of a partitioned parameter: flat, padded to the same length everywhere."""
    from deepspeed.utils import safe_get_local_fp32_param

    return safe_get_local_fp32_param(parameter).detach()


def shard(tensor: Tensor, share: Tensor) -> Tensor:
    """This process's share of a whole tensor, as long as `share` is."""
    flat, count = tensor.flatten(), dist.get_world_size()
    return F.pad(flat, (0, share.numel() * count - flat.numel())).chunk(count)[dist.get_rank()]


def unshard(share: Tensor, shape: torch.Size) -> Tensor:
    """The whole tensor of everyone's shares."""
    everyones = [torch.empty_like(share) for _ in range(dist.get_world_size())]
    dist.all_gather(everyones, share.detach().contiguous())
    return torch.cat(everyones)[: shape.numel()].view(shape)
