"""How the data of judged benchmarks lie on a disk, and what outputs of them are called."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mgie.data.files import is_name, read_json, read_json_lines
from mgie.data.images import no_pictures
from mgie.errors import DataError
from mgie.evaluation.judges.pair_rubric import PairRubric
from mgie.evaluation.judges.rubric import Rubric
from mgie.evaluation.published.entries import Cell

Stored = Path | Cell
SORTED = "sorted:"
"""Before a pattern: outputs have names of their own, and the n-th is the n-th item's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One item of a judged benchmark."""

    key: str
    kind: str
    sources: tuple[Stored, ...]
    """Pictures before the edit; the first is what doing nothing would give."""
    names: tuple[str, ...]
    """Official names of the output's file; the first that is there is taken."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What prompts may speak of, such as instruction and reference. Empty texts are as good as none."""
    reference: Stored | None = None
    """A picture of what should come out, where the data have one."""

    @property
    def has(self) -> frozenset[str]:
        """Facts and pictures that it has."""
        pictures = {"reference_picture"} if self.reference is not None else set()
        return frozenset(pictures | {name for name, text in self.facts.items() if text})


def read_items(rubric: Rubric, folder: Path, *, unpinned: bool = False) -> list[Item]:
    """The items of a judged benchmark. Raises DataError where the folder holds something else, where a
    picture is missing, and for other numbers than were published, unless those may be taken (`unpinned`)."""
    return _checked(rubric, folder, list(READERS[rubric.layout](rubric, folder)), unpinned=unpinned)


def read_pair_items(rubric: PairRubric, folder: Path, *, unpinned: bool = False) -> list[Item]:
    """The items of a benchmark whose outputs are judged in pairs. Raises DataError as `read_items`."""
    return _checked(rubric, folder, list(_gedit_v2(rubric, folder)), unpinned=unpinned)


def _checked(rubric: Rubric | PairRubric, folder: Path, items: list[Item], *, unpinned: bool) -> list[Item]:
    if not items:
        raise DataError(f"{folder} holds no item of {rubric.name} ({rubric.subset}): choose another --data.")
    twice = [key for key, count in Counter(item.key for item in items).items() if count > 1]
    if twice:
        raise DataError(f"{folder} has {len(twice)} names twice, such as {twice[0]}: download it again.")
    paths = [path for item in items for path in (*item.sources, item.reference) if isinstance(path, Path)]
    if missing := sorted({str(path) for path in paths if not path.is_file() or not path.stat().st_size}):
        raise DataError(
            f"{folder} lacks {len(missing)} pictures, such as {', '.join(missing[:3])}: download the "
            "benchmark's data again."
        )
    expected = rubric.counts.get("items", len(items))
    if len(items) != expected and not unpinned:
        raise DataError(
            f"{folder} holds {len(items)} items and the published data of {rubric.name} {expected}: choose "
            "another --data, or say --unpinned, and the numbers will say that they are of other data."
        )
    return items


def find_outputs(folder: Path, items: Sequence[Item]) -> tuple[dict[str, Path], list[str]]:
    """Key -> where its output lies in a folder of a system's pictures, and names that several items share.
    Raises DataError, before anything is asked, if one is missing."""
    if any(item.names[0].startswith(SORTED) for item in items):
        found = sorted(folder.glob(items[0].names[0].removeprefix(SORTED)))
        if len(found) != len(items):
            raise DataError(
                f"{folder} holds {len(found)} outputs and there are {len(items)} items, which are taken in "
                "the order of names: expected one for each."
            )
        return {item.key: path for item, path in zip(items, found)}, []
    places, missing = {}, []
    for item in items:
        lying = (folder / name for name in item.names)
        place = next((path for path in lying if path.is_file() and path.stat().st_size), None)
        if place is None:
            missing.append(item.names[0])
        else:
            places[item.key] = place
    if missing:
        raise DataError(
            f"{folder} lacks {len(missing)} of {len(items)} outputs, such as {', '.join(missing[:3])}: "
            "nothing is judged until all are there."
        )
    if damaged := no_pictures(places.values()):
        raise DataError(
            f"{len(damaged)} of {len(items)} outputs are no pictures, such as "
            f"{', '.join(map(str, damaged[:3]))}: nothing is judged until they are replaced."
        )
    names = Counter(places.values())
    shared = sorted({str(path.relative_to(folder)) for path, count in names.items() if count > 1})
    return places, shared


def identity(items: Sequence[Item]) -> str:
    """SHA-256 of which items there are, and what is asked of them."""
    lines = sorted(f"{item.key}\t{item.kind}\t{item.facts.get('instruction')}\n" for item in items)
    return hashlib.sha256("".join(lines).encode(errors="surrogatepass")).hexdigest()


