import gc
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from mgie.pipeline import MGIEPipeline
from mgie.web.asked import Bounds
from mgie.web.service import Service


@dataclass(frozen=True, kw_only=True)
class Server:
    """The page as it is served, with a small editor behind it."""

    url: str
    service: Service
    blocks: Any


@pytest.fixture
def server(pipe: MGIEPipeline, tmp_path, monkeypatch) -> Iterator[Server]:
    for name, value in {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": str(tmp_path / "page"),
    }.items():
        monkeypatch.setenv(name, value)
    pytest.importorskip("gradio", reason="needs gradio: pip install 'mgie[web]'")
    from mgie.web.launching import launch

    (tmp_path / "page").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    service = Service(pipe, bounds=Bounds(megabytes=2.0, megapixels=1.0, seconds=120.0))
    url, close = launch(service, host="127.0.0.1", port=port, folder=tmp_path / "page", model="small")
    yield Server(url=url, service=service, blocks=close.func.__self__)
    close()
    service.close()
    gc.collect()  # event loops that the library leaves open are told of here, where nobody minds
