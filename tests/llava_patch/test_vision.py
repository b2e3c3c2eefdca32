import torch

from llava_patch import Llava
from llava_patch.vision import patch_features


def test_features_are_the_chosen_layer_s_without_the_class_token(model: Llava, clip_pixels):
    tower = model.vision_tower
    states = tower(clip_pixels(2), output_hidden_states=True).hidden_states
    layers = tower.config.num_hidden_layers
    assert len(states) == layers + 1
    for layer in (-2, 0, layers):
        assert torch.equal(patch_features(tower, clip_pixels(2), layer=layer), states[layer][:, 1:])


def test_pictures_take_the_tower_s_precision(model: Llava, clip_pixels):
    assert patch_features(model.vision_tower.bfloat16(), clip_pixels(1), layer=-2).dtype == torch.bfloat16
