"""The trees of all data sets, written once."""

from pathlib import Path

import pytest

from tests.trees import write_vendors


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All seven data sets below one folder; not to be changed."""
    return write_vendors(tmp_path_factory.mktemp("data"))
