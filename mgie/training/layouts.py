"""What a run needs of an editor with blocks to learn layouts."""

from collections.abc import Callable
from functools import partial
from typing import Any

from mgie.controllers.layout_learning import LayoutLearning
from mgie.controllers.layout_options import LayoutTraining, LayoutWay, worded
from mgie.models.editor import Editor
from mgie.models.encoders.phrases import PhraseReader
from mgie.weights.controllers import phrase_reader


def learning_of(editor: Editor, prompts: Any, training: LayoutTraining) -> LayoutLearning:
    """What a task asks for a batch's regions. Raises ConfigError for losses that teach nothing."""
    blocks, denoiser = editor.controllers.for_layout, editor.denoiser
    assert blocks is not None
    return LayoutLearning(
        blocks, phrase_reader(editor, prompts), training, attentions=denoiser.attentions,
        depth=denoiser.multiple.bit_length() - 1, factor=editor.codec.space.factor,
    )  # fmt: skip


def phrase_ids(editor: Editor, prompts: Any) -> Callable[[str], list[int]]:
    """The words of a phrase, as the editor's blocks are told it. It raises DataError for too many."""
    blocks = editor.controllers.for_layout
    assert blocks is not None
    return partial(_ids, phrase_reader(editor, prompts), blocks.way)


def _ids(reader: PhraseReader, way: LayoutWay, phrase: str) -> list[int]:
    return reader.ids(worded(way, phrase))
