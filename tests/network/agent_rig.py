"""A gateway's end of node links on a real socket, as small as it can be: what an agent is tested against.

It knows one node, welcomes it, and opens what a test wants opened, also what no honest gateway would.
"""

import asyncio
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from potluck.engines.watch import WatchPace
from potluck.node.agent import Agent
from potluck.node.facts import Facts
from potluck.node.home import Enrolled, Home, KeyFile
from potluck.node.identity import Identity, fresh_key, to_text, verify
from potluck.node.jobs import Jobs
from potluck.node.offers import Offers
from potluck.node.settings import NodeSettings
from potluck.node.unloading import Claims
from potluck.wire import link_events as e
from potluck.wire import link_messages as m
from potluck.wire.link import LinkCore
from potluck.wire.link_handshake import Party
from potluck.wire.link_jobs import Job, JobTable

PACE = WatchPace(look_every_s=0.4, load_every_s=0.1, first_back_off_s=0.1, max_back_off_s=0.3, timeout_s=1.0)
CHAT = "/v1/chat/completions"


class Opened:
    """One request as the gateway sees it: what came, and how it ended."""

    def __init__(self, job: Job, rig: "LinkGateway") -> None:
        self.job = job
        self.rig = rig
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.end = ""
        """`ended`, `refused CODE`, `reset CODE`, `confirmed`, `lost`"""
        self.detail = ""
        self.reads = True
        """it uses up what comes"""

    async def over(self, timeout_s: float = 10.0) -> "Opened":
        await until(lambda: self.end, "the request never ended", timeout_s)
        return self

    def cancel(self) -> None:
        self.job.cancel("client_closed")
        self.rig.pump()


class GatewayLink:
    """One link, from the gateway's side."""

    def __init__(self, rig: "LinkGateway", socket: ServerConnection) -> None:
        self.rig = rig
        self.socket = socket
        self.core = LinkCore(rig.party, asyncio.get_running_loop().time())
        self.hello: m.Hello | None = None
        self.caps: m.Caps | None = None
        self.load: m.Load | None = None
        self.loads: list[m.Load] = []
        self.results: list[m.TaskResult] = []
        self.drains: list[m.Drain] = []
        self.drained = False
        self.goaways: list[m.Goaway] = []
        self.wake = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        writer = loop.create_task(self._write())
        try:
            async for frame in self.socket:
                assert isinstance(frame, bytes)
                for event in self.core.receive(frame, loop.time()):
                    self.rig.heard(self, event)
                self.wake.set()
        except ConnectionClosed:
            pass
        finally:
            for event in self.core.lost(loop.time()):
                self.rig.heard(self, event)
            if self in self.rig.links:
                self.rig.links.remove(self)
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _write(self) -> None:
        while True:
            await self.wake.wait()
            self.wake.clear()
            while frames := self.core.frames_to_send():
                for frame in frames:
                    await self.socket.send(frame)
            if self.core.phase == "closed":
                await self.socket.close()
                return

    def cut(self) -> None:
        """As if the network were gone."""
        self.socket.transport.abort()


