"""What every test may ask for."""

import importlib.util
import os
from pathlib import Path

import pytest

from potluck.engines import local_model, model_file


@pytest.fixture(scope="session")
def local_model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model's file, installed once per user; tests that need it are skipped where it cannot be had."""
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("the built-in model's engine is not installed: pip install 'potluck[local]'")
    home = tmp_path_factory.mktemp("model")
    with pytest.MonkeyPatch.context() as patch:
        if local_model.CACHE_VARIABLE not in os.environ:
            patch.setenv(local_model.CACHE_VARIABLE, str(Path.home() / ".cache" / "potluck-tests"))
        try:
            return local_model.install(home)
        except local_model.LocalModelError as error:
            pytest.skip(f"the built-in model cannot be installed: {error}")


@pytest.fixture
def model_home(local_model_file: Path, tmp_path: Path) -> Path:
    """A fresh home directory in which the built-in model is installed."""
    place = model_file.model_path(tmp_path)
    place.parent.mkdir()
    place.symlink_to(local_model_file)
    return tmp_path
