"""Streaming load in one process: `python -m bench.load --port N --streams 500 --chunks 200 --pace-ms 20 --seconds 5`.

Each connection sends a streamed chat request, counts events until the body's end, and sends the next one. After a ramp
it prints a line `measuring`, counts for the window, prints one JSON object and leaves. It ends by itself.
"""

import argparse
import asyncio
import json
import sys
import time
from typing import cast

import uvloop

from bench.processes import raise_file_limit
from bench.requests import chat_request

_END = b"\r\n0\r\n\r\n"
_EVENT = b"data: {"


class Tally:
    """What came back, over all connections."""

    def __init__(self) -> None:
        self.events = 0
        self.streams = 0
        self.failures: list[str] = []


class Caller(asyncio.Protocol):
    """One connection that asks for stream after stream."""

    def __init__(self, request: bytes, tally: Tally, expected_events: int, *, again: bool) -> None:
        self._request = request
        self._tally = tally
        self._expected = expected_events
        self._again = again
        self._events = 0
        self._tail = b""
        self._head = True
        self.closing = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def close(self) -> None:
        self.closing = True
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._head:
            self._head = False
            if not data.startswith(b"HTTP/1.1 200"):
                self._tally.failures.append(data[:300].decode(errors="replace"))
                self._transport.close()
                return
        count = data.count(_EVENT)
        self._events += count
        self._tally.events += count
        # enough of the last read to recognise an end that came in two pieces
        self._tail = (self._tail + data)[-len(_END) :] if len(data) < len(_END) else data[-len(_END) :]
        if self._tail == _END:
            self._finished()

    def _finished(self) -> None:
        if not self._expected <= self._events <= self._expected + 2:
            self._tally.failures.append(f"{self._events} events instead of {self._expected}")
        self._tally.streams += 1
        self._events = 0
        self._tail = b""
        self._head = True
        if self._again:
            self._transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closing:
            self._tally.failures.append(f"connection lost: {exc}")


async def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Ramp up, measure one window, close; the tally of the window as a JSON-ready object."""
    loop = asyncio.get_running_loop()
    tally = Tally()
    request = chat_request(
        arguments.key, model=arguments.model, prompt_bytes=600, chunks=arguments.chunks, pace_ms=arguments.pace_ms
    )
    callers: list[Caller] = []
    started = loop.time()
    # connections arrive evenly over the ramp, so that paced streams keep different phases
    for n in range(arguments.streams):
        due = arguments.ramp_s * n / arguments.streams
        await asyncio.sleep(max(0.0, due - (loop.time() - started)))
        _, caller = await loop.create_connection(
            lambda: Caller(request, tally, arguments.chunks, again=True), "127.0.0.1", arguments.port
        )
        callers.append(caller)
    await asyncio.sleep(arguments.settle_s)
    print("measuring", flush=True)
    events, streams, before = tally.events, tally.streams, time.perf_counter()
    await asyncio.sleep(arguments.seconds)
    window = {
        "events": tally.events - events,
        "streams": tally.streams - streams,
        "seconds": time.perf_counter() - before,
    }
    print("measured", flush=True)
    if arguments.hold:
        await loop.run_in_executor(None, sys.stdin.readline)
    for caller in callers:
        caller.close()
    await asyncio.sleep(0.05)
    return {**window, "failures": len(tally.failures), "first_failure": tally.failures[0] if tally.failures else None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--chunks", type=int, default=200)
    parser.add_argument("--pace-ms", type=int, default=0)
    parser.add_argument("--ramp-s", type=float, default=0.2)
    parser.add_argument("--settle-s", type=float, default=0.3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--hold", action="store_true", help="keep the streams open until a line comes on stdin")
    raise_file_limit()
    print(json.dumps(uvloop.run(run(parser.parse_args()))), flush=True)


if __name__ == "__main__":
    main()
