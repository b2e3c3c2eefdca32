import mgie.errors
from llava_patch import errors


def test_both_packages_have_one_family():
    names = ["ConfigError", "DataError", "DeviceError", "UserError", "WeightsError"]
    assert mgie.errors.__all__ == names
    for name in names:
        assert getattr(mgie.errors, name) is getattr(errors, name)
        assert issubclass(getattr(errors, name), errors.UserError)
