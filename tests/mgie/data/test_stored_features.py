import json
import pickle
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch.testing import assert_close
from torch.utils.data import StackDataset

from llava_patch.weights import load_llava
from mgie.data.batches import Batches
from mgie.data.examples import ExampleBuilder
from mgie.data.stored_features import FeatureExtractor, StoredFeatures, fingerprint, store_features
from mgie.data.stored_pairs import StoredPairs
from mgie.data.verify import verify
from mgie.errors import ConfigError, DataError, WeightsError
from mgie.models.codec import Codec
from mgie.models.encoders.edit_head import EditHead, EditHeadConfig
from mgie.models.encoders.llava import LlavaEncoder
from mgie.prepare import prepare
from mgie.prompts import LlavaPrompts, visual_ids

QUESTION = "what will this image be like if '{instruction}'"


@pytest.fixture
def codec():
    torch.manual_seed(3)
    vae = AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    return Codec(vae.eval())


@pytest.fixture
def llava(llava_folder):
    return load_llava(llava_folder, progress=False)[0].eval()


@pytest.fixture
def encoder(llava, processor):
    sizes = EditHeadConfig(visual_tokens=4, width=8, heads=2, layers=1, feedforward=8, queries=1)
    head = EditHead(sizes, d_in=llava.config.language.hidden_size, e_out=8)
    return LlavaEncoder(llava, head, visual_ids=visual_ids(processor, 4))


@pytest.fixture
def builder(processor):
    return ExampleBuilder(prompts(processor), size=16, max_length=300)


def prompts(processor):
    return LlavaPrompts(processor, question=QUESTION, count=4)


@pytest.fixture
def folder(tmp_path):
    prepare("toy", tmp_path / "toy", count=7, test=2, size=64)
    return tmp_path / "toy"


def batch_of(pairs, builder, **changes):
    settings = {"seed": 0, "batch_size": 6, "micro_batch_size": 6} | changes
    return next(Batches(pairs, builder, **settings).steps())[0]


def featured(folder, builder, kinds=("vae", "clip")):
    pairs = StoredPairs(folder, "train", pictures=len(kinds) < 2)
    return batch_of(StackDataset(pairs, StoredFeatures(folder, "train", kinds=kinds)), builder)


@pytest.mark.parametrize(
    # float32: stored in batches of another size, so sums are in another order; 1.4e-6 was measured.
    ("precision", "tolerance"),
    [("float32", 5e-6), ("float16", 2e-3), ("bfloat16", 2e-2)],
)
def test_features_are_what_the_parts_compute(folder, builder, codec, llava, encoder, precision, tolerance):
    store_features(folder, FeatureExtractor(builder, codec, encoder), precision=precision, batch_size=3)
    plain, stored = batch_of(StoredPairs(folder, "train"), builder), featured(folder, builder)
    assert stored.keys == plain.keys and torch.equal(stored.input_ids, plain.input_ids)
    assert torch.equal(stored.read_at, plain.read_at) and torch.equal(stored.labels, plain.labels)
    with torch.no_grad():
        mean, std = codec.moments(plain.target)
        wanted = {"features": llava.features(plain.clip_pixels),
                  "source_mean": codec.encode_source(plain.source),
                  "target_mean": mean, "target_std": std}  # fmt: skip
    for name, value in wanted.items():
        assert getattr(stored, name).dtype == (
            getattr(torch, precision) if name == "features" else torch.float32
        )
        assert_close(getattr(stored, name).float(), value, rtol=tolerance, atol=tolerance)
    assert stored.source.numel() == stored.target.numel() == stored.clip_pixels.numel() == 0


def test_a_training_step_has_the_same_loss(folder, builder, codec, llava, encoder):
    store_features(folder, FeatureExtractor(builder, codec, encoder), precision="float32", batch_size=1)
    plain, stored = batch_of(StoredPairs(folder, "train"), builder), featured(folder, builder)
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        in_channels=8,
        out_channels=4,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        cross_attention_dim=16,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2,
    )
    noise, posterior = torch.randn(2, *stored.target_mean.shape)
    t = torch.arange(6) * 150

    def losses(states, target, source):
        logits = llava.logits(states[:, :-1]).flatten(0, 1)
        speak = torch.nn.functional.cross_entropy(logits, plain.labels[:, 1:].flatten())
        noisy = DDPMScheduler().add_noise(target, noise, t)
        return speak, (unet(torch.cat([noisy, source], 1), t, states[:, -5:]).sample - noise).square().mean()

    with torch.no_grad():
        from_pixels = losses(
            llava(plain.input_ids, plain.mask, plain.clip_pixels),
            codec.encode(plain.target, posterior),
            codec.encode_source(plain.source),
        )
        target = (stored.target_mean + stored.target_std * posterior) * codec.space.scale
        states = llava(stored.input_ids, stored.mask, features=stored.features)
        from_features = losses(states, target, stored.source_mean)
    assert_close(torch.stack(from_features), torch.stack(from_pixels), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["vae", "clip"])
def test_one_kind_alone(folder, builder, codec, encoder, kind):
    store_features(
        folder,
        FeatureExtractor(builder, codec if kind == "vae" else None, encoder if kind == "clip" else None),
    )
    plain, stored = batch_of(StoredPairs(folder, "train"), builder), featured(folder, builder, (kind,))
    if kind == "vae":
        assert (
            stored.features is None
            and torch.equal(stored.clip_pixels, plain.clip_pixels)
            and stored.source_mean is not None
        )
    else:
        assert stored.target_mean is None and torch.equal(stored.source, plain.source)
        assert torch.equal(stored.target, plain.target) and stored.clip_pixels.shape[0] == 0
    with pytest.raises(DataError, match="holds no "):
        StoredFeatures(folder, "train")


