"""The failover score card on real sockets: full marks for our gateway, and hardly any for one that only forwards."""

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest

from potluck.conformance.cases import CASES, Case
from potluck.conformance.gateways import potluck
from potluck.conformance.process import GatewayProcess
from potluck.conformance.score import Card, Fakes, UnusableError, chosen, run

ANY_PORTS = (0, 0, 0)


@pytest.fixture
async def fakes() -> AsyncIterator[Fakes]:
    async with Fakes(ports=ANY_PORTS) as fakes:
        yield fakes


async def measure(fakes: Fakes, home: Path, cases: Sequence[Case]) -> Card:
    """Our gateway with the printed configuration."""
    async with GatewayProcess(home, potluck(cases, fakes.host, fakes.ports)) as gateway:
        return await run(f"http://127.0.0.1:{gateway.port}", gateway.key, fakes, cases)


def told(card: Card) -> str:
    return "\n".join(f"{line.name}: {line.evidence}" for line in card.failed)


async def test_our_gateway_has_full_marks(fakes: Fakes, tmp_path: Path):
    """Every line of the card passes with the configuration that `config --for potluck` prints."""
    card = await measure(fakes, tmp_path, chosen())
    assert card.total == len(CASES) - 1
    assert card.passed == card.total, told(card)


@pytest.mark.long
async def test_our_gateway_keeps_a_silent_stream_alive(fakes: Fakes, tmp_path: Path):
    """The slow lines pass too."""
    card = await measure(fakes, tmp_path, [case for case in CASES if case.slow])
    assert card.passed == card.total, told(card)


def free_ports() -> str:
    """Three ports that were free a moment ago, as `--listen` wants them."""
    sockets = [socket.socket() for _ in range(3)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ",".join(ports)


async def command(*arguments: str) -> tuple[int | None, str, str]:
    """Status, output and error output of `python -m potluck.conformance`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "potluck.conformance", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


class Pipe:
    """A gateway that only forwards: the model's first target, bytes as they come, nothing looked at."""

    def __init__(self, fakes: Fakes, cases: Sequence[Case]) -> None:
        self._ports = dict(zip(("first", "second", "refused"), fakes.ports, strict=True))
        self._targets = {case.model: case.targets[0] for case in cases}
        self._running: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    async def __aenter__(self) -> str:
        """Its URL."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        with contextlib.closing(writer), contextlib.suppress(OSError):
            if head.startswith(b"GET"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                return
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            body = json.loads(await reader.readexactly(length))
            target = self._targets[body["model"]]
            sent = json.dumps({**body, "model": target.model}).encode()
            line = b"POST /v1/chat/completions HTTP/1.1\r\nhost: fake\r\ncontent-length: %d\r\n\r\n" % len(sent)
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._ports[target.place])
            with contextlib.closing(up_writer):
                up_writer.write(line + sent)
                while data := await up_reader.read(65_536):
                    writer.write(data)


async def test_a_gateway_that_only_forwards_fails_every_line_about_failure(fakes: Fakes):
    """Nothing is taken over, no cut is told, no limit is honoured: the card must not be passed by doing nothing."""
    cases = [msgspec.structs.replace(case, deadline_s=2.5) for case in chosen()]
    async with Pipe(fakes, cases) as url:
        card = await run(url, "", fakes, cases)
    passed = {line.name for line in card.lines if line.ok}
    about_failure = {line.name for line in card.lines if "first word" in line.section}
    assert not passed & about_failure
    assert {"plain-status-400", "stream-status-400", "plain-drip", "stream-crlf-lines"} <= passed
    assert not passed & {"stream-no-done", "stream-double-done", "stream-data-after-done", "usage-x-groq"}
    assert not passed & {"plain-hang-up", "stream-hang-up-early", "plain-alone-401", "usage-cumulative-unasked"}


async def test_a_gateway_that_is_not_there_is_told_from_one_that_refuses(fakes: Fakes):
    """A port that refuses is no card at all; a refused key says so."""
    with pytest.raises(UnusableError, match="cannot be reached") as caught:
        await run(f"http://127.0.0.1:{fakes.ports[2]}", "", fakes)
    assert not caught.value.refused
    fakes.first.override = "status-401"
    with pytest.raises(UnusableError, match="with 401: give a key") as caught:
        await run(f"http://127.0.0.1:{fakes.ports[0]}", "wrong", fakes)
    assert caught.value.refused


async def test_the_command_ends_with_3_for_a_gateway_that_is_not_there(fakes: Fakes):
    """`python -m potluck.conformance` says in one line that nobody answers."""
    status, out, err = await command("--url", f"http://127.0.0.1:{fakes.ports[2]}", "--listen", free_ports())
    assert (status, out) == (3, "")
    assert err.count("\n") == 1
    assert "cannot be reached" in err


async def test_the_command_ends_with_2_for_a_port_that_is_taken(fakes: Fakes):
    """The hint names `--listen`."""
    taken = f"{fakes.ports[0]},{fakes.ports[1]},{fakes.ports[2]}"
    status, _, err = await command("--url", "http://127.0.0.1:1", "--listen", taken)
    assert status == 2
    assert "--listen" in err


async def test_the_command_prints_the_card_and_ends_with_1_when_a_line_fails(fakes: Fakes):
    """A gateway that answers everything with 404 has none of it, as JSON, with status 1."""
    fakes.first.override = "status-404"
    url = f"http://127.0.0.1:{fakes.ports[0]}"
    status, out, _ = await command("--url", url, "--json", "--only", "plain-status-5*", "--listen", free_ports())
    card = json.loads(out)
    assert (status, card["passed"], card["total"]) == (1, 0, 4)
    assert "status 404" in card["lines"][0]["evidence"]
