"""Which things a caption names: the lowest phrases of its parsed sentences.

The rule by which MIGC's training data was made (Zhou et al. 2024): of each noun phrase or prepositional
phrase, its own adjectives and nouns; of phrases within phrases, the inner ones. A sentence comes as a
bracketed tree in Penn Treebank's labels, "(NP (DT a) (JJ red) (NN dog))".
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from mgie.errors import DataError

MOST_REPEATED = 7
"""How often a description is said at most."""
DEEPEST = 200
"""Brackets within brackets; parsers make some twenty."""

_IRREGULAR = {
    "people": "person", "men": "man", "women": "woman", "children": "child", "feet": "foot", "teeth": "tooth",
    "geese": "goose", "mice": "mouse", "oxen": "ox", "dice": "die", "knives": "knife", "wives": "wife",
    "lives": "life", "leaves": "leaf", "loaves": "loaf", "shelves": "shelf", "bookshelves": "bookshelf",
    "wolves": "wolf", "halves": "half", "calves": "calf", "scarves": "scarf", "thieves": "thief",
    "elves": "elf", "hooves": "hoof", "quizzes": "quiz", "cacti": "cactus", "axes": "axe", "aches": "ache",
    "headaches": "headache", "mustaches": "mustache", "moustaches": "moustache", "quiches": "quiche",
    "avalanches": "avalanche", "menus": "menu", "emus": "emu", "gnus": "gnu", "skis": "ski",
    "taxis": "taxi", "bikinis": "bikini", "kiwis": "kiwi", "zucchinis": "zucchini", "khakis": "khaki",
    "paparazzi": "paparazzo", "shoes": "shoe", "horseshoes": "horseshoe", "snowshoes": "snowshoe",
    "canoes": "canoe", "toes": "toe", "hoes": "hoe", "oboes": "oboe",
}  # fmt: skip
"""Plurals that follow no rule below."""
_UNCHANGED = {
    "sheep", "deer", "fish", "moose", "bison", "salmon", "trout", "shrimp", "aircraft", "spacecraft",
    "series", "species", "scissors", "pants", "jeans", "shorts", "trousers", "tights", "leggings",
    "overalls", "pajamas", "pyjamas", "clothes", "sunglasses", "eyeglasses", "goggles", "binoculars",
    "headphones", "tongs", "pliers", "tweezers", "shears", "stairs", "surroundings", "outskirts", "news",
    "swiss", "molasses",
}  # fmt: skip
"""The same in plural, or no singular of the same thing."""
_IN_S = {
    "bus", "minibus", "trolleybus", "gas", "lens", "canvas", "atlas", "iris", "pancreas", "christmas",
    "alias", "octopus", "walrus", "cactus", "hippopotamus", "platypus", "virus", "campus", "circus", "plus",
    "crocus", "hibiscus", "citrus", "bonus", "chorus", "tennis", "trellis", "asparagus", "hummus",
    "surplus", "bias",
}  # fmt: skip
"""Singulars that end in s, but not in ss."""
_IN_IE = {
    "pie", "tie", "die", "lie", "bowtie", "potpie", "cookie", "movie", "brownie", "smoothie", "selfie",
    "hoodie", "zombie", "genie", "prairie", "rookie", "collie", "veggie", "goalie", "junkie", "hippie",
    "pixie", "calorie", "birdie", "beanie", "magpie", "sweetie", "cutie", "foodie", "necktie", "groupie",
    "newbie",
}  # fmt: skip
"""Singulars that end in ie, so that their plurals do not come from y."""


@dataclass(frozen=True, kw_only=True)
class Phrase:
    """A thing that a caption names."""

    text: str
    """Such as "a red dog": in the singular, behind "a"; a noun that stands alone, as it is."""
    tokens: tuple[int, int]
    """First of its tokens, and the one after its last."""


@dataclass(frozen=True, kw_only=True)
class _Node:
    label: str
    start: int
    end: int
    children: tuple["_Node", ...] = ()
    word: str = ""
    """Of a leaf."""


def caption_phrases(trees: Sequence[str]) -> list[Phrase]:
    """The phrases of all sentences of a caption, in order; tokens are counted through. Raises DataError."""
    found, before = [], 0
    for tree in trees:
        root = _read(tree)
        found += [
            Phrase(text=each.text, tokens=(each.tokens[0] + before, each.tokens[1] + before))
            for each in _lowest(root)
        ]
        before += root.end
    return found


def lowest_phrases(tree: str) -> list[Phrase]:
    """The phrases of one sentence, in its order. Raises DataError for what is no tree."""
    return _lowest(_read(tree))


def singular(noun: str) -> str:
    """A plural noun of English in the singular, by a lexicon and then by rule; its first capital stays."""
    word = noun.lower()
    if word in _UNCHANGED or word in _IN_S or len(word) < 3:
        return noun
    one = _IRREGULAR.get(word) or _by_ending(word)
    return one[:1].upper() + one[1:] if noun[0].isupper() else one


def repeated(description: str, instances: int) -> str:
    """A description as often as there are instances in the picture, but seven times at most.

    So its words weigh more in what a text encoder makes of them (MIGC's runs on COCO-MIG).
    """
    return ", and ".join([description] * min(instances, MOST_REPEATED))


def _by_ending(word: str) -> str:
    if word.endswith("men"):  # firemen, women
        return f"{word[:-2]}an"
    if word.endswith("children"):
        return word[:-3]
    if not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-1] if word[:-1] in _IN_IE else f"{word[:-3]}y"
    stem = word[:-2]
    if word.endswith(("xes", "ches", "shes", "sses", "zzes", "oes")) or stem in _IN_S:
        return stem
    return word[:-1]


def _lowest(root: _Node) -> list[Phrase]:
    """All phrases but those that have others within them."""
    spans = {each.tokens: each for node in _nodes(root) for each in _phrases(node)}
    return [
        spans[start, end]
        for start, end in sorted(spans)
        if not any(start <= a and b <= end and (a, b) != (start, end) for a, b in spans)
    ]


def _phrases(node: _Node) -> Iterator[Phrase]:
    """Those that a node's own leaves make."""
    kind = _kind(node)
    if kind not in ("NP", "PP"):
        return
    leaves = [child for child in node.children if child.word]
    if node.end - node.start == 1:
        if kind == "NP" and leaves and _is_noun(leaves[0]):
            yield Phrase(text=leaves[0].word, tokens=(node.start, node.end))
        return
    runs = [list(run) for noun, run in groupby(node.children, _is_noun) if noun]
    if len(runs) < 2 or not any(_kind(child) in ("CC", "CONJP") for child in node.children):
        runs = [[leaf for leaf in leaves if _is_noun(leaf) or _kind(leaf).startswith("JJ")]]
    for run in runs:
        if any(_is_noun(leaf) for leaf in run):
            words = [singular(leaf.word) if _kind(leaf) in ("NNS", "NNPS") else leaf.word for leaf in run]
            yield Phrase(text=f"a {' '.join(words)}", tokens=(run[0].start, run[-1].end))


def _is_noun(node: _Node) -> bool:
    return bool(node.word) and _kind(node).startswith("NN")


def _kind(node: _Node) -> str:
    """A label without what it does in the sentence: NP-SBJ is an NP."""
    return re.split(r"[-=]", node.label, maxsplit=1)[0] or node.label


def _nodes(node: _Node) -> Iterator[_Node]:
    yield node
    for child in node.children:
        yield from _nodes(child)


def _read(tree: str) -> _Node:
    """A bracketed tree. Raises DataError."""
    pieces = re.findall(r"[()]|[^\s()]+", tree)[::-1]
    try:
        root = _node(pieces, 0, 0)
        if pieces:
            raise ValueError("something stands behind it")
    except (ValueError, IndexError) as error:
        raise DataError(
            f"{tree[:80]!r} is no parsed sentence: expected one tree in brackets, such as "
            "(NP (DT a) (NN dog))."
        ) from error
    return root


def _node(pieces: list[str], start: int, depth: int) -> _Node:
    """Take one node from the end of `pieces`: a label, and a word or nodes."""
    if pieces.pop() != "(" or depth > DEEPEST:
        raise ValueError("no bracket, or too many")
    label = pieces.pop() if pieces[-1] not in "()" else ""
    word = pieces.pop() if pieces[-1] not in "()" else ""
    children, end = [], start + bool(word)
    while not word and pieces[-1] == "(":
        children.append(_node(pieces, end, depth + 1))
        end = children[-1].end
    if pieces.pop() != ")" or end == start:
        raise ValueError("it does not end, or is empty")
    return _Node(label=label, start=start, end=end, children=tuple(children), word=word)
