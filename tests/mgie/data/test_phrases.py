import pytest

from mgie.data.phrases import Phrase, caption_phrases, lowest_phrases, repeated, singular
from mgie.errors import DataError


def told(tree: str) -> list[tuple[str, tuple[int, int]]]:
    return [(phrase.text, phrase.tokens) for phrase in lowest_phrases(tree)]


@pytest.mark.parametrize(
    ("tree", "phrases"),
    [
        # One of the sentence's first words; the original takes its place 0 for none.
        ("(NP (JJ Red) (NN bus))", [("a Red bus", (0, 2))]),
        # What is joined stands for itself, without what describes it.
        ("(NP (DT a) (JJ big) (NN cat) (CC and) (NN dog))", [("a cat", (2, 3)), ("a dog", (4, 5))]),
        ("(NP (NN cat) (, ,) (NN dog) (CONJP (CC or)))", [("a cat", (0, 1)), ("a dog", (2, 3))]),
        # With one run of nouns nothing is joined.
        ("(NP (DT a) (NN cat) (CC and) (JJ black))", [("a cat black", (1, 4))]),
        # Nouns without a conjunction between them are one thing.
        ("(NP (DT the) (NN dog) (POS 's) (NN tail))", [("a dog tail", (1, 4))]),
        # A preposition's own noun.
        ("(PP (IN of) (NN water))", [("a water", (1, 2))]),
        # A single leaf is one only if it is a noun: it, this.
        ("(S (NP (PRP it)) (VP (VBZ is) (NP (DT this))))", []),
        ("(PP (NN dog))", []),
        ("(NP (DT the) (JJ old))", []),
        # Outer phrases go; of the same words there is one.
        ("(NP (NP (NP (NN dog))))", [("dog", (0, 1))]),
        ("(NP (DT a) (NN man) (PP (IN in) (NP (DT a) (NN hat))) (NN costume))", [("a hat", (4, 5))]),
        # What a phrase does in its sentence is no matter.
        ("(S (NP-SBJ=1 (NNS dogs)) (VP (VBP run)))", [("dogs", (0, 1))]),
        # Stanza writes brackets so.
        ("(NP (-LRB- -LRB-) (DT the) (NNS cats) (-RRB- -RRB-))", [("a cat", (2, 3))]),
        ("(ROOT\n  (NP (DT a)\n    (NN dog)))", [("a dog", (1, 2))]),
    ],
)  # fmt: skip
def test_lowest_phrases(tree, phrases):
    assert told(tree) == phrases


def test_all_sentences_of_a_caption():
    trees = ["(NP (DT a) (NN dog) (. .))", "(NP (CD two) (NNS cats))"]
    assert caption_phrases(trees) == [
        Phrase(text="a dog", tokens=(1, 2)),
        Phrase(text="a cat", tokens=(4, 5)),
    ]
    assert caption_phrases([]) == []


@pytest.mark.parametrize(
    "tree",
    [
        "", "a dog", "(NP (NN dog)", "(NP (NN dog)))", "(NP)", "()", "(NP dog cat)", "(" * 5000,
        "(NP (NN dog)) (NP (NN cat))",
    ],
)  # fmt: skip
def test_what_is_no_tree(tree):
    with pytest.raises(DataError, match="is no parsed sentence: expected one tree in brackets"):
        lowest_phrases(tree)


@pytest.mark.parametrize(
    ("plural", "one"),
    [
        ("dogs", "dog"), ("boxes", "box"), ("benches", "bench"), ("dishes", "dish"), ("glasses", "glass"),
        ("buses", "bus"), ("Buses", "Bus"), ("bus", "bus"), ("glass", "glass"), ("grass", "grass"),
        ("horses", "horse"), ("vases", "vase"), ("houses", "house"), ("mouses", "mouse"),
        ("lenses", "lens"), ("berries", "berry"), ("cookies", "cookie"), ("ties", "tie"),
        ("tomatoes", "tomato"), ("shoes", "shoe"), ("gloves", "glove"), ("knives", "knife"),
        ("people", "person"), ("Men", "Man"), ("firemen", "fireman"), ("grandchildren", "grandchild"),
        ("sheep", "sheep"), ("scissors", "scissors"), ("skis", "ski"), ("sizes", "size"), ("s", "s"),
        ("tennis", "tennis"), ("octopuses", "octopus"), ("cacti", "cactus"),
    ],
)  # fmt: skip
def test_singulars(plural, one):
    assert singular(plural) == one
    assert singular(one) == one


def test_only_what_is_tagged_as_plural_is_changed():
    assert told("(NP (DT a) (NN bus) (NN stops))") == [("a bus stops", (1, 3))]


def test_repeated_at_most_seven_times():
    assert repeated("a cat", 2) == "a cat, and a cat"
    assert repeated("a cat", 9).count("a cat") == 7
