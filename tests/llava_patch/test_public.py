import subprocess
import sys

import pytest

import llava_patch


def test_every_public_name_is_there():
    for name in dir(llava_patch):
        assert getattr(llava_patch, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Lava'"):
        _ = llava_patch.Lava


def test_importing_the_package_imports_no_torch():
    code = "import llava_patch, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
