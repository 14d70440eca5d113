"""A node's WebSocket at the gateway: bytes in, whole messages to its session; the session's frames out.

Rules of this file
- It takes over a connection whose first bytes were read elsewhere: they are fed in like all others. The handshake is
  for `/node/v1/link` with the subprotocol, without compression. `Origin` is refused (browsers are not nodes, 403), and
  so is a Host under which this gateway is not meant (421) and one too many that has not proved itself (503).
- It never stops reading: what limits a node is the window of the link, and a reader that stops hears no heartbeat. But
  one node's bytes are read `READ_BYTES` at a time, and after `TURN_S` of that it is the others' turn for as long: many
  small frames cost much time, and the event loop reads megabytes of them at once.
- It writes while the transport takes it: bodies wait in the core meanwhile, whose control frames are bounded; pongs
  that the peer does not take end the connection.
- WebSocket pings and pongs are few (`m.CONTROL_PER_S`), and so are the fragments of a message: neither costs memory or
  time that a window would not bound.
- One binary message is one frame. Until HELLO was read a message is at most an early frame's size, so that strangers
  cost little. A text message ends the link.
- Its last words are the core's GOAWAY, then the WebSocket's own close. After `CLOSE_S` it is cut.
"""

import asyncio
import http
import logging
import time
from typing import Any, Final, Protocol

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from potluck.wire import link_frames as f
from potluck.wire import link_messages as m
from potluck.wire.address import peer_prefix
from potluck.wire.link import LinkCore

PATH: Final = "/node/v1/link"
MAX_HANDSHAKE_BYTES: Final = 16 * 1024
MAX_MESSAGE_BYTES: Final = m.MAX_CAPS_BYTES + f.DATA_HEADER.size
MAX_EARLY_MESSAGE_BYTES: Final = m.MAX_EARLY_BYTES + f.HEADER.size
MAX_PARTS: Final = 64
"""fragments of one message: some proxies cut large ones"""
MAX_PONGS: Final = 32
"""unsent answers to a peer's WebSocket pings"""
READ_BYTES: Final = 4 * 1024
TURN_S: Final = 0.004
CLOSE_S: Final = 1.0
"""for the last words to be taken"""
FOREVER: Final = float("inf")
clock = time.monotonic

_quiet = logging.getLogger("potluck.websocket")
_quiet.setLevel(logging.CRITICAL)  # the library tells each link's end; what matters is told by the session


class Refused(Exception):  # noqa: N818 — an answer, not an error
    """The handshake is refused with an HTTP status; the words are for the node's owner."""

    def __init__(self, status: http.HTTPStatus, words: str) -> None:
        super().__init__(words)
        self.status = status


class Ear(Protocol):
    """Who a connection belongs to once it is a WebSocket."""

    core: LinkCore

    def message(self, data: bytes, now: float) -> None:
        """A whole binary message."""

    def pong(self, payload: bytes) -> None:
        """The answer to `ping`, or one that nobody asked for."""

    def broken(self, words: str) -> None:
        """The other end broke a rule of WebSockets, or of this file; `gone` follows."""

    def gone(self, now: float) -> None:
        """The connection is over, from whichever side; told once."""


class Door(Protocol):
    """Lets connections in."""

    def speaker(self, peername: object, forwarded: list[str]) -> str:
        """Address prefix of who dials, be it through a trusted proxy."""

    def admit(self, socket: "NodeSocket", host: str, protos: list[str]) -> Ear:
        """A handshake that is in order. `protos`: its X-Forwarded-Proto fields. Raises `Refused`."""

    def left(self, socket: "NodeSocket") -> None:
        """The connection is over."""


