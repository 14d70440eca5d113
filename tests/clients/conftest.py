"""One gateway for all client suites of this process."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from served_gateway import Served, serving

from potluck.engines import model_file


@pytest.fixture(scope="session")
def served(local_model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A gateway on a fresh home, with the model's file in it."""
    home = tmp_path_factory.mktemp("gateway")
    place = model_file.model_path(home)
    place.parent.mkdir()
    place.symlink_to(local_model_file)
    with serving(home) as gateway:
        yield gateway
