"""Tables of own pairs as people and programs write them, well and badly."""

import io
import json
import random
from dataclasses import dataclass, field
from pathlib import Path

from attacks.laboratory import Found, Try, call, judge, run
from attacks.world import content
from PIL import Image

TEXTS = (
    "make it red", "füge ein Café hinzu", 'say "hello"', "blue, green; and\tgrey", "日本の空にする",
    "remove the 'thing'", "make it 50 % darker", "naïve façade",
)  # fmt: skip
SPLITS = (
    "train",
    "test",
    "Train",
    "TEST",
    "../../x",
    "/tmp/chaos-escaped",
    "..",
    ".",
    "a/b",
    "data",
    "",
    "CON",
    "-x",
)
NAMES = (
    ("file", "instruction"), ("File", "Instruction"), ("image", "edit"), ("file", "prompt"),
    ("name", "instruction"), ("file", "instruktion"), ("filename", "text"),
    (" file ", " instruction "), ("instruction", "file"),
)  # fmt: skip
ENCODINGS = ("utf-8", "utf-8-sig", "latin-1", "cp1252", "utf-16", "utf-16-le", "shift-jis")
OUT = "deep/er/mine"


@dataclass(kw_only=True)
class Table:
    """A table on its way to a file."""

    rows: list[dict[str, str]]
    names: tuple[str, ...] | None = ("file", "instruction")
    """Heads of the columns; None for none."""
    separator: str = ","
    newline: str = "\n"
    encoding: str = "utf-8"
    told: list[str] = field(default_factory=list)
    lines: bool = False
    """JSON lines instead of a table with separators."""


def tries() -> list[Try]:
    """Tables, each with one or two peculiarities."""
    found = []
    for number in range(260):

        def attack(folder: Path, rng: random.Random, lines: bool = number % 3 == 2) -> Found:
            return attempt(folder, rng, lines)

        found.append(Try(what="a table of JSON lines" if number % 3 == 2 else "a table", attack=attack))
    return found


def attempt(folder: Path, rng: random.Random, lines: bool) -> Found:
    """Write a peculiar table, prepare it, and look at what became of it."""
    texts = rng.sample(TEXTS, 6)
    for side in ("before", "after"):
        (folder / "own" / side).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (16, 16), (40 * number, 9, 200 if side == "after" else 0)).save(
                folder / f"own/{side}/{number}.png"
            )
    Image.new("RGB", (16, 16), "white").save(folder / "secret.png")
    table = Table(
        rows=[{"file": f"{n}.png", "instruction": text} for n, text in enumerate(texts)], lines=lines
    )
    chosen = rng.sample(LINE_WAYS if lines else WAYS, rng.choice([1, 1, 2]))
    for way in sorted(chosen, key=lambda way: way is _empty):  # the others need rows
        way(table, rng)
    data = _bytes(table)
    texts += [str(text) for row in table.rows for text in row.values()]
    texts += [text.encode(table.encoding, errors="replace").decode(table.encoding) for text in texts]
    if rng.random() < 0.2:
        data = _accident(data, rng, table)
    (folder / "own" / ("pairs.jsonl" if lines else "instructions.csv")).write_bytes(data)
    before = content(folder)
    words = ["prepare", "pairs:own", "--out", OUT, "--test", "1"]
    words += ["--max_rejected", "1"] if rng.random() < 0.5 else []
    ran = run(words, folder)
    told = ", ".join(table.told) or "nothing peculiar"
    found = judge(ran, lambda: _wrong(folder, texts, "a stray quote" in table.told))
    outside = _outside(folder, before)
    if outside:
        found = Found(result="silent", detail=outside)
    return Found(result=found.result, detail=f"{told}: {found.detail}")


def _wrong(folder: Path, texts: list[str], stray: bool) -> str:
    """What is not true of the data set that came out; with a `stray` quote, but for quotes."""
    texts = [text.replace('"', "") for text in texts] if stray else texts
    splits = [path.name for path in (folder / OUT).iterdir() if path.is_dir()]
    if odd := [name for name in splits if name not in ("train", "test")]:
        return f"a split called {odd[0]!r}"

    def show() -> int:
        from mgie.data.stored_pairs import StoredPairs

        for split in splits:
            for pair in StoredPairs(folder / OUT, split):
                words = pair.instruction.replace('"', "") if stray else pair.instruction
                if words not in [" ".join(text.split()) for text in texts] + texts:
                    print(f"an instruction became {pair.instruction[:60]!r}")
                    return 0
        return 0

    return call(show, folder).out.strip()


def _outside(folder: Path, before: dict[str, str]) -> str:
    """What was written, changed or lost beside the data set."""
    now = content(folder)
    if lost := [name for name, digest in before.items() if now.get(name) != digest]:
        return f"lost or changed: {lost[:3]}"
    new = [name for name in now if name not in before and not name.startswith(f"{OUT}/")]
    escaped = Path("/tmp/chaos-escaped")
    if escaped.exists():
        import shutil

        shutil.rmtree(escaped)
        return f"written at {escaped}"
    return f"written beside --out: {new[:3]}" if new else ""


