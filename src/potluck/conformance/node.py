"""A fake node: dials a gateway, offers models, and answers each as its name says; made to misbehave on command.

What a request gets is chosen by the model's name up to the first `;`: a coroutine in `node.plays`, else one of `PLAYS`,
else `ok`. What follows are options, as with the fake provider: `ok;chunks=40;gap_ms=20`. It takes as many calls as come
(`slots` is what it says, not what it does), goes on with answers over a new link by itself, and dials anew when told
to. A thousand of them fit into one process.

    node = FakeNode("127.0.0.1", port, NodeIdentity("node_1", "nky_1", seed), gateway_key, models=["ok"])
    await node.dial()                     # a link that is open; again for a second one
    node.links[0].cut()                   # the network is gone
    node.links[0].send_raw(b"forged")     # a frame as it never should be
    node.silent = True                    # it hears and says nothing any more
    await node.stop()
"""

import asyncio
import contextlib
import random
import secrets
import ssl
import time
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from potluck.conformance.node_plays import PLAYS, NodeCall, Play, ok
from potluck.identity.gateway_key import verify
from potluck.wire import link_events as e
from potluck.wire import link_messages as m
from potluck.wire.link import LinkCore
from potluck.wire.link_handshake import Party
from potluck.wire.link_jobs import Job, JobTable

TICK_S = 1.0
ENGINE = "fake"
PATHS = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]


class NodeIdentity:
    """Who a node is: its id, its key's id, and its Ed25519 seed (32 bytes)."""

    def __init__(self, node: str, key: str, seed: bytes | None = None) -> None:
        self.node = node
        self.key = key
        self._private_key = Ed25519PrivateKey.from_private_bytes(seed or secrets.token_bytes(32))
        self.public_key = self._private_key.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        return self._private_key.sign(message)


