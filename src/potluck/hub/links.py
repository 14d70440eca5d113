"""All nodes' links: implements `ports.Upstream` for targets on nodes. No disk, no policy, no choice among nodes.

Rules of this file
- Connections that have not proved themselves are few, in all and per address prefix; the rest is refused with 503.
  Through a trusted proxy it is the prefix of who dialled the proxy, so that one stranger does not shut out all nodes.
- One sweep, ten times a second, does everything that waits for time: deadlines of calls, a new snapshot, and each
  link's own tick once a second. No link and no call has a timer.
- The snapshot says which nodes there are. One that is gone from it loses its links with `revoked`; one that nobody has
  approved yet, or that is drained, keeps them and gets no calls. A link by a key that was rotated away goes with it.
- A fault of this gateway in one node's turn of the sweep ends that node's links (`internal`) and nobody else's.
- What the hub learns leaves by `ports.NodeEvents`.
"""

import asyncio
import http
import ipaddress
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from potluck.hub.call import HubCall
from potluck.hub.node import HubNode
from potluck.hub.session import Session
from potluck.model.faults import fault_of
from potluck.model.snapshot import CompiledTarget, RequestHead, Snapshot
from potluck.ports import Call, Failure, NodeEvents, Sink, SnapshotSource
from potluck.wire import link_messages as m
from potluck.wire.address import speaker_prefix, spoken_tls
from potluck.wire.link_handshake import Party

if TYPE_CHECKING:
    from potluck.hub.socket import NodeSocket

log = logging.getLogger("potluck.hub")

MAX_UNPROVEN: Final = 1024
MAX_UNPROVEN_PER_PREFIX: Final = 256
STREAM_WINDOW_BYTES: Final = 192 * 1024
"""with the 64 KiB that a caller's socket takes before it says stop, what a stalled one holds is 256 KiB"""
TICK_S: Final = 1.0
SPREAD_S: Final = 12.0
"""over which nodes dial anew when the gateway stops"""

Signs = Callable[[bytes], bytes]
Verifies = Callable[[bytes, bytes, bytes], bool]
OriginOf = Callable[[str, bool, str], str | None]
"""`origin_of(host, tls, socket_address)`: under which origin this gateway was meant; None: it was not"""


