"""What people type and hand over: pictures, instructions, places, recipes, words."""

import random
import string
from pathlib import Path
from typing import Any

import yaml
from attacks import pictures, tables
from attacks.laboratory import Found, Try, judge, run
from attacks.world import ALONE, EDIT, EVALUATE, EXTRACT, OWN, PREPARE, TRAIN, World, content, untouched
from PIL import Image

COUNTS = {"pictures": 300, "instructions": 100, "places": 90, "recipes": 180, "words": 200}
INSTRUCTIONS = (
    "", " ", "\n\t", "x" * 200_000, "make it red " * 60, "make it red\0", "\x1b[31mmake it red\x07", "</s>",
    "<image>", "[IMG0]", "[IMG0] [IMG7]", "<s>", "<im_patch>", "<unk>", "USER: ASSISTANT:", "{instruction}",
    "{}", "%s %d", "make it \udcff red", "\ud800", "make it red\u202e", "日本の空にする", "🎨" * 20,
    "--steps", "-1", "photo.png", "make\nit\nred", "a\u0301" * 50, "'; DROP TABLE edits; --", "$(touch x)",
    "../..", "NULL",
)  # fmt: skip
PLACES = (
    "", ".", "..", "/proc/self/x.png", "out", "out.gif", "out.PNG",
    "photo.png",
    "./photo.png", "release/out.png", "nowhere/out.png", "photo.png/out.png", "o" * 300 + ".png", "out\n.png",
    "out\udcff.png", "~/out.png", "link.png", "folder", "folder/", "full", "out.png\0", " .png", "-out.png",
    "https://example.org/out.png", ".png", "out.png/", "release", "data", "pairs", "runs", "runs/tiny",
    "fifo.png",
)  # fmt: skip
BROKEN = (
    b"", b"[]", b"3", b"null", b"a: [", b"\ttrain:\n", b"\xff\xfe\x00", b"{}", b"train: {}",
    b"name: tiny\n---\nname: b\n",
    b"!!python/object/apply:os.system ['touch pwned']", b"a: &a [*a]", b"train: &t {<<: *t}", 
    b"? [1, 2]\n: 3",
    b"[" * 2000 + b"]" * 2000, b"{a: " * 1500 + b"1" + b"}" * 1500, b"- " * 3000 + b"x",
    b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
        b"%c: &%c [%s]\n" % (98 + n, 98 + n, b",".join([b"*%c" % (97 + n)] * 9)) for n in range(9)
    ),
    b"train: &a {samples: 8}\n" + b"".join(
        b"%c: &%c {%s}\n" % (98 + n, 98 + n, b", ".join(b"k%d: *%c" % (k, 97 + n) for k in range(9)))
        for n in range(8)
    ),
    "näme: tiny\n".encode("latin-1"), "name: tiny\n".encode("utf-16"), b"name: tiny\nname: other\n",
    b"name: tiny\0",
)  # fmt: skip
ODD: tuple[Any, ...] = (
    None, "", "text", [], {}, [1], {"a": 1}, True, -1, 2**70, float("nan"), float("inf"), "1e-3", "0x10",
    "../x", "~", [[]], {"a": {"b": {"c": 1}}}, "!!int 3", "null", "2026-01-01", 1.5,
)  # fmt: skip


def tries(world: World) -> list[Try]:
    """So many of each kind."""
    kinds = {
        "pictures": ("a picture", picture), "instructions": ("an instruction", instruction),
        "places": ("a place", place), "recipes": ("a recipe", recipe), "words": ("words", words),
    }  # fmt: skip
    found = tables.tries()
    for kind, (what, attack) in kinds.items():
        for number in range(COUNTS[kind]):

            def attempt(folder: Path, rng: random.Random, attack=attack, number: int = number) -> Found:
                return attack(world, folder, rng, number)

            found.append(Try(what=what, attack=attempt))
    return found


