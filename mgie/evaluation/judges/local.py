"""A judge on this machine: an image-text-to-text model of transformers in a local folder.

Nothing is fetched, and no code of the folder is run. One question at a time, the likeliest word each time.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from llava_patch.folders import file_hash
from mgie.data.files import MALFORMED
from mgie.errors import DataError, DeviceError, WeightsError
from mgie.evaluation.judges.base import Answer, Ask

MODEL = "an image-text-to-text model of transformers, such as a download of Qwen/Qwen2.5-VL-7B-Instruct"
NEW_TOKENS = 1024
"""Of an answer, where a rubric does not say."""


class LocalJudge:
    """A vision language model that answers greedily."""

    together, steady = 1, True

    def __init__(
        self, folder: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ):
        """Raises WeightsError for a folder that is no whole model, DeviceError for a missing package."""
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.folder = Path(folder)
        if not (self.folder / "config.json").is_file():
            raise WeightsError(
                f"{folder} is no model folder (it has no config.json): --judge local:DIR expects {MODEL}."
            )
        self.processor = self._read(AutoProcessor)
        options = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
        model, found = self._read(AutoModelForImageTextToText, **options)
        wrong = [*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])]
        if wrong:
            raise WeightsError(
                f"{folder} lacks {len(wrong)} tensors ({', '.join(sorted(wrong)[:3])}): expected {MODEL}; "
                "download it again."
            )
        if not getattr(self.processor, "chat_template", None):
            raise WeightsError(
                f"{folder} has no chat template, so nothing says how it is asked: expected {MODEL}."
            )
        self.model = model.to(device).eval()
        self._identity = {
            "kind": "local", "model": self.folder.resolve().name, "greedy": True,
            "dtype": str(dtype).removeprefix("torch."), "sha256": _folder_hash(self.folder),
        }  # fmt: skip
        self.label = f"{self._identity['model']} on this machine"

    @property
    def identity(self) -> Mapping[str, Any]:
        """Name and hash of its folder, and what it computes in."""
        return self._identity

    @torch.inference_mode()
    def answer(self, ask: Ask, key: str) -> Answer:  # noqa: ARG002
        """What the model says. Raises DataError for pictures that its processor cannot take."""
        content = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image", "image": part.open()}
            for part in ask.parts
        ]
        told = [{"role": "system", "content": [{"type": "text", "text": ask.system}]}] if ask.system else []
        try:
            given = self.processor.apply_chat_template(
                [*told, {"role": "user", "content": content}],
                tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt",
            ).to(self.model.device, self.model.dtype)  # fmt: skip
        except (ValueError, TypeError, KeyError, IndexError) as error:
            reason = " ".join(str(error).split())[:160]
            raise DataError(
                f"{self.folder} cannot be asked so ({reason}): expected {MODEL}, whose template takes "
                "pictures and words."
            ) from error
        most = int(ask.settings.get("max_tokens", NEW_TOKENS))
        length = given["input_ids"].shape[1]
        # Whatever the folder says of sampling, the likeliest word is taken.
        out = self.model.generate(
            **given, max_new_tokens=most, do_sample=False, temperature=None, top_p=None, top_k=None
        )
        said = out[0, length:]
        text = self.processor.decode(said, skip_special_tokens=True)
        usage = {"prompt_tokens": length, "completion_tokens": len(said)}
        finish = "length" if len(said) >= most else "stop"
        return Answer(text=text, model=self._identity["model"], finish=finish, usage=usage)

    def _read(self, kind: Any, **options: Any) -> Any:
        try:
            return kind.from_pretrained(
                self.folder, local_files_only=True, trust_remote_code=False, **options
            )
        except ImportError as error:
            reason = " ".join(str(error).split()).split(" Check out")[0].rstrip(".")[:160]
            raise DeviceError(
                f"{self.folder} needs a package that is not installed ({reason}): install it, serve the "
                "model behind an endpoint, or take a model without videos."
            ) from error
        except (*MALFORMED, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:160] or type(error).__name__
            raise WeightsError(f"{self.folder} cannot be read ({reason}): expected {MODEL}.") from error


def _folder_hash(folder: Path) -> str:
    """Of all that answers depend on: weights, settings, tokenizer, template."""
    kinds = (".safetensors", ".json", ".jinja", ".model", ".txt")
    names = sorted(path.name for path in folder.iterdir() if path.suffix in kinds)
    lines = "".join(f"{name} {file_hash(folder / name)}\n" for name in names)
    return hashlib.sha256(lines.encode()).hexdigest()
