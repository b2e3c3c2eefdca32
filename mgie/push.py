"""`mgie push`: a release or a data set goes to a hub, with its card.

mgie push _ckpt/tiny --to me/my-editor --private
"""

from pathlib import Path
from typing import Any


def push(
    folder: str | Path, *, to: str, private: bool = False, message: str | None = None, create_pr: bool = False
) -> dict[str, Any]:
    """Put a release or a data set on a hub, in one commit; the facts: repo_id, folder, kind, url, commit,
    files. The token is that of `hf auth login`, or HF_TOKEN.

    Args:
        folder: A release, as `mgie extract` writes it, or a data set, as `mgie prepare` writes it.
        to: Where to, such as me/my-editor; the repository is made where there is none.
        private: Make it for nobody else's eyes.
        message: What the commit says.
        create_pr: Ask its owner to take it, instead of writing it.
    """
    from mgie.weights.hub import push_folder

    return push_folder(folder, to, private=private, message=message, create_pr=create_pr)
