"""One link of a node: its core, its socket, and what its owner has to do at each of the core's events.

    HELLO ─▶ is it known? ─▶ CHALLENGE ─▶ PROOF ─▶ is it the machine? ─▶ WELCOME ─▶ open ─▶ over
              (waits KNOWN_S)                        (waits CLONE_S)

Rules of this file
- A node that the snapshot does not have is waited for a moment: it may have enrolled just now. Then it is told
  `revoked`; which of both it was, unknown or revoked, is not said to who has proved nothing.
- Events go to the node (`hub.node`), which all links of a machine share. The time is passed in.
- Whatever ends the link, `gone` is told once, and the core's last frames go out before.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from potluck.wire import link_events as e
from potluck.wire import link_messages as m
from potluck.wire.link import LinkCore

if TYPE_CHECKING:
    from potluck.hub.links import Links
    from potluck.hub.node import HubNode
    from potluck.hub.socket import NodeSocket
    from potluck.wire.link_handshake import Party

KNOWN_S: Final = 2.0
"""a node that enrolled this moment dials before the snapshot has it"""


class Session:
    """One link, from its WebSocket to its end."""

    __slots__ = (
        "asked",
        "caps",
        "core",
        "frames_received",
        "heard_at",
        "hello",
        "links",
        "node",
        "opened_at",
        "ruling_at",
        "socket",
        "suspect",
        "unacked",
        "unknown_until",
    )

    def __init__(self, links: "Links", socket: "NodeSocket", party: "Party", now: float) -> None:
        self.links = links
        self.socket = socket
        self.core = LinkCore(party, now)
        self.hello: m.Hello | None = None
        self.node: HubNode | None = None
        """once it has proved to be that one"""
        self.caps: m.Caps | None = None
        self.unacked = -1
        """revision of CAPS that is not in force yet; -1: none"""
        self.opened_at = 0.0
        self.heard_at = now
        self.unknown_until = 0.0
        """until when its node may turn up in the snapshot; 0: it was looked up, or has not said who it is"""
        self.ruling_at = 0.0
        """when it is decided whether it is the machine; 0: it is, or is not at that point"""
        self.asked: dict[Session, bytes] = {}
        """links of the same node by another start of its agent, and what each was pinged with"""
        self.suspect = False
        self.frames_received = 0

    # --- the socket's side (`hub.socket.Ear`)

    def message(self, data: bytes, now: float) -> None:
        self.heard_at = now
        self.frames_received += 1
        for event in self.core.receive(data, now):
            if type(event) is e.DataCame:
                assert self.node is not None
                self.node.data_came(event.job, event.data)
            else:
                self.tell(event, now)

    def pong(self, payload: bytes) -> None:
        """It lives: newcomers under its name with another boot are somebody else."""
        self.heard_at = self.links.clock()
        if self.node is not None:
            self.node.answered(self, payload)

    def broken(self, words: str) -> None:
        """It is no WebSocket as the protocol wants it; its end follows."""
        if self.node is not None:
            self.links.events.reported(self.node.id, "violation", f"websocket: {words}")
        self.links.count_failed("websocket")

    def gone(self, now: float) -> None:
        for event in self.core.lost(now):
            self.tell(event, now)
        self.links.session_over(self, now)

    # --- its owner's side

    def tick(self, now: float) -> None:
        """About once a second."""
        for event in self.core.tick(now):
            self.tell(event, now)
        self.look_up(now)
        if self.ruling_at and now >= self.ruling_at:
            self.rule(now)
        self.socket.flush()

    def end(self, code: str, detail: str, now: float, spread_s: float = 0.0) -> None:
        """Close it with a reason."""
        for event in self.core.close(code, detail, now, spread_s):
            self.tell(event, now)
        self.socket.finish()
        if self.node is not None:
            self.node.review(now)

    def tell(self, event: e.Event, now: float) -> None:
        """Do what an event asks for."""
        _DO[type(event)](self, event, now)

    # --- events of the handshake

    def _on_hello(self, event: e.HelloCame, now: float) -> None:
        self.hello = event.hello
        self.socket.raise_limit()
        self.unknown_until = now + KNOWN_S
        self.look_up(now)

    def look_up(self, now: float) -> None:
        """If its node is waited for, see whether the snapshot has it by now."""
        if not self.unknown_until:
            return
        assert self.hello is not None
        known = self.links.snapshots.current.nodes.get(self.hello.node)
        if known is not None and (key := known.keys.get(self.hello.key)) is not None:
            self.unknown_until = 0.0
            self.core.challenge(key, self.links.new_id(), self.links.nonce())
            self.socket.wake()
        elif now >= self.unknown_until:
            self.unknown_until = 0.0
            self.end("revoked", "this gateway does not know the node, or not any more", now)

    def _on_proved(self, _: e.Event, now: float) -> None:
        assert self.hello is not None
        self.links.proved(self)
        if not self.key_counts():  # it was revoked since the challenge
            self.end("revoked", "this gateway does not know the node any more", now)
            return
        self.node = self.links.node(self.hello.node)
        self.rule(now)

    def key_counts(self) -> bool:
        """Whether the node is still there, and the key by which this link was dialled is still one of its keys."""
        assert self.hello is not None
        known = self.links.snapshots.current.nodes.get(self.hello.node)
        return known is not None and self.hello.key in known.keys

    def rule(self, now: float) -> None:
        """Is it the machine? Known at once, or after the machine's other links were asked."""
        self.ruling_at = 0.0
        assert self.node is not None
        if self.core.phase == "handshake" and self.node.admits(self, now):
            self.opened_at = now
            self.core.welcome(self.node.table, now, self.links.terms)
            self.node.joined(self, now)
            self.socket.wake()

    # --- events of the link

    def _on_caps(self, event: e.CapsCame, now: float) -> None:
        self.caps = event.caps
        self.unacked = event.caps.revision
        self._node.caps_came(self, event.caps, now)

    def _on_load(self, event: e.LoadCame, now: float) -> None:
        self._node.load_came(self, event.load, now)

    def _on_drain(self, event: e.DrainCame, now: float) -> None:
        self._node.drain_came(event.drain, now)

    def _on_task_ended(self, event: e.TaskEnded, _: float) -> None:
        self._node.task_ended(event.result)

    def _on_changed(self, event: e.Event, now: float) -> None:
        self.suspect = isinstance(event, e.Suspect)
        self._node.review(now)

    def _on_goaway(self, event: e.GoingAway, now: float) -> None:
        if self.node is not None:
            self.node.review(now)
        if not event.goaway.graceful:
            self.socket.finish()

    def _on_failed(self, event: e.Failed, now: float) -> None:
        if self.node is not None:
            self.links.events.reported(self.node.id, "violation", f"{event.code}: {event.detail}")
        self.links.count_failed(event.code)
        self.socket.finish()
        if self.node is not None:
            self.node.review(now)

    def _on_logged(self, event: e.Logged, _: float) -> None:
        self.links.events.reported(self._node.id, "log", f"{event.log.level}: {event.log.text}")

    def _on_job(self, event: Any, _: float) -> None:
        if self.node is not None:
            self.node.job_event(event)

    def _nothing(self, event: e.Event, now: float) -> None:
        """Nobody waits for it."""

    @property
    def _node(self) -> "HubNode":
        assert self.node is not None
        return self.node


_DO: Final[dict[type[e.Event], Callable[[Session, Any, float], None]]] = {
    e.HelloCame: Session._on_hello,
    e.Proved: Session._on_proved,
    e.CapsCame: Session._on_caps,
    e.LoadCame: Session._on_load,
    e.DrainCame: Session._on_drain,
    e.Drained: Session._nothing,
    e.TaskEnded: Session._on_task_ended,
    e.Logged: Session._on_logged,
    e.GoingAway: Session._on_goaway,
    e.Suspect: Session._on_changed,
    e.Recovered: Session._on_changed,
    e.Failed: Session._on_failed,
    e.Accepted: Session._on_job,
    e.Refused: Session._on_job,
    e.HeadCame: Session._on_job,
    e.Ended: Session._on_job,
    e.WasReset: Session._on_job,
    e.Confirmed: Session._on_job,
    e.Resumed: Session._on_job,
    e.Lost: Session._on_job,
}
