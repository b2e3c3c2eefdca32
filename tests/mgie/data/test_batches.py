import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mgie.data.batches import STOPS, Batches, collate
from mgie.data.orders import Shuffled
from mgie.errors import ConfigError, DataError
from mgie.tokens import IGNORE
from mgie.types import Example


class Builder:
    """As little of an example as a batch needs; the first id is the pair's number."""

    pad_id = 0

    def together(self, _extras, _mask):
        return {}

    def __call__(self, pair, _):
        number = int(pair.key.removeprefix("pair-"))
        if pair.instruction == "bad":
            raise DataError(f"{pair.key} is bad")
        ids = torch.arange(number, number + 4 + number % 3)
        return Example(
            input_ids=ids, labels=torch.where(ids > number + 1, ids, IGNORE), read_at=torch.tensor([1, 2]),
            clip_pixels=torch.zeros(1, 3, 2, 2), source=torch.zeros(3, 2, 2), has_source=True,
            target=torch.zeros(3, 2, 2), key=pair.key,
        )  # fmt: skip


def batches(make_pair, count=11, **changes):
    settings = {"seed": 5, "batch_size": 6, "micro_batch_size": 1} | changes
    return Batches([make_pair(index) for index in range(count)], Builder(), **settings)


def keys(steps):
    return [[key for micro in micros for key in micro.keys] for micros in steps]


def test_every_sample_once_per_epoch_and_epochs_differ(make_pair):
    seen = [key for step in keys(batches(make_pair).steps(0, 66)) for key in step]
    epochs = [seen[start : start + 11] for start in range(0, 66, 11)]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs) and len(set(epochs[0])) == 11
    assert len({tuple(epoch) for epoch in epochs}) == 6


@pytest.mark.parametrize("world", [1, 2, 3, 6])
@pytest.mark.parametrize("micro", [1, 2, 3, 6])
def test_the_order_knows_no_world(make_pair, world, micro):
    if 6 // world % micro:
        pytest.skip("does not divide")
    plain = keys(batches(make_pair, micro_batch_size=6).steps(0, 36))
    ranks = [
        list(batches(make_pair, micro_batch_size=micro, rank=rank, world=world).steps(0, 36))
        for rank in range(world)
    ]
    joined = [[key for rank in ranks for key in keys([rank[step]])[0]] for step in range(6)]
    assert joined == plain
    positions = [p for step in range(6) for rank in ranks for batch in rank[step] for p in batch.positions]
    assert positions == list(range(36))


@pytest.mark.parametrize("world", [2, 8])
def test_eight_processes_see_what_one_sees(make_pair, world):
    changes = {"count": 21, "batch_size": 16, "micro_batch_size": 2}
    alone = keys(batches(make_pair, **changes).steps(16, 80))
    ranks = [keys(batches(make_pair, **changes, rank=r, world=world).steps(16, 80)) for r in range(world)]
    assert [[key for rank in ranks for key in rank[step]] for step in range(4)] == alone


def test_workers_change_nothing_and_the_global_generator_is_untouched(make_pair):
    plain = keys(batches(make_pair, micro_batch_size=2).steps(0, 24))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert keys(batches(make_pair, micro_batch_size=2, workers=2).steps(0, 24)) == plain
    assert torch.equal(torch.get_rng_state(), before)


def test_resuming_gives_the_rest(make_pair):
    plain = keys(batches(make_pair).steps(0, 60))
    assert keys(batches(make_pair).steps(24, 60)) == plain[4:]
    with pytest.raises(ConfigError, match="multiple of the batch size 6"):
        next(batches(make_pair).steps(25))


def test_without_an_end_it_goes_on(make_pair):
    steps = batches(make_pair).steps()
    for _ in range(10):
        assert len(next(steps)) == 6


def test_the_seed_decides(make_pair):
    first = keys(batches(make_pair).steps(0, 12))
    assert keys(batches(make_pair, seed=6).steps(0, 12)) != first
    assert keys(batches(make_pair).steps(0, 12)) == first


@pytest.mark.parametrize(("last", "epoch"), [("straddle", 11), ("drop", 6), ("pad", 12)])
def test_the_last_step_of_an_epoch(make_pair, last, epoch):
    data = batches(make_pair, order=Shuffled(11, seed=5, batch_size=6, last=last))
    assert data.epoch == epoch
    seen = [key for step in keys(data.steps(0, 2 * epoch if epoch % 6 == 0 else 66)) for key in step][:epoch]
    assert len(set(seen)) == min(epoch, 11)


