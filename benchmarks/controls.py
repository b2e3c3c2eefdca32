"""What do masks and layouts hold to, what do they get right, and what do they cost?

    python benchmarks/controls.py --model _ckpt/tiny [--layout _ckpt/tiny_layout] --seeds 1 2 3

Edits of the toy world, judged by its judge, and beside each what must fail. `--layout` is a release of the
recipe tiny_layout; without one its rows are left out.
"""

import argparse
from pathlib import Path

from places.costs import costs
from places.inside import inside
from places.layouts import learnt, together, untrained
from places.telling import Line, report

from mgie.pipeline import MGIEPipeline

REPORT = Path(__file__).with_suffix(".md")


def main() -> None:
    """Measure all, and write the report anew after each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="_ckpt/tiny", help="a release of the recipe tiny")
    parser.add_argument("--layout", help="a release of the recipe tiny_layout")
    parser.add_argument("--pairs", type=int, default=200, help="of each kind and seed")
    parser.add_argument("--turns", type=int, default=30, help="how often each cost is measured")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--out", type=Path, default=REPORT)
    asked = parser.parse_args()
    pipe, lines = MGIEPipeline.from_pretrained(asked.model), list[Line]()
    pipe.set_progress_bar_config(disable=True)
    parts = [("costs", lambda: costs(pipe, asked.turns))]
    for seed in asked.seeds:
        parts += [
            (f"inside, seed {seed}", lambda seed=seed: inside(pipe, asked.pairs, seed)),
            (f"orders, seed {seed}", lambda seed=seed: untrained(pipe, asked.pairs, seed)),
            (f"mask and orders, seed {seed}", lambda seed=seed: together(pipe, asked.pairs, seed)),
        ]
    if asked.layout:
        taught = MGIEPipeline.from_pretrained(asked.layout)
        taught.set_progress_bar_config(disable=True)
        for seed in asked.seeds:
            parts.append((f"layout, seed {seed}", lambda seed=seed: learnt(taught, pipe, asked.pairs, seed)))
    for about, measure in parts:
        lines += [line.of(about) for line in measure()]
        asked.out.write_text(report(lines, pipe.identity), encoding="utf-8")
        print(about, "is done", flush=True)
    print(asked.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