class LinkGateway:
    """Listens, and keeps what it hears."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.key = Identity(fresh_key())
        self.node_key = Identity(fresh_key())
        self.table = JobTable("gateway")
        self.links: list[GatewayLink] = []
        """that are open"""
        self.dials: list[float] = []
        """when each HELLO came"""
        self.refuses: tuple[str, str] | None = None
        """code and words for whoever dials"""
        self.acks = True
        self.opened: dict[str, Opened] = {}
        self.failures: list[e.Failed] = []
        self.port = 0
        self._server: Server | None = None

    async def start(self, node_key: bytes) -> None:
        self.node_key = Identity(node_key)
        await self.start_again()

    async def start_again(self) -> None:
        """At the same port."""
        self._server = await serve(
            self._accept,
            "127.0.0.1",
            self.port,
            subprotocols=[Subprotocol(m.SUBPROTOCOL)],
            compression=None,
            ssl=self._tls,
        )
        self.port = self._server.sockets[0].getsockname()[1]

    @property
    def origin(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def party(self) -> Party:
        return Party("gateway", self.origin, self.key.sign, verify)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    def pump(self) -> None:
        for link in self.links:
            link.wake.set()

    def open(self, model: str, body: bytes, *, link: GatewayLink | None = None, **members: Any) -> Opened:
        """Open a request at the first engine that offers the model, over the first link that is up."""
        link = link or self.links[0]
        assert link.caps is not None
        engine = next((each.engine for each in link.caps.models if each.name == model), link.caps.engines[0].id)
        members = {"engine": engine, "path": CHAT, "token": secrets.token_hex(16), **members}
        headers = members.pop("headers", [("content-type", "application/json")])
        job_id = members.pop("job", f"job_{len(self.opened)}_{secrets.token_hex(4)}")
        request = m.Open(job=job_id, model=model, body_bytes=len(body), headers=headers, **members)
        job = link.core.open(request, body)
        opened = self.opened[job_id] = Opened(job, self)
        self.pump()
        return opened

    async def _accept(self, socket: ServerConnection) -> None:
        await GatewayLink(self, socket).run()

    def heard(self, link: GatewayLink, event: e.Event) -> None:
        now = asyncio.get_running_loop().time()
        if isinstance(event, e.HelloCame):
            self.dials.append(now)
            link.hello = event.hello
            if self.refuses is not None:
                link.core.close(*self.refuses, now)
            else:
                link.core.challenge(self.node_key.public, secrets.token_hex(8), secrets.token_hex(32))
        elif isinstance(event, e.Proved):
            link.core.welcome(self.table, now, m.Welcome(0, [], heartbeat_s=1.0))
            self.links.append(link)
        elif isinstance(event, e.CapsCame):
            link.caps = event.caps
            if self.acks:
                link.core.caps_ack(event.caps.revision)
        elif isinstance(event, e.LoadCame):
            link.load = event.load
            link.loads.append(event.load)
        elif isinstance(event, e.TaskEnded):
            link.results.append(event.result)
        elif isinstance(event, e.DrainCame):
            link.drains.append(event.drain)
        elif isinstance(event, e.Drained):
            link.drained = True
        elif isinstance(event, e.GoingAway):
            link.goaways.append(event.goaway)
        elif isinstance(event, e.Failed):
            self.failures.append(event)
        elif hasattr(event, "job"):
            self._of_job(event)
        if link.core.phase == "closed" and link in self.links:
            self.links.remove(link)

    def _of_job(self, event: Any) -> None:
        opened = self.opened[event.job.request.job]
        if isinstance(event, e.HeadCame):
            opened.status = event.head.status
            opened.headers = dict(event.head.headers)
        elif isinstance(event, e.DataCame):
            opened.body += event.data
            if opened.reads:
                event.job.consumed(len(event.data))
        elif isinstance(event, e.Refused):
            opened.end, opened.detail = f"refused {event.refusal.code}", event.refusal.detail
        elif isinstance(event, e.WasReset):
            opened.end, opened.detail = f"reset {event.reset.code}", event.reset.detail
        elif isinstance(event, e.Ended):
            opened.end = "ended"
        elif isinstance(event, e.Confirmed):
            opened.end = "confirmed"
        elif isinstance(event, e.Lost):
            opened.end = "lost"


class StillMachine:
    """A machine of which a test says what is known."""

    def __init__(self) -> None:
        self.said = Facts(window_open=True)
        self.claims = Claims()
        self.freed = 0

    def note(self, offers: Offers, jobs: Jobs) -> None:
        for id_ in offers.offered:
            watch = offers.watch_of(id_)
            if watch is not None:
                called = [call.job.request.model for call in jobs.running.values()]
                self.claims.note(id_, watch.load.resident, called, time.monotonic())

    async def facts(self, settings: NodeSettings, offers: Offers) -> Facts:
        return self.said

    async def free(self, settings: NodeSettings, offers: Offers) -> list[str]:
        self.freed += 1
        return []

    async def close(self) -> None:
        pass


class Rig:
    """An agent and its gateway, linked."""

    def __init__(self, gateway: LinkGateway, agent: Agent, machine: StillMachine, task: asyncio.Task[None]) -> None:
        self.gateway = gateway
        self.agent = agent
        self.machine = machine
        self.task = task

    async def ready(self) -> None:
        """Both links are up, know the models, and may open."""
        await until(
            lambda: (
                len(self.gateway.links) == len(self.agent.links.slots)
                and all(
                    link.caps is not None and link.caps.models and link.load is not None and link.load.state == "ready"
                    for link in self.gateway.links
                )
            ),
            "the agent never became ready",
        )


def enrol(path: Path, gateway: LinkGateway, key: bytes, origin: str = "", ca_file: str = "") -> Home:
    """The files of a machine that has joined."""
    home = Home(path)
    home.prepare()
    origin = origin or gateway.origin
    home.write("key", KeyFile("nky_1", to_text(key)))
    pinned = to_text(gateway.key.public)
    home.write("node.json", Enrolled(origin, origin, pinned, "node_1", "lab-1", ca_file=ca_file))
    return home


@asynccontextmanager
async def rigged(
    path: Path,
    settings: NodeSettings | Callable[[], NodeSettings],
    *,
    gateway: LinkGateway | None = None,
    ports: tuple[int, ...] = (),
    anew: bool = True,
    ca_file: str = "",
) -> AsyncIterator[Rig]:
    """An agent with these settings that runs against a gateway of its own, until the block ends.

    `anew` False: what an earlier one kept in `path` is left, but for the gateway's address and key.
    """
    key, gateway = fresh_key(), gateway or LinkGateway()
    await gateway.start(key)
    home = enrol(path, gateway, key, ca_file=ca_file)
    if anew:
        home.remove("state.json")
    machine = StillMachine()
    agent = Agent(home, settings if callable(settings) else lambda: settings, machine, ports=ports, pace=PACE)
    task = asyncio.get_running_loop().create_task(agent.run())
    try:
        yield Rig(gateway, agent, machine, task)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await gateway.stop()


async def until(
    condition: Callable[[], object], complaint: str = "it never came true", timeout_s: float = 10.0
) -> None:
    """Let the loop run until `condition` holds."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, complaint
        await asyncio.sleep(0.005)
