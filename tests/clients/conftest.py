"""What the client suites share: gateways with the built-in model, one of each kind per process, and Node.js.

Rule: every suite that asks for `served` runs twice, with the model as a provider of the gateway and on a machine behind
a node link. No test knows which one it is.
"""

import fcntl
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from served_gateway import Served, serving, serving_by_machine

from potluck.engines import model_file

FOLDER = Path(__file__).parent / "node"


@pytest.fixture(scope="session", params=["provider", "machine"])
def served(
    request: pytest.FixtureRequest, local_model_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A gateway on a fresh home, with the model's file in it, or beside a machine that has it."""
    home = tmp_path_factory.mktemp(request.param)
    place = model_file.model_path(home)
    place.parent.mkdir()
    place.symlink_to(local_model_file)
    with (serving if request.param == "provider" else serving_by_machine)(home) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter, with the client installed beside its suites; skipped in one line where either is missing."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        pytest.skip("the Node.js client tests need node and npm")
    with (tmp_path_factory.getbasetemp().parent / "npm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one test process installs, the others find it
        if (FOLDER / "node_modules" / "openai").is_dir():
            return node
        done = subprocess.run([npm, "ci", "--ignore-scripts"], cwd=FOLDER, capture_output=True, text=True, timeout=100)
        if done.returncode:
            pytest.skip("the Node.js client could not be installed: npm ci failed in tests/clients/node")
    return node
