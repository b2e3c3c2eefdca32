"""Processes that share out weights, gradients and optimizer by torch's own means (FSDP2).

PyTorch FSDP (Zhao et al. 2023, section 3), as `fully_shard` has it: each process holds its rows of every
tensor (a DTensor), frozen ones included; a block's are put together where it computes, and let go after it.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.nn.utils import clip_grad_norm_

from llava_patch.loading import Unread, blocks, fitting, leaving_blocks_unread
from mgie.training.engine import AbstractEngine, InTuples, in_records
from mgie.training.saving import BackgroundSave
from mgie.training.task import AbstractTask
from mgie.training.world import World
from mgie.types import Batch, Draws, Losses
from mgie.weights import checkpoint, shards
from mgie.weights.checkpoint import Snapshot, TrainState

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps of each tensor, beside its count of steps."""


class ShardedEngine(AbstractEngine):
    """`fully_shard` around a task and each of its repeated blocks; its checkpoints lie in shards, too."""

    model: InTuples
    optimizer: torch.optim.Optimizer
    mesh: DeviceMesh
    """All processes, in one row."""

    def __init__(self, world: World, *, clip: float, bf16: bool):
        super().__init__(world, clip=clip, bf16=bf16)
        self._unread: Unread = []
        self._saving = BackgroundSave(world)

    @contextmanager
    def reading(self, *, whole: bool) -> Iterator[None]:
        """Of repeated blocks nothing is read before each process knows its share."""
        with nullcontext(self._unread) if whole else leaving_blocks_unread() as self._unread:
            yield

    def read(self, found: Path, trained: dict[str, nn.Parameter]) -> None:
        """Only whether the tensors fit: each process reads its shares in `resume`."""
        known = checkpoint.shapes(found)
        for _ in fitting(
            trained,
            [(found, known)],
            where=f"checkpoint {found}",
            remedy="use the recipe it was trained with",
        ):
            pass

    def prepare(
        self, task: AbstractTask, optimizer: torch.optim.Optimizer, trained: dict[str, nn.Parameter]
    ) -> None:
        """Parameters become DTensors, new objects, which the optimizer is given in their place."""
        self.mesh = init_device_mesh(self.world.device.type, (self.world.size,))
        self.model = InTuples(task, bf16=self.bf16)
        before = {id(parameter): name for name, parameter in self.model.named_parameters()}
        waiting = {before[id(parameter)]: tensor for parameter, tensor in self._unread}
        for block in blocks(self.model):
            fully_shard(block, mesh=self.mesh)
        fully_shard(self.model, mesh=self.mesh)
        now = dict(self.model.named_parameters())
        whole = [name for name, parameter in now.items() if not isinstance(parameter, DTensor)]
        assert not whole, f"not shared out: {whole}"
        self._fill(waiting)
        now = dict(self.model.named_parameters())
        for group in optimizer.param_groups:
            group["params"] = [now[before[id(parameter)]] for parameter in group["params"]]
        self.optimizer = optimizer
        self.trained = {name: now[before[id(parameter)]] for name, parameter in trained.items()}

    def _fill(self, waiting: dict[str, Tensor]) -> None:
        """Read this process's rows of what is on the meta device still."""
        self._unread = []
        if not waiting:
            return
        self.model._apply(lambda t: torch.empty_like(t, device=self.world.device) if t.is_meta else t)
        for name, parameter in self.model.named_parameters():
            if (tensor := waiting.pop(name, None)) is not None:
                local_of(parameter).copy_(self._rows(tensor))
        assert not waiting, f"read for nobody: {list(waiting)}"

    def __call__(self, batch: Batch, draws: Draws) -> Losses:
        """Told in tuples, and made into records again."""
        return in_records(self.model(batch, draws))

    def accumulating(self, *, last: bool) -> AbstractContextManager:
        """Gradients travel with every micro-batch, as nobody keeps them all."""
        del last
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """FSDP averages over the processes, so the loss is multiplied by their number."""
        (loss * self.world.size).backward()

    def step(self) -> tuple[Tensor, Tensor]:
        """Looks at the norm, and so waits for a GPU."""
        norm = clip_grad_norm_(self.trained.values(), self.clip)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        taken = norm.isfinite().float()
        if taken:
            self.optimizer.step()
        self.optimizer.zero_grad()
        return norm, taken

    def local_parameters(self) -> list[nn.Parameter]:
        """This process's rows: the same memory, so that they follow every step."""
        return [nn.Parameter(local_of(each), requires_grad=False) for each in self.trained.values()]

    @contextmanager
    def full_parameters(self, averages: list[Tensor] | None) -> Iterator[None]:
        """Put together from the shares; what is changed inside is forgotten."""
        units = [module for module in self.model.modules() if isinstance(module, FSDPModule)]
        wholes = self._whole(averages or ())
        with ExitStack() as stack:
            stack.callback(self._shared_out_again, units)
            for unit in units:
                unit.set_reshard_after_forward(False, recurse=False)
                unit.unshard()
            together = dict(self.model.task.editor.named_parameters())
            with torch.no_grad():
                for name, whole in wholes:
                    together[name].copy_(whole)
            yield

    def _shared_out_again(self, units: Sequence[FSDPModule]) -> None:
        assert isinstance(self.model, FSDPModule)
        self.model.reset_iter_state()  # one process alone has computed: the others know nothing of its order
        for unit in units:
            unit.reshard()
            unit.set_reshard_after_forward(unit is not self.model, recurse=False)

    def state_dict(self, averages: list[Tensor] | None) -> Snapshot:
        """Put together from the shares, tensor by tensor."""
        moments = {
            key.removeprefix(shards.OPTIMIZER): tensor
            for key, tensor in self._tensors(averages).items()
            if key.startswith(shards.OPTIMIZER)
        }
        return Snapshot(
            trained=self._kept(self._whole(self.local_parameters())),
            optimizer=self._kept((key, whole_of(tensor)) for key, tensor in moments.items()),
            ema=None if averages is None else self._kept(self._whole(averages)),
        )

    def load_state_dict(self, snapshot: Snapshot, averages: list[Tensor] | None) -> None:
        """Each process takes its rows."""
        self._begin_moments(moments=bool(snapshot.optimizer))
        given = {f"{shards.OPTIMIZER}{key}": tensor for key, tensor in snapshot.optimizer.items()}
        given |= {f"{shards.TRAINED}{name}": tensor for name, tensor in snapshot.trained.items()}
        given |= {f"{shards.EMA}{name}": each for name, each in (snapshot.ema or snapshot.trained).items()}
        for key, place in self._tensors(averages).items():
            whole = given[key]
            if isinstance(place, DTensor):
                local_of(place).copy_(self._rows(whole))
            else:
                place.copy_(whole)

    def resume(self, found: Path, averages: list[Tensor] | None) -> None:
        """From shards each process reads its own; from whole tensors, which are mapped, its rows."""
        if not shards.are_in(found):
            self.load_state_dict(checkpoint.load(found)[1], averages)
        else:
            self._begin_moments(moments=bool(shards.shapes(found, shards.OPTIMIZER)))
            tensors = self._tensors(averages)
            if averages is not None and not checkpoint.has_average(found):
                tensors = {key: each for key, each in tensors.items() if not key.startswith(shards.EMA)}
                for average, parameter in zip(averages, self.trained.values()):
                    average.copy_(local_of(parameter))
            shards.read_shares(found, tensors, group=self.world.hosts)
        checkpoint.check_finite(
            ((name, local_of(parameter)) for name, parameter in self.trained.items()), f"checkpoint {found}"
        )

    def save(
        self, folder: Path, state: TrainState, averages: list[Tensor] | None, *, begun: dict[str, Tensor],
        run_yaml: str, keep: int,
    ) -> None:  # fmt: skip
        """All processes write their shares, while training goes on."""
        tensors = self._tensors(averages)
        checked = ((key, local_of(tensor)) for key, tensor in tensors.items())
        how = {"begun": begun, "run_yaml": run_yaml, "keep": keep}
        self._saving.begin(folder, state, tensors, checked, **how)

    def finish_saving(self) -> None:
        """Of the last one."""
        self._saving.finish()

    def _tensors(self, averages: list[Tensor] | None) -> dict[str, Tensor]:
        """All that a checkpoint holds, as it is shared out."""
        held: dict[str, Tensor] = {f"{shards.TRAINED}{name}": each for name, each in self.trained.items()}
        for name, parameter in self.trained.items():
            for kind, value in self.optimizer.state.get(parameter, {}).items():
                held[f"{shards.OPTIMIZER}{name}|{kind}"] = value
        for (name, parameter), average in zip(self.trained.items(), averages or ()):
            held[f"{shards.EMA}{name}"] = self._shared(average, like=parameter)
        return {key: tensor.detach() for key, tensor in held.items()}

    def _begin_moments(self, *, moments: bool) -> None:
        """Places for the moments of a checkpoint that has some."""
        for parameter in self.trained.values() if moments else ():
            zeros = {kind: torch.zeros_like(parameter, requires_grad=False) for kind in MOMENTS}
            self.optimizer.state[parameter] = {"step": torch.zeros(()), **zeros}

    def _rows(self, whole: Tensor) -> Tensor:
        """Of a whole tensor what this process has."""
        rows = whole.chunk(self.world.size)
        return rows[self.world.rank] if self.world.rank < len(rows) else whole[:0]

    def _shared(self, local: Tensor, *, like: nn.Parameter) -> Tensor:
        """This process's rows, as its share of a tensor like that one."""
        return DTensor.from_local(
            local, self.mesh, [Shard(0)], run_check=False, shape=like.shape, stride=like.stride()
        )

    def _whole(self, held: Iterable[Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Names and whole tensors of the rows that this process holds of them."""
        for (name, parameter), local in zip(self.trained.items(), held):
            yield name, whole_of(self._shared(local.detach(), like=parameter))


def local_of(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: the same memory."""
    held = tensor.detach()
    return held.to_local() if isinstance(held, DTensor) else held


def whole_of(tensor: Tensor) -> Tensor:
    """The whole tensor, of everyone's shares."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
