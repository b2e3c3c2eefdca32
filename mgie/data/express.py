"""EditPair -> expressive instruction: a language model looks, a summariser shortens.

The wording, the cleaning and the summariser's settings are the reference's (docs/coming-from-ml-mgie.md).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import HfApi, try_to_load_from_cache

from mgie.data.files import reason
from mgie.data.images import decode, square
from mgie.errors import UserError, WeightsError
from mgie.types import EditPair

QUESTION = "what will this image be like if '{instruction}'  (in a short paragraph)"
SUMMARISER = "jordiclive/flan-t5-11b-summarizer-filtered"
SUMMARY_PROMPT = "summarize the following paragraph in 32 words:\n\n"
MAX_NEW_TOKENS = 1024
CLEANING = 1
"""Which rules `clean_up` and the marks follow: to be counted up when they change."""
MARKS = re.compile(r"</?s>|<unk>|<im_\w+>|<image>|\[IMG\d+\]")
"""What a tokenizer would read as something else than words."""
ALTERNATIVE = re.compile("alternative", re.IGNORECASE)
SENTENCES = 2
"""How many sentences of the model's paragraph are kept."""
Shorten = Callable[[Sequence[str]], list[str]]
"""Paragraphs -> one short text for each."""


def clean_up(text: str, *, compat: Literal["default", "reference"] = "default") -> str:
    """What a model said, without markers: its first two sentences, up to where it offers alternatives.

    "default" takes what was said after the prompt and gives "" for nothing. "reference" takes the whole
    conversation and is the original's rule to the letter: every full stop counts, also a decimal point;
    sentences are joined without a space; nothing said is an IndexError.

    >>> clean_up("The frame turns red. It glows. It is big.</s>")
    'The frame turns red. It glows.'
    """
    if compat == "reference":
        text = text.split("ASSISTANT:", 1)[-1].strip()
        text = ALTERNATIVE.split(text.split("</s>", 1)[0].strip(), 1)[0].split("[IMG0]", 1)[0]
        text = ".".join(part.strip() for part in text.split(".")[:SENTENCES])
        return (text if text[-1] == "." else text + ".").strip()
    text = ALTERNATIVE.split(re.split(r"</s>|\[IMG\d+\]", text, maxsplit=1)[0], 1)[0]
    text = " ".join(MARKS.sub(" ", text).split())
    sentences = [part.rstrip(" .") for part in re.split(r"\.(?:\s|$)", text)]
    return ". ".join([part for part in sentences if part][:SENTENCES]) + "." if any(sentences) else ""


@dataclass(frozen=True, kw_only=True)
class Said:
    """What was made of one pair: what the model said, cleaned, and the same, shortened."""

    key: str
    paragraph: str
    expressive: str


class Expresser:
    """A LLaVA and a summariser that turn pairs into expressive instructions, several at a time."""

    def __init__(
        self, folder: str | Path, shorten: Shorten, *, max_new_tokens: int | None = None, device: str = "cpu"
    ):
        """`folder` holds a merged LLaVA. Raises WeightsError where it cannot be loaded."""
        from llava_patch.processor import Processor  # seconds of imports, which most data sets need not
        from llava_patch.weights import load_llava

        try:
            self._llava, _ = load_llava(folder, device=device, progress=False)
            self._processor = Processor.from_pretrained(folder)
        except (UserError, OSError) as error:
            raise WeightsError(f"{folder} cannot be loaded: {error}") from error
        self._shorten, self._device, self._max_new_tokens = shorten, device, max_new_tokens or MAX_NEW_TOKENS
        self._llava.eval()

    def __call__(self, pairs: Sequence[EditPair]) -> list[Said]:
        """What each pair's result will look like. Every pair gets what it would get alone, but for rounding
        where two words are equally likely to the last bits."""
        processor, rows, clip_pixels = self._processor, [], []
        for pair in pairs:
            question = QUESTION.replace("{instruction}", pair.instruction)
            rows.append(processor.encode(question, images=int(pair.source is not None)).input_ids)
            if pair.source is not None:
                image = decode(pair.source, name=f"source of {pair.key}")
                clip_pixels.append(processor.clip_pixels(square(image, min(image.size))))
        ids, mask = (tensor.to(self._device) for tensor in processor.pad(rows, side="left"))
        pixels = torch.stack(clip_pixels).to(self._device) if clip_pixels else None
        said = self._llava.generate(ids, mask, pixels, max_new_tokens=self._max_new_tokens)
        paragraphs = [clean_up(processor.tokenizer.decode(said.new_ids(row))) for row in range(len(rows))]
        spoken = [paragraph for paragraph in paragraphs if paragraph]
        short = dict(zip(spoken, self._shorten(spoken) if spoken else ()))
        texts = [" ".join(MARKS.sub(" ", short.get(text, "")).split()) for text in paragraphs]
        several = zip(pairs, paragraphs, texts)
        return [Said(key=pair.key, paragraph=long, expressive=text) for pair, long, text in several]


def summariser(choice: str | None, *, device: str = "cpu") -> tuple[str, Shorten]:
    """Name and function of what a user names: "none", a folder or a hub id. None: the published one. Raises
    WeightsError where it cannot be had: other words are not taken silently."""
    if choice == "none":
        return choice, list
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    name = choice or SUMMARISER
    try:
        if choice is None and not isinstance(try_to_load_from_cache(name, "config.json"), str):
            HfApi().model_info(name, timeout=5)  # one short question; the library would ask for a minute
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForSeq2SeqLM.from_pretrained(name).eval().to(device)
    except Exception as error:  # no network, no hub, no such folder, no such model: each has its own types
        wish = "name another folder or hub id, or say --summarise none to keep the model's own sentences"
        wrong = f"cannot be loaded ({reason(error)}): try again, {wish}"
        raise WeightsError(f"the summariser {name} {wrong}.") from error

    @torch.no_grad()
    def shorten(paragraphs: Sequence[str]) -> list[str]:
        """Summaries by beam search, about 32 words each."""
        texts = [SUMMARY_PROMPT + paragraph for paragraph in paragraphs]
        given = tokenizer(texts, return_tensors="pt", padding=True).to(device)
        beams = {"num_beams": 5, "min_length": 5, "max_length": 64, "no_repeat_ngram_size": 3}
        said = model.generate(**given, **beams, do_sample=False)
        return [text.strip() for text in tokenizer.batch_decode(said, skip_special_tokens=True)]

    return name, shorten