class NotLetInError(Exception):
    """No link came about. `code`: of the gateway's GOAWAY, or `http 421`, or `cut`."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class FakeNode:
    """One machine. `links`: open ones, `calls`: every request that came, by job id."""

    def __init__(
        self,
        host: str,
        port: int,
        identity: NodeIdentity,
        gateway_key: bytes,
        *,
        models: list[str] | None = None,
        slots: int = 256,
        queue: int = 0,
        boot: str = "",
        origin: str = "",
        redials: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`tls`: trust, for a gateway that speaks it.

        `redials`: it comes back by itself, as spread as it was told to be, when a link ends.
        """
        self.host = host
        self.port = port
        self.identity = identity
        self.models = ["ok"] if models is None else models
        self.slots = slots
        self.queue = queue
        self.boot = boot or secrets.token_hex(8)
        self.redials = redials
        self.revision = 0
        self.plays: dict[str, Play] = {}
        self.links: list[FakeLink] = []
        self.calls: dict[str, NodeCall] = {}
        self.silent = False
        self.acked = -1
        """the last revision that the gateway routes by"""
        self.drains: list[m.Drain] = []
        """what the operator asked for"""
        self.ends: list[str] = []
        """how links ended, by code"""
        self.dialled_at: list[float] = []
        self.table = JobTable("node")
        self._by_job: dict[Job, NodeCall] = {}
        self._stopped = False
        self._redialling: set[asyncio.Task[None]] = set()
        self.tls = tls
        origin = origin or f"{'https' if tls else 'http'}://{host}:{port}"
        self._party = Party("node", origin, identity.sign, verify, gateway_key)

    # --- links

    async def dial(self, timeout_s: float = 10.0) -> "FakeLink":
        """A new link, open, with what it offers announced. Raises NotLetInError, OSError."""
        loop = asyncio.get_running_loop()
        self.dialled_at.append(time.monotonic())
        transport, link = await loop.create_connection(
            lambda: FakeLink(self, self._party), self.host, self.port, ssl=self.tls
        )
        async with asyncio.timeout(timeout_s):
            try:
                await link.opened
            except BaseException:
                transport.abort()
                raise
        return link

    async def stop(self) -> None:
        """Leave as a machine does that is switched off in order."""
        self._stopped = True
        for task in list(self._redialling):
            task.cancel()
        for link in list(self.links):
            link.leave()
        self.kill()
        await asyncio.sleep(0)

    def kill(self) -> None:
        """Die as a process does: sockets are cut, jobs are gone."""
        self._stopped = True
        for link in list(self.links):
            link.cut()
        for call in self._by_job.values():
            if call.task is not None:
                call.task.cancel()
        self._by_job.clear()

    def caps(self) -> m.Caps:
        """What it offers now."""
        self.revision += 1
        return m.Caps(
            self.revision,
            self.slots,
            self.queue,
            [m.EngineOffer(ENGINE, "fake", list(PATHS), "1")],
            [m.ModelOffer(ENGINE, name, capabilities=["chat", "completions", "embeddings"]) for name in self.models],
        )

    def announce(self, caps: m.Caps | None = None) -> None:
        """Say on all links what it offers."""
        caps = caps or self.caps()
        for link in self.links:
            link.core.caps(caps)
        self.flush()

    def says(self, load: m.Load) -> None:
        """Say on all links how it is."""
        for link in self.links:
            link.core.load(load)
        self.flush()

    # --- jobs

    @property
    def running(self) -> list[NodeCall]:
        """Requests that are not over."""
        return list(self._by_job.values())

    def pump(self, job: Job) -> None:
        """The job has said something."""
        for link in self.links:
            if link.core is job.link:
                link.flush()

    def flush(self) -> None:
        """Send what waits."""
        for link in self.links:
            link.flush()

    def handle(self, event: e.Event) -> None:
        """An event of a job, or of the link where that is the node's business."""
        match event:
            case e.Opened(job=job):
                call = self.calls[job.request.job] = self._by_job[job] = NodeCall(self, job)
                if not job.request.body_bytes:
                    self._begin(call)
            case e.DataCame(job=job, data=data, whole=whole):
                job.consumed(len(data))
                if job in self._by_job:
                    self._by_job[job].body += data
                    if whole:
                        self._begin(self._by_job[job])
            case e.Cancelled(job=job):
                self._over(job, "cancelled")
                job.reset("cancelled")
            case e.Finished(job=job):
                self._over(job, "finished")
            case e.Lost(job=job):
                self._over(job, "lost")
            case e.Writable(job=job):
                if job in self._by_job:
                    self._by_job[job].room.set()
            case e.CapsAcked(revision=revision):
                self.acked = revision
            case e.TaskCame(task=task):
                for link in self.links:
                    with contextlib.suppress(ValueError):  # it came over the other one
                        link.core.task_result(m.TaskResult(task.task, True, "it answers", 1))
            case e.DrainCame(drain=drain):
                self.drains.append(drain)
            case _:
                pass

    def _begin(self, call: NodeCall) -> None:
        play = self.plays.get(call.name) or PLAYS.get(call.name) or ok
        call.task = asyncio.get_running_loop().create_task(self._run(play, call))

    async def _run(self, play: Play, call: NodeCall) -> None:
        await play(call)
        if call.job.state == "over":
            self._by_job.pop(call.job, None)

    def _over(self, job: Job, how: str) -> None:
        call = self._by_job.pop(job, None)
        if call is not None:
            call.ended = how
            if call.task is not None:
                call.task.cancel()

    def link_ended(self, code: str, spread_s: float) -> None:
        """A link is gone; come back if that is wanted."""
        self.ends.append(code)
        if self.redials and not self._stopped:
            task = asyncio.get_running_loop().create_task(self._come_back(spread_s))
            self._redialling.add(task)
            task.add_done_callback(self._redialling.discard)

    async def _come_back(self, spread_s: float) -> None:
        wait_s = random.uniform(0, spread_s)  # noqa: S311 — spreading, no secret
        while not self._stopped:
            await asyncio.sleep(wait_s)
            try:
                await self.dial()
            except (OSError, TimeoutError, NotLetInError):
                wait_s = random.uniform(0.2, 1.0)  # noqa: S311
            else:
                return


