"""`mgie web` as a command: what it refuses before weights are read, who is let in, how it ends."""

import http.cookiejar
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from mgie.errors import ConfigError, DeviceError, WeightsError
from mgie.web import serving
from mgie.web.history import without_loss
from mgie.web.serving import users_of, web
from mgie.weights.release import write_release

PATIENCE = 180
"""Seconds until a page is there; a busy machine is slow."""
SOON = 20
"""Seconds until it has ended."""


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as free:
        free.bind((host, 0))
        return free.getsockname()[1]


def test_names_and_passwords():
    assert users_of(None) is None
    assert users_of("ann:secret, bob:a:b") == [("ann", "secret"), ("bob", "a:b")]
    for wrong in ("", "ann", "ann:", ":secret", "ann:secret,"):
        with pytest.raises(ConfigError, match="auth is not user:password"):
            users_of(wrong)


def test_what_cannot_be_served_is_refused_before_weights_are_read(tmp_path, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"nothing can be served at 127.0.0.1:{port} .*another --port"):
            web(model=tmp_path, port=port)
    with pytest.raises(ConfigError, match=r"nothing can be served at 192\.0\.2\.1:"):  # nobody's address
        web(model=tmp_path, host="192.0.2.1", port=free_port())
    with pytest.raises(WeightsError, match="there is no release folder"):
        web(model=tmp_path / "nowhere", port=free_port())
    with pytest.raises(WeightsError, match="is no release"):
        web(model=tmp_path, port=free_port())
    for wrong in (
        {"seconds": 0.0},
        {"waiting": 0},
        {"megapixels": -1.0},
        {"memory": float("nan")},
        {"port": 0},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            web(model=tmp_path, **{"port": free_port(), **wrong})
    (tmp_path / "model_index.json").write_text("{}")
    monkeypatch.setattr(serving, "_be_quiet", lambda **_: None)
    monkeypatch.setattr(serving, "find_spec", lambda _: None)
    with pytest.raises(DeviceError, match="the page needs the package gradio"):
        web(model=tmp_path, port=free_port())


class Running:
    """`mgie web` in a process of its own; what it writes is in two files of `place`."""

    def __init__(self, model: Path, place: Path, *words: str, host: str = "127.0.0.1"):
        self.port, self.room = free_port(host), place / "room"
        self.url, self.out, self.err = f"http://{host}:{self.port}/", place / "out.txt", place / "err.txt"
        self.room.mkdir()
        command = [
            sys.executable,
            "-m",
            "mgie",
            "web",
            "--model",
            str(model),
            "--port",
            str(self.port),
            *words,
        ]
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=err, env={**os.environ, "TMPDIR": str(self.room)}
            )
        until = time.monotonic() + PATIENCE
        while "in a browser" not in self.err.read_text():
            assert self.process.poll() is None and time.monotonic() < until, self.err.read_text()
            time.sleep(0.1)

    def end(self, number: int) -> tuple[str, str]:
        """Send a signal, and wait; what was written."""
        began = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(timeout=60)
        assert time.monotonic() - began < SOON
        return self.out.read_text(), self.err.read_text()


def opened(
    opener, url: str, data: dict[str, str] | bytes | None = None, *, kind: str = ""
) -> tuple[int, str]:
    """Status and text."""
    body = urllib.parse.urlencode(data).encode() if isinstance(data, dict) else data
    request = urllib.request.Request(url, data=body, headers={"Content-Type": kind} if kind else {})
    try:
        with opener.open(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gradio") is None, reason="needs gradio: pip install 'mgie[web]'")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_it_lets_in_whom_it_knows_and_ends_with_a_sentence(release, tmp_path, number):
    write_release(release, tmp_path / "small")
    host = "127.0.0.2" if number == signal.SIGTERM else "127.0.0.1"
    running = Running(
        tmp_path / "small", tmp_path, "--host", host, "--auth", "ann:secret,bob:word", host=host
    )
    try:
        stranger = urllib.request.build_opener()
        for path in ("config", "gradio_api/info", "gradio_api/call/v2/edit", "gradio_api/upload"):
            data = None if path in ("config", "gradio_api/info") else b"{}"
            status, text = opened(stranger, running.url + path, data, kind="application/json")
            assert status == 401 and "edit" not in text, (path, status, text)
        assert opened(stranger, f"{running.url}login", {"username": "ann", "password": "word"})[0] == 400
        known = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
        assert opened(known, f"{running.url}login", {"username": "bob", "password": "word"})[0] == 200
        assert opened(known, f"{running.url}config")[0] == 200
        head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        form = head + without_loss(Image.new("RGB", (32, 32))) + b"\r\n--x--\r\n"
        status, sent = opened(
            known, f"{running.url}gradio_api/upload", form, kind="multipart/form-data; boundary=x"
        )
        assert status == 200
        picture = {"path": json.loads(sent)[0], "meta": {"_type": "gradio.FileData"}}
        given = {"picture": picture, "instruction": "make it dark", "steps": 1000, "count": 8}
        asked = opened(
            known,
            f"{running.url}gradio_api/call/v2/edit",
            json.dumps(given).encode(),
            kind="application/json",
        )
        assert asked[0] == 200  # it is at work, and is ended
        with socket.create_connection((host, running.port)) as page:  # as an open page holds one
            page.sendall(b"GET /gradio_api/heartbeat/abc HTTP/1.1\r\nHost: a\r\n\r\n")
            out, said = running.end(number)
    finally:
        running.process.kill()
        running.process.wait()
    assert running.process.returncode == 0 and said.count("mgie: closing.") == 1, said
    assert "Traceback" not in said + out and "Closing server" not in out
    assert re.search(r"edits +0", out) and not list(running.room.glob("mgie-web-*"))
    assert "secret" not in said + out
