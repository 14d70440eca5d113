"""Finding engines on real loopback sockets: fakes of every kind, a real llama.cpp server, and what is none."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from builtin_bench import Bench, running_bench

from potluck.conformance.engines import CHAT, CLOUD, DIGEST, EMBED, KINDS, VERSION, FakeEngine
from potluck.conformance.provider import deaf_port, refused_port
from potluck.engines.asking import MAX_ANSWER_BYTES, NotHereError, Place, ask, converse
from potluck.engines.discover import discover, look
from potluck.engines.fingerprints import Absent
from potluck.engines.load_signals import LoadReader
from potluck.engines.model_file import MODEL_NAME
from potluck.engines.questions import Question
from potluck.model.engine import Engine, EngineKind, EngineLoad
from potluck.model.secret import Secret

Serve = Callable[..., Awaitable[Place]]


def place_of(engine: FakeEngine, key: str = "") -> Place:
    return Place("127.0.0.1", engine.port, key=Secret(key) if key else None)


async def found_at(place: Place) -> Engine:
    found = await look(place)
    assert isinstance(found, Engine), found
    return found


async def load_of(engine: FakeEngine) -> EngineLoad:
    reading = await converse(place_of(engine), LoadReader(engine.kind).read())
    assert reading.heard == "answered"
    return reading.load


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_is_found_and_left_as_it_was(kind: EngineKind) -> None:
    """By name, with its models, on a port that says nothing; looking and reading its load do nothing to it."""
    async with FakeEngine(kind) as engine:
        found = await found_at(place_of(engine))
        await load_of(engine)
        assert (found.kind, found.base_url, found.state) == (kind, engine.base_url, "ready")
        assert found.version == ("" if kind in ("lm-studio", "openai-compatible") else VERSION)
        assert any("chat" in model.capabilities for model in found.models)
        assert engine.harm == []
        assert all(each.startswith(("GET ", "POST /api/show")) for each in engine.asked)


@pytest.mark.parametrize("kind", ["ollama", "localai", "llama-swap"])
async def test_what_an_engine_has_run_elsewhere_is_set_apart(kind: EngineKind) -> None:
    """A cloud model is named, but not among those of this machine."""
    async with FakeEngine(kind) as engine:
        found = await found_at(place_of(engine))
    assert found.elsewhere == (CLOUD,)
    assert CLOUD not in [model.name for model in found.models]


async def test_models_have_an_identity_and_what_they_can_do() -> None:
    """Digest, quantisation, contexts and capabilities, as each engine tells them."""
    async with FakeEngine("ollama") as ollama, FakeEngine("lm-studio") as studio, FakeEngine("localai") as localai:
        chat, embed = (await found_at(place_of(ollama))).models
        assert (chat.digest, chat.confidence, chat.quantisation) == (f"sha256:{DIGEST}", "digest", "Q4_K_M")
        assert (chat.trained_context, chat.served_context, chat.resident) == (131072, 8192, True)
        assert chat.capabilities == ("chat", "completions", "reasoning", "tools")
        assert (embed.capabilities, embed.served_context, embed.resident) == (("embeddings",), 2048, False)
        chat, embed = (await found_at(place_of(studio))).models
        assert (chat.confidence, chat.quantisation, chat.parameters) == ("named", "Q4_0", 1_200_000_000)
        assert (chat.capabilities, chat.served_context) == (("chat", "completions", "tools", "vision"), 4096)
        assert (embed.capabilities, embed.resident) == (("embeddings",), False)
        assert [model.name for model in (await found_at(place_of(localai))).models] == [CHAT, EMBED]


@pytest.mark.parametrize(
    ("kind", "load"),
    [
        ("ollama", EngineLoad(resident=(CHAT,), vram_bytes=10**9)),
        ("lm-studio", EngineLoad(slots=4, resident=(CHAT,))),
        ("vllm", EngineLoad(running=2, queued=1, cache_used=0.25)),
        ("llama.cpp", EngineLoad(running=2, queued=1, slots=4, resident=(CHAT,))),
        ("sglang", EngineLoad(running=2, queued=1, slots=4, cache_used=0.25)),
        ("localai", EngineLoad(resident=(CHAT,))),
        ("llama-swap", EngineLoad(resident=(CHAT,))),
        ("koboldcpp", EngineLoad(running=1, queued=1, idle_s=0.0)),
        ("openai-compatible", EngineLoad()),
    ],
)
async def test_load_is_what_the_engine_says(kind: EngineKind, load: EngineLoad) -> None:
    """And None where it says nothing."""
    async with FakeEngine(kind) as engine:
        engine.running, engine.queued = 2, 1
        assert await load_of(engine) == load


@pytest.mark.parametrize("kind", ["lm-studio", "sglang"])
async def test_older_engines_are_understood(kind: EngineKind) -> None:
    """Before their present pages existed."""
    async with FakeEngine(kind) as engine:
        engine.is_old = True
        found = await found_at(place_of(engine))
        assert (found.kind, found.models[0].name) == (kind, CHAT)
        reader = LoadReader(kind)
        load = (await converse(place_of(engine), reader.read())).load
        assert (await converse(place_of(engine), reader.read())).load == load
        assert load == (EngineLoad(running=0, queued=0) if kind == "sglang" else EngineLoad(resident=(CHAT,)))


async def test_a_router_is_asked_without_loading_anything() -> None:
    """Its models are listed, the loaded one with its details, and nothing was loaded for the answer."""
    async with FakeEngine("llama.cpp") as engine:
        engine.is_router = True
        chat, embed = (await found_at(place_of(engine))).models
        assert (chat.served_context, chat.resident, embed.resident) == (4096, True, False)
        assert await load_of(engine) == EngineLoad(running=0, queued=0, slots=4, resident=(CHAT,))
        assert engine.harm == []


async def test_a_sleeping_server_is_not_woken() -> None:
    """Seen without its model in memory, and left so."""
    async with FakeEngine("llama.cpp") as engine:
        engine.sleeping, engine.has_metrics = True, False
        assert (await found_at(place_of(engine))).models[0].resident is False
        assert (await load_of(engine)).resident == ()
        assert engine.harm == []


async def test_the_key_opens_a_locked_engine() -> None:
    """Without it the engine is there and locked; with it it is like any other."""
    async with FakeEngine("vllm") as engine:
        engine.key = "k1"
        locked = await found_at(place_of(engine))
        assert (locked.kind, locked.state, locked.models) == ("openai-compatible", "locked", ())
        assert (await found_at(place_of(engine, "k1"))).kind == "vllm"
        assert "k1" not in repr(place_of(engine, "k1"))


async def test_named_places_come_first_and_each_engine_once() -> None:
    """In the order given; the same port named twice is one engine, with the key that its owner gave."""
    async with FakeEngine("ollama") as one, FakeEngine("vllm") as two:
        two.key = "k2"
        named = Place.parse(f"localhost:{two.port}", Secret("k2"))
        found = await discover([named], [one.port, two.port])
    assert [(each.kind, each.state) for each in found] == [("vllm", "ready"), ("ollama", "ready")]


async def test_an_engine_under_a_path_is_asked_under_it() -> None:
    """As behind a reverse proxy."""
    async with FakeEngine("vllm") as engine:
        found = await look(Place.parse(f"http://127.0.0.1:{engine.port}/llm/v1/"))
    assert isinstance(found, Absent)
    assert engine.asked == ["GET /llm/v1/models"]


@pytest.mark.parametrize(
    "url",
    ["http://192.168.1.7:8000", "http://example.org/v1", "10.0.0.1:1234", "http://127.0.0.1.example.org", "0.0.0.0"],
)
def test_only_this_machine_is_asked_unless_told(url: str) -> None:
    """Another machine has to be named with the will to leave this one."""
    with pytest.raises(NotHereError, match="not this machine"):
        Place.parse(url)
    assert Place.parse(url, elsewhere=True).base_url.endswith("/v1")


@pytest.mark.parametrize(
    "url",
    [
        *("", "ftp://127.0.0.1", "http://", "http://127.0.0.1:99999", "http://u:p@127.0.0.1", "/tmp/x"),
        *("http://127.0.0.1/?a=b", "http://127.0.0.1/a b", "http://127.0.0.1/\r\nx: y", "http://loc\u0430lhost"),
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    """With a word on what is wrong."""
    with pytest.raises(NotHereError):
        Place.parse(url, elsewhere=True)
    with pytest.raises(NotHereError, match="key"):
        Place.parse("localhost", Secret("a\r\nb"))


@pytest.mark.parametrize(
    ("url", "base_url"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080/v1"),
        ("http://localhost/v1", "http://localhost:80/v1"),
        ("http://[::1]:8080/x/v1/", "http://[::1]:8080/x/v1"),
        ("https://127.0.0.2", "https://127.0.0.2:443/v1"),
    ],
)
def test_addresses_are_taken_as_people_write_them(url: str, base_url: str) -> None:
    """With or without scheme, port and `/v1`."""
    assert Place.parse(url).base_url == base_url


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts a server that sends the given bytes to whoever asks; `hold` keeps the connection open after them."""
    async with AsyncExitStack() as stack:

        async def start(*pieces: bytes, hold: bool = False) -> Place:
            async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.readuntil(b"\r\n\r\n")
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                if hold:
                    await reader.read()
                writer.close()

            running = await asyncio.start_server(answer, "127.0.0.1", 0)
            stack.push_async_callback(running.wait_closed)
            stack.callback(running.close)
            return Place("127.0.0.1", running.sockets[0].getsockname()[1])

        yield start


