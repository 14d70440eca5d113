"""One measurement of one server each: a load, a window, a figure, and the check that everything was delivered."""

import json
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.processes import (
    LOAD_CORE,
    BenchError,
    Quiet,
    cpu_s,
    free_port,
    rss_bytes,
    spawn,
    stop,
    wait_quiet,
)
from bench.requests import chat_request, write_wrk_script
from bench.stack import (
    PLAIN_MODEL,
    STREAM_MODEL,
    Server,
    find_wrk,
    potluck_command,
    potluck_environment,
)

CONNECTIONS = 32


@dataclass(frozen=True)
class Plain:
    """A closed loop of plain requests. Microseconds, but for `requests_per_s`."""

    cpu_us: float
    importer_us: float | None
    p50_us: float
    p99_us: float
    requests_per_s: float


def measure_plain(
    server: Server, directory: Path, *, prompt_bytes: int, seconds: float, model: str = PLAIN_MODEL
) -> Plain:
    """CPU per plain request at 32 connections; the importer's share apart, its backlog included.

    Any model but the default one is asked for at the server's `routed_port`.
    """
    port = server.port if model == PLAIN_MODEL else server.routed_port
    script = directory / f"{server.name}-{model}-{prompt_bytes}.lua"
    write_wrk_script(script, server.key, model=model, prompt_bytes=prompt_bytes)
    gateway, importer = server.pids(), server.importer_pids()
    wait_quiet(server.all_pids())
    before, importer_before = cpu_s(gateway), cpu_s(importer)
    quiet = Quiet(server.all_pids())
    wrk = spawn(
        [
            find_wrk(), "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s", "--latency", "-s", str(script),
            f"http://127.0.0.1:{port}",
        ],
        core=LOAD_CORE,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    output, _ = wrk.communicate(timeout=seconds + 30)
    used = cpu_s(gateway) - before
    quiet.check()
    summary = json.loads(output.splitlines()[-1])
    if summary["errors"] or summary["not_2xx"] or not summary["requests"]:
        raise BenchError(f"{server.name} did not answer every plain request: {summary}")
    wait_quiet(server.all_pids())
    importer_used = cpu_s(importer) - importer_before
    requests = summary["requests"]
    return Plain(
        cpu_us=used / requests * 1e6,
        importer_us=importer_used / requests * 1e6 if importer else None,
        p50_us=summary["p50_us"],
        p99_us=summary["p99_us"],
        requests_per_s=requests / (summary["duration_us"] / 1e6),
    )


class Streams:
    """A running streaming load; `window()` returns when the window is over, `close()` when the load is gone."""

    def __init__(
        self,
        server: Server,
        *,
        streams: int,
        chunks: int,
        pace_ms: int,
        ramp_s: float,
        seconds: float,
        hold: bool = False,
    ) -> None:
        self._server = server
        self._seconds = seconds
        command = [
            sys.executable, "-m", "bench.load", "--port", str(server.stream_port), "--key", server.key,
            "--model", STREAM_MODEL, "--streams", str(streams), "--chunks", str(chunks), "--pace-ms", str(pace_ms),
            "--ramp-s", str(ramp_s), "--seconds", str(seconds),
        ]  # fmt: skip
        self.process = spawn(
            [*command, "--hold"] if hold else command, core=LOAD_CORE, stdout=subprocess.PIPE, stdin=subprocess.PIPE
        )

    def expect(self, word: bytes) -> None:
        """Until the load has said this word."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if line != word:
            raise BenchError(f"the streaming load at {self._server.name} failed ({line!r})")

    def close(self) -> dict[str, float]:
        """The load's own tally."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        line = self.process.stdout.readline()
        self.process.wait(30)
        tally = json.loads(line or b'{"failures": "the load ended early"}')
        if tally["failures"] or not tally["events"]:
            raise BenchError(f"{self._server.name} did not deliver every stream whole: {tally}")
        return dict(tally)


def measure_chunks(server: Server, *, streams: int, chunks: int, pace_ms: int, ramp_s: float, seconds: float) -> float:
    """CPU microseconds per streamed event in a window of steady streaming."""
    gateway = server.pids()
    wait_quiet(server.all_pids())
    load = Streams(server, streams=streams, chunks=chunks, pace_ms=pace_ms, ramp_s=ramp_s, seconds=seconds)
    try:
        load.expect(b"measuring")
        quiet = Quiet(server.all_pids())
        before = cpu_s(gateway)
        load.expect(b"measured")
        used = cpu_s(gateway) - before
        quiet.check()
        return used / load.close()["events"] * 1e6
    finally:
        stop(load.process)


def measure_open_streams(server: Server, *, streams: int, ramp_s: float) -> tuple[int, int]:
    """Resident bytes (before, with that many streams open): the gateway with all its children."""
    wait_quiet(server.all_pids())
    before = rss_bytes(server.all_pids())
    load = Streams(server, streams=streams, chunks=100_000, pace_ms=500, ramp_s=ramp_s, seconds=1.0, hold=True)
    try:
        load.expect(b"measuring")
        load.expect(b"measured")
        loaded = rss_bytes(server.all_pids())
        load.close()
    finally:
        stop(load.process)
    wait_quiet(server.all_pids())
    return before, loaded


@dataclass(frozen=True)
class Latency:
    """Microseconds at one connection."""

    p50_us: float
    p99_us: float
    max_us: float

    @classmethod
    def of(cls, samples_us: list[float]) -> "Latency":
        ordered = sorted(samples_us)
        return cls(statistics.median(ordered), ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)], ordered[-1])


