"""Finding local engines by their answers, on real loopback ports."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from builtin_bench import running_bench

from potluck.engines.discover import FoundEngine, discover

Pages = dict[str, Any]
Serve = Callable[..., Any]
CARD = {"id": "m1", "object": "model"}


def listing(owner: str = "", *ids: str) -> Pages:
    return {"/v1/models": {"data": [{**CARD, "id": each, "owned_by": owner} for each in ids or ("m1",)]}}


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts a server that answers `GET` with the given pages; returns its port."""
    async with AsyncExitStack() as stack:

        async def start(pages: Pages, *, server: str = "", status: int = 200, silent: bool = False) -> int:
            async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                head = await reader.readuntil(b"\r\n\r\n")
                method, path, _ = head.split(b" ", 2)
                assert method == b"GET"
                if silent:
                    await reader.read()  # until the other side gives up
                    writer.close()
                    return
                page = pages.get(path.decode())
                code = 404 if page is None else status
                body = page if isinstance(page, bytes) else json.dumps(page or {}).encode()
                fields = f"server: {server}\r\n" if server else ""
                writer.write(
                    f"HTTP/1.1 {code} X\r\n{fields}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
                )
                writer.write(body)
                writer.close()

            running = await asyncio.start_server(answer, "127.0.0.1", 0)
            stack.push_async_callback(running.wait_closed)
            stack.callback(running.close)
            port: int = running.sockets[0].getsockname()[1]
            return port

        yield start


@pytest.mark.parametrize(
    ("pages", "server", "kind", "version"),
    [
        (
            listing("library") | {"/api/version": {"version": "0.9.1"}, "/api/tags": {"models": []}},
            "",
            "ollama",
            "0.9.1",
        ),
        (listing("organization_owner") | {"/api/v0/models": {"data": []}}, "", "lm-studio", ""),
        (listing("vllm") | {"/version": {"version": "0.12.0"}}, "uvicorn", "vllm", "0.12.0"),
        (listing("llamacpp"), "llama.cpp", "llama.cpp", ""),
        (listing("sglang"), "", "sglang", ""),
        (listing() | {"/system": {"backends": []}}, "", "localai", ""),
        (listing() | {"/running": {"running": []}}, "", "llama-swap", ""),
        (listing() | {"/api/extra/version": {"result": "KoboldCpp", "version": "1.9"}}, "", "koboldcpp", "1.9"),
        (listing("someone"), "", "openai-compatible", ""),
    ],
)
async def test_engines_are_known_by_their_answers(
    serve: Serve, pages: Pages, server: str, kind: str, version: str
) -> None:
    """Whatever the port, each is told from the others, with the address that `provider add` takes."""
    port = await serve(pages, server=server)
    assert await discover([port]) == [FoundEngine(kind, f"http://127.0.0.1:{port}/v1", version, ("m1",))]


async def test_models_that_run_elsewhere_are_left_out(serve: Serve) -> None:
    """Ollama lists models of its cloud beside its own: they are not this machine's."""
    tags = {"models": [{"name": "big-cloud", "remote_host": "https://ollama.com"}, {"name": "own"}]}
    port = await serve(listing("library", "big-cloud", "own") | {"/api/version": {"version": "1"}, "/api/tags": tags})
    (found,) = await discover([port])
    assert found.models == ("own",)


@pytest.mark.parametrize("page", [b"<html>", b"[]", {}, {"data": "x"}, b"\xff", b"[" * 10_000])
async def test_what_is_no_engine_is_not_one(serve: Serve, page: Any) -> None:
    """A web server, or anything that lists no models."""
    assert await discover([await serve({"/v1/models": page})]) == []


async def test_an_engine_that_wants_a_key_is_found(serve: Serve) -> None:
    """It is there, though it does not say what it serves."""
    port = await serve({"/v1/models": {"error": {"message": "key"}}}, status=401)
    (found,) = await discover([port])
    assert (found.kind, found.models) == ("openai-compatible", ())


async def test_a_redirect_is_not_followed(serve: Serve) -> None:
    """Loopback only: an answer that points elsewhere ends the search."""
    assert await discover([await serve({"/v1/models": {"data": []}}, status=302)]) == []


async def test_slow_ports_are_given_up_together(serve: Serve) -> None:
    """Three that never answer and one that is closed cost one time-out, not three, and hide nobody."""
    slow = [await serve(listing(), silent=True) for _ in range(3)]
    good = await serve(listing("vllm"))
    began = time.monotonic()
    found = await discover([*slow, 1, good], timeout_s=0.5)
    assert time.monotonic() - began < 1.5
    assert [each.kind for each in found] == ["vllm"]


@pytest.mark.local_model
async def test_a_real_engine_is_recognised(model_home: Path) -> None:
    """llama.cpp's server, which asks for a key that we do not give."""
    async with running_bench(model_home) as bench:
        (found,) = await discover([bench.model.port])
    assert found.kind == "llama.cpp"
