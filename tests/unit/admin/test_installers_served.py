"""What `/install…` serves: public, pinned by hashes, and only under the gateway's own addresses."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

import potluck
from potluck.admin.installers import InstallerError, Kit

WHEEL = f"/install/potluck-{potluck.__version__}-py3-none-any.whl"
PLACE = re.compile(r"@[A-Z0-9_]+@")


@pytest.mark.parametrize("name", ["install.sh", "install.ps1"])
async def test_a_script_names_the_hashes_of_what_it_fetches(gateway, name: str) -> None:
    """Nobody's token is needed; the script speaks of this gateway, and what it will download has the SHA-256 in it."""
    async with gateway.client(token=None) as client:
        script = await client.get(f"/{name}")
        assert script.status_code == 200, script.text
        assert "'http://127.0.0.1:7171'" in script.text
        assert not PLACE.search(script.text)
        for path in (WHEEL, "/install/node-requirements.txt", "/install/node-local-requirements.txt"):
            piece = await client.get(path)
            assert piece.status_code == 200
            assert f"'{hashlib.sha256(piece.content).hexdigest()}'" in script.text


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/install.sh", "text/x-shellscript; charset=utf-8"),
        ("/install.ps1", "text/plain; charset=utf-8"),
        ("/install/node-requirements.txt", "text/plain; charset=utf-8"),
        (WHEEL, "application/zip"),
    ],
)
async def test_the_content_type_is_said_once(gateway, path: str, kind: str) -> None:
    """One type, one charset."""
    async with gateway.client(token=None) as client:
        assert (await client.get(path)).headers["content-type"] == kind


async def test_the_wheel_is_kept_in_the_home(gateway) -> None:
    """The wheel stands in HOME/wheels; when that file was changed, it is made again and not served."""
    kept = gateway.home / "wheels" / WHEEL.rpartition("/")[2]
    async with gateway.client(token=None) as client:
        first = (await client.get(WHEEL)).content
        assert kept.read_bytes() == first
        kept.write_bytes(b"somebody else's program")
        assert (await client.get(WHEEL)).content == first
        kept.unlink()
        assert (await client.get(WHEEL)).content == first


def test_an_unchanged_wheel_is_read_and_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is asked for; another time of change alone is one more look, another size makes it anew."""
    kit = Kit(tmp_path)
    first = kit.wheel()
    reads: list[Path] = []
    read = Path.read_bytes

    def counted(path: Path) -> bytes:
        reads.append(path)
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    assert [kit.wheel() is first for _ in range(5)] == [True] * 5
    assert reads.count(kit.wheel_path) == 0
    os.utime(kit.wheel_path, (1, 1))
    assert [kit.wheel() is first for _ in range(5)] == [True] * 5
    assert reads.count(kit.wheel_path) == 1
    kit.wheel_path.write_bytes(b"somebody else's program")
    assert kit.wheel() == first
    assert kit.wheel_path.stat().st_size == len(first.content)


async def test_an_unchanged_file_is_not_sent_twice(gateway) -> None:
    """Every piece is revalidated by its entity tag, so that no cache mixes two versions."""
    async with gateway.client(token=None) as client:
        for path in ("/install.sh", WHEEL):
            first = await client.get(path)
            assert first.headers["cache-control"] == "no-cache"
            again = await client.get(path, headers={"if-none-match": first.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == first.headers["etag"]


@pytest.mark.parametrize(
    "host", ["potluck.evil.example", "127.0.0.1:7171'; rm -rf /", "$(id)", "", "127.0.0.1:99999", "a b"]
)
async def test_a_script_speaks_of_no_address_but_ours(gateway, host: str) -> None:
    """Under a Host that is not this gateway's there is no script, so none can be made to fetch from elsewhere."""
    async with gateway.client(token=None) as client:
        answer = await client.get("/install.sh", headers={"host": host})
    assert answer.status_code in (400, 421), answer.text
    assert "#!/bin/sh" not in answer.text


@pytest.mark.parametrize("name", ["potluck-0.0.0-py3-none-any.whl", "install.sh", "..%2f..%2fadmin-token", "kit.py"])
async def test_nothing_else_is_served(gateway, name: str) -> None:
    """Another version, another file, a way out of the folder: not found."""
    async with gateway.client(token=None) as client:
        assert (await client.get(f"/install/{name}")).status_code == 404


def test_an_origin_that_is_none_is_refused(tmp_path: Path) -> None:
    """What could end a quoted string never gets into a script."""
    kit = Kit(tmp_path)
    for origin in ("http://a'b", "http://a\nb", 'http://a"b', "http://a/b", "ftp://a", "http://$a"):
        with pytest.raises(InstallerError, match="no address"):
            kit.script("install.sh", origin)


async def test_a_home_that_cannot_be_written_is_said(gateway) -> None:
    """Where HOME/wheels cannot be made the answer says so, and is no crash."""
    (gateway.home / "wheels").write_text("in the way")
    async with gateway.client(token=None) as client:
        answer = await client.get("/install.sh")
    assert answer.status_code == 503
    assert "wheel cannot be made" in answer.json()["detail"]


async def test_the_reference_stays_about_the_api(api: httpx.AsyncClient) -> None:
    """Installers are no part of the API's document."""
    paths = (await api.get("/api/openapi.json")).json()["paths"]
    assert not [path for path in paths if path.startswith("/install")]


def test_the_wheel_can_be_made_beforehand(tmp_path: Path) -> None:
    """`python -m potluck.admin.installers` puts into the home what the gateway will serve, and says where."""
    done = subprocess.run(
        [sys.executable, "-m", "potluck.admin.installers"],
        env={**os.environ, "POTLUCK_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    place = tmp_path / "home" / "wheels" / WHEEL.rpartition("/")[2]
    assert (done.returncode, str(place) in done.stdout) == (0, True), done.stderr
    assert hashlib.sha256(place.read_bytes()).hexdigest() in done.stdout