@pytest.mark.parametrize(
    "pieces",
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"{", b"}"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length:2\r\n\r\n{}",),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n", b"1\r\n{\r\n1;x=y\r\n}", b"\r\n0\r\n\r\n"),
    ],
)
async def test_an_answer_ends_where_it_says(serve: Serve, pieces: tuple[bytes, ...]) -> None:
    """By length or by chunks, also when the server keeps the connection open."""
    reply = await ask(await serve(*pieces, hold=True), Question("/x"))
    assert (reply.status, reply.body, reply.json) == (200, b"{}", {})


async def test_an_answer_without_a_length_ends_with_the_connection(serve: Serve) -> None:
    """As HTTP/1.0 has it."""
    reply = await ask(await serve(b"HTTP/1.0 200 OK\r\nServer: X\r\n\r\n", b"ab", b"cd"), Question("/x"))
    assert (reply.body, reply.headers) == (b"abcd", {"server": "X"})


@pytest.mark.parametrize(
    "pieces",
    [
        (),
        (b"\x16\x03\x01",),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n",),
        (b"HTTP/1.1 2x0 OK\r\n\r\n",),
        (b"HTTP/2 200\r\n\r\n",),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc",),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\nabc",),
        (b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (MAX_ANSWER_BYTES + 1), b"x" * 100),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nabc",),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n\r\n",),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffff\r\n",),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * (MAX_ANSWER_BYTES + 1)),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000 + b"\r\n\r\n",),
    ],
)
async def test_what_is_not_a_whole_answer_is_none(serve: Serve, pieces: tuple[bytes, ...]) -> None:
    """Half an answer, one that is too large, and other protocols: status 0, and nobody hangs."""
    reply = await ask(await serve(*pieces), Question("/x"), timeout_s=5)
    assert (reply.status, reply.refused) == (0, False)


