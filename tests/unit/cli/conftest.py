"""Running command lines in this process, against no gateway or the control plane of a new one."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import uvicorn

from potluck import store as stores
from potluck.admin.app import Deps, create_app
from potluck.admin.first_start import first_start
from potluck.cli.app import run
from potluck.snapshot import SnapshotStore


class Ran(NamedTuple):
    """How a command line ended and what it said."""

    status: int
    out: str
    err: str


Potluck = Callable[..., Ran]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home directory."""
    place = tmp_path / "home"
    place.mkdir(mode=0o700)
    return place


@pytest.fixture
def potluck(capsys: pytest.CaptureFixture[str], home: Path) -> Potluck:
    """`potluck("key", "list", VARIABLE="…")` → exit status, stdout, stderr. Nothing of the real environment is seen."""

    def call(*arguments: str, **env: str) -> Ran:
        status = run(arguments, {"POTLUCK_HOME": str(home), "HOME": str(home)} | env)
        said = capsys.readouterr()
        return Ran(status, said.out, said.err)

    return call


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A new gateway's control plane on a real socket; gives the variables by which commands find it."""
    home = tmp_path / "gateway"
    store = stores.open(home)
    first = first_start(store, {}, local_model=True)
    snapshots = SnapshotStore(store, first.vault)
    snapshots.load()
    deps = Deps(store=store, vault=first.vault, snapshots=snapshots, version="0")
    config = uvicorn.Config(create_app(deps), port=0, log_config=None, lifespan="off", access_log=False, ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    waiting = threading.Event()
    while not server.started and thread.is_alive():
        waiting.wait(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    yield {"POTLUCK_URL": url, "POTLUCK_HOME": str(home)}
    server.should_exit = True
    thread.join(10)
    store.close()


@pytest.fixture
def ok(potluck: Potluck, gateway: dict[str, str]) -> Callable[..., str]:
    """Runs a command line that must succeed against a new gateway's control plane; gives its output.

    There are a provider `lab` and a model `small`, alias `s`.
    """

    def call(*arguments: str, fails: int = 0) -> str:
        ran = potluck(*arguments, **gateway)
        assert ran.status == fails, ran
        return ran.err if fails else ran.out

    call("provider", "add", "lab", "--base-url", "http://127.0.0.1:9/v1", "--own")
    call("model", "create", "small", "--target", "lab/a", "--target", "lab/b", "--alias", "s")
    return call