def _names(rubric: Rubric | PairRubric, **parts: str) -> tuple[str, ...]:
    """Official names of an output. Raises DataError for parts that lead elsewhere."""
    for part, text in parts.items():
        if not is_name(text):
            raise DataError(
                f"the data of {rubric.name} have the {part} {text!r}: expected the name of a file."
            )
    return tuple(name.format(**parts) for name in rubric.outputs)


def _inside(folder: Path, name: str) -> Path:
    """A file in a folder. Raises DataError for one elsewhere."""
    if not is_name(name):
        raise DataError(f"the data in {folder} name {name!r}: expected the name of a file in it.")
    return folder / name


GEDIT = ("key", "task_type", "instruction", "instruction_language", "input_image")


def _gedit(rubric: Rubric, folder: Path) -> Iterator[Item]:
    """A download of stepfun-ai/GEdit-Bench: Parquet files of its split `train`, both languages. Keys that two
    rows have are told apart by the row; their outputs have one name."""
    rows = list(_parquet(rubric, folder, "train", GEDIT, "input_image"))
    rows = [(told, cell) for told, cell in rows if told["instruction_language"] == rubric.subset]
    keys = Counter(str(told["key"]) for told, _ in rows)
    for place, (told, cell) in enumerate(rows):
        key, kind = str(told["key"]), str(told["task_type"])
        yield Item(
            key=key if keys[key] == 1 else f"{key}-row{place}", kind=kind, sources=(cell,),
            names=_names(rubric, kind=kind, key=key), facts={"instruction": str(told["instruction"])},
        )  # fmt: skip


def _imgedit(rubric: Rubric, folder: Path) -> Iterator[Item]:
    """ImgEdit's Benchmark folder: Basic/basic_edit.json, and sources under singleturn/."""
    file = next(
        (
            path
            for path in (folder / "basic_edit.json", folder / "Basic" / "basic_edit.json")
            if path.is_file()
        ),
        None,
    )
    if file is None:
        raise DataError(
            f"{folder} has no Basic/basic_edit.json: --data expects ImgEdit's folder Benchmark, unpacked."
        )
    form = '{key: {"id": FILE, "prompt": TEXT, "edit_type": KIND}}'
    fields = ("id", "prompt", "edit_type")
    rows = read_json(
        file, lambda said: {str(k): {f: str(v[f]) for f in fields} for k, v in said.items()}, form
    )
    for key, told in rows.items():
        yield Item(
            key=key, kind=told["edit_type"], sources=(_inside(folder / "singleturn", told["id"]),),
            names=_names(rubric, key=key), facts={"instruction": told["prompt"]},
        )  # fmt: skip


RISE_FACTS = ("reference", "reference_txt", "reasoning_img", "reasoning_wo_ins", "consistency_free")
REASONING = "_reasoning"


def _rise(rubric: Rubric, folder: Path) -> Iterator[Item]:
    """A download of PhoenixZ/RISEBench: datav2_total_w_subtask.json, and data.zip unpacked into data/."""
    form = '[{"index": NAME, "category": KIND, "instruction": TEXT, "image": FILE, ...}]'
    rows = read_json(
        folder / "datav2_total_w_subtask.json", lambda said: [_rise_row(row) for row in said], form
    )
    pictures = folder / "data" if (folder / "data").is_dir() else folder
    for told in rows:
        reference = told["reference_img"]
        yield Item(
            key=told["index"], kind=told["category"].removesuffix(REASONING),
            sources=(_inside(pictures, told["image"]),),
            names=_names(rubric, kind=told["category"], key=told["index"]),
            facts={"instruction": told["instruction"], **{name: told[name] for name in RISE_FACTS}},
            reference=_inside(pictures, reference) if reference else None,
        )  # fmt: skip


def _rise_row(row: Mapping[str, Any]) -> dict[str, str]:
    """Texts; what is null or not a number (pandas' way to say nothing) is none."""
    needed = {name: str(row[name]) for name in ("index", "category", "instruction", "image")}
    others = {name: row.get(name) for name in (*RISE_FACTS, "reference_img")}
    return needed | {
        name: "" if value is None or value != value or value is False else str(value)
        for name, value in others.items()
    }