async def test_closed_and_deaf_ports_are_told_apart() -> None:
    """One answers at once that nobody is there; the other takes its time-out."""
    port, holder = refused_port()
    with holder, deaf_port() as deaf:
        assert (await ask(Place("127.0.0.1", port), Question("/x"))).refused
        began = time.monotonic()
        reply = await ask(Place("127.0.0.1", deaf), Question("/x"), timeout_s=0.2)
        assert (reply.status, reply.refused) == (0, False)
        assert time.monotonic() - began < 1


async def test_slow_ports_are_given_up_together() -> None:
    """Three that never answer and one that is closed cost one time-out, not three, and hide nobody."""
    async with AsyncExitStack() as stack:
        slow = [await stack.enter_async_context(FakeEngine("vllm")) for _ in range(3)]
        for each in slow:
            each.silent = True
        good = await stack.enter_async_context(FakeEngine("koboldcpp"))
        began = time.monotonic()
        found = await discover(ports=[*(each.port for each in slow), 1, good.port], timeout_s=0.5)
        assert time.monotonic() - began < 1.5
    assert [each.kind for each in found] == ["koboldcpp"]


async def test_an_engine_that_falls_silent_in_the_middle_is_not_half_announced() -> None:
    """It named itself and then stopped: nothing is known of what it serves."""
    async with FakeEngine("ollama") as engine:
        engine.silent_after = 3
        assert isinstance(await look(place_of(engine), timeout_s=0.3), Absent)


@pytest.mark.local_model
async def test_a_real_llama_cpp_server_is_read(model_home: Path) -> None:
    """Locked without its key; with it: the model, its size, quantisation and contexts, and how busy it is."""
    async with running_bench(model_home) as bench:
        await _read_real(bench)


async def _read_real(bench: Bench) -> None:
    locked = await found_at(Place("127.0.0.1", bench.model.port))
    assert (locked.kind, locked.state) == ("llama.cpp", "locked")
    place = Place("127.0.0.1", bench.model.port, key=bench.model.secret)
    found = await found_at(place)
    (model,) = found.models
    assert (found.kind, found.state, model.name, model.confidence) == ("llama.cpp", "ready", MODEL_NAME, "named")
    assert (model.quantisation, model.format, model.parameters) == ("Q4_1", "gguf", 134_515_008)
    assert (model.trained_context, model.served_context, model.resident) == (8192, 2048, True)
    assert set(model.capabilities) >= {"chat", "completions", "tools"}
    reader = LoadReader("llama.cpp")
    idle = (await converse(place, reader.read())).load
    assert (idle.running, idle.queued, idle.slots, idle.resident) == (0, None, 4, (MODEL_NAME,))
    counting = [{"role": "user", "content": "Count from one to two hundred."}]
    chats = [asyncio.ensure_future(bench.chat(messages=counting, max_tokens=300)) for _ in range(2)]
    most = 0
    async with asyncio.timeout(60):
        while most < 2 and not all(chat.done() for chat in chats):
            most = max(most, (await converse(place, reader.read())).load.running or 0)
        await asyncio.gather(*chats)
        assert most == 2
        while (await converse(place, reader.read())).load.running:
            pass  # its slot is free a moment after the last byte


def test_discovery_needs_the_standard_library_and_msgspec_only() -> None:
    """The agent imports it: no HTTP client, no parser of compiled code, no web framework comes along."""
    script = (
        "import sys; import potluck.engines.watch; "
        "print(sorted({name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)))"
    )
    shown = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    third_party = {each for each in eval(shown.stdout) if not each.startswith("_")}
    assert third_party <= {"msgspec", "potluck", "sitecustomize", "typing_extensions"}, third_party
