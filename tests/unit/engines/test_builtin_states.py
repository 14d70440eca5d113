"""What the supervisor of the built-in model says of itself, without a model."""

import asyncio
import logging
from pathlib import Path

import pytest

from potluck.engines import model_file
from potluck.engines.builtin import BuiltinModel
from potluck.model.secret import Secret


def _nothing(_port: int, _secret: Secret) -> None:
    pass


async def test_a_missing_model_is_never_said_to_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The first line of the log is how to install it."""
    model = BuiltinModel(tmp_path, asyncio.get_running_loop(), _nothing)
    with caplog.at_level(logging.INFO, "potluck.engines.builtin"):
        await model.start()
        assert model.state == "missing"
        await asyncio.sleep(0)
        await model.stop()
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith("built-in model: missing (")
    assert "potluck local-model install" in said[0]
    assert not any("starting" in line for line in said)


async def test_an_engine_that_lacks_a_library_of_the_system_is_not_to_be_installed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the package is there and cannot be loaded, the libraries are named and the log that says which."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "xllamacpp.py").write_text("raise ImportError('libgomp.so.1: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(broken))
    monkeypatch.setattr(model_file, "problem", lambda home: "")
    monkeypatch.setattr(model_file, "has_engine", lambda: True)
    model = BuiltinModel(tmp_path, asyncio.get_running_loop(), _nothing)
    await model.start()
    try:
        async with asyncio.timeout(20):
            while model.state != "missing":
                await asyncio.sleep(0.01)
        assert "apt install libgomp1" in model.reason
        assert "pip install" not in model.reason
        assert "libgomp.so.1" in (tmp_path / "logs" / "local-model.log").read_text()
    finally:
        await model.stop()


async def test_a_state_without_a_reason_has_no_brackets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`ready` needs no explanation."""
    model = BuiltinModel(tmp_path, asyncio.get_running_loop(), _nothing)
    with caplog.at_level(logging.INFO, "potluck.engines.builtin"):
        model._set("ready", "")
    assert [record.getMessage() for record in caplog.records] == ["built-in model: ready"]
