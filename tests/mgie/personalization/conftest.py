"""A folder of three subjects."""

import pytest
from subject_data import write_subjects


@pytest.fixture
def folder(tmp_path):
    return write_subjects(tmp_path / "things")
