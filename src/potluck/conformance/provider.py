"""The fake provider: an OpenAI-compatible server that answers as the model's name says, and remembers everything.

The behaviour of a request is chosen, first match wins, by
1. `fake.override`, when a test has set it (an outage of the whole provider),
2. the URL, `/f/NAME/v1/…` (needed for faults that strike before the body is read),
3. the model's name up to the first `;`: a coroutine in `fake.script`, else a row of the catalogue, else `ok`.
What follows `;` are options: `ok;chunks=40;gap_ms=20`.
"""

import argparse
import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Self

from potluck.conformance.call import Call, SeenRequest
from potluck.conformance.connection import SeenConnection
from potluck.conformance.faults import FAULTS, Play


class FakeProvider:
    """Use as `async with FakeProvider() as fake`. `connections` and `requests` hold what was seen, in order."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host = host
        self.port = port
        """the real port once started"""
        self.script: dict[str, Play] = {}
        self.override: str | None = None
        self.connections: list[SeenConnection] = []
        self.requests: list[SeenRequest] = []
        """requests whose body was read whole"""
        self.listed: list[str] = list(FAULTS)
        """what `GET /models` names"""
        self._changed = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._notices: set[asyncio.Task[None]] = set()

    @property
    def base_url(self) -> str:
        """What a provider's `base_url` should be."""
        return f"http://{self.host}:{self.port}/v1"

    def url_for(self, fault: str) -> str:
        """A base URL under which every request gets this fault, whatever its model."""
        return f"http://{self.host}:{self.port}/f/{fault}/v1"

    @property
    def open_connections(self) -> list[SeenConnection]:
        """Those that neither side has closed."""
        return [connection for connection in self.connections if not connection.closed_how]

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connection, self.host, self.port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and drop every connection."""
        if self._server is not None:
            self._server.close()
        for connection in self.connections:
            await connection.stop()
        for notice in self._notices:
            notice.cancel()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def wait_for(self, condition: Callable[[], object], timeout_s: float = 5.0) -> None:
        """Return as soon as `condition()` is true; looked at whenever something is seen. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(lambda: bool(condition()))

    def forget(self) -> None:
        """Forget requests seen so far and closed connections; open ones stay known."""
        self.requests.clear()
        self.connections[:] = self.open_connections

    def _connection(self) -> SeenConnection:
        number = len(self.connections) + 1
        return SeenConnection(number, self._opened, self._serve, self._notify)

    def _opened(self, connection: SeenConnection) -> None:
        connection.listed = self.listed
        self.connections.append(connection)
        self._notify()

    def _notify(self) -> None:
        async def tell() -> None:
            async with self._changed:
                self._changed.notify_all()

        notice = asyncio.get_running_loop().create_task(tell())
        self._notices.add(notice)
        notice.add_done_callback(self._notices.discard)

    async def _serve(self, request: SeenRequest) -> None:
        self._notify()
        play, early = self._by_url(request)
        if not early:
            await request.connection.read_body(request)
            self.requests.append(request)
            self._notify()
        call = Call(request, "", {})
        model = call.asked.get("model")
        call.model = model if isinstance(model, str) else ""
        name, *options = call.model.split(";")
        call.options = dict(option.split("=", 1) for option in options if "=" in option)
        await (play or self.script.get(name) or FAULTS[name if name in FAULTS else "ok"].play)(call)

    def _by_url(self, request: SeenRequest) -> tuple[Play | None, bool]:
        name = self.override
        if name is None and request.target.startswith("/f/"):
            name = request.target.split("/")[2]
        if name is None:
            return None, False
        if name in self.script:
            return self.script[name], False
        return FAULTS[name].play, FAULTS[name].early


def refused_port() -> tuple[int, socket.socket]:
    """A port of 127.0.0.1 on which every connection is refused for as long as the socket is kept."""
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    return holder.getsockname()[1], holder


@contextlib.contextmanager
def deaf_port() -> Iterator[int]:
    """A port of 127.0.0.1 on which connecting neither succeeds nor fails: its queue is full and nobody accepts."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield port


async def _main(host: str, port: int) -> None:
    async with FakeProvider(host, port) as fake:
        sys.stdout.write(f"fake provider: {fake.base_url} ({len(FAULTS)} behaviours, chosen by the model's name)\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def main() -> None:
    """`python -m potluck.conformance.provider`: serve until interrupted, or print the catalogue."""
    parser = argparse.ArgumentParser(description="A fake OpenAI-compatible provider that misbehaves on command.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--list", action="store_true", help="print the catalogue and exit")
    options = parser.parse_args()
    if options.list:
        for row in FAULTS.values():
            sys.stdout.write(f"{row.name:28} {row.does} → {row.must}\n")
        return
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(options.host, options.port))


if __name__ == "__main__":
    main()
