"""What the language model sees of a picture: the tower's patch features at one layer."""

from jaxtyping import Float
from torch import Tensor
from transformers import CLIPVisionModel


def patch_features(
    tower: CLIPVisionModel, clip_pixels: Float[Tensor, "m 3 s s"], *, layer: int
) -> Float[Tensor, "m p dv"]:
    """Hidden states number `layer` of the tower, without the class token and without the final norm."""
    states = tower(clip_pixels.to(tower.dtype), output_hidden_states=True).hidden_states
    return states[layer][:, 1:]
