"""Our scores against MagicBrush's published script, with small CLIP and DINO models of seeded weights.

Pictures, texts and models are made by the rules that tests/golden/evaluation/README.md tells; all sizes,
seeds and names are read from the case's files.
"""

import gzip
import hashlib
import json
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from goldens import arrays, facts, golden_folder, relative, seeded
from PIL import Image

from mgie.evaluation.measures.blocks import prepared
from mgie.evaluation.measures.features import Clip, Dino
from mgie.evaluation.measures.scores import Eyes
from mgie.evaluation.published.data import outputs_of, read_layout
from mgie.evaluation.published.protocol import find_protocol
from mgie.evaluation.published.rows import score_all

FEATURE = 2e-6
"""Relative to a feature's greatest entry. Worst measured: 8e-7, of other sums in float32."""
METRIC = 1e-6
PIXEL = 1e-6
EVERY = 16
"""Rows and columns of prepared pictures that the goldens keep."""
NAMES = {"l1": "l1", "l2": "l2", "clip_i": "clip-i", "dino": "dino", "clip_t": "clip-t"}
VIEWS = {"single": "all_turn", "multi": "final_turn"}

CONFIG = facts("evaluation", "config")
EXPECTED = facts("evaluation", "expected")


@cache
def pictures() -> dict[str, Image.Image]:
    """All pictures, by the paths that their hashes have; what was generated lies under gen/."""
    draw, found = np.random.default_rng(CONFIG["seed"]), {}

    def pic(path, size):
        small = Image.fromarray(draw.integers(0, 256, (6, 7, 3), np.uint8))
        smooth = np.asarray(small.resize(size, Image.Resampling.BICUBIC)).astype(int)
        noise = draw.integers(-20, 21, (size[1], size[0], 3))
        found[path] = Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))

    made = CONFIG["made"]
    for name, turns, size in sessions():
        pic(f"gt/{name}/{name}-input.png", size)
        for turn in range(1, turns + 1):
            pic(f"gt/{name}/{name}-output{turn}.png", size)
            pic(f"gt/{name}/{name}-mask{turn}.png", size)
            if turn == 1:
                pic(f"gen/{name}/{name}_1.png", made[0])
            else:
                pic(f"gen/{name}/{name}_inde_{turn}.png", made[1])
                pic(f"gen/{name}/{name}_iter_{turn}.png", made[2])
    return found


def sessions() -> list[tuple[str, int, list[int]]]:
    """Name, number of turns and size of each session."""
    sizes = CONFIG["sizes"]
    return [
        (str(CONFIG["first_id"] + place), 1 + place % CONFIG["turns"], sizes[place % len(sizes)])
        for place in range(CONFIG["sessions"])
    ]