def test_an_error_in_a_worker_is_the_error_itself(make_pair):
    pairs = [make_pair(index, instruction="bad") for index in range(4)]
    data = Batches(pairs, Builder(), seed=0, batch_size=2, micro_batch_size=2, workers=1)
    with pytest.raises(DataError, match=r"^pair-\d is bad$"):
        next(data.steps())


@pytest.mark.parametrize(
    "changes", [{"batch_size": 5, "world": 2}, {"micro_batch_size": 4}, {"micro_batch_size": 0}]
)
def test_splits_that_cannot_work(make_pair, changes):
    with pytest.raises(ConfigError, match="cannot be split"):
        batches(make_pair, **changes)
    with pytest.raises(ConfigError, match="empty"):
        batches(make_pair, count=0)
    with pytest.raises(ConfigError, match="no whole batch"):
        Shuffled(5, seed=0, batch_size=6, last="drop")


def test_the_order_is_the_same_on_every_machine():
    assert Shuffled(10, seed=3).take(0, 12).tolist() == [1, 0, 2, 5, 7, 4, 8, 3, 9, 6, 0, 8]


def test_the_order_does_not_depend_on_what_was_asked_before():
    order = Shuffled(7, seed=0)
    whole = order.take(0, 50)
    assert all(
        np.array_equal(Shuffled(7, seed=0).take(start, start + 9), whole[start : start + 9])
        for start in range(41)
    )
    assert np.array_equal(order.take(3, 5), whole[3:5])


def test_collate_pads_on_the_right(make_pair):
    batch = collate([Builder()(make_pair(index), None) for index in (0, 2)], positions=(4, 5), pad_id=9)
    assert batch.input_ids.tolist() == [[0, 1, 2, 3, 9, 9], [2, 3, 4, 5, 6, 7]]
    assert batch.labels.tolist()[0] == [IGNORE, IGNORE, 2, 3, IGNORE, IGNORE]
    assert batch.mask.sum(1).tolist() == [4, 6]
    assert batch.read_at.tolist() == [[1, 2], [1, 2]] and batch.positions == (4, 5)


def test_states_beyond_the_end_are_read_at_the_end(make_pair):
    late = Example(**{name: getattr(Builder()(make_pair(1), None), name) for name in Example.__slots__} | {
        "read_at": torch.tensor([20, 21])
    })  # fmt: skip
    batch = collate([Builder()(make_pair(2), None), late], positions=(0, 1), pad_id=0)
    assert batch.read_at.tolist() == [[1, 2], [3, 4]]  # six tokens: states 3 and 4 predict tokens 4 and 5


@pytest.mark.slow
def test_other_processes_see_the_same_order():
    code = "from mgie.data.orders import Shuffled; print(Shuffled(9, seed=1).take(0, 30).tolist())"
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in "12"
    }
    assert len(runs) == 1


def test_workers_outlive_what_asks_the_run_to_stop(make_pair):
    """Schedulers send it to all processes of a run; the loop needs its workers until it has saved."""
    others = multiprocessing.active_children()
    data = batches(make_pair, micro_batch_size=6, workers=2)
    steps, plain = data.steps(0, 120), batches(make_pair, micro_batch_size=6).steps(0, 120)
    seen = [next(steps)]
    workers = [each for each in multiprocessing.active_children() if each not in others]
    assert len(workers) == 2
    for worker in workers:
        for number in STOPS:
            os.kill(worker.pid, number)
    assert keys([*seen, *steps]) == keys(plain)


@pytest.mark.parametrize("words", ["go", "bad"])
def test_a_program_ends_though_its_workers_are_deaf(words):
    """Somebody stops in the middle of an epoch, or keeps the error of a pair, and the script is over."""
    code = f"""if True:
        import sys
        sys.path.insert(0, sys.argv[1])
        from test_batches import Batches, Builder, DataError
        from mgie.types import EditPair
        pairs = [EditPair(key=f"pair-{{index}}", instruction="{words}", target=b"") for index in range(50)]
        steps = Batches(pairs, Builder(), seed=0, batch_size=2, micro_batch_size=2, workers=2).steps()
        try:
            print(next(steps)[0].keys)
        except DataError as error:
            kept = error
            print(error)
    """
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    done = subprocess.run(command, timeout=60, capture_output=True, check=True)
    assert b"pair-" in done.stdout and not done.stderr
