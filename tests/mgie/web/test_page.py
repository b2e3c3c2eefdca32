"""The page as programs use it, over HTTP: what works, and what comes of requests that are wrong."""

import io
import json
import random
import re
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from PIL import Image
from told_commands import ROOT, blocks

pytestmark = [
    pytest.mark.skipif(find_spec("gradio") is None, reason="needs gradio: pip install 'mgie[web]'"),
    pytest.mark.filterwarnings("ignore"),  # those of gradio's own server
]
SECONDS = 60
PATHS = re.compile(r"(/(home|root|work|usr|opt)/|Traceback|site-packages|\.py\b|File \\?\")")
"""What no answer may hold."""


def photo(form: str = "JPEG") -> bytes:
    values = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).resize((48, 40), Image.Resampling.BICUBIC).save(buffer, format=form)
    return buffer.getvalue()


def flat(width: int, height: int) -> bytes:
    """A picture of one colour, in a small file however large it is."""
    buffer = io.BytesIO()
    Image.new("L", (width, height), 90).save(buffer, format="PNG")
    return buffer.getvalue()


def ask(
    url: str, body: Any = None, *, kind: str = "application/json", method: str | None = None
) -> tuple[int, str]:
    """Status and text of an answer."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": kind}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return answer.status, answer.read().decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode("utf-8", "replace")
    except (urllib.error.URLError, ConnectionError):  # refused while it was still sent
        return 0, ""


def upload(server, data: bytes, name: str = "a.jpg") -> str:
    form = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    status, text = ask(
        f"{server.url}gradio_api/upload",
        form + data + b"\r\n--x--\r\n",
        kind="multipart/form-data; boundary=x",
    )
    assert status == 200, text
    return json.loads(text)[0]


def held(path: str) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def edited(server, **given: Any) -> tuple[str, str]:
    """How a call of /edit ends: the event, and what came with it."""
    status, text = ask(f"{server.url}gradio_api/call/v2/edit", given)
    assert status == 200, text
    _, events = ask(f"{server.url}gradio_api/call/v2/edit/{json.loads(text)['event_id']}")
    last = re.findall(r"event: (\w+)\ndata: (.*)", events)[-1]
    return last[0], last[1]


def test_an_edit_over_http(server):
    event, data = edited(server, picture=held(upload(server, photo())), instruction="make it dark", seed=3)
    assert event == "complete", data
    (file,), facts = json.loads(data)
    assert facts["edits"][0]["seed"] == 3 and facts["edits"][0]["said"]
    with urllib.request.urlopen(file["url"]) as answer:
        result = Image.open(io.BytesIO(answer.read()))
    assert result.size == (48, 40) and result.format == "JPEG"
    assert not server.service.histories._kept, "what programs bring is not kept"


def test_errors_are_sentences(server):
    path = upload(server, photo())
    for given, what in (
        ({"instruction": ""}, "the instruction is empty"),
        ({"instruction": "a", "seed": -4}, "seed=-4: expected"),
        ({"instruction": "a", "boxes": "here a ball"}, "box 1 is"),
    ):
        event, data = edited(server, picture=held(path), **given)
        assert event == "error" and what in json.loads(data)["error"], data
    event, data = edited(server, picture=held(upload(server, b"nothing")), instruction="a")
    assert event == "error" and "the picture cannot be decoded" in data


def test_pictures_of_any_size(server):
    event, data = edited(server, picture=held(upload(server, flat(1, 1))), instruction="make it dark")
    assert event == "complete", data
    for size, what in (((2000, 600), "1.2 megapixels"), ((10000, 9000), "at most 89478485 in all")):
        event, data = edited(server, picture=held(upload(server, flat(*size))), instruction="make it dark")
        assert event == "error" and what in data, data


def test_two_clients_do_not_see_each_other(server):
    path = upload(server, photo())
    results = [None] * 4

    def ask_for(number: int) -> None:
        results[number] = edited(server, picture=held(path), instruction="make it dark", seed=number)

    clients = [threading.Thread(target=ask_for, args=(number,)) for number in range(len(results))]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    for number, (event, data) in enumerate(results):
        assert event == "complete" and json.loads(data)[1]["edits"][0]["seed"] == number, data


def test_what_the_library_remembers_of_programs_is_bounded(server, monkeypatch):
    monkeypatch.setattr("mgie.web.page.PROGRAMS", 2)
    for _ in range(5):
        edited(server, instruction="")
    assert len(server.blocks.state_holder.session_data) <= 3


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
@pytest.mark.parametrize("language", ["bash", "python"])
def test_what_the_page_of_docs_tells_programs(server, tmp_path, language):
    text = next(each for each in blocks(ROOT / "docs" / "web.md", language) if "dark" in each)
    text = text.replace("http://127.0.0.1:7860", server.url.rstrip("/"))
    (tmp_path / "photo.jpg").write_bytes(photo())
    command = ["bash", "-euc", text] if language == "bash" else [sys.executable, "-c", text]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS * 2)
    assert done.returncode == 0, done.stderr
    if language == "bash":
        assert "event: complete" in done.stdout and '"seed": 1' in done.stdout
    else:
        assert done.stdout.strip().endswith(".jpg']"), done.stdout


def test_no_path_of_a_client_reaches_the_disk(server, tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    for path in (str(secret), "/etc/passwd", f"{tmp_path}/page/../secret.png", "http://127.0.0.1:1/a.png"):
        event, data = edited(server, picture=held(path), instruction="make it dark")
        assert event == "error" and not PATHS.search(data), data
        status, text = ask(f"{server.url}gradio_api/file={path}")
        assert status in (403, 404), (path, status, text)
    for path in ("../pyproject.toml", "pyproject.toml", "mgie/cli.py", "%2e%2e/%2e%2e/etc/passwd"):
        assert ask(f"{server.url}gradio_api/file={path}")[0] in (403, 404, 400), path


def test_what_is_too_large_is_refused_before_it_is_kept(server):
    assert ask(f"{server.url}gradio_api/call/v2/edit", {"instruction": "a" * 2**22})[0] in (0, 413)
    form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + b"a" * 2**22
    status, _ = ask(f"{server.url}gradio_api/upload", form, kind="multipart/form-data; boundary=x")
    assert status in (0, 413)


def test_the_page_tells_the_browser_to_ask_nobody_else(server):
    with urllib.request.urlopen(server.url) as answer:
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        text = answer.read().decode()
    config = json.loads(ask(f"{server.url}config")[1])
    assert config["analytics_enabled"] is False and not config.get("share_url")
    assert "googleapis" not in text and "cdnjs" not in text


def test_two_hundred_malformed_requests(server, capfd):
    draw = random.Random(0)
    path = upload(server, photo())
    values = [
        None, "", "\0", "é" * 50, -1, 2**70, 1.5, True, [], {}, [[[]]], {"path": "x"}, {"path": None},
        held("/etc/passwd"), held(path), {"url": "file:///etc/passwd"}, {"url": "data:image/png;base64,xx"},
        "../../etc/passwd", "<script>", "NaN", {"background": held(path)}, ["a", {"b": 1}],
    ]  # fmt: skip
    names = ["picture", "instruction", "seed", "count", "steps", "guidance", "size", "boxes", "images",
             "mask", "detail", "image_guidance", "nothing"]  # fmt: skip
    answers = []
    for number in range(200):
        base = f"{server.url}gradio_api/"
        kind = number % 5
        if kind == 0:
            given = {name: draw.choice(values) for name in draw.sample(names, draw.randint(1, 8))}
            status, text = ask(f"{base}call/v2/edit", {"picture": held(path), **given})
        elif kind == 1:
            status, text = ask(
                f"{base}call/edit", {"data": [draw.choice(values) for _ in range(draw.randint(0, 14))]}
            )
        elif kind == 2:
            body = bytes(draw.randrange(256) for _ in range(draw.randint(0, 200)))
            where = draw.choice(
                ["call/edit", "upload", "queue/join", "run/predict", "component_server", "api/edit"]
            )
            status, text = ask(
                f"{base}{where}", body, kind=draw.choice(["application/json", "text/plain", "x"])
            )
        elif kind == 3:
            data = [draw.choice(values) for _ in range(12)]
            body = {
                "data": data,
                "fn_index": draw.choice([0, 3, 99, -1, "a"]),
                "session_hash": draw.choice(values),
            }
            status, text = ask(f"{base}queue/join", body)
        else:
            where = draw.choice(["file=%00", "file=/proc/self/environ", "call/edit/nothing", "info/../../x",
                                 "proxy=http://localhost:1", "heartbeat", "%ff%fe"])  # fmt: skip
            method = draw.choice(["DELETE", "PUT", "POST", "PATCH"])
            status, text = ask(f"{base}{where}", b"{}", method=method)
        answers.append((status, text))
        if status == 200 and text.startswith('{"event_id"') and kind < 2:
            event = json.loads(text)["event_id"]
            answers.append(ask(f"{base}call/edit/{event}"))
    assert len(answers) > 200
    assert not [text for _, text in answers if PATHS.search(text)]
    event, data = edited(server, picture=held(path), instruction="make it dark")
    assert event == "complete", data
    capfd.readouterr()  # what the server notes for whoever runs it
