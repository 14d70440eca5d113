"""A store of one organisation and one project."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from snapshot_rows import Rows


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[Rows]:
    made = Rows(tmp_path / "home")
    yield made
    made.store.close()
