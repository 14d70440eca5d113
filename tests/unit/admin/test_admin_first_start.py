"""The first start of a home: what it makes, from where, and that it can be killed at any moment."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from potluck import store as stores
from potluck.admin.first_start import KNOWN_PROVIDERS, FirstStart, FirstStartError, first_start
from potluck.identity.keys import has_checksum
from potluck.identity.vault import VaultError
from potluck.model.secret import Secret
from potluck.snapshot import SnapshotStore


def start(home: Path, env: dict[str, str] | None = None, **options: Any) -> tuple[FirstStart, SnapshotStore]:
    store = stores.open(home)
    try:
        first = first_start(store, env or {}, local_model=True, **options)
        snapshots = SnapshotStore(store, first.vault)
        snapshots.load()
        return first, snapshots
    finally:
        store.close()


def test_a_new_home_can_answer(tmp_path: Path) -> None:
    """The first key's file opens the data plane, the built-in model is there, files are private; again is no change."""
    first, snapshots = start(tmp_path / "home")
    assert first.is_new
    assert first.model == "smollm2-135m"
    for name in ("admin-token", "first-api-key", "master-key"):
        assert (tmp_path / "home" / name).stat().st_mode & 0o777 == 0o600
    key = (tmp_path / "home" / "first-api-key").read_text().strip()
    assert has_checksum(key)
    assert snapshots.current.keys[snapshots.hash_key(key.encode())].name == "first"
    assert "smollm2-135m" in snapshots.current.models
    again, later = start(tmp_path / "home", {"OPENAI_API_KEY": "sk-late"})
    assert not again.is_new
    assert again.lines == ()
    assert later.current.version == snapshots.current.version
    assert (tmp_path / "home" / "first-api-key").read_text().strip() == key


def test_provider_keys_in_the_environment_become_providers(tmp_path: Path) -> None:
    """Each known variable makes a provider and a line that names it, never the key; a malformed key is left out."""
    env = {variable: f"sk-canary-{number}" for number, (variable, _, _) in enumerate(KNOWN_PROVIDERS)}
    env["MISTRAL_API_KEY"] = "has a space canary"
    first, snapshots = start(tmp_path / "home", env)
    assert len(first.lines) == len(KNOWN_PROVIDERS)
    assert not any("canary" in line for line in first.lines)
    (left_out,) = (line for line in first.lines if "left out" in line)
    assert "MISTRAL_API_KEY" in left_out
    target = snapshots.current.pins["openai/gpt-4o-mini"].targets[0]
    assert b"Bearer sk-canary-0" in target.heads["chat"].wire
    assert target.unroutable == ""
    assert not any(name.startswith("mistral/") for name in snapshots.current.pins)
    assert any(name.startswith("anthropic/") for name in snapshots.current.pins)
    with closing(sqlite3.connect(tmp_path / "home" / "potluck.db")) as connection:
        assert "canary" not in "\n".join(connection.iterdump())


def test_given_secrets_are_taken_as_given(tmp_path: Path) -> None:
    """A bootstrap token and key with the shape are used, checksum or not; a wrong shape is a start-up error, unseen."""
    token, key = "pla-" + "a" * 46, "plk-" + "b" * 46
    _, snapshots = start(tmp_path / "home", bootstrap_admin_token=Secret(token), bootstrap_api_key=Secret(key))
    assert snapshots.hash_key(key.encode()) in snapshots.current.keys
    assert (tmp_path / "home" / "admin-token").read_text().strip() == token
    for wrong in ("plk-short", "pla-" + "c" * 46, "canary"):
        with pytest.raises(FirstStartError, match="POTLUCK_BOOTSTRAP_API_KEY") as caught:
            start(tmp_path / "other", bootstrap_api_key=Secret(wrong))
        assert wrong not in str(caught.value)


def test_another_master_key_is_noticed(tmp_path: Path) -> None:
    """A home whose master key was exchanged or lost says so at start, instead of refusing every key later."""
    start(tmp_path / "home")
    (tmp_path / "home" / "master-key").write_text("ab" * 32)
    with pytest.raises(FirstStartError, match="master key is not the one"):
        start(tmp_path / "home")
    (tmp_path / "home" / "master-key").unlink()
    with pytest.raises(VaultError, match="cannot be read"):
        start(tmp_path / "home")
    assert not (tmp_path / "home" / "master-key").exists()


CHILD = """
import os, pathlib, sys
from potluck import store as stores
from potluck.admin.first_start import first_start
import potluck.admin.seed
print("ready", flush=True)
sys.stdin.readline()
store = stores.open(pathlib.Path(sys.argv[1]))
first_start(store, {"OPENAI_API_KEY": "sk-x"}, local_model=True)
print("done", flush=True)
os._exit(0)
"""


def test_killed_at_any_moment_it_goes_on(tmp_path: Path) -> None:
    """Whatever moment of the first start a kill hits, the next start ends with one working token, key and provider."""
    hit = 0
    for number in range(12):
        home = tmp_path / f"home-{number}"
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.stdin.write(b"go\n")
        child.stdin.flush()
        deadline = time.perf_counter() + number * 0.01
        while time.perf_counter() < deadline:
            pass
        os.kill(child.pid, signal.SIGKILL)
        said, _ = child.communicate()
        hit += b"done" not in said
        _, snapshots = start(home, {"OPENAI_API_KEY": "sk-x"})
        key = (home / "first-api-key").read_text().strip()
        assert snapshots.hash_key(key.encode()) in snapshots.current.keys
        assert len(snapshots.current.keys) == 1
        assert "openai/gpt-4o-mini" in snapshots.current.pins
        with closing(sqlite3.connect(home / "potluck.db")) as connection:
            assert connection.execute("SELECT count(*) FROM admin_tokens").fetchone() == (1,)
            assert connection.execute("SELECT count(*) FROM organisations").fetchone() == (1,)
    assert hit >= 1