class Connection:
    """One blocking keep-alive connection, timed by hand."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 10.0)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        self._socket.close()

    def time_plain(self, request: bytes) -> float:
        """Microseconds until the whole answer is there."""
        before = time.perf_counter_ns()
        self._socket.sendall(request)
        answer = self._socket.recv(65536)
        head = answer.find(b"\r\n\r\n")
        while head < 0:
            answer += self._receive()
            head = answer.find(b"\r\n\r\n")
        lowered = answer[:head].lower()
        at = lowered.find(b"content-length:")
        if not answer.startswith(b"HTTP/1.1 200") or at < 0:
            raise BenchError(f"unexpected answer: {answer[:200]!r}")
        needed = head + 4 + int(lowered[at + 15 :].split(b"\r\n", 1)[0])
        while len(answer) < needed:
            answer += self._receive()
        return (time.perf_counter_ns() - before) / 1000

    def time_first_event(self, request: bytes) -> float:
        """Microseconds until the first event; the stream is then read to its end."""
        before = time.perf_counter_ns()
        self._socket.sendall(request)
        answer = b""
        while b"data: {" not in answer:
            answer += self._receive()
        elapsed = (time.perf_counter_ns() - before) / 1000
        while not answer.endswith(b"\r\n0\r\n\r\n"):
            answer += self._receive()
        return elapsed

    def _receive(self) -> bytes:
        data = self._socket.recv(65536)
        if not data:
            raise BenchError("the connection was closed in the middle of an answer")
        return data


def measure_latency(ports: dict[str, tuple[int, str]], *, requests: int, stream: bool) -> dict[str, Latency]:
    """Latencies of several servers (name → port, key) at one connection each, request by request in turn."""
    connections = {name: Connection(port) for name, (port, _) in ports.items()}
    sent = {
        name: chat_request(
            key,
            model=STREAM_MODEL if stream else PLAIN_MODEL,
            prompt_bytes=600,
            chunks=2 if stream else 0,
            pace_ms=2 if stream else 0,
        )
        for name, (_, key) in ports.items()
    }
    samples: dict[str, list[float]] = {name: [] for name in ports}
    for turn in range(requests + 20):
        for name, connection in connections.items():
            time_one = connection.time_first_event if stream else connection.time_plain
            elapsed_us = time_one(sent[name])
            if turn >= 20:
                samples[name].append(elapsed_us)
    for connection in connections.values():
        connection.close()
    return {name: Latency.of(values) for name, values in samples.items()}


def measure_start(home: Path, key: str, log: Path) -> float:
    """Seconds from starting Potluck on this home until `GET /v1/models` answers 200."""
    port = free_port()
    head = f"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\n"
    request = f"{head}connection: close\r\n\r\n".encode()
    before = time.perf_counter()
    process = spawn(potluck_command(port, home), core=None, log=log, env=potluck_environment("pla-" + "0" * 46, key))
    try:
        while True:
            elapsed = time.perf_counter() - before
            try:
                with socket.create_connection(("127.0.0.1", port), 5.0) as sock:
                    sock.sendall(request)
                    if sock.recv(65536).startswith(b"HTTP/1.1 200"):
                        return time.perf_counter() - before
            except OSError:
                if process.poll() is not None or elapsed > 30:
                    raise BenchError(f"Potluck did not start; its log ends with:\n{log.read_text()[-2000:]}") from None
            time.sleep(0.002)
    finally:
        stop(process)