def _kris(rubric: Rubric, folder: Path) -> Iterator[Item]:
    """A download of Liang0223/KRIS_Bench: a folder for each category, each with its annotation.json."""
    folder = folder / "KRIS_Bench" if (folder / "KRIS_Bench").is_dir() else folder
    known = {kind for members in rubric.groups.values() for kinds in members.values() for kind in kinds}
    form = '{number: {"ori_img": FILE or [FILE, ...], "ins_en": TEXT, "explain_en": TEXT}}'
    for place in sorted(path.parent for path in folder.glob("*/annotation.json")):
        kind = KRIS_SPELLINGS.get(place.name, place.name)
        if kind not in known:
            raise DataError(f"{place} is no category of {rubric.name}: expected {', '.join(sorted(known))}.")
        for number, told in read_json(place / "annotation.json", _kris_rows, form).items():
            yield Item(
                key=f"{kind}/{number}", kind=kind, sources=tuple(_inside(place, name) for name in told[0]),
                names=_names(rubric, kind=place.name, key=number), facts=told[2],
                reference=_inside(place, told[1]) if told[1] else None,
            )  # fmt: skip


KRIS_SPELLINGS = {"abnormality_correction": "anomaly_correction"}
"""A category that is called two ways."""


def _kris_rows(said: Any) -> dict[str, tuple[list[str], str, dict[str, str]]]:
    rows = {}
    for number, told in said.items():
        first, wanted = told["ori_img"], told.get("gt_img") or ""
        facts = {"instruction": str(told["ins_en"]), "explanation": str(told.get("explain_en") or "")}
        sources = [str(name) for name in first] if isinstance(first, list) else [str(first)]
        rows[str(number)] = (sources, wanted if isinstance(wanted, str) else "", facts)
        if not sources:
            raise ValueError(f"{number} has no picture")
    return rows


COMPLEX = ("edit", "image")


def _complex_edit(rubric: Rubric, folder: Path) -> Iterator[Item]:
    """A download of UCSC-VLAA/Complex-Edit: Parquet files of one split. Instructions of a level of
    complexity; outputs are taken in the order of their names."""
    for place, (told, cell) in enumerate(_parquet(rubric, folder, rubric.subset, COMPLEX, "image")):
        try:
            text = str(told["edit"]["compound"][rubric.level - 1]["compound_instruction"])
        except (LookupError, TypeError) as error:
            raise DataError(
                f"{cell} has no instruction of complexity {rubric.level}: expected "
                "edit.compound[...].compound_instruction."
            ) from error
        yield Item(
            key=f"{place:06d}", kind="", sources=(cell,), names=rubric.outputs, facts={"instruction": text}
        )


def _parquet(
    rubric: Rubric, folder: Path, split: str, columns: Sequence[str], picture: str
) -> Iterator[tuple[dict[str, Any], Cell]]:
    """Rows without their pictures, and where the pictures lie. Raises DataError."""
    import pyarrow
    import pyarrow.parquet as parquet

    files = sorted({*folder.glob(f"{split}-*.parquet"), *folder.glob(f"data/{split}-*.parquet")})
    if not files:
        raise DataError(
            f"{folder} has no {split}-*.parquet: --data expects a download of {rubric.name}'s data set."
        )
    for file in files:
        try:
            opened = parquet.ParquetFile(file)
            if missing := set(columns) - set(opened.schema_arrow.names):
                raise DataError(f"{file} has no column {min(missing)}: expected {', '.join(columns)}.")
            texts = [name for name in columns if name != picture]
            for group in range(opened.num_row_groups):
                rows = opened.read_row_group(group, columns=texts).to_pylist()
                for row, told in enumerate(rows):
                    yield told, Cell(file, group, row, picture)
        except (pyarrow.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())[:120]
            raise DataError(f"{file} cannot be read ({reason}): download it again.") from error


def _gedit_v2(rubric: PairRubric, folder: Path) -> Iterator[Item]:
    """A download of GEditBench-v2/GEditBench-v2: metadata.jsonl, and the pictures that it names. A key begins
    with the kind."""
    file, form = folder / "metadata.jsonl", 'lines {"key": NAME, "instruction": TEXT, "source_image": FILE}'
    fields = ("key", "instruction", "source_image")
    for told in read_json_lines(file, lambda row: {name: str(row[name]) for name in fields}, form):
        key = told["key"]
        yield Item(
            key=key, kind=key.rpartition("_")[0], sources=(_inside(folder, told["source_image"]),),
            names=_names(rubric, key=key), facts={"instruction": told["instruction"]},
        )  # fmt: skip


READERS: dict[str, Callable[[Rubric, Path], Iterator[Item]]] = {
    "gedit": _gedit,
    "imgedit": _imgedit,
    "rise": _rise,
    "kris": _kris,
    "complex_edit": _complex_edit,
}
"""Name -> layout."""