def picture(world: World, folder: Path, rng: random.Random, number: int) -> Found:
    """A file is edited, or comes into a data set: it is refused, or taken as it is."""
    name = rng.choice(["in.png", "in.jpg", "in", "in.webp", "ü 日.png", "in\udcff.png", "-in.png", "in.exe"])
    special = pictures.SPECIAL[number // 10 % len(pictures.SPECIAL)] if number % 10 == 9 else ""
    told, data = (
        (special, b"") if special else (pictures.sound if rng.random() < 0.4 else pictures.unsound)(rng)
    )
    encoding = "ascii" if rng.random() < 0.15 else "utf-8"
    if number % 3 == 0:
        world.place("release", at=folder)
        path, command = folder / name, [f"./{name}", *EDIT[1:]]
    else:
        world.place("pairs", at=folder)
        path, command = folder / "pairs/before/03.png", OWN
        path.unlink()
        command = [*OWN, "--max_rejected", "1"] if number % 3 == 1 else OWN
    if special:
        pictures.place_special(special, path)
    else:
        path.write_bytes(data)
    ran = run(["edit", *command] if command[0] != "prepare" else command, folder, encoding=encoding)

    def wrong() -> str:
        if not special and path.read_bytes() != data:
            return "the picture is another now"
        if command[0] == "prepare":
            return "" if (folder / "mine/facts.json").is_file() else "there is no data set"
        with Image.open(path) as before, Image.open(folder / "out.png") as after:
            sides = before.size
            turned = before.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            return "" if after.size == (sides[::-1] if turned else sides) else f"{sides} became {after.size}"

    found = judge(ran, wrong)
    way = "prepare" if command[0] == "prepare" else "edit"
    return Found(result=found.result, detail=f"{way}: {told} as {name!a}, {encoding}: {found.detail}")


def instruction(world: World, folder: Path, rng: random.Random, number: int) -> Found:
    """Words for an edit."""
    world.place("release", "photo.png", at=folder)
    text = INSTRUCTIONS[number] if number < len(INSTRUCTIONS) else _text(rng)
    ran = run(["edit", "photo.png", text, *EDIT[3:]], folder, encoding=rng.choice(["utf-8", "ascii"]))
    found = judge(ran, lambda: "" if (folder / "out.png").is_file() else "there is no picture")
    return Found(result=found.result, detail=f"{text[:60]!a}: {found.detail}")


def place(world: World, folder: Path, rng: random.Random, number: int) -> Found:
    """A place to write to: nothing that is there is harmed."""
    target = PLACES[number % len(PLACES)]
    world.place("photo.png", "data", "pairs", "release", at=folder)
    (folder / "folder").mkdir()
    (folder / "folder/mine.txt").write_text("mine")
    (folder / "link.png").symlink_to(folder / "photo.png")
    (folder / "full").mkdir(mode=0o500)
    commands = [EDIT, OWN, [*OWN, "--overwrite"]]
    if number // len(PLACES) == 2:
        world.place("runs", at=folder)
        commands = [EXTRACT, [*EVALUATE]]
    command = list(rng.choice(commands))
    command[command.index("--out") + 1] = target
    replaced = {"release": ("release/",), "data": ("data/",), "folder": ()}
    before = content(folder)
    if target == "fifo.png":
        pictures.place_special("fifo", folder / target)
    ran = run(command, folder)
    if target == "fifo.png" and (folder / target).is_fifo():
        (folder / target).unlink()
    if ran.code == 0:  # what was written here may be replaced by another of its kind
        gone = replaced.get(target, ())
        before = {name: digest for name, digest in before.items() if not name.startswith(gone or ("\0",))}
    kept = untouched(before, folder)
    found = judge(ran) if kept.result == "done" else kept
    return Found(result=found.result, detail=f"{command[0]} --out {target[:40]!a}: {found.detail}")


def recipe(world: World, folder: Path, rng: random.Random, number: int) -> Found:  # noqa: ARG001
    """A recipe: refused, or shown as it was written."""
    from mgie.config import RECIPES

    document: dict[str, Any] = yaml.safe_load((RECIPES / "tiny.yaml").read_text())
    expected: tuple[str, Any] | None = None
    if number < len(BROKEN):
        data, told = BROKEN[number], repr(BROKEN[number][:40])
    else:
        section = rng.choice(list(document))
        holder, key = document, section
        while isinstance(holder[key], dict) and rng.random() < 0.85:
            holder, key = holder[key], rng.choice(list(holder[key]))
        how = rng.choice(["odd", "odd", "odd", "unknown", "missing", "renamed"])
        value = rng.choice(ODD)
        if how == "odd":
            holder[key], expected = value, (key, value)
        elif how == "unknown":
            holder[rng.choice(["nonsense", "", "lr", "a.b", 3, None, "<<"])] = value
        else:
            old = holder.pop(key)
            if how == "renamed":
                holder[f"{key}s"] = old
        data, told = (
            yaml.safe_dump(document, allow_unicode=True).encode(),
            f"{section}: {key} {how} {value!r}",
        )
    (folder / "recipe.yaml").write_bytes(data)
    ran = run(["train", "--config", "recipe.yaml", "--dry_run"], folder)

    def wrong() -> str:
        shown = yaml.safe_load(ran.out)
        if not isinstance(shown, dict):
            return "nothing is shown"
        number = expected and isinstance(expected[1], float) and expected[1] in (float("inf"),)
        return f"{expected} was taken" if number or (expected and expected[1] != expected[1]) else ""

    found = judge(ran, wrong)
    if (folder / "pwned").exists():
        found = Found(result="silent", detail="foreign code ran")
    return Found(result=found.result, detail=f"{told}: {found.detail}")


def words(world: World, folder: Path, rng: random.Random, number: int) -> Found:  # noqa: ARG001
    """A command with words missing, doubled, misspelt, or in another order. None of its models is there."""
    commands = [
        [*PREPARE[:3], "data", "--count", "6", "--test", "2"], OWN, [*TRAIN, *ALONE], EXTRACT, EDIT, EVALUATE,
        ["prepare", "--check", "data"], ["delta", "apply", "a", "b", "--out", "c"],
        ["delta", "make", "a", "b", "--out", "c"],
    ]  # fmt: skip
    world.place("photo.png", "pairs", at=folder)
    before = content(folder)
    command = list(rng.choice(commands))
    for _ in range(rng.choice([1, 1, 2, 3])):
        at = rng.randrange(len(command)) if command else 0
        how = rng.choice(["drop", "double", "typo", "swap", "insert", "case", "glue"])
        if how == "drop" and command:
            del command[at]
        elif how == "double" and command:
            command.insert(at, command[at])
        elif how == "typo" and command and command[at]:
            spot = rng.randrange(len(command[at]))
            command[at] = command[at][:spot] + rng.choice(string.ascii_lowercase) + command[at][spot + 1 :]
        elif how == "swap" and command:
            other = rng.randrange(len(command))
            command[at], command[other] = command[other], command[at]
        elif how == "insert":
            command.insert(
                at,
                rng.choice(
                    [
                        "--",
                        "-",
                        "--help",
                        "-h",
                        "--json",
                        "",
                        "nonsense",
                        "--no-x",
                        "\udcff",
                        "=",
                        "--=",
                        "-1",
                    ]
                ),
            )
        elif how == "case" and command:
            command[at] = command[at].upper()
        elif command:
            command[at : at + 2] = ["=".join(command[at : at + 2])]
    ran = run(command, folder)
    kept = untouched(before, folder)
    found = judge(ran) if kept.result == "done" else kept
    return Found(result=found.result, detail=f"{' '.join(command)!a}: {found.detail}")


def _text(rng: random.Random) -> str:
    """Random characters, or words with something odd among them."""
    if rng.random() < 0.5:
        pool = string.printable + "äéß漢字🎨\u200b\u202e\x00\x1b\x7f"
        return "".join(rng.choice(pool) for _ in range(rng.choice([1, 5, 40, 300])))
    parts = ["make", "it", "red", rng.choice(INSTRUCTIONS)[:200], "and", "blue"]
    rng.shuffle(parts)
    return " ".join(parts)
