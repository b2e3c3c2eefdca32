"""Detectors and segmenters of transformers' own classes, random and small, in folders."""

import json
from pathlib import Path

import torch
from transformers import (
    BertTokenizer,
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPSegProcessor,
    CLIPTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessorPil,
    GroundingDinoProcessor,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessorPil,
    Owlv2Processor,
    SamConfig,
    SamImageProcessorPil,
    SamModel,
    SamProcessor,
    SwinConfig,
    ViTImageProcessorPil,
)

SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SIDE = {"height": 32, "width": 32}


def clip_tokenizer(folder: Path, longest: int) -> CLIPTokenizer:
    words = ["a", "d", "e", "g", "h", "o", "t", "e</w>", "g</w>", "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=longest)


def clip_text(longest: int) -> dict:
    ids = {"vocab_size": 11, "bos_token_id": 9, "eos_token_id": 10, "pad_token_id": 10}
    return SMALL | ids | {"max_position_embeddings": longest}


def write_finders(place: Path) -> dict[str, Path]:
    """A folder of each kind, as transformers writes it."""
    found = {name: place / name for name in ("owlv2", "grounding-dino", "sam", "clipseg")}
    torch.manual_seed(0)

    tokenizer = clip_tokenizer(found["owlv2"], 16)
    seen = SMALL | {"image_size": 32, "patch_size": 8}
    owl = Owlv2Config(text_config=clip_text(16), vision_config=seen, projection_dim=16)
    model = Owlv2ForObjectDetection(owl)
    for values in (*model.box_head.parameters(), *model.class_head.parameters()):
        values.data.mul_(0.01)  # drawn so wide that all boxes are empty
    model.save_pretrained(found["owlv2"])
    Owlv2Processor(Owlv2ImageProcessorPil(size=SIDE), tokenizer).save_pretrained(found["owlv2"])

    (found["grounding-dino"]).mkdir()
    vocabulary = found["grounding-dino"] / "vocab.txt"
    vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\ndog\n.")
    backbone = SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=2, image_size=32,
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    dino = GroundingDinoConfig(
        backbone_config=backbone, text_config={"model_type": "bert", "vocab_size": 8} | SMALL, num_queries=6,
        d_model=32, max_text_len=32, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2,
    )  # fmt: skip
    GroundingDinoForObjectDetection(dino).save_pretrained(found["grounding-dino"])
    sizes = {"shortest_edge": 96, "longest_edge": 160}
    GroundingDinoProcessor(
        GroundingDinoImageProcessorPil(size=sizes), BertTokenizer(str(vocabulary))
    ).save_pretrained(found["grounding-dino"])

    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "mlp_dim": 16}
    sam = SamConfig(
        vision_config=layers | {"output_channels": 16, "image_size": 32, "patch_size": 8, "window_size": 2,
                                "num_pos_feats": 8, "global_attn_indexes": [1]},
        prompt_encoder_config={"hidden_size": 16, "image_size": 32, "patch_size": 8,
                               "mask_input_channels": 4},
        mask_decoder_config=layers | {"iou_head_hidden_dim": 16},
    )  # fmt: skip
    SamModel(sam).save_pretrained(found["sam"])
    SamProcessor(
        SamImageProcessorPil(
            size={"longest_edge": 32}, pad_size=SIDE, mask_size={"longest_edge": 8},
            mask_pad_size={"height": 8, "width": 8},
        )
    ).save_pretrained(found["sam"])  # fmt: skip

    tokenizer = clip_tokenizer(found["clipseg"], 12)
    clipseg = CLIPSegConfig(
        text_config=clip_text(12), vision_config=seen, projection_dim=16, reduce_dim=16,
        decoder_num_attention_heads=2, decoder_intermediate_size=16, extract_layers=[0, 1],
    )  # fmt: skip
    CLIPSegForImageSegmentation(clipseg).save_pretrained(found["clipseg"])
    CLIPSegProcessor(ViTImageProcessorPil(size=SIDE), tokenizer).save_pretrained(found["clipseg"])
    return found
