import pytest

from mgie.devices import find_device
from mgie.errors import DeviceError


@pytest.mark.parametrize("name", ["meta", "hpu", "xla", "privateuseone", "cuda:99", "nonsense", "cpu:-2", ""])
def test_a_device_that_cannot_compute_is_refused(name):
    if not name:
        assert find_device(name).type in ("cpu", "cuda")  # as if none were named
        return
    with pytest.raises(DeviceError, match=f"'{name}'"):
        find_device(name)
