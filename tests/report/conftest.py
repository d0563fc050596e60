"""A finished run, made up."""

import pytest
from made_up_run import fabricate_run


@pytest.fixture
def run(tmp_path):
    return fabricate_run(tmp_path / "r1")
