"""A new home, its gateway parts, and a client of the admin API without a socket."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from potluck import store as stores
from potluck.admin.app import Deps, create_app
from potluck.admin.control import Control
from potluck.admin.first_start import first_start
from potluck.admin.operations.work import Actor
from potluck.snapshot import SnapshotStore


class Gateway:
    """The control plane's parts on a throw-away home."""

    def __init__(self, home: Path, env: dict[str, str] | None = None) -> None:
        self.home = home
        self.store = stores.open(home)
        self.first = first_start(self.store, env or {}, local_model=True)
        self.snapshots = SnapshotStore(self.store, self.first.vault)
        self.snapshots.load()
        self.control = Control(self.store, self.first.vault, self.snapshots)
        self.reasons: dict[str, str] = {}
        self.app = create_app(
            Deps(
                store=self.store,
                vault=self.first.vault,
                snapshots=self.snapshots,
                version="0",
                readiness=lambda: self.reasons,
                render_metrics=lambda: b"potluck_up 1\n",
            )
        )

    @property
    def token(self) -> str:
        return (self.home / "admin-token").read_text().strip()

    @property
    def api_key(self) -> str:
        return (self.home / "first-api-key").read_text().strip()

    @property
    def actor(self) -> Actor:
        organisation = self.store.read_rows_now(
            lambda connection: connection.execute("SELECT id FROM organisations").fetchone()[0]
        )
        return Actor("tok_test", "test", organisation)

    def client(self, token: str | None = "", **options: Any) -> httpx.AsyncClient:
        """A client of the app; with the first admin token unless told (None: without any)."""
        headers = {} if token is None else {"authorization": f"Bearer {token or self.token}"}
        transport = httpx.ASGITransport(self.app, **options)
        return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7171", headers=headers)

    def finds(self, secret: str) -> bool:
        """Whether the data plane would take this API key."""
        return self.snapshots.hash_key(secret.encode()) in self.snapshots.current.keys


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    made = Gateway(tmp_path / "home")
    yield made
    made.store.close()


@pytest.fixture
def make_gateway(tmp_path: Path) -> Iterator[Callable[[str], Gateway]]:
    """More gateways, each on a new home of that name."""
    made: list[Gateway] = []

    def make(name: str) -> Gateway:
        made.append(Gateway(tmp_path / name))
        return made[-1]

    yield make
    for each in made:
        each.store.close()


@pytest.fixture
async def api(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway.client() as client:
        yield client
