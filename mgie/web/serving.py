"""`mgie web`: a page in the browser that edits photos, for oneself or for others.

mgie web --model _ckpt/tiny
"""

import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from llava_patch.ranges import Range, in_range
from mgie.errors import ConfigError, DeviceError
from mgie.lines import say
from mgie.ranges import Dtype, Megabytes, Megapixels, Seconds, Waiting

Port = Annotated[int, Range(ge=1, le=65535)]
LOCAL = ("127.0.0.1", "localhost", "::1")


@in_range
def web(
    *,
    model: str | Path,
    host: str = "127.0.0.1",
    port: Port = 7860,
    auth: str | None = None,
    subjects: Sequence[str | Path] | None = None,
    controller: str | Path | None = None,
    seconds: Seconds = 300.0,
    waiting: Waiting = 8,
    megabytes: Megabytes = 20.0,
    megapixels: Megapixels = 24.0,
    memory: Megabytes = 512.0,
    device: str | None = None,
    dtype: Dtype = "float32",
    verify: bool = True,
) -> dict[str, Any]:
    """Serve a page that edits photos, until Ctrl-C; the facts: url, edits, seconds.

    Only this machine can open it, unless --host says otherwise. It loads nothing from other hosts and tells
    none of its use. docs/web.md tells how programs use it.

    Args:
        model: Release folder, as `mgie extract` writes it, or a hub id.
        host: Address that it is served at; 0.0.0.0 for everybody who can reach this machine.
        port: Port of that address.
        auth: Who is let in, as user:password; several with commas between them. None: everybody who can
            reach it.
        subjects: Adapter of one's own things (`mgie personalize`); it may come several times.
        controller: Published file of MIGC or MIGC++, or a folder of a release's controllers, for boxes.
        seconds: Time limit of each request, once it has begun.
        waiting: How many requests may wait; others are asked to come again.
        megabytes: Largest file that is taken.
        megapixels: Largest picture that is taken.
        memory: Megabytes that the histories of all open pages may take; older ones make way.
        device: Where the model runs, such as cpu or cuda:1. Default: the GPU, where there is one.
        dtype: What it computes in: float32, float16 or bfloat16.
        verify: Compare the release with its manifest; --verify false to take it as it is.
    """
    from mgie.asked import release_of
    from mgie.web.asked import Bounds

    # Everything that can be wrong is wrong now.
    bounds = Bounds(
        seconds=seconds, waiting=waiting, megabytes=megabytes, megapixels=megapixels, memory=memory
    )
    users = users_of(auth)
    _check_free(host, port)
    release = release_of(model)
    _be_quiet(offline=Path(release).is_dir())
    if find_spec("gradio") is None:
        raise DeviceError("the page needs the package gradio: `pip install 'mgie[web]'`.")

    from mgie.devices import find_device, find_dtype
    from mgie.pipeline import MGIEPipeline

    place, kind = find_device(device), find_dtype(dtype)
    pipeline = MGIEPipeline.from_pretrained(
        release, torch_dtype=kind, controller=controller, subjects=subjects or (), progress=True,
        verify=verify,
    ).to(place)  # fmt: skip

    from mgie.web.launching import launch
    from mgie.web.service import Service

    service, started = Service(pipeline, bounds=bounds), time.monotonic()
    with _ended_well(), tempfile.TemporaryDirectory(prefix="mgie-web-") as folder:
        url, close = launch(service, host=host, port=port, users=users, folder=Path(folder), model=str(model))
        say(f"{release} on {place} in {dtype}: open {url} in a browser; Ctrl-C ends it.")
        if host not in LOCAL and not users:
            say("everybody who can reach this machine can use the page: --auth user:password asks who it is.")
        try:
            _wait()
        finally:
            close()
            service.close()
    return {"url": url, "edits": service.edits, "seconds": round(time.monotonic() - started, 1)}


@contextmanager
def _ended_well() -> Iterator[None]:
    """SIGTERM ends what is within as Ctrl-C does, so that nothing is left behind."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait() -> None:
    """Until Ctrl-C."""
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        say("closing.")


def users_of(auth: str | None) -> list[tuple[str, str]] | None:
    """Names and passwords. Raises ConfigError."""
    if auth is None:
        return None
    found = []
    for each in auth.split(","):
        name, _, password = each.partition(":")
        if not name.strip() or not password:
            raise ConfigError("auth is not user:password: expected a name, a colon and a password.")
        found.append((name.strip(), password))
    return found


def _check_free(host: str, port: int) -> None:
    """Refuse an address that cannot be served at, before weights are read. Raises ConfigError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
    except OSError as error:
        raise ConfigError(
            f"nothing can be served at {host}:{port} ({error.strerror or error}): choose another --port, or "
            "an address of this machine as --host."
        ) from error


def _be_quiet(*, offline: bool) -> None:
    """Nothing is told to others, and with a release on disk nothing asked of them: before the libraries are
    imported, which look once."""
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "100"  # it keeps so many in memory
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
