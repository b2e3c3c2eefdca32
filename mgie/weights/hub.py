"""A release or a data set goes to a hub: one commit, with a card that names its place."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_patch.folders import MANIFEST, read_manifest
from mgie.errors import ConfigError, DataError, DeviceError, WeightsError
from mgie.weights.model_card import CARD, PLACE
from mgie.weights.release import RELEASE

DATA_SET = "data set"
REPOS = {RELEASE: "model", DATA_SET: "dataset"}
"""The kind of a folder, and of the repository that it becomes."""
TOLD = ("repo_id", "folder", "kind", "url", "commit", "files")


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    message: str | None = None,
    token: str | None = None,
    create_pr: bool = False,
) -> dict[str, Any]:
    """Put a release or a data set on a hub, in one commit; the facts: repo_id, folder, kind, url, commit,
    files. The repository is made where there is none. Only what the folder's manifest names goes there.

    Raises ConfigError, WeightsError or DataError for a folder that is neither or has changed, and DeviceError
    where the hub does not take it.
    """
    folder = Path(folder)
    kind, files = _checked(folder)
    if repo_id.count("/") != 1 or not all(repo_id.split("/")):
        raise ConfigError(f"the hub id is {repo_id!r}: expected OWNER/NAME, such as me/my-editor.")
    from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise DeviceError("HF_HUB_OFFLINE is set, so no hub is asked: unset it to put the folder there.")
    if not (token or get_token()):
        raise ConfigError(
            "the hub takes nothing without a token: log in by `hf auth login`, set HF_TOKEN, or give one."
        )
    card = (folder / CARD).read_text(encoding="utf-8").replace(PLACE, repo_id).encode("utf-8")
    added = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=card if name == CARD else folder / name)
        for name in files
    ]
    api, repo = HfApi(token=token), REPOS[kind]
    try:
        api.create_repo(repo_id, repo_type=repo, private=private, exist_ok=True)
        done = api.create_commit(
            repo_id, operations=added, commit_message=message or f"A {kind} made by mgie", repo_type=repo,
            create_pr=create_pr,
        )  # fmt: skip
    except Exception as error:  # the client's own types of errors differ between versions
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        raise DeviceError(
            f"the hub does not take {repo_id} ({reason}): check its name, your token and the network."
        ) from error
    values = (repo_id, str(folder), kind, str(done.pr_url or done.commit_url), done.oid, len(files))
    return dict(zip(TOLD, values))


def _checked(folder: Path) -> tuple[str, Sequence[str]]:
    """The kind of a folder, and its files as its manifest names them, all of which are there."""
    manifest = read_manifest(folder)
    kind = manifest.get("kind", "")
    if kind not in REPOS:
        raise ConfigError(
            f"{folder} is a {kind}: expected a release (`mgie extract`) or a data set (`mgie prepare`)."
        )
    wrong: Any = WeightsError if kind == RELEASE else DataError
    for name, facts in manifest["files"].items():
        file = folder / name
        if not file.is_file() or (name != CARD and file.stat().st_size != facts["size"]):
            raise wrong(f"{file} is not what its manifest says: make the folder again before it is shared.")
    if CARD not in manifest["files"]:
        raise wrong(f"{folder} has no card ({CARD}): make the folder again with this version.")
    return kind, [MANIFEST, *manifest["files"]]