class NodeSocket(asyncio.Protocol):
    """One connection, from the hand-over to its end."""

    __slots__ = (
        "_allowance",
        "_allowance_at",
        "_backlog",
        "_blocked",
        "_closing",
        "_door",
        "_ear",
        "_handshake_bytes",
        "_loop",
        "_parts",
        "_proto",
        "_pumping",
        "deadline",
        "peer",
        "received_bytes",
        "sent_bytes",
        "transport",
    )

    def __init__(self, door: Door, loop: asyncio.AbstractEventLoop) -> None:
        self._door = door
        self._loop = loop
        self._proto = ServerProtocol(
            origins=[None], subprotocols=[Subprotocol(m.SUBPROTOCOL)], max_size=MAX_EARLY_MESSAGE_BYTES, logger=_quiet
        )
        self._ear: Ear | None = None
        self._blocked = self._closing = self._pumping = False
        self._handshake_bytes = 0
        self._allowance, self._allowance_at = float(m.CONTROL_BURST), clock()
        self._parts: list[bytes] = []
        """of a message that came in several WebSocket frames"""
        self._backlog = b""
        """read, and left for the next turn: reading is stopped meanwhile"""
        self.deadline = FOREVER
        """it is cut then; swept by its door"""
        self.peer = "local"
        """address prefix of the other end (/24, /64)"""
        self.sent_bytes = self.received_bytes = 0
        self.transport: Any = None

    # --- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.peer = peer_prefix(transport.get_extra_info("peername"))
        self.deadline = clock() + m.HANDSHAKE_S

    def data_received(self, data: bytes) -> None:
        self.received_bytes += len(data)
        if self._backlog:  # reading stops a moment after it was told to
            self._backlog += data
        elif len(data) <= READ_BYTES:
            self._read(data)
        else:
            self._take_turn(data)

    def _take_turn(self, data: bytes) -> None:
        """As much as fits into a turn; the rest after a pause of that length."""
        began = clock()
        for start in range(0, len(data), READ_BYTES):
            taken_s = clock() - began
            if taken_s >= TURN_S:
                self._backlog = data[start:]
                self.transport.pause_reading()
                self._loop.call_later(taken_s, self._next_turn)
                return
            self._read(data[start : start + READ_BYTES])

    def _next_turn(self) -> None:
        data, self._backlog = self._backlog, b""
        if self.transport.is_closing():
            return
        self._take_turn(data)
        if not self._backlog:
            self.transport.resume_reading()

    def _read(self, data: bytes) -> None:
        proto = self._proto
        if self._ear is None and not self._closing:
            self._handshake_bytes += len(data)
            if self._handshake_bytes > MAX_HANDSHAKE_BYTES:
                self._refuse(431, "Request Header Fields Too Large")
                return
        proto.receive_data(data)
        now, ended = clock(), proto.eof_sent
        for event in proto.events_received():
            if self._closing or proto.eof_sent != ended:
                break  # this side has ended it; what the other side said before its own end still counts
            if isinstance(event, Request):
                self._upgrade(event)
            elif isinstance(event, Frame):
                self._on_frame(event, now)
        if self._ear is not None and not self._closing and proto.state is not State.OPEN:
            self._closing = True
            self.deadline = now + CLOSE_S
            if proto.close_rcvd is None:
                self._ear.broken(proto.close_sent.reason if proto.close_sent is not None else "cut")
        if self._ear is None and proto.handshake_exc is not None and not self._closing:
            if not any(proto.writes):
                self._refuse(400, "Bad Request")
                return
            self._closing = True
            self.deadline = now + CLOSE_S
        self.flush()

    def eof_received(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 — asyncio's signature
        self._end()
        self._door.left(self)

    # --- the session's side

    def raise_limit(self) -> None:
        """HELLO came: messages may be as large as the protocol has them. The parser asks one message ahead."""
        self._proto.max_message_size = MAX_MESSAGE_BYTES

    def wake(self) -> None:
        """The core has something to send: once per loop turn, however much is said in it."""
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump_later)

    def _pump_later(self) -> None:
        self._pumping = False
        self.flush()

    def flush(self) -> None:
        """Write what may be written now."""
        proto, transport = self._proto, self.transport
        if transport.is_closing():
            return
        if self._blocked and not self._closing:
            if len(proto.writes) > MAX_PONGS:
                transport.abort()
            return
        ear = self._ear
        while ear is not None and not self._blocked and not self._closing and ear.core.wants_to_send:
            frames = ear.core.frames_to_send()
            if not frames:
                break
            for frame in frames:
                proto.send_binary(frame)
            self._write()
        if proto.writes:
            self._write()

    def ping(self, payload: bytes) -> None:
        """Ask whether the other end lives; its WebSocket answers by itself."""
        if self._proto.state is State.OPEN:
            self._proto.send_ping(payload)
            self.flush()

    def finish(self) -> None:
        """Say the core's last frames, taken or not, and close. The session hears no more of it."""
        if self._closing:
            return
        ear, proto = self._ear, self._proto
        self._closing = True
        self.deadline = clock() + CLOSE_S
        if ear is not None and proto.state is State.OPEN:
            for frame in ear.core.frames_to_send(0):
                proto.send_binary(frame)
            proto.send_close(1000)
        self._write()

    def abort(self) -> None:
        """Cut it."""
        if self.transport is not None:
            self.transport.abort()

    # --- steps

    def _upgrade(self, request: Request) -> None:
        proto = self._proto
        response = proto.accept(request)
        if response.status_code == http.HTTPStatus.SWITCHING_PROTOCOLS:
            try:
                if request.path != PATH:
                    raise Refused(http.HTTPStatus.NOT_FOUND, f"nodes dial {PATH}")
                if proto.subprotocol is None:
                    raise Refused(http.HTTPStatus.BAD_REQUEST, f"the subprotocol is {m.SUBPROTOCOL}")
                hosts = request.headers.get_all("Host")
                if len(hosts) != 1:
                    raise Refused(http.HTTPStatus.BAD_REQUEST, "exactly one Host is needed")
                forwarded = request.headers.get_all("X-Forwarded-For")
                self.peer = self._door.speaker(self.transport.get_extra_info("peername"), forwarded)
                self._ear = self._door.admit(self, hosts[0], request.headers.get_all("X-Forwarded-Proto"))
                self.deadline = FOREVER  # from here on the core has the deadlines
            except Refused as refused:
                response = proto.reject(refused.status, f"{refused}\n")
                if refused.status == http.HTTPStatus.SERVICE_UNAVAILABLE:
                    response.headers["Retry-After"] = "5"
        proto.send_response(response)
        if self._ear is None:
            self._closing = True
            self.deadline = clock() + CLOSE_S
            self._write()

    def _refuse(self, status: int, words: str) -> None:
        self._closing = True
        self.deadline = clock() + CLOSE_S
        self.transport.write(
            b"HTTP/1.1 %d %s\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % (status, words.encode())
        )
        self.transport.close()

    def _on_frame(self, frame: Frame, now: float) -> None:
        ear = self._ear
        if ear is None:
            return
        opcode = frame.opcode
        if opcode is Opcode.BINARY and frame.fin:
            ear.message(bytes(frame.data), now)
        elif opcode is Opcode.BINARY or opcode is Opcode.CONT:
            self._parts.append(bytes(frame.data))
            if len(self._parts) > MAX_PARTS:
                self._proto.fail(1008, "a message in too many pieces")
            elif frame.fin:
                parts, self._parts = self._parts, []
                ear.message(b"".join(parts), now)
        elif opcode is Opcode.TEXT:
            self._proto.fail(1003, "frames are binary messages")
        elif opcode is Opcode.PING or opcode is Opcode.PONG:
            grown = self._allowance + (now - self._allowance_at) * m.CONTROL_PER_S
            self._allowance, self._allowance_at = min(float(m.CONTROL_BURST), grown) - 1, now
            if self._allowance < 0:
                self._proto.fail(1008, "too many pings")
            elif opcode is Opcode.PONG:
                ear.pong(bytes(frame.data))

    def _write(self) -> None:
        writes = self._proto.data_to_send()
        ended = bool(writes) and not writes[-1]
        data = b"".join(writes)
        self.sent_bytes += len(data)
        if data and not self.transport.is_closing():
            self.transport.write(data)
        if ended:
            self._end()
            self.transport.close()
            self.deadline = min(self.deadline, clock() + CLOSE_S)

    def _end(self) -> None:
        self._closing = True
        ear, self._ear = self._ear, None
        if ear is not None:
            ear.gone(clock())
