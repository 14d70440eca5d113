"""The fake provider must itself be beyond doubt: it says what it is told to, and sees what was sent."""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from potluck.conformance.answers import WORDS
from potluck.conformance.call import Call
from potluck.conformance.faults import FAULTS
from potluck.conformance.provider import FakeProvider, refused_port

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def dial(fake: FakeProvider) -> AsyncIterator[Streams]:
    """A raw connection, gone for good when the block ends."""
    reader, writer = await asyncio.open_connection(fake.host, fake.port, limit=1 << 22)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def request(model: str, *, path: str = "/v1/chat/completions", **members: object) -> bytes:
    body = json.dumps({"model": model, "messages": [], **members}).encode()
    return b"POST %b HTTP/1.1\r\nHost: fake\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body)


async def read_plain(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return head, await reader.readexactly(length)


async def test_requests_are_recorded_byte_for_byte():
    """Heads and bodies are kept exactly as they came, with their place on their connection."""
    async with FakeProvider() as fake, dial(fake) as (reader, writer):
        for model in ("ok", "ok;chunks=2"):
            writer.write(request(model))
            await read_plain(reader)
        first, second = fake.requests
        assert first.head + first.body == request("ok")
        assert (first.n, second.n, first.connection is second.connection) == (1, 2, True)
        assert bytes(first.connection.raw) == request("ok") + request("ok;chunks=2")
        assert (second.method, second.target, second.header("host")) == ("POST", "/v1/chat/completions", b"fake")
        writer.close()
        await fake.wait_for(lambda: first.connection.closed_how == "fin")


async def test_a_reset_by_the_peer_is_told_from_a_close():
    """`closed_how` is rst when the peer resets."""
    async with FakeProvider() as fake, dial(fake) as (_, writer):
        writer.write(request("stall-before-head"))
        await fake.wait_for(lambda: fake.requests)
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
        await fake.wait_for(lambda: fake.connections[0].closed_how == "rst")


async def test_a_good_answer_is_the_openai_form():
    """`ok` answers chat, completions, embeddings and models, whole and streamed."""
    async with FakeProvider() as fake, dial(fake) as (reader, writer):
        writer.write(request("ok"))
        chat = json.loads((await read_plain(reader))[1])
        assert chat["choices"][0]["message"]["content"] == "".join(WORDS)
        writer.write(request("ok", path="/v1/completions"))
        assert json.loads((await read_plain(reader))[1])["choices"][0]["text"] == "".join(WORDS)
        writer.write(request("ok", path="/v1/embeddings", input=["a", "b"]))
        assert len(json.loads((await read_plain(reader))[1])["data"]) == 2
        writer.write(b"GET /v1/models HTTP/1.1\r\nHost: fake\r\n\r\n")
        names = [row["id"] for row in json.loads((await read_plain(reader))[1])["data"]]
        assert names == list(FAULTS)
        writer.write(request("ok", stream=True, stream_options={"include_usage": True}))
        stream = await reader.readuntil(b"0\r\n\r\n")
        assert stream.count(b"data: ") == len(WORDS) + 4
        assert b'"usage":{"prompt_tokens":11' in stream


async def test_a_script_beats_the_catalogue_and_an_override_beats_both():
    """Tests can set the behaviour of one model, and of the whole provider."""

    async def teapot(call: Call) -> None:
        await call.answer(b"short and stout", status=418)

    async with FakeProvider() as fake, dial(fake) as (reader, writer):
        fake.script["ok"] = teapot
        writer.write(request("ok"))
        assert (await read_plain(reader))[0].startswith(b"HTTP/1.1 418 ")
        fake.override = "status-503"
        writer.write(request("ok"))
        assert (await read_plain(reader))[0].startswith(b"HTTP/1.1 503 ")


async def test_a_reset_fault_resets():
    """`cut-rst` sends its words, then RST and not FIN."""
    async with FakeProvider() as fake, dial(fake) as (reader, writer):
        writer.write(request("cut-rst", stream=True))
        await reader.readuntil(b'"Everyone"')
        with pytest.raises(ConnectionResetError):
            await reader.readuntil(b"never")
        assert fake.connections[0].closed_how == "us"


async def test_a_refused_port_refuses():
    """The refused port refuses while its holder lives."""
    port, holder = refused_port()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    holder.close()


@pytest.mark.parametrize("name", FAULTS)
async def test_every_fault_plays_and_leaves_the_provider_in_order(name: str):
    """Each row can be played, plain and streamed, and a caller who hangs up ends it; the next call is answered."""
    row = FAULTS[name]
    path = f"/f/{name}/v1/chat/completions" if row.early else "/v1/chat/completions"
    async with FakeProvider() as fake:
        for stream in (False, True):
            async with dial(fake) as (_, writer):
                writer.write(request(name, path=path, stream=stream))
                await fake.wait_for(lambda n=1 + stream: len(fake.connections) == n and fake.connections[-1].requests)
                writer.transport.abort()
                await fake.wait_for(lambda: not fake.open_connections)
        async with dial(fake) as (reader, writer):
            writer.write(request("ok"))
            await read_plain(reader)


def test_every_row_says_what_it_does_and_must():
    """No row of the catalogue is without words, and every row but the endless ones states an expectation."""
    for row in FAULTS.values():
        assert row.does
        assert row.must
        assert row.plain or row.stream or row.name in ("endless-stream", "early-refusal"), row.name