class FakeLink(asyncio.Protocol):
    """One WebSocket of a fake node."""

    def __init__(self, node: FakeNode, party: Party) -> None:
        self.node = node
        self.core = LinkCore(party, time.monotonic(), node.table)
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.goaway: m.Goaway | None = None
        """the gateway's last words"""
        self.failed: e.Failed | None = None
        self._proto = ClientProtocol(
            parse_uri(f"ws://{node.host}:{node.port}/node/v1/link"),
            subprotocols=[Subprotocol(m.SUBPROTOCOL)],
            max_size=None,
        )
        self._transport: Any = None
        self._blocked = self._over = False
        self._tick: asyncio.TimerHandle | None = None

    # --- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._proto.send_request(self._proto.connect())
        self._write()
        self._tick = asyncio.get_running_loop().call_later(TICK_S, self._ticks)

    def data_received(self, data: bytes) -> None:
        if self.node.silent:
            return
        self._proto.receive_data(data)
        for event in self._proto.events_received():
            if isinstance(event, Response):
                if event.status_code != 101:
                    self._not_let_in(f"http {event.status_code}", bytes(event.body or b"").decode())
                    return
                self._hello()
            elif isinstance(event, Frame) and event.opcode is Opcode.BINARY:
                self._handle(self.core.receive(bytes(event.data), time.monotonic()))
        self.flush()

    def eof_received(self) -> None:
        self._transport.close()

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 — asyncio's signature
        if self._tick is not None:
            self._tick.cancel()
        if self._over:
            return
        self._over = True
        if self in self.node.links:
            self.node.links.remove(self)
        for event in self.core.lost(time.monotonic()):
            self.node.handle(event)
        self._not_let_in(self.goaway.code if self.goaway else "cut", self.goaway.detail if self.goaway else "")
        self.node.link_ended(
            self.goaway.code if self.goaway else "cut", self.goaway.spread_s if self.goaway is not None else 0.0
        )

    # --- on command

    def cut(self) -> None:
        """The network is gone, at once."""
        self._transport.abort()

    def freeze(self) -> None:
        """Its machine hangs: nothing is read any more, nothing is said."""
        self._transport.pause_reading()

    def thaw(self) -> None:
        """It goes on."""
        self._transport.resume_reading()

    def send_raw(self, frame: bytes) -> None:
        """A frame past the core."""
        self._proto.send_binary(frame)
        self._write()

    def send_text(self, text: str) -> None:
        """A text message, which the protocol has not."""
        self._proto.send_text(text.encode())
        self._write()

    def send_in_parts(self, frame: bytes, size: int) -> None:
        """A message cut into WebSocket fragments of that size."""
        parts = [frame[at : at + size] for at in range(0, len(frame), max(1, size))]
        self._proto.send_binary(parts[0], fin=len(parts) == 1)
        for n, part in enumerate(parts[1:], 2):
            self._proto.send_continuation(part, fin=n == len(parts))
        self._write()

    def ping(self, count: int) -> None:
        """WebSocket pings."""
        for _ in range(count):
            self._proto.send_ping(b"?")
        self._write()

    def leave(self) -> None:
        """GOAWAY, and close."""
        for event in self.core.close("leaving", "", time.monotonic()):
            self.node.handle(event)
        self.flush()
        self._transport.close()

    def flush(self) -> None:
        """Send what may be sent."""
        while not self._blocked and not self.node.silent and self.core.wants_to_send:
            frames = self.core.frames_to_send()
            if not frames or self._proto.state is not State.OPEN:
                break
            for frame in frames:
                self._proto.send_binary(frame)
            self._write()
        if self._proto.writes and not self.node.silent:
            self._write()

    # --- steps

    def _hello(self) -> None:
        node, identity = self.node, self.node.identity
        features = sorted(m.FEATURES)
        hello = m.Hello(identity.node, identity.key, node.boot, "fake/1", 0, 0, features, secrets.token_hex(32))
        self.core.hello(hello)

    def _handle(self, events: list[e.Event]) -> None:
        for event in events:
            if isinstance(event, e.Welcomed):
                self.node.links.append(self)
                self.core.caps(self.node.caps())
                self.core.load(m.Load("ready"))
                self.core.resume()
                self.opened.set_result(None)
            elif isinstance(event, e.GoingAway):
                self.goaway = event.goaway
            elif isinstance(event, e.Failed):
                self.failed = event
            else:
                self.node.handle(event)

    def _not_let_in(self, code: str, detail: str) -> None:
        if not self.opened.done():
            self.opened.set_exception(NotLetInError(code, detail))
            self.opened.exception()  # whoever dialled may not wait any more

    def _ticks(self) -> None:
        self._tick = asyncio.get_running_loop().call_later(TICK_S, self._ticks)
        if not self.node.silent:
            self._handle(self.core.tick(time.monotonic()))
            self.flush()

    def _write(self) -> None:
        data = b"".join(self._proto.data_to_send())
        if data and not self._transport.is_closing():
            self._transport.write(data)