def test_pictures_are_those_of_the_goldens():
    """Pillow's bicubic filter on the machine at hand: every hash."""
    found = {path: hashlib.sha256(each.tobytes()).hexdigest() for path, each in pictures().items()}
    assert found == CONFIG["pictures_sha256_of_rgb_bytes"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """MagicBrush's test layout, and the pictures of a system beside it."""
    folder = tmp_path_factory.mktemp("magicbrush")
    for path, picture in pictures().items():
        kind, rest = path.split("/", 1)
        lying = folder / ("gen" if kind == "gen" else "data/images") / rest
        lying.parent.mkdir(parents=True, exist_ok=True)
        picture.save(lying)
    turns, told = {}, {"local": {}, "global": {}}
    for place, (name, count, _) in enumerate(sessions()):
        files = [f"{name}-input.png", *(f"{name}-output{turn}.png" for turn in range(1, count + 1))]
        turns[name] = [
            {"input": before, "output": after, "mask": f"{name}-mask{turn}.png", "instruction": "edit it"}
            for turn, (before, after) in enumerate(pairwise(files), 1)
        ]
        told["local"][name] = {
            file: CONFIG["caption"].format(s=place, t=turn) for turn, file in enumerate(files[1:], 1)
        }
        told["global"][name] = {
            file: f"global caption {place} {turn}" for turn, file in enumerate(files[1:], 1)
        }
    (folder / "data" / "edit_sessions.json").write_text(json.dumps(turns))
    for kind, captions in told.items():
        (folder / "data" / f"{kind}_descriptions.json").write_text(json.dumps(captions))
    return folder


@pytest.fixture(scope="module")
def eyes(tmp_path_factory):
    """The goldens' CLIP and DINO, saved as transformers does and read as a user's."""
    folder = tmp_path_factory.mktemp("models")
    save_clip(folder / "clip")
    save_dino(folder / "dino")
    return Eyes(clip=Clip(folder / "clip"), dino=Dino(folder / "dino"))


def save_clip(folder):
    from transformers import CLIPConfig, CLIPModel

    sizes = CONFIG["clip"]
    text = {
        "hidden_size": sizes["text_width"],
        "intermediate_size": 4 * sizes["text_width"],
        "num_hidden_layers": sizes["text_layers"],
        "num_attention_heads": sizes["text_heads"],
        "vocab_size": 49408,
        "max_position_embeddings": 77,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
    }
    vision = {
        "hidden_size": sizes["vision_width"],
        "intermediate_size": 4 * sizes["vision_width"],
        "num_hidden_layers": sizes["vision_layers"],
        "num_attention_heads": sizes["vision_width"] // 64,
        "image_size": 224,
        "patch_size": sizes["vision_patch_size"],
    }
    model = CLIPModel(
        CLIPConfig(text_config=text, vision_config=vision, projection_dim=sizes["embed_dim"])
    ).eval()
    fill(model, clip_value)
    model.save_pretrained(folder)
    save_tokenizer(folder)


def save_dino(folder):
    from transformers import ViTConfig, ViTModel

    sizes = CONFIG["dino"]
    config = ViTConfig(
        hidden_size=sizes["embed_dim"],
        intermediate_size=4 * sizes["embed_dim"],
        num_hidden_layers=sizes["depth"],
        num_attention_heads=sizes["heads"],
        image_size=224,
        patch_size=16,
    )
    model = ViTModel(config, add_pooling_layer=False)
    fill(model, dino_value)
    model.save_pretrained(folder)


def save_tokenizer(folder):
    """From OpenAI's list of merges: letters of bytes, letters that end a word, merges, two marks."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    lines = gzip.decompress((golden_folder("evaluation") / "bpe_simple_vocab_16e6.txt.gz").read_bytes())
    merges = lines.decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    letters = list(bytes_to_unicode().values())
    words = letters + [letter + "</w>" for letter in letters]
    words += ["".join(merge.split()) for merge in merges] + ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)


def fill(model, value):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim:
                drawn = value(name, tuple(parameter.shape))
                parameter.copy_(torch.from_numpy(drawn.copy()).reshape(parameter.shape))


def clip_value(name, shape):
    """A value of transformers' CLIPModel, by its name in OpenAI's program."""
    side = "visual." if name.startswith("visi") else ""
    named = {
        "visual_projection.weight": "visual.proj",
        "text_projection.weight": "text_projection",
        "vision_model.embeddings.class_embedding": "visual.class_embedding",
        "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
        "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
    }
    if name in ("visual_projection.weight", "text_projection.weight"):  # stored the other way round
        return drawn("clip.", named[name], shape[::-1]).T
    if name in named:
        return drawn("clip.", named[name], shape)
    parts = name.removeprefix("vision_model.").removeprefix("text_model.").split(".")
    norms = {"pre_layrnorm": "ln_pre", "post_layernorm": "ln_post", "final_layer_norm": "ln_final"}
    if parts[0] in norms:
        return clip_norm(f"{side}{norms[parts[0]]}.{parts[1]}", shape)
    block, inside, last = f"{side}transformer.resblocks.{parts[2]}.", parts[3:-1], parts[-1]
    if inside[0] == "self_attn" and inside[1] != "out_proj":
        return third(drawn("clip.", f"{block}attn.in_proj_{last}", (3 * shape[0], *shape[1:])), inside[1])
    if inside[0].startswith("layer_norm"):
        return clip_norm(f"{block}ln_{inside[0][-1]}.{last}", shape)
    inner = {"out_proj": "attn.out_proj", "fc1": "mlp.c_fc", "fc2": "mlp.c_proj"}[inside[1]]
    return drawn("clip.", f"{block}{inner}.{last}", shape)


def clip_norm(name, shape):
    """The goldens centre these weights on 1 themselves."""
    return drawn("clip.", name, shape) + np.float32(name.endswith("weight"))


def dino_value(name, shape):
    """A value of transformers' ViTModel, by its name in DINO's program."""
    named = {
        "embeddings.cls_token": "cls_token",
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "layernorm": "norm",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "attention.o_proj": "attn.proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    if name in named:
        return drawn("dino.", named[name], shape)
    rest, _, last = name.rpartition(".")
    if rest in named:
        return drawn("dino.", f"{named[rest]}.{last}", shape)
    _, block, inside = rest.split(".", 2)
    if inside.endswith(("q_proj", "k_proj", "v_proj")):
        whole = drawn("dino.", f"blocks.{block}.attn.qkv.{last}", (3 * shape[0], *shape[1:]))
        return third(whole, inside.split(".")[-1])
    return drawn("dino.", f"blocks.{block}.{named[inside]}.{last}", shape)


def third(whole, which):
    """One of the three blocks of rows."""
    return np.split(whole, 3)["qkv".index(which[0])]


def drawn(prefix, name, shape):
    return seeded(prefix + name, shape, CONFIG["seed"])


@pytest.mark.parametrize("key", sorted(arrays("evaluation", "features")))
def test_prepared_pictures_and_features(key, eyes):
    """Every array of the case, by what its name says it is."""
    kind, _, path = key.partition("/")
    expected = arrays("evaluation", "features")[key]
    if kind == "text":
        words = eyes.clip.words(CONFIG["texts"][int(path)], "cut")
        assert relative(eyes.clip.texts([words])[0], expected) < FEATURE
        return
    model = eyes.dino if kind.startswith("dino") else eyes.clip
    if kind.endswith("_prep"):
        seen = prepared(pictures()[path], model.prep)[:, ::EVERY, ::EVERY]
        assert np.abs(seen.numpy() - expected).max() < PIXEL
    else:
        assert relative(model.images([pictures()[path]])[0], expected) < FEATURE


@pytest.mark.parametrize("case", EXPECTED["text_ids"], ids=lambda case: repr(case["text"][:20]))
def test_ids_of_texts(case, eyes):
    assert list(eyes.clip.words(case["text"], "cut").ids) == case["ids"]


@pytest.mark.parametrize("captions", sorted(EXPECTED["magicbrush"]))
def test_magicbrush(captions, world, eyes):
    """Every metric of both views, of the outputs and of the targets themselves."""
    protocol = find_protocol("magicbrush" if captions == "local" else f"magicbrush@{captions}")
    views = read_layout(protocol, world / "data", unpinned=True)
    outputs, extra = outputs_of(world / "gen", views)
    assert not extra
    found = score_all(protocol, views, outputs, eyes).facts
    seen = set()
    for view, theirs in VIEWS.items():
        expected = EXPECTED["magicbrush"][captions][theirs]
        ours = {NAMES[name]: found["outputs"][view][name] for name in NAMES}
        ours["clip-t_oracle"] = found["oracle"][view]["clip_t"]
        assert set(ours) == set(expected)
        for name, value in ours.items():
            assert value == pytest.approx(expected[name], abs=METRIC), (view, name)
        seen.add(theirs)
        assert found["outputs"][view]["n"] == sum(
            (turns if view == "single" else 1) for _, turns, _ in sessions()
        )
    assert seen == set(EXPECTED["magicbrush"][captions])
