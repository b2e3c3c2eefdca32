"""Data sets that are not what they were, and two commands on one place."""

import json
import random
import shutil
from pathlib import Path

from attacks.corruptions import train_on
from attacks.laboratory import Found, Try, call, judge, run, run_two, worst
from attacks.world import ALONE, EXTRACT, OWN, PREPARE, TRAIN, World, content, leftovers, untouched

TIMES = 4
"""How often each is tried, with other random numbers."""


def tries(world: World) -> list[Try]:
    """Each of the stories below, a few times."""
    stories = (
        another_sets_files, test_as_train, changed_words, added_files, another_sets_features,
        changed_meanwhile, another_path, prepared_again, overwritten, two_at_once,
    )  # fmt: skip
    found = []
    for story in stories:
        for _ in range(TIMES):

            def attack(folder: Path, rng: random.Random, story=story) -> Found:
                return story(world, folder, rng)

            found.append(Try(what=story.__name__.replace("_", " "), attack=attack))
    return found


def another_sets_files(world: World, folder: Path, rng: random.Random) -> Found:
    """A shard, or the whole split, of another set."""
    world.place("data", "other", at=folder)
    split = rng.choice(["train", "train", "test"])
    names = rng.choice(
        [[f"{split}/data-00000.arrow"], [f"{split}/data-00000.arrow", "facts.json"], ["facts.json"]]
    )
    for name in names:
        shutil.copy2(folder / "other" / name, folder / "data" / name)
    return _named(f"{names}", train_on(world, folder))


def test_as_train(world: World, folder: Path, rng: random.Random) -> Found:
    """The held-out pairs are learnt from."""
    world.place("data", at=folder)
    if rng.random() < 0.5:
        shutil.rmtree(folder / "data/train")
        shutil.copytree(folder / "data/test", folder / "data/train")
    else:
        shutil.copy2(folder / "data/test/data-00000.arrow", folder / "data/train/data-00000.arrow")
    return train_on(world, folder)


def changed_words(world: World, folder: Path, rng: random.Random) -> Found:
    """Every instruction is another, in a file that is whole; its hashes may be mended, too."""
    world.place("data", at=folder)
    mended = rng.random() < 0.5
    _must(call(lambda: _rewrite(folder / "data", mended=mended), folder).code)
    if not mended:
        return train_on(world, folder)
    world.place("half/runs", at=folder)
    (folder / "half/runs").rename(folder / "runs")
    ran = run([*TRAIN, *ALONE], folder)
    return _named("hashes mended, half-way through a run", judge(ran, "went on with other data"))


def added_files(world: World, folder: Path, rng: random.Random) -> Found:
    """Files that are too many or too few."""
    world.place("data", "other", at=folder)
    how = rng.choice(["a shard more", "a shard listed", "no card", "no facts", "a split less", "a note"])
    facts = folder / "data/facts.json"
    if how in ("a shard more", "a shard listed"):
        shutil.copy2(folder / "other/train/data-00000.arrow", folder / "data/train/data-00001.arrow")
    if how == "a shard listed":
        said = json.loads(facts.read_text())
        shards = said["splits"]["train"]["shards"]
        shards.append(shards[0])
        facts.write_text(json.dumps(said))
    if how == "no card":
        (folder / "data/README.md").unlink()
    if how == "no facts":
        facts.unlink()
    if how == "a split less":
        shutil.rmtree(folder / "data/test")
    if how == "a note":
        (folder / "data/note.txt").write_text("mine")
    return _named(how, train_on(world, folder))


def another_sets_features(world: World, folder: Path, rng: random.Random) -> Found:
    """Stored features that belong to other pairs, or none."""
    world.place("stored", "other", at=folder)
    how = rng.choice(["beside another set", "swapped splits"])
    if how == "beside another set":
        shutil.copytree(folder / "stored/features", folder / "other/features")
        (folder / "other").rename(folder / "data")
    else:
        (folder / "stored").rename(folder / "data")
        features = folder / "data/features"
        (features / "train").rename(features / "kept")
        (features / "test").rename(features / "train")
        (features / "kept").rename(features / "test")
    ran = run([*TRAIN, *ALONE, "--data.features", "[vae,clip]"], folder)
    return _named(how, judge(ran, "features of other pairs were trained from"))


def changed_meanwhile(world: World, folder: Path, rng: random.Random) -> Found:
    """A run goes on, and its data set is another one, prepared properly."""
    world.place("other", at=folder)
    (folder / "other").rename(folder / "data")
    finished = rng.random() < 0.5
    world.place("runs" if finished else "half/runs", at=folder)
    if not finished:
        (folder / "half/runs").rename(folder / "runs")
    ran = run([*TRAIN, *ALONE], folder)
    return _named("finished" if finished else "half-way", judge(ran, "other data than the run began with"))