class Links:
    """The hub. `accept` makes the protocol of a connection, `open` a call, `sweep` lets time pass."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        snapshots: SnapshotSource,
        events: NodeEvents,
        *,
        sign: Signs,
        verify: Verifies,
        origin_of: OriginOf,
        terms: m.Welcome | None = None,
        trusted_proxies: Sequence[str] = (),
    ) -> None:
        """`sign`: by the gateway's own key. `terms`: windows and heartbeat, if not the defaults.

        `trusted_proxies`: networks of those whose `X-Forwarded-For` is believed.
        """
        self.loop = loop
        self.snapshots = snapshots
        self.events = events
        self.terms = terms or m.Welcome(0, [], stream_window_bytes=STREAM_WINDOW_BYTES)
        self.clock = time.monotonic
        self.nodes: dict[str, HubNode] = {}
        """by id; those that proved themselves since the start"""
        self.opened = self.queued = self.resumes = self.refused_handshakes = 0
        """since the start"""
        self.failed: Counter[str] = Counter()
        """links that this side ended, by code"""
        self.frames_received = self.sent_bytes = self.received_bytes = 0
        """of links that are over; those of open ones are in their sessions"""
        self._sign = sign
        self._verify = verify
        self._origin_of = origin_of
        self._trusted = [ipaddress.ip_network(each) for each in trusted_proxies]
        self._parties: dict[str, Party] = {}
        self._sockets: set[NodeSocket] = set()
        self._joining: dict[NodeSocket, Session] = {}
        """WebSockets that have not proved to be a node"""
        self._unproven: Counter[str] = Counter()
        """their number, by address prefix"""
        self._snapshot: Snapshot | None = None
        self._ticked_at = 0.0
        self._leaving = False
        self._prefix = secrets.token_hex(5)
        self._count = 0

    # --- ports.Upstream

    def open(self, target: CompiledTarget, head: RequestHead, body: bytes, sink: Sink) -> Call:
        """Start a call to a target on a node. Never raises; the sink is called later, never from here."""
        place = target.node
        assert place is not None
        node = self.nodes.get(place.node_id)
        absent = node is None
        if node is None:
            node = HubNode(self, place.node_id)
        headers = [(name.lower(), value) for name, value in head.headers if name.lower() in m.REQUEST_HEADERS]
        call = HubCall(node, place, head.path, headers, body, target.endpoint.timeouts, sink)
        failure: Failure | None
        if absent:
            failure = Failure("refused", "connect", "takes no calls: not connected")
        elif len(body) > m.MAX_BODY_BYTES:
            failure = Failure("refused", "connect", f"takes at most {m.MAX_BODY_BYTES} bytes")
        else:
            failure = node.open(call)
        if failure is not None:
            self.loop.call_soon(call.fail, failure)
        return call

    # --- the runtime's side

    def accept(self) -> asyncio.Protocol:
        """The protocol that takes over a connection whose request is for `/node/v1/link`."""
        from potluck.hub.socket import NodeSocket  # an idle gateway does without the library

        socket = NodeSocket(self, self.loop)
        self._sockets.add(socket)
        return socket

    def in_force(self, node_id: str, revision: int) -> None:
        """The snapshot routes by what the node offered up to this revision."""
        node = self.nodes.get(node_id)
        if node is not None:
            node.in_force(revision)

    def sweep(self, now: float) -> None:
        """Let time pass; called ten times a second. `now`: monotonic seconds."""
        current = self.snapshots.current
        if current is not self._snapshot:
            self._snapshot = current
            for node in list(self.nodes.values()):
                self._guarded(node, self._look_up, node, now)
            for session in list(self._joining.values()):
                self._guarded(session, session.look_up, now)
        for node in list(self.nodes.values()):
            if node.calls or node.waiting or node.waiting_own:
                self._guarded(node, node.check, now)
        for socket in [each for each in self._sockets if now >= each.deadline]:
            socket.abort()
        if now - self._ticked_at >= TICK_S:
            self._ticked_at = now
            for node in list(self.nodes.values()):
                self._guarded(node, node.tick, now)
            for session in list(self._joining.values()):
                self._guarded(session, session.tick, now)

    def _look_up(self, node: HubNode, now: float) -> None:
        """What the new snapshot says of it."""
        if node.id in self.snapshots.current.nodes:
            node.drop_void_keys(now)
            node.review(now)
        else:
            node.end("revoked", "this gateway does not know the node any more", now)
            self._forget(node)

    def _guarded(self, whose: HubNode | Session, step: Callable[..., None], *arguments: Any) -> None:
        try:
            step(*arguments)
        except Exception as error:
            who = f"node {whose.id}" if isinstance(whose, HubNode) else "a connection that has not proved itself"
            log.error("a fault of the gateway ended the links of %s: %s", who, fault_of(error))
            self.count_failed("internal")
            sessions = [*whose.sessions, *whose.newcomers] if isinstance(whose, HubNode) else [whose]
            try:
                whose.end("internal", "a fault of the gateway", self.clock())
            except Exception as again:
                log.error("and they could not be told: %s", fault_of(again))
                for session in sessions:
                    session.socket.abort()

    def leave(self) -> None:
        """The gateway is about to stop: no new calls over these links, what runs may end."""
        self._leaving = True
        now = self.clock()
        for node in list(self.nodes.values()):
            for session in node.sessions:
                if session.core.phase == "open":
                    session.core.goaway("restart", "the gateway stops", SPREAD_S)
                    session.socket.wake()
            node.review(now)

    def close(self) -> None:
        """Close every link; nodes dial anew, spread over `SPREAD_S`. Sockets are gone a moment later."""
        self._leaving = True
        now = self.clock()
        for node in list(self.nodes.values()):
            node.end("restart", "the gateway stops", now, SPREAD_S)
        for socket in list(self._sockets):
            socket.finish()

    def cut(self) -> None:
        """Drop what is left of the connections."""
        for socket in list(self._sockets):
            socket.abort()

    @property
    def sockets(self) -> int:
        """Connections, those of strangers included."""
        return len(self._sockets)

    def frames(self) -> float:
        """Received since the start. Any thread may ask."""
        return self.frames_received + sum(
            session.frames_received for node in list(self.nodes.values()) for session in list(node.sessions)
        )

    def bytes(self) -> dict[tuple[str, ...], float]:
        """By direction, since the start. Any thread may ask."""
        sockets = list(self._sockets)
        return {
            ("in",): float(self.received_bytes + sum(socket.received_bytes for socket in sockets)),
            ("out",): float(self.sent_bytes + sum(socket.sent_bytes for socket in sockets)),
        }

    # --- `hub.socket.Door`

    def speaker(self, peername: object, forwarded: list[str]) -> str:
        """Address prefix of who dials, be it through a trusted proxy."""
        return speaker_prefix(peername, forwarded, self._trusted)

    def admit(self, socket: "NodeSocket", host: str, protos: list[str]) -> Session:
        """A WebSocket. `protos`: its X-Forwarded-Proto fields. Raises `Refused`."""
        from potluck.hub.socket import Refused

        transport = socket.transport
        sockname = transport.get_extra_info("sockname")
        address = str(sockname[0]) if isinstance(sockname, tuple) else ""
        tls = transport.get_extra_info("sslcontext") is not None
        tls = spoken_tls(tls, transport.get_extra_info("peername"), protos, self._trusted)
        origin = self._origin_of(host, tls, address)
        if origin is None:
            self.refused_handshakes += 1
            raise Refused(http.HTTPStatus.MISDIRECTED_REQUEST, "this gateway does not answer under that host name")
        full = len(self._joining) >= MAX_UNPROVEN or self._unproven[socket.peer] >= MAX_UNPROVEN_PER_PREFIX
        if full or self._leaving:
            self.refused_handshakes += 1
            raise Refused(http.HTTPStatus.SERVICE_UNAVAILABLE, "too many are connecting; try again in a moment")
        party = self._parties.get(origin)
        if party is None:
            if len(self._parties) >= MAX_UNPROVEN_PER_PREFIX:
                self._parties.clear()
            party = self._parties[origin] = Party("gateway", origin, self._sign, self._verify)
        session = Session(self, socket, party, self.clock())
        self._joining[socket] = session
        self._unproven[socket.peer] += 1
        return session

    def left(self, socket: "NodeSocket") -> None:
        """A connection is over."""
        self._sockets.discard(socket)
        self.sent_bytes += socket.sent_bytes
        self.received_bytes += socket.received_bytes

    # --- sessions' side

    def node(self, node_id: str) -> HubNode:
        """The node that has proved itself, known from now on."""
        node = self.nodes.get(node_id)
        if node is None:
            node = self.nodes[node_id] = HubNode(self, node_id)
        return node

    def proved(self, session: Session) -> None:
        """It holds the key: it is no stranger any more, though it may have to wait for `HubNode.admits`."""
        socket = session.socket
        if self._joining.pop(socket, None) is not None:
            self._unproven[socket.peer] -= 1
            if not self._unproven[socket.peer]:
                del self._unproven[socket.peer]

    def session_over(self, session: Session, now: float) -> None:
        """Its connection is gone."""
        self.proved(session)
        self.frames_received += session.frames_received
        node = session.node
        if node is not None:
            node.left(session, now)
            self._forget(node)

    def _forget(self, node: HubNode) -> None:
        """Drop it if it is revoked and nothing of it is left."""
        if node.id not in self.snapshots.current.nodes and not (node.sessions or node.newcomers or node.calls):
            self.nodes.pop(node.id, None)

    def count_failed(self, code: str) -> None:
        """A link was ended by this side."""
        self.failed[code] += 1

    def new_id(self) -> str:
        """Never given twice, by another process neither: nodes name jobs of the last one."""
        self._count += 1
        return f"{self._prefix}-{self._count:x}"

    @staticmethod
    def nonce() -> str:
        """32 random bytes in hexadecimal."""
        return secrets.token_hex(32)
