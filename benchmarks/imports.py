"""How long do commands import before they begin? Beside the libraries that they cannot do without.

    python benchmarks/imports.py

Every statement runs in fresh processes, in turns, so that a slow minute meets all alike. What counts is
processor time: other programs on the machine add to the wall's clock, and hardly to it.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median

LIBRARIES = ("torch", "transformers", "diffusers", "accelerate", "datasets", "scipy", "peft")
MODELS = (
    "from transformers import CLIPVisionModel, LlamaForCausalLM; "
    "from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, UNet2DConditionModel"
)
STATEMENTS = {
    "nothing": "pass",
    "torch alone": "import torch",
    "the models' libraries alone": MODELS,
    "`mgie --help`": "import mgie.cli",
    "`mgie edit`, until a request is known to be sound": "import mgie.edit",
    "`mgie edit`": "import mgie.edit, mgie.pipeline",
    "`mgie evaluate`": "import mgie.evaluate, mgie.pipeline",
    "`mgie prepare toy`": "import mgie.prepare",
    "`mgie train --dry_run`": "import mgie.config",
    "`mgie train`": "import mgie.train",
    "`mgie extract`": "import mgie.extract",
    "`mgie plot`": "import mgie.plot",
    "`mgie web --help`": "import mgie.web.serving",
}
"""What is said of it -> what is run."""


def seconds(statement: str) -> tuple[float, float]:
    """Processor and wall seconds of a fresh process that runs it."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", statement])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{statement} failed")
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - begun


def loaded(statement: str) -> str:
    """Which of the libraries it brings."""
    code = f"{statement}\nimport sys; print(*(name for name in {LIBRARIES} if name in sys.modules))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def report(found: dict[str, list[tuple[float, float]]]) -> str:
    """The medians as Markdown."""
    rounds = len(next(iter(found.values())))
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES if find_spec(name))
    lines = [
        "# Imports: seconds before a command begins",
        "",
        f"Made by `python benchmarks/imports.py` on {time.strftime('%Y-%m-%d')}: {platform.machine()}, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}, {versions}; median of {rounds} "
        "processes.",
        "",
        "| what | processor | wall | brings |",
        "| --- | ---: | ---: | --- |",
    ]
    for name, times in found.items():
        processor, wall = (median(column) for column in zip(*times))
        brings = loaded(STATEMENTS[name]).strip().replace(" ", ", ")
        lines.append(f"| {name} | {processor:.1f} | {wall:.1f} | {brings} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and write the report."""
    parser = argparse.ArgumentParser(description="Seconds of imports of each command.")
    parser.add_argument("--rounds", type=int, default=7, help="processes of each kind")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in STATEMENTS}
    for _ in range(options.rounds):
        for name, statement in STATEMENTS.items():
            found[name].append(seconds(statement))
    text = report(found)
    options.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
