"""Checkpoints that all processes write together, while training goes on."""

import threading
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path

from torch import Tensor

from mgie.errors import DeviceError, UserError
from mgie.training.world import World
from mgie.weights import checkpoint, shards
from mgie.weights.checkpoint import TrainState


class BackgroundSave:
    """One checkpoint at a time: it is a temporary folder until every process's shares are in it, synced."""

    def __init__(self, world: World):
        """The processes of this world talk in a group of their own: training's talk goes on meanwhile."""
        self.world = world
        self.group = world.new_group() if world.size > 1 else None
        self._publishing: threading.Thread | None = None
        self._error: UserError | None = None

    def begin(
        self, folder: Path, state: TrainState, tensors: dict[str, Tensor],
        checked: Iterable[tuple[str, Tensor]], *, begun: dict[str, Tensor], run_yaml: str, keep: int,
    ) -> None:  # fmt: skip
        """Copy `tensors` and begin to write them; waits for the one before.

        `checked` is what this process holds of them. Raises WeightsError, on all processes, where a number is
        not finite, and what `finish` raises.
        """
        self.finish()
        final = checkpoint.place(folder, state)
        told = f"checkpoint {final}, which was therefore not written,"
        self.world.all_or_none(lambda: checkpoint.check_finite(checked, told))
        stack = ExitStack()
        how = {"begun": begun, "run_yaml": run_yaml, "keep": keep}
        partial = self.world.from_main(
            lambda: stack.enter_context(checkpoint.being_saved(folder, state, **how))
        )
        written = shards.write_shares(partial, tensors, group=self.group)
        self._publishing = threading.Thread(target=self._publish, args=(stack, written))
        self._publishing.start()

    def _publish(self, stack: ExitStack, written: Future) -> None:
        """When all is written: hashes, manifest, sync, its name.

        Only the main process has something to do: it hears of everyone's errors.
        """
        error = written.exception()
        if not self.world.is_main:
            return
        try:
            with stack:
                if error is not None:
                    raise shards.disk_full(error) or error
        except UserError as told:
            self._error = told
        except Exception as untold:
            reason = " ".join(str(untold).split())[:200]
            self._error = DeviceError(
                f"the last checkpoint could not be written ({reason}), earlier ones are untouched: see to "
                "that, and run the same command again to go on."
            )

    def finish(self) -> None:
        """Wait until the last checkpoint has its name. Raises, on every process, what went wrong with it."""
        if self._publishing is None:
            return
        self._publishing.join()
        self._publishing, error, self._error = None, self._error, None

        def tell() -> None:
            if error is not None:
                raise error

        self.world.all_or_none(tell)