def test_pairs_without_a_source(tmp_path, builder, codec, encoder, make_picture):
    (tmp_path / "t.png").write_bytes(make_picture(20, 20))
    rows = [
        {"target": "t.png", "instruction": "go", "key": f"k{k}"} | ({"source": "t.png"} if k % 2 else {})
        for k in range(6)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prepare(f"pairs:{tmp_path / 'rows.jsonl'}", tmp_path / "set", test=0)
    store_features(tmp_path / "set", FeatureExtractor(builder, codec, encoder))
    plain, stored = (
        batch_of(StoredPairs(tmp_path / "set", "train"), builder),
        featured(tmp_path / "set", builder),
    )
    assert torch.equal(stored.has_source, plain.has_source) and torch.equal(stored.input_ids, plain.input_ids)
    assert stored.features.shape[0] == plain.clip_pixels.shape[0] == 3
    assert not stored.source_mean[~stored.has_source].any()


def test_features_belong_to_what_made_them(folder, builder, codec, llava, encoder, processor):
    extractor = FeatureExtractor(builder, codec, encoder)
    facts = store_features(folder, extractor)
    assert not facts["reused"] and store_features(folder, extractor)["reused"]
    features = StoredFeatures(folder, "train")
    features.require(extractor)
    other = ExampleBuilder(prompts(processor), size=8, max_length=300)
    with pytest.raises(WeightsError, match=r"the vae features .* another model"):
        features.require(replace(extractor, builder=other))
    with torch.no_grad():
        next(llava.vision_tower.parameters()).view(-1)[0] += 1e-3
    with pytest.raises(WeightsError, match="the clip features"):
        features.require(extractor)
    StoredFeatures(folder, "train", kinds=("vae",)).require(extractor)
    assert fingerprint(codec, {}) != fingerprint(codec, {"a": 1})
    squares = ExampleBuilder(prompts(processor), size=8, max_length=300, shapes=[(8, 8)])
    with pytest.raises(ConfigError, match="several shapes"):
        FeatureExtractor(squares, codec).identity()
    with pytest.raises(ConfigError, match="nothing to store"):
        store_features(folder, FeatureExtractor(builder))


def test_features_belong_to_their_pairs(folder, builder, codec, tmp_path):
    store_features(folder, FeatureExtractor(builder, codec))
    prepare("toy", tmp_path / "other", count=8, test=2, size=64)
    (folder / "features").rename(tmp_path / "other" / "features")
    with pytest.raises(DataError, match="features of other pairs"):
        StoredFeatures(tmp_path / "other", "train", kinds=("vae",))
    with pytest.raises(DataError, match="--store"):
        StoredFeatures(folder, "train")
    (tmp_path / "other" / "features" / "features.json").write_text("{")
    for way in (lambda folder: StoredFeatures(folder, "train"), verify):
        with pytest.raises(DataError, match=r"cannot be read .*--store"):
            way(tmp_path / "other")
    assert not store_features(tmp_path / "other", FeatureExtractor(builder, codec))["reused"]
    verify(tmp_path / "other")


def test_a_check_looks_at_the_features_too(folder, builder, codec):
    verify(folder)
    store_features(folder, FeatureExtractor(builder, codec))
    verify(folder)
    assert store_features(folder, FeatureExtractor(builder, codec))["reused"]
    file = folder / "features" / "train" / "vae_target.npy"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DataError, match=r"vae_target\.npy is not what was written"):
        verify(folder)
    with pytest.raises(DataError, match=r"vae_target\.npy is not what was written"):  # before training, too
        StoredFeatures(folder, "train", kinds=("vae",)).require(FeatureExtractor(builder, codec))
    file.write_bytes(b"")
    with pytest.raises(DataError, match="holds no features of train"):
        StoredFeatures(folder, "train", kinds=("vae",))
    file.unlink()
    with pytest.raises(DataError, match=r"vae_target\.npy is missing"):
        verify(folder)
    file.write_bytes(whole)
    facts = folder / "features" / "features.json"
    told = facts.read_text()
    facts.write_text(told.replace(json.loads(told)["pairs"]["test"], "0"))
    with pytest.raises(DataError, match="features of other pairs"):
        verify(folder)
    facts.unlink()
    with pytest.raises(DataError, match="--store"):
        verify(folder)


def test_workers_and_devices(folder, builder, codec, encoder):
    store_features(folder, FeatureExtractor(builder, codec, encoder), precision="bfloat16")
    features = StoredFeatures(folder, "test")
    again = pickle.loads(pickle.dumps(features))
    assert len(again) == 2 and torch.equal(again[1]["target_moments"], features[1]["target_moments"])
    pairs, features = StoredPairs(folder, "train", pictures=False), StoredFeatures(folder, "train")
    assert pickle.loads(pickle.dumps(pairs))[0].target == b"" and pairs[0].mask is None
    settings = {"seed": 0, "batch_size": 2, "micro_batch_size": 2, "workers": 1}
    (batch,) = next(Batches(StackDataset(pairs, features), builder, **settings).steps())
    moved = batch.to("meta")
    assert moved.target_mean.is_meta and moved.input_ids.is_meta and moved.keys == batch.keys
