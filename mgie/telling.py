"""What is told of edits: before, while and after they are made."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mgie.data.photo_files import write_whole
from mgie.data.side_by_side import Seen, sheets
from mgie.jobs import Job


def outlook(
    jobs: Sequence[Job], out: str | Path, release: str, device: Any, dtype: str, *, replaced: int, failed: int
) -> str:
    """What will happen, in one line."""
    photos, words = {job.photo for job in jobs}, {job.words for job in jobs}
    total = sum(len(job.words) for job in jobs)
    many = f"{len(photos)} photos" if len(photos) > 1 else str(next(iter(photos)) or "a new picture")
    by = f"{len(words)} instructions" if len(words) > 1 else " / ".join(repr(each) for each in jobs[0].words)
    told = f"{many} by {by}: {total} {'picture' if total == 1 else 'pictures'} into {out}"
    told += f" ({replaced} replaced)" if replaced else ""
    told += f", {failed} cannot be edited" if failed else ""
    return f"{told}; {release} on {device} in {dtype}"


def facts_of(result: Any) -> dict[str, Any]:
    """What is told of one edit."""
    facts: dict[str, Any] = {"said": result.said[0], "forced": result.forced[0]}
    if result.outside_change is not None:
        facts |= {"inside": _share(result.mask[0]), "outside_change": result.outside_change[0]}
    return facts


def table(facts: dict[str, Any]) -> str:
    """The edits as lines to print: where each picture is, and what the model said of it."""
    lines = []
    for row in facts["edits"]:
        lines += [
            f"{row['photo'] or 'a new picture'} -> {row['out']}",
            f"  said: {row['said'] or '(nothing)'}",
        ]
        if row["forced"]:
            lines.append("  (the model did not call for the edit by itself: trust it less)")
        if row.get("deep"):
            lines.append("  (the photo has 16 bits for each value, the edit 8)")
        if row.get("inside") is not None:
            lines.append(f"  (the mask is {row['inside']:.1%} of the photo)")
        if row.get("outside_change"):
            lines.append(f"  (outside the mask, values changed by up to {row['outside_change']:.1%})")
    lines += [f"before, said, after: {path}" for path in facts["sheets"]]
    each = (facts["seconds"] - facts["loading"]) / max(len(facts["edits"]), 1)
    lines.append(
        f"{facts['seconds']:.1f} s on {facts['device']}: {facts['loading']:.1f} to load, {each:.1f} a picture"
    )
    return "\n".join(lines)


def wrong(facts: dict[str, Any]) -> str:
    """The photos that could not be edited, as one sentence; empty where there are none."""
    failed = facts["failed"]
    if not failed:
        return ""
    first = failed[0]["reason"].rstrip(".")
    more = f"; and {len(failed) - 1} more" if len(failed) > 1 else ""
    return f"{len(failed)} of {len(failed) + len(facts['edits'])} edits failed: {first}{more}."


def sheet_file(out: Path, jobs: Sequence[Job]) -> Path:
    """Where the sheet of these jobs belongs: in their folder, or beside their one file."""
    target = jobs[0].targets[0]
    return out / "sheet.png" if target != out else out.with_name(f"{out.stem}-sheet.png")


def write_sheets(seen: Sequence[Seen], first: Path | None) -> list[str]:
    """Where the sheets are."""
    written = []
    for number, page in enumerate(sheets(seen) if first else (), 1):
        assert first is not None
        target = first if number == 1 else first.with_stem(f"{first.stem}-{number}")
        write_whole(page, target)
        written.append(str(target))
    return written


def _share(mask: Image.Image) -> float:
    """Which part of a photo is inside its mask."""
    counts = mask.histogram()
    return round(sum(counts[128:]) / sum(counts), 4)
