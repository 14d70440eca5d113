"""The admin API of a running gateway: changes are in force when the answer comes, and survive a kill."""

import asyncio
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

START_S = 20.0


class Served:
    """A `potluck serve` on a home of its own, and clients of both its planes."""

    def __init__(self, home: Path) -> None:
        self.home = home
        command = [sys.executable, "-m", "potluck", "serve", "--home", str(home), "--port", "0", "--no-local-model"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.search(r"listens on (http://\S+)", line):
                self.url = found[1]
                break
        else:
            self.process.communicate()
            raise AssertionError("the gateway did not start")
        self.client = httpx.Client(base_url=self.url, timeout=20)
        deadline = time.monotonic() + START_S
        while self.client.get("/readyz").status_code != 200:
            assert time.monotonic() < deadline

    def admin(self, method: str, path: str, **options: Any) -> httpx.Response:
        token = (self.home / "admin-token").read_text().strip()
        return self.client.request(method, f"/api/v1{path}", headers={"authorization": f"Bearer {token}"}, **options)

    def models(self, key: str) -> httpx.Response:
        return self.client.get("/v1/models", headers={"authorization": f"Bearer {key}"})

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.client.close()
        self.process.send_signal(number)
        self.process.communicate(timeout=20)
        return self.process.returncode


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("live") / "home")
    yield made
    made.stop()


def test_a_key_lives_and_dies_at_once(served: Served) -> None:
    """A made key is taken by the very next call of the data plane, a revoked one by none; on one connection."""
    secret = served.admin("POST", "/keys", json={"name": "short-lived"}).json()["secret"]
    assert served.models(secret).status_code == 200
    assert served.admin("POST", "/keys/short-lived/revoke").status_code == 200
    assert served.models(secret).status_code == 401


def test_a_model_is_listed_at_once(served: Served) -> None:
    """A declared model of an own provider is in `GET /v1/models` after the answer, and gone after its removal."""
    served.admin("POST", "/providers", json={"name": "lab", "base_url": "http://127.0.0.1:9/v1", "own": True})
    served.admin("POST", "/models", json={"name": "small", "targets": [{"target": "lab/qwen"}]})
    key = (served.home / "first-api-key").read_text().strip()
    listed = served.models(key).json()["data"]
    assert [each["id"] for each in listed] == ["small"]
    assert served.client.get("/v1/models/small", headers={"authorization": f"Bearer {key}"}).status_code == 200
    served.admin("DELETE", "/models/small")
    assert served.models(key).json()["data"] == []


def test_another_connection_of_the_same_store_is_noticed(served: Served) -> None:
    """A key revoked by a process that writes to the store itself is refused within two seconds."""
    secret = served.admin("POST", "/keys", json={"name": "elsewhere"}).json()["secret"]
    code = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], timeout=10)\n"
        "c.execute(\"UPDATE api_keys SET revoked_at_ms = 1 WHERE name = 'elsewhere'\")\n"
        "c.execute(\"UPDATE facts SET value = value + 1 WHERE name = 'snapshot_version'\")\n"
        "c.commit()"
    )
    subprocess.run([sys.executable, "-c", code, str(served.home / "potluck.db")], check=True)
    began = time.monotonic()
    while served.models(secret).status_code != 401:
        assert time.monotonic() - began < 2


async def test_the_data_plane_answers_while_the_control_plane_works(served: Served) -> None:
    """Under a stream of admin writes, calls of the data plane on other connections stay quick."""
    key = (served.home / "first-api-key").read_text().strip()
    token = (served.home / "admin-token").read_text().strip()
    waits: list[float] = []
    async with (
        httpx.AsyncClient(base_url=served.url, headers={"authorization": f"Bearer {key}"}, timeout=20) as caller,
        httpx.AsyncClient(base_url=served.url, headers={"authorization": f"Bearer {token}"}, timeout=20) as admin,
    ):
        await caller.get("/v1/models")

        async def write() -> None:
            for number in range(30):
                made = await admin.post("/api/v1/keys", json={"name": f"load-{number}"})
                assert made.status_code == 201
                await admin.post(f"/api/v1/keys/load-{number}/revoke")

        writing = asyncio.ensure_future(write())
        while not writing.done():
            began = time.perf_counter()
            assert (await caller.get("/v1/models")).status_code == 200
            waits.append(time.perf_counter() - began)
        await writing
    waits.sort()
    assert len(waits) > 20
    assert waits[len(waits) // 2] < 0.05


def test_changes_survive_a_kill(tmp_path: Path) -> None:
    """What was answered before `kill -9` is there after the next start, and the home is not locked."""
    first = Served(tmp_path / "home")
    secret = first.admin("POST", "/keys", json={"name": "web"}).json()["secret"]
    first.stop(signal.SIGKILL)
    second = Served(tmp_path / "home")
    assert second.models(secret).status_code == 200
    assert second.stop() == 0