def another_path(world: World, folder: Path, rng: random.Random) -> Found:
    """The same run is asked to learn from another folder; of the same pairs is no harm."""
    same = rng.random() < 0.3
    world.place("runs", "data" if same else "other", at=folder)
    (folder / ("data" if same else "other")).rename(folder / "mine")
    ran = run([*TRAIN, *ALONE, "--data.path", "mine"], folder)
    return _named(
        "a copy" if same else "another set", judge(ran, "" if same else "nothing was trained on it")
    )


def prepared_again(world: World, folder: Path, rng: random.Random) -> Found:
    """Own pairs are changed after they were prepared, and prepared again."""
    world.place("pairs", "mine", at=folder)
    how = rng.choice(["a picture more", "a picture replaced", "a picture less", "other words"])
    table = folder / "pairs/instructions.csv"
    if how == "a picture more":
        for side in ("before", "after"):
            shutil.copy2(folder / f"pairs/{side}/01.png", folder / f"pairs/{side}/90.png")
        table.write_text(table.read_text() + "90.png,make it purple\n")
    elif how == "a picture replaced":
        shutil.copy2(folder / "pairs/after/01.png", folder / "pairs/after/02.png")
    elif how == "a picture less":
        table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    else:
        table.write_text(table.read_text().replace("red", "white"))
    ran = run(OWN, folder)

    def wrong() -> str:
        told = "reused" in (ran.out + ran.err) or "nothing was read" in (ran.out + ran.err)
        same = content(folder / "mine") == content(world.folder / "mine")
        return "the old set was kept, and nothing said so" if same and not told else ""

    return _named(how, judge(ran, wrong))


def overwritten(world: World, folder: Path, rng: random.Random) -> Found:
    """`--overwrite` on what is not the program's to remove."""
    world.place("pairs", "data", "photo.png", at=folder)
    (folder / "album").mkdir()
    shutil.copy2(folder / "photo.png", folder / "album/photo.png")
    (folder / "data/notes.txt").write_text("mine")
    out = rng.choice(["pairs", "pairs/before", "album", "data", ".", "pairs/new", "photo.png"])
    before = content(folder)
    ran = run(
        [
            "prepare",
            rng.choice(["pairs:pairs", "toy"]),
            "--out",
            out,
            "--overwrite",
            "--count",
            "6",
            "--test",
            "2",
        ],
        folder,
    )
    kept = untouched(before, folder)
    return _named(f"{' '.join(ran.words)}", judge(ran) if kept.result == "done" else kept)


def two_at_once(world: World, folder: Path, rng: random.Random) -> Found:
    """The same command twice at the same time: one does it, the other waits or is told."""
    verb = rng.choice(["prepare", "own", "train", "train", "extract"])
    words = {"prepare": PREPARE, "own": OWN, "train": [*TRAIN, *ALONE], "extract": EXTRACT}[verb]
    needs = {"prepare": (), "own": ("pairs",), "train": ("data",), "extract": ("runs",)}[verb]
    world.place(*needs, at=folder)
    apart = rng.uniform(0, world.seconds[verb] / 2)
    first, second = run_two(words, words, folder, apart=apart)
    both = [judge(first), judge(second)]
    found = worst(*both)
    if found.result in ("done", "sentence"):
        if all(each.result == "sentence" for each in both):
            return _named(verb, Found(result="silent", detail="both were refused, nothing was done"))
        if problem := world.wrong(verb, folder):
            left = leftovers(folder)
            found = Found(result="silent", detail=f"{problem} {left[:2]}")
    return _named(f"{verb}, {apart:.1f} s apart", found)


def _rewrite(data: Path, *, mended: bool) -> int:
    """Other words in each row of the training split."""
    import hashlib

    import pyarrow as pa

    path = data / "train/data-00000.arrow"
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_stream(file).read_all()
    at = table.schema.get_field_index("instruction")
    table = table.set_column(at, table.schema.field(at), pa.array(["make it worse"] * table.num_rows))
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_stream(buffer, table.schema) as stream:
        stream.write_table(table)
    content = buffer.getvalue().to_pybytes()
    path.unlink()
    path.write_bytes(content)
    if mended:
        facts = json.loads((data / "facts.json").read_text())
        shard = facts["splits"]["train"]["shards"][0]
        shard["bytes"], shard["sha256"] = len(content), hashlib.sha256(content).hexdigest()
        facts["splits"]["train"]["sha256"] = hashlib.sha256(b"other").hexdigest()
        (data / "facts.json").write_text(json.dumps(facts))
        manifest = json.loads((data / "manifest.json").read_text())
        for name in ("facts.json", "train/data-00000.arrow"):
            manifest["files"][name] = {"size": (data / name).stat().st_size}
        (data / "manifest.json").write_text(json.dumps(manifest))
    return 0


def _must(code: int | None) -> None:
    if code != 0:
        raise RuntimeError("the data set could not be changed")


def _named(what: str, found: Found) -> Found:
    return Found(result=found.result, detail=f"{what}: {found.detail}")
