import pytest

from llava_patch import errors


@pytest.mark.parametrize("kind", [errors.LlavaConfigError, errors.LlavaInputError, errors.LlavaWeightsError])
def test_every_error_is_a_llava_error_and_a_value_error(kind: type[Exception]):
    assert issubclass(kind, errors.LlavaError)
    assert issubclass(kind, ValueError)