def _bytes(table: Table) -> bytes:
    if table.lines:
        rows = [json.dumps(row, ensure_ascii=False) for row in table.rows]
        return table.newline.join([*rows, ""]).encode(table.encoding, errors="replace")
    file = io.StringIO(newline="")
    import csv

    writer = csv.writer(file, delimiter=table.separator, lineterminator=table.newline)
    keys = list(table.rows[0]) if table.rows else []
    if table.names is not None:
        writer.writerow([*table.names, *keys[2:]])
    for row in table.rows:
        writer.writerow(row.values())
    return file.getvalue().encode(table.encoding, errors="replace")


def _accident(data: bytes, rng: random.Random, table: Table) -> bytes:
    how = rng.choice(["a quote lost", "cut", "a NUL", "an empty line", "a stray quote"])
    table.told.append(how)
    if how == "a quote lost":
        return data.replace(b'"', b"", 1)
    at = rng.randrange(len(data)) if data else 0
    if how == "cut":
        at = max(data.rfind(b"\n", 0, at), 0) + 1  # between rows: what is left is true
        return data[:at]
    if how == "an empty line":
        at = data.find(b"\n") + 1
        return data[:at] + b"\n , \n" * (not table.lines) + data[at:]
    return data[:at] + (b"\0" if how == "a NUL" else b'"') + data[at:]


def _encoded(table: Table, rng: random.Random) -> None:
    table.encoding = rng.choice(ENCODINGS)
    for row in table.rows:  # only what this encoding can say
        row["instruction"] = row["instruction"].encode(table.encoding, errors="ignore").decode(table.encoding)
    table.told.append(table.encoding)


def _separated(table: Table, rng: random.Random) -> None:
    table.separator = rng.choice(",;\t|")
    table.told.append(f"separator {table.separator!r}")


def _ended(table: Table, rng: random.Random) -> None:
    table.newline = rng.choice(["\r\n", "\r", "\n\n", "\u2028"])
    table.told.append(f"rows end in {table.newline!r}")


def _named(table: Table, rng: random.Random) -> None:
    table.names = rng.choice([*NAMES, None])
    if table.names and table.names[0] == "instruction":
        table.rows = [{"instruction": "", **row} for row in table.rows]
    table.told.append(f"columns {table.names}")


def _split(table: Table, rng: random.Random) -> None:
    split = rng.choice(SPLITS)
    for row in table.rows[rng.randrange(4) :]:
        row["split"] = split
    for row in table.rows:
        row.setdefault("split", "train")
    table.told.append(f"split {split!r}")


def _pathed(table: Table, rng: random.Random) -> None:
    file = rng.choice([
        "../../secret.png", "/etc/passwd", "~/0.png", "http://example.org/a.png", "0.png\0", "x" * 5000,
        "nothing.png", "", "0.PNG", "./0.png", ".", "con.png", "0.png ",
    ])  # fmt: skip
    table.rows[rng.randrange(6)]["source" if table.lines else "file"] = file
    table.told.append(f"file {file[:30]!r}")


def _long(table: Table, rng: random.Random) -> None:
    size = rng.choice([2_000, 140_000, 3_000_000])
    table.rows[0]["instruction"] = "x" * size
    table.told.append(f"a cell of {size} characters")


def _doubled(table: Table, rng: random.Random) -> None:
    table.rows.insert(rng.randrange(6), dict(table.rows[rng.randrange(6)]))
    table.told.append("a row twice")


def _extra(table: Table, rng: random.Random) -> None:
    name, value = rng.choice([
        ("weight", "-1"), ("weight", "nan"), ("weight", "much"), ("turn", "99999999999999"), ("key", "../x"),
        ("mask", "nothing.png"), ("expressive", "[IMG0] [IMG1]"), ("task", "t" * 500), ("notes", "later"),
        ("expressive", "</s>"), ("meta", "{}"), ("session", "a"),
    ])  # fmt: skip
    for row in table.rows:
        row[name] = value
    table.told.append(f"{name} {value[:20]!r}")


def _empty(table: Table, rng: random.Random) -> None:
    table.rows = table.rows[: rng.choice([0, 1])]
    table.told.append(f"{len(table.rows)} rows")


def _reserved(table: Table, rng: random.Random) -> None:
    text = rng.choice(["</s>", "<image>", "[IMG0]", " "])
    table.rows[2]["instruction"] = text
    table.told.append(f"instruction {text!r}")


def _typed(table: Table, rng: random.Random) -> None:
    row = table.rows[rng.randrange(6)]
    value = rng.choice([None, 3, [], {}, True, [1, [2, [3]]], {"a": "b"}, 1e999])
    row[rng.choice(list(row))] = value
    table.told.append(f"a value {value!r}")


def _as_lines(table: Table, rng: random.Random) -> None:  # noqa: ARG001
    """Every file of JSON lines needs this."""
    table.rows = [
        {
            "source": f"before/{row['file']}",
            "target": f"after/{row['file']}",
            "instruction": row["instruction"],
        }
        | {name: value for name, value in row.items() if name not in ("file", "instruction")}
        if "file" in row
        else row
        for row in table.rows
    ]


def _lined(way):
    def both(table: Table, rng: random.Random) -> None:
        _as_lines(table, rng)
        way(table, rng)

    return both


WAYS = [
    _encoded, _encoded, _separated, _ended, _named, _named, _split, _split, _pathed, _long, _doubled, _extra,
    _empty, _reserved,
]  # fmt: skip
LINE_WAYS = [
    _lined(way) for way in (_encoded, _ended, _split, _pathed, _long, _doubled, _extra, _reserved, _typed)
]
