"""Asking real servers for their models: good lists of several shapes, and everything that is none."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from potluck import store as stores
from potluck.admin.asking import Asked, ask
from potluck.admin.control import Control
from potluck.admin.first_start import first_start
from potluck.admin.operations.providers import create_credential, create_provider, update_credential
from potluck.admin.operations.work import Actor, Work, perform
from potluck.model.secret import Secret
from potluck.snapshot import SnapshotStore

KEY = "sk-canary"


def answer(body: bytes, status: str = "200 OK", extra: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


@asynccontextmanager
async def provider(reply: bytes | None, seen: list[bytes]) -> AsyncIterator[str]:
    """A server that notes the request and sends `reply`, then closes; None: it stays silent."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        if reply is not None:
            writer.write(reply)
            await writer.drain()
        else:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()
        await server.wait_closed()


async def ask_server(
    home: Path, reply: bytes | None, seen: list[bytes], timeout_s: float = 5, *, disabled: bool = False
) -> tuple[Asked, Control]:
    store = stores.open(home)
    first = first_start(store, {}, local_model=False)
    snapshots = SnapshotStore(store, first.vault, local_model=False)
    snapshots.load()
    control = Control(store, first.vault, snapshots)
    organisation = store.read_rows_now(lambda rows: rows.execute("SELECT id FROM organisations").fetchone()[0])
    actor = Actor("tok_test", "test", organisation)
    try:
        async with provider(reply, seen) as url:

            def make(work: Work) -> str:
                made = create_provider(work, "p", url, own=True)
                key = create_credential(work, made.id, "main", Secret(KEY))
                update_credential(work, key.id, disabled=disabled)
                return made.id

            ref = store.write_now(perform(first.vault, actor, make))[0]
            return await ask(control, actor, ref, timeout_s), control
    finally:
        store.close()


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"object": "list", "data": [{"id": "a/b"}, {"id": "c"}]}, ["a/b", "c"]),
        ([{"id": "a"}], ["a"]),
        ({"models": [{"name": "llama"}], "object": "list"}, ["llama"]),
        ({"data": []}, []),
        ({"data": [{"id": "with space"}, {"id": "x" * 300}, {"id": "\u00fc"}, {"id": "ok"}]}, ["ok"]),
    ],
)
async def test_lists_of_models(tmp_path: Path, body: object, names: list[str]) -> None:
    """What the provider names is routable by pin at once; the request carries its key and no other header of ours."""
    seen: list[bytes] = []
    result, control = await ask_server(tmp_path / "home", answer(json.dumps(body).encode()), seen)
    assert result.ok
    assert result.models == len(names)
    assert list(control.snapshots.current.pins) == [f"p/{name}" for name in sorted(names)]
    (request,) = seen
    assert request.startswith(b"GET /v1/models HTTP/1.1\r\n")
    assert b"authorization: bearer sk-canary\r\n" in request.lower()


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        (answer(b'{"error": "no sk-canary"}', "401 Unauthorized"), "does not accept the key"),
        (answer(b"{}", "404 Not Found"), "HTTP 404"),
        (answer(b"", "302 Found", "location: http://169.254.169.254/\r\n"), "HTTP 302"),
        (answer(b"<html>hello</html>"), "not a list of models"),
        (answer(b'{"data": "many"}'), "not a list of models"),
        (answer(b"x" * (9 << 20)), "larger than"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{", "broke"),
        (b"SSH-2.0-OpenSSH\r\n", "broke"),
        (b"", "broke"),
    ],
)
async def test_what_is_no_list(tmp_path: Path, reply: bytes, word: str) -> None:
    """Each fault is one sentence that names it, follows no redirect, repeats no key, and keeps the old list."""
    seen: list[bytes] = []
    result, control = await ask_server(tmp_path / "home", reply, seen)
    assert not result.ok
    assert word in result.detail
    assert "canary" not in result.detail
    assert control.snapshots.current.pins == {}
    assert len(seen) <= 2, "a GET that got nothing may be sent once more, never more"


async def test_a_silent_server_has_a_deadline(tmp_path: Path) -> None:
    """A server that takes the request and says nothing is given up at the timeout, which the sentence names."""
    result, _ = await ask_server(tmp_path / "home", None, [], timeout_s=0.2)
    assert not result.ok
    assert "0.2 s" in result.detail


async def test_a_provider_whose_keys_are_all_disabled_is_not_asked(tmp_path: Path) -> None:
    """It is not asked without a key instead: the sentence names the command that enables one."""
    seen: list[bytes] = []
    result, _ = await ask_server(tmp_path / "home", answer(b'{"data": []}'), seen, disabled=True)
    assert (result.ok, seen) == (False, [])
    assert result.detail == "no enabled credential: potluck credential update p/NAME --enable"
