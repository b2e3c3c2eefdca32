"""A judge on this machine: a small model of random weights answers greedily, with what it was shown."""

import json
import shutil

import pytest
import torch
from judged_data import png, write_imgedit

from mgie.errors import DeviceError, WeightsError
from mgie.evaluate import evaluate
from mgie.evaluation.judges.base import Ask, Picture
from mgie.evaluation.judges.local import LocalJudge

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %} {% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A LLaVA of random weights, as transformers writes it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    place = tmp_path_factory.mktemp("judge")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {letter: number for number, letter in enumerate(["<pad>", "<s>", "</s>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.add_special_tokens({"additional_special_tokens": ["<image>"]})
    image = fast.convert_tokens_to_ids("<image>")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**small, image_size=32, patch_size=16),
        text_config=LlamaConfig(
            **small, vocab_size=len(fast), max_position_embeddings=4096, pad_token_id=0, eos_token_id=2
        ),
        image_token_index=image, vision_feature_layer=-1,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            weights.mul_(20 if "norm" not in name else 1)  # so that answers depend on what is shown
    model.generation_config.do_sample, model.generation_config.temperature = True, 1.0
    model.save_pretrained(place)
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}), fast,
        patch_size=16, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )  # fmt: skip
    processor.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def judge(folder):
    return LocalJudge(folder)


def ask(*seeds, words="how good?", system=""):
    pictures = tuple(Picture(data=png(seed)) for seed in seeds)
    return Ask(parts=(*pictures, words), system=system, settings={"max_tokens": 12, "temperature": 1})


def test_it_says_the_same_each_time_and_sees_what_it_is_shown(judge):
    first = judge.answer(ask(1, 2), "0")
    assert first == judge.answer(ask(1, 2), "0") and first.status == "ok" and first.text
    assert first.usage["completion_tokens"] == 12 and first.finish == "length"
    others = [ask(1, 3), ask(2, 1), ask(1), ask(1, 2, words="how bad?"), ask(1, 2, system="be fair")]
    texts = {judge.answer(other, "0").text for other in others}
    assert len(texts | {first.text}) > 3


def test_what_is_said_is_transformers_own(judge, folder):
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    model, processor = (
        LlavaForConditionalGeneration.from_pretrained(folder),
        LlavaProcessor.from_pretrained(folder),
    )
    text = "user: <image> <image> how good? assistant: "
    given = processor(
        text=text, images=[Picture(data=png(seed)).open() for seed in (1, 2)], return_tensors="pt"
    )
    said = model.generate(
        **given, max_new_tokens=12, do_sample=False, temperature=None, top_p=None, top_k=None
    )
    expected = processor.decode(said[0, given["input_ids"].shape[1] :], skip_special_tokens=True)
    assert judge.answer(ask(1, 2), "0").text == expected


def test_its_identity_is_its_files_and_what_it_computes_in(judge, folder, tmp_path):
    other = tmp_path / folder.name
    shutil.copytree(folder, other)
    assert LocalJudge(other).identity == judge.identity
    assert LocalJudge(other, dtype=torch.bfloat16).identity != judge.identity
    template = other / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert LocalJudge(other).identity["sha256"] != judge.identity["sha256"]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no model folder"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99), "cannot be read"),
        (lambda folder: (folder / "chat_template.jinja").unlink(), "no chat template"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "cannot be read"),
        (lambda folder: _deeper(folder), r"lacks \d+ tensors"),
    ],
)
def test_a_folder_that_is_not_whole(folder, tmp_path, spoil, says):
    other = tmp_path / "judge"
    shutil.copytree(folder, other)
    spoil(other)
    with pytest.raises(WeightsError, match=says):
        LocalJudge(other)


def test_what_is_not_installed_is_said(folder, monkeypatch):
    from transformers import AutoProcessor

    def lacks(*_, **__):
        raise ImportError("\nQwen2VLVideoProcessor requires the Torchvision library.\nCheck out the pages")

    monkeypatch.setattr(AutoProcessor, "from_pretrained", lacks)
    with pytest.raises(
        DeviceError, match=r"\(Qwen2VLVideoProcessor requires the Torchvision library\): install"
    ):
        LocalJudge(folder)


def _deeper(folder):
    said = json.loads((folder / "config.json").read_text())
    said["text_config"]["num_hidden_layers"] = 2
    (folder / "config.json").write_text(json.dumps(said))


def test_a_report_by_a_judge_that_knows_nothing(folder, tmp_path, monkeypatch):
    """Random weights give no readable answer: nothing becomes a number, and the page says so."""
    monkeypatch.setattr("mgie.evaluation.judges.local.NEW_TOKENS", 8)
    write_imgedit(tmp_path, 3)
    facts = evaluate(
        f"pictures:{tmp_path / 'gen'}", suite="imgedit", data=tmp_path / "data", out=tmp_path / "report",
        judge=f"local:{folder}", judge_controls=1, judge_repeats=5, unpinned=True, device="cpu",
    )  # fmt: skip
    assert facts["counted"] == {"answers": 3, "unreadable": 3, "asked_again": 0}  # once each: it is greedy
    assert set(facts["rows"]["outputs"]["numbers"].values()) == {None}
    assert facts["controls"]["usable"] is False
    page = (tmp_path / "report" / "report.md").read_text()
    assert "answers the same each time" in page and "copy could not be read at all" in page
