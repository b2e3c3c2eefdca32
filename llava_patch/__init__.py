"""LLaVA-v1 on today's transformers; it knows nothing of editing.

The names below are the public ones; they are imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llava_patch.config import LlavaConfig as LlavaConfig
    from llava_patch.conversation import TEMPLATES as TEMPLATES
    from llava_patch.conversation import Conversation as Conversation
    from llava_patch.delta import apply_delta as apply_delta
    from llava_patch.delta import make_delta as make_delta
    from llava_patch.errors import UserError as UserError
    from llava_patch.generation import Generated as Generated
    from llava_patch.model import Llava as Llava
    from llava_patch.processor import ClipImageConfig as ClipImageConfig
    from llava_patch.processor import Processor as Processor
    from llava_patch.tokenizer import LlavaTokenizer as LlavaTokenizer
    from llava_patch.weights import load_llava as load_llava
    from llava_patch.weights import save_llava as save_llava
    from llava_patch.weights import start_llava as start_llava

_HOMES = {
    "LlavaConfig": "config",
    "TEMPLATES": "conversation",
    "Conversation": "conversation",
    "apply_delta": "delta",
    "make_delta": "delta",
    "UserError": "errors",
    "Generated": "generation",
    "Llava": "model",
    "ClipImageConfig": "processor",
    "Processor": "processor",
    "LlavaTokenizer": "tokenizer",
    "load_llava": "weights",
    "save_llava": "weights",
    "start_llava": "weights",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
