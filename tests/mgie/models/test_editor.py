from mgie.models.codec import Codec
from mgie.models.denoisers.unet import UNetDenoiser
from mgie.models.editor import Editor


def test_every_parameter_is_in_exactly_one_group(encoder, make_unet, vae):
    editor = Editor(encoder=encoder, denoiser=UNetDenoiser(make_unet(8)), codec=Codec(vae))
    groups = editor.groups()
    assert list(groups) == [
        *("embeddings", "lm_head", "language_model", "projector", "vision_tower", "edit_head"),
        *("denoiser", "codec"),
    ]
    grouped = [id(parameter) for members in groups.values() for parameter in members]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(parameter) for parameter in editor.parameters()}
