"""LLaVA's tokenizer: sentencepiece with the splitting rule it was trained with.

The rule (that of the former "slow" LLaMA tokenizer; a fast one gives other ids around added tokens):
1. the text is split at every special and added token, the longest match first;
2. next to an added token all white space, newlines too, is stripped from the neighbouring pieces; next to a
   special token (<s>, </s>, <unk>) nothing is;
3. each remaining piece is encoded by itself, with its own leading "▁".
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import sentencepiece

from llava_patch.errors import ConfigError, DataError, WeightsError

MODEL_FILE = "tokenizer.model"
ADDED_FILE = "added_tokens.json"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_FILE = "special_tokens_map.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Specials:
    """Names of the special tokens."""

    unk: str
    bos: str
    eos: str
    pad: str
    """What padding is made of: <unk> in LLaVA-v1, which has no token of its own for it."""


class LlavaTokenizer:
    """Text <-> ids. See the module's docstring for the rule."""

    def __init__(self, model: bytes, *, specials: Specials, added: dict[str, int]) -> None:
        """`model` is the content of a sentencepiece file, `added` the names and ids beyond its pieces."""
        self._model = model
        self._pieces = sentencepiece.SentencePieceProcessor()
        self._pieces.LoadFromSerializedProto(model)
        self._specials = specials
        expected = range(len(self._pieces), len(self._pieces) + len(added))
        if sorted(added.values()) != list(expected):
            raise ConfigError(
                f"the added tokens have the ids {sorted(added.values())}, expected {list(expected)} after "
                "the "
                f"{len(self._pieces)} pieces of {MODEL_FILE}; {ADDED_FILE} belongs to another tokenizer."
            )
        self._added = dict(sorted(added.items(), key=lambda item: item[1]))
        self._names = {index: name for name, index in self._added.items()}
        self.unk_id = self.id_of(specials.unk)
        self.bos_id = self.id_of(specials.bos)
        self.eos_id = self.id_of(specials.eos)
        self.pad_id = self.id_of(specials.pad)
        self._special_names = {specials.unk, specials.bos, specials.eos, specials.pad}
        self._prepare_split()

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "LlavaTokenizer":
        """Read `tokenizer.model` and, where they are, the JSON files beside it."""
        folder = Path(folder)
        if not (folder / MODEL_FILE).is_file():
            raise WeightsError(f"{folder} has no {MODEL_FILE}; expected a LLaVA, Vicuna or LLaMA folder.")
        model = (folder / MODEL_FILE).read_bytes()
        config = read_json(folder / CONFIG_FILE) | read_json(folder / SPECIAL_FILE)
        try:
            pieces = sentencepiece.SentencePieceProcessor()
            pieces.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise WeightsError(
                f"{folder / MODEL_FILE} ({len(model)} bytes) is no sentencepiece model; fetch the file again."
            ) from error
        unk = _name(config.get("unk_token")) or pieces.IdToPiece(pieces.unk_id())
        specials = Specials(
            unk=unk,
            bos=_name(config.get("bos_token")) or pieces.IdToPiece(pieces.bos_id()),
            eos=_name(config.get("eos_token")) or pieces.IdToPiece(pieces.eos_id()),
            pad=_name(config.get("pad_token")) or unk,
        )
        try:
            added = _added(folder, config, len(pieces))
        except (TypeError, ValueError, AttributeError) as error:
            raise WeightsError(
                f"{folder / ADDED_FILE} has ids that are no numbers ({error}); fetch the file again."
            ) from error
        return cls(model, specials=specials, added=added)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the four files of a published LLaVA tokenizer."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        names = {f"{role}_token": getattr(self._specials, role) for role in ("unk", "bos", "eos", "pad")}
        (folder / MODEL_FILE).write_bytes(self._model)
        _write_json(folder / ADDED_FILE, self._added)
        _write_json(folder / SPECIAL_FILE, {role: _declared(name) for role, name in names.items()})
        _write_json(
            folder / CONFIG_FILE,
            {
                "tokenizer_class": "LlamaTokenizer",
                "add_bos_token": True,
                "add_eos_token": False,
                "clean_up_tokenization_spaces": False,
                "legacy": True,
                **{role: {"__type": "AddedToken", **_declared(name)} for role, name in names.items()},
            },
        )

    def __len__(self) -> int:
        """How many ids there are: pieces and added tokens."""
        return len(self._pieces) + len(self._added)

    @property
    def added(self) -> dict[str, int]:
        """Names and ids of the added tokens, in the order of their ids (a copy)."""
        return dict(self._added)

    def add_tokens(self, names: Iterable[str]) -> int:
        """Give each of `names` that is not there yet the next id. Returns how many were new."""
        new = [name for name in dict.fromkeys(names) if name not in self._added]
        for name in new:
            if not name or name != name.strip():
                raise ConfigError(
                    f"the new token {name!r} is empty or has white space at an end; mend its name."
                )
            if self._pieces.PieceToId(name) != self._pieces.unk_id() or name in self._special_names:
                raise ConfigError(
                    f"the new token {name!r} is a piece of {MODEL_FILE} already; choose another name."
                )
            index = len(self)
            self._added[name], self._names[index] = index, name
        self._prepare_split()
        return len(new)

    def id_of(self, name: str) -> int:
        """Id of one token; an error where there is none."""
        if name in self._added:
            return self._added[name]
        index = self._pieces.PieceToId(name)
        if self._pieces.IdToPiece(index) != name:
            raise WeightsError(
                f"the tokenizer has no token {name!r} (it has {len(self._pieces)} pieces and the added "
                "tokens "
                f"{list(self._added) or 'none'}); use the tokenizer of a LLaVA folder, or add the token "
                "first."
            )
        return index

    def names(self, ids: Sequence[int]) -> list[str]:
        """The token of each id, as it is written in the vocabulary."""
        beyond = [index for index in ids if not 0 <= index < len(self)]
        if beyond:
            raise DataError(f"the ids {beyond} are outside the vocabulary of {len(self)} tokens.")
        return [
            self._names[index] if index in self._names else self._pieces.IdToPiece(index) for index in ids
        ]

    def encode(self, text: str, bos: bool = True) -> list[int]:
        """Ids of `text`, with <s> in front unless `bos` is false."""
        return self.encode_with_bounds(text, (), bos=bos)[0]

    def encode_with_bounds(
        self, text: str, bounds: Sequence[int], bos: bool = True
    ) -> tuple[list[int], list[int]]:
        """Ids of `text`, and for each character index in `bounds` the place of the first id beyond it.

        A token that lies across a bound counts as beyond it.
        """
        ids = [self.bos_id] if bos else []
        places: dict[int, int] = {}
        waiting = sorted(set(bounds), reverse=True)
        for start, end, part in self._parts(text):
            fresh = [part] if isinstance(part, int) else self._pieces.EncodeAsIds(part)
            while waiting and waiting[-1] < end:
                bound = waiting.pop()
                places[bound] = len(ids)
                if isinstance(part, str):
                    inside = bound - text.index(part, start)
                    places[bound] += _common(self._pieces.EncodeAsIds(part[: max(inside, 0)]), fresh)
            ids += fresh
        return ids, [places.get(bound, len(ids)) for bound in bounds]

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        """Text of `ids`, with a space on both sides of every added token.

        `skip_special` leaves out <s>, </s> and <unk>; added tokens stay.
        """
        texts: list[str] = []
        run: list[str] = []
        for name in self.names(ids):
            if skip_special and name in self._special_names:
                continue
            if name in self._added:
                texts += [self._joined(run)] if run else []
                texts.append(name)
                run = []
            else:
                run.append(name)
        return " ".join(texts + ([self._joined(run)] if run else []))

    def _joined(self, names: list[str]) -> str:
        """Text of names without added tokens; special tokens are not sentencepiece's to decode."""
        text, words, after_special = "", [], False
        for place, name in enumerate(names):
            if name in self._special_names:
                text += " " if place > 0 and not after_special else ""
                text += self._pieces.DecodePieces(words) + name
                words, after_special = [], True
            else:
                words.append(name)
                after_special = False
        return text + self._pieces.DecodePieces(words)

    def _prepare_split(self) -> None:
        names = sorted({*self._added, *self._special_names}, key=len, reverse=True)
        self._split = re.compile("|".join(re.escape(name) for name in names))
        self._split_ids = {name: self.id_of(name) for name in names}

    def _parts(self, text: str) -> Iterator[tuple[int, int, str | int]]:
        """`text` in order as (start, end, words or the id of a special or added token), by rules 1 and 2."""
        end, after_added = 0, False
        for match in [*self._split.finditer(text), None]:
            start, stop = match.span() if match else (len(text), len(text))
            name = match.group() if match else ""
            if start > end:
                words = text[end:start]
                words = words.lstrip() if after_added else words
                words = words.rstrip() if name in self._added else words
                if words:
                    yield end, start, words
                    end = start
            if match:
                yield end, stop, self._split_ids[name]
                end, after_added = stop, name in self._added


def _common(left: list[int], right: list[int]) -> int:
    """Length of the longest common beginning."""
    for place, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return place
    return min(len(left), len(right))


def _added(folder: Path, config: dict, pieces: int) -> dict[str, int]:
    """The added tokens of `added_tokens.json`, or of newer libraries' `added_tokens_decoder`."""
    added = {name: int(index) for name, index in read_json(folder / ADDED_FILE).items()}
    if not added:
        decoder = config.get("added_tokens_decoder", {})
        added = {_name(token): int(index) for index, token in decoder.items()}
    return {name: index for name, index in added.items() if index >= pieces}


def _name(token: object) -> str:
    """The text of a token that is declared as a text, as a dictionary, or not at all."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def _declared(name: str) -> dict:
    return {"content": name, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}


def read_json(path: Path) -> dict:
    """The content of a JSON file; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} cannot be read ({error}); fetch the file again.") from error
    if not isinstance(content, dict):
        raise WeightsError(
            f"{path} holds a {type(content).__name__}, expected an object; fetch the file again."
        )
    return content


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
