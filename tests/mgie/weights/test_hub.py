"""What would go to a hub: a client of the real library, with a transport that keeps what it is given."""

import base64
import json

import huggingface_hub
import pytest
from huggingface_hub.utils import _http

from llava_patch.folders import MANIFEST, whole_folder
from mgie.cli import main
from mgie.errors import ConfigError, DeviceError, WeightsError
from mgie.weights.hub import push_folder

httpx = _http.httpx2 if hasattr(_http, "httpx2") else _http.httpx
"""The library's own client, whichever its version has."""

PLACES = {
    "model": "https://huggingface.co/me/mine",
    "dataset": "https://huggingface.co/datasets/me/pairs",
}


@pytest.fixture
def folder(tmp_path):
    with whole_folder(tmp_path / "mine", kind="release") as partial:
        (partial / "README.md").write_text('from_pretrained("THIS_FOLDER")\n')
        (partial / "unet").mkdir()
        (partial / "unet" / "config.json").write_text("{}")
    (tmp_path / "mine" / "notes.txt").write_text("my own")
    return tmp_path / "mine"


@pytest.fixture
def hub(monkeypatch):
    """Requests, as (method, path, body)."""
    seen: list[tuple[str, str, bytes]] = []

    def answer(request):
        seen.append((request.method, request.url.path, request.read()))
        if request.url.path.endswith("/create"):
            return httpx.Response(200, json={"url": PLACES[json.loads(request.content)["type"]]})
        if request.url.path.endswith("/validate-yaml"):
            return httpx.Response(200, json={"errors": [], "warnings": []})
        if "/preupload/" in request.url.path:
            files = json.loads(request.content)["files"]
            told = [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in files]
            return httpx.Response(200, json={"files": told})
        if "/commit/" in request.url.path:
            told = {"commitUrl": f"{PLACES['model']}/commit/1", "commitOid": "1", "success": True}
            return httpx.Response(200, json=told)
        return httpx.Response(404, json={"error": "nothing here"})

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    huggingface_hub.set_client_factory(lambda: httpx.Client(transport=httpx.MockTransport(answer)))
    yield seen
    huggingface_hub.set_client_factory(_http.default_client_factory)


def files_of(body: bytes) -> dict[str, str]:
    lines = [json.loads(line) for line in body.splitlines()]
    return {
        line["value"]["path"]: base64.b64decode(line["value"]["content"]).decode(errors="replace")
        for line in lines
        if line["key"] == "file"
    }


def test_a_release_goes_in_one_commit_with_its_card(folder, hub):
    facts = push_folder(folder, "me/mine", private=True, token="hf_secret", message="First")
    assert facts["kind"] == "release" and facts["files"] == 3 and facts["commit"] == "1"
    create, commit = (next(each for each in hub if part in each[1]) for part in ("/create", "/commit/"))
    assert b"private" in create[2]
    assert commit[1].startswith("/api/models/me/mine/")
    files = files_of(commit[2])
    assert {*files} == {"README.md", "unet/config.json", MANIFEST}  # what was not written here stays
    assert files["README.md"] == 'from_pretrained("me/mine")\n'
    assert len([each for each in hub if "/commit/" in each[1]]) == 1


def test_a_data_set_goes_with_its_card(toy_data, hub):
    facts = push_folder(toy_data, "me/pairs", token="hf_secret")
    assert facts["kind"] == "data set"
    (commit,) = (each for each in hub if "/commit/" in each[1])
    assert commit[1].startswith("/api/datasets/me/pairs/")
    assert "task_categories: [image-to-image]" in files_of(commit[2])["README.md"]


def test_what_cannot_go(folder, hub, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ConfigError, match="takes nothing without a token"):
        push_folder(folder, "me/mine")
    assert main(["push", str(folder), "--to", "me/mine"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mgie: the hub takes nothing without a token") and said.count("\n") == 1
    with pytest.raises(ConfigError, match="expected OWNER/NAME"):
        push_folder(folder, "mine", token="x")
    (folder / "unet" / "config.json").write_text("{ }")
    with pytest.raises(WeightsError, match=r"config\.json is not what its manifest says"):
        push_folder(folder, "me/mine", token="x")
    with whole_folder(folder.parent / "other", kind="report") as partial:
        (partial / "a.txt").write_text("a")
    with pytest.raises(ConfigError, match="is a report: expected a release"):
        push_folder(folder.parent / "other", "me/mine", token="x")
    assert hub == []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (folder / "unet" / "config.json").write_text("{}")
    with pytest.raises(DeviceError, match="HF_HUB_OFFLINE is set"):
        push_folder(folder, "me/mine", token="x")


@pytest.mark.usefixtures("hub")
def test_what_the_hub_refuses_is_one_sentence(folder):
    with pytest.raises(DeviceError, match=r"the hub does not take me/mine \(.*check its name"):
        huggingface_hub.set_client_factory(
            lambda: httpx.Client(
                transport=httpx.MockTransport(lambda _: httpx.Response(403, json={"error": "no"}))
            )
        )
        push_folder(folder, "me/mine", token="x")
