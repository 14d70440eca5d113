"""The hashed locks: complete, consistent, and free of addresses."""

import re
import tomllib

import pytest
from house_tree import ROOT, shown, tracked_files

from potluck.engines import model_file

LOCKS = {
    name: (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    for name in ("serve", "dev", "node", "node-local")
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PIN = re.compile(r"^([a-z0-9-]+)==(\S+)", re.MULTILINE)


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower().replace("_", "-").replace(".", "-")


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_carries_no_address(name: str) -> None:
    """A lock names packages and hashes only: no index, no file, no link."""
    for line in LOCKS[name].splitlines():
        assert re.fullmatch(r"[a-z0-9-]+==\S+( ; .*)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?", line), line


@pytest.mark.parametrize("name", LOCKS)
def test_every_pin_has_a_hash(name: str) -> None:
    """Every pinned package is followed by at least one hash."""
    blocks = re.split(r"^(?=[a-z0-9-]+==)", LOCKS[name], flags=re.MULTILINE)[1:]
    assert len(blocks) >= (1 if name == "node-local" else 6)
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_both_locks_agree() -> None:
    """What serves is in the development lock too, at the same versions, so that tests run what is shipped."""
    serve, dev = (dict(PIN.findall(LOCKS[name])) for name in ("serve", "dev"))
    assert {name: dev.get(name) for name in serve} == serve


def test_a_node_gets_the_engine_of_the_gateway() -> None:
    """The built-in model's engine is pinned once: what `--local-model` brings, what serves and what is named agree."""
    (extra,) = PROJECT["project"]["optional-dependencies"]["local"]
    pinned = [f"{name}=={version}" for name, version in PIN.findall(LOCKS["node-local"])]
    assert pinned == [extra] == [model_file.ENGINE]
    assert LOCKS["node-local"] in LOCKS["serve"]


def test_the_locks_hold_every_declared_dependency() -> None:
    """Dependencies, the local extra and the build backend are pinned for serving; the dev group as well for tests."""
    groups = PROJECT["dependency-groups"]
    serving = (
        PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["local"] + groups["build"]
    )
    developing = serving + [entry for entry in groups["dev"] if isinstance(entry, str)]
    serve, dev = (dict(PIN.findall(LOCKS[name])) for name in ("serve", "dev"))
    assert {_name(entry) for entry in serving} - serve.keys() == set()
    assert {_name(entry) for entry in developing} - dev.keys() == set()


def test_node_locks_carry_no_address() -> None:
    """A package lock of Node.js names no place that its packages came from."""
    for path in tracked_files():
        if path.name == "package-lock.json":
            assert '"resolved"' not in path.read_text(encoding="utf-8"), shown(path)
