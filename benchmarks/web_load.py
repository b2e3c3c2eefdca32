"""Does the page lose a request of 50 clients at once, and does its memory stay flat?

    python benchmarks/web_load.py --model _ckpt/tiny --seconds 120
    python benchmarks/web_load.py --bare

Starts `mgie web` on a free port of this machine, with the recipe `tiny` untrained unless a release is named;
with --bare, a page of gradio's own that hands back what it got. Each client sends a picture, asks for an edit
through the API and reads its events until the last one, again and again. An answer is a picture, or the
sentence that too many wait; anything else, and a client that gets no answer, is lost. Memory is the server's
own, every second.
"""

import argparse
import io
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

FULL = "are waiting already"
BARE = """
import sys, gradio as gr
given = [gr.Image(type="filepath"), gr.Textbox(), gr.Number()]
page = gr.Interface(lambda picture, instruction, seed: picture, given, gr.File(), api_name="edit")
page.launch(server_port=int(sys.argv[1]), quiet=True)
"""
"""A page without anything of ours."""


def photo(seed: int, side: int) -> bytes:
    """A picture of its own for each request."""
    values = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).resize((side, side), Image.Resampling.BICUBIC).save(buffer, format="JPEG")
    return buffer.getvalue()


def post(url: str, body: bytes, kind: str = "application/json") -> str:
    """What a page answers."""
    request = urllib.request.Request(url, data=body, headers={"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=300) as answer:
        return answer.read().decode()


def one(url: str, seed: int, side: int) -> str:
    """How one request ended: done, full, or what is wrong."""
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
    sent = post(
        f"{url}/upload", head + photo(seed, side) + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"
    )
    picture = {"path": json.loads(sent)[0], "meta": {"_type": "gradio.FileData"}}
    given = {"picture": picture, "instruction": "make it dark", "seed": seed}
    event = json.loads(post(f"{url}/call/v2/edit", json.dumps(given).encode()))["event_id"]
    with urllib.request.urlopen(f"{url}/call/v2/edit/{event}", timeout=300) as answer:
        events = re.findall(r"event: (\w+)\ndata: (.*)", answer.read().decode())
    name, data = events[-1] if events else ("nothing", "")
    return "done" if name == "complete" else "full" if FULL in data else f"{name}: {data[:120]}"


def client(url: str, number: int, side: int, until: float, ends: Counter, times: list[float]) -> None:
    """Ask again and again, and count how it ends."""
    seed = number * 10_000
    while time.monotonic() < until:
        began, seed = time.monotonic(), seed + 1
        try:
            end = one(url, seed, side)
        except Exception as error:
            end = f"{type(error).__name__}: {error}"
        ends[end] += 1
        if end == "done":
            times.append(time.monotonic() - began)
        else:
            time.sleep(0.5)


def untrained(folder: Path) -> Path:
    """The editor of the recipe `tiny` with random weights, which says little."""
    from mgie.build import build_editor, build_release
    from mgie.config import load_run
    from mgie.pipeline import MGIEPipeline

    run = load_run("tiny")
    pipeline = MGIEPipeline.from_release(build_release(build_editor(run), run))
    pipeline.register_to_config(max_new_tokens=6)
    pipeline.save_pretrained(folder)
    return folder


def main() -> None:
    """Start the page, let all clients at it, and tell."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--model", help="a release; default: the recipe `tiny`, untrained")
    options.add_argument("--bare", action="store_true", help="a page of gradio's own instead")
    options.add_argument("--clients", type=int, default=50)
    options.add_argument("--seconds", type=float, default=120)
    options.add_argument("--side", type=int, default=256, help="of the pictures that are sent")
    asked = options.parse_args()
    if find_spec("gradio") is None:
        print("needs gradio: pip install 'mgie[web]'")
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = tempfile.TemporaryDirectory()
    if asked.bare:
        words = ["-c", BARE, str(port)]
    else:
        model = asked.model or untrained(Path(place.name) / "tiny")
        words = ["-m", "mgie", "web", "--model", str(model), "--port", str(port), "--memory", "64"]
    server = subprocess.Popen(
        [sys.executable, *words], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        env={**os.environ, "GRADIO_ANALYTICS_ENABLED": "False"},
    )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}/gradio_api"
        for _ in range(300):
            with socket.socket() as there:
                if there.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(1)
        print(f"first: {one(url, 1, asked.side)}", flush=True)
        ends: Counter[str] = Counter()
        times: list[float] = []
        until = time.monotonic() + asked.seconds
        clients = [
            threading.Thread(target=client, args=(url, number, asked.side, until, ends, times))
            for number in range(asked.clients)
        ]
        for each in clients:
            each.start()
        memory = []
        while any(each.is_alive() for each in clients):
            memory.append((sum(ends.values()), psutil.Process(server.pid).memory_info().rss / 2**20))
            time.sleep(1)
        quarter = max(len(memory) // 4, 1)
        parts = [memory[at : at + quarter] for at in range(0, quarter * 4, quarter) if memory[at:]]
        told = " -> ".join(f"{statistics.mean(size for _, size in part):.0f}" for part in parts)
        (early, less), (late, more) = memory[len(memory) // 2], memory[-1]
        print(f"{sum(ends.values())} requests of {asked.clients} clients: {dict(ends)}")
        print(f"seconds of each: median {statistics.median(times or [0]):.1f}, most {max(times or [0]):.1f}")
        print(f"memory of the server in MiB, by quarters of the time: {told}")
        growth = 1024 * (more - less) / max(late - early, 1)
        print(f"its growth in the second half: {growth:.0f} KiB a request, of {late - early} requests")
        print(f"last: {one(url, 2, asked.side)}")
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
        place.cleanup()


if __name__ == "__main__":
    main()
