"""Wayland's idle notifications, from a compositor that is played over a real socket."""

import contextlib
import socket
import struct
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from potluck.node.presence.wayland import IDLE_MS, WaylandIdle

SEAT, NOTIFIER = 11, 12
"""names of globals"""


def message(object_id: int, opcode: int, arguments: bytes = b"") -> bytes:
    """As it is sent."""
    return struct.pack("=II", object_id, (8 + len(arguments)) << 16 | opcode) + arguments


def offer(name: int, interface: str, version: int) -> bytes:
    """A global of the registry."""
    text = interface.encode() + b"\0"
    padded = text.ljust((len(text) + 3) // 4 * 4, b"\0")
    return message(2, 0, struct.pack("=II", name, len(text)) + padded + struct.pack("=I", version))


class Compositor:
    """Takes one client at a time; `version` 0: it cannot tell of idleness."""

    def __init__(self, path: Path, version: int = 2) -> None:
        self.version = version
        self.notified = threading.Event()
        self.requests: list[tuple[int, int, bytes]] = []
        self.client: socket.socket | None = None
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def say(self, data: bytes) -> None:
        assert self.client is not None
        self.client.sendall(data)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        with contextlib.suppress(OSError):  # the client may have left
            if self.client is not None:
                self.client.shutdown(socket.SHUT_RDWR)
        self._thread.join(20)

    def _serve(self) -> None:
        while True:
            try:
                self.client, _ = self._server.accept()
            except OSError:
                return
            with self.client:
                self._talk(self.client)

    def _talk(self, client: socket.socket) -> None:
        buffer = b""
        while data := client.recv(4096):
            buffer += data
            while len(buffer) >= 8 and len(buffer) >= struct.unpack_from("=II", buffer)[1] >> 16:
                object_id, second = struct.unpack_from("=II", buffer)
                size = second >> 16
                self._answer(client, object_id, second & 0xFFFF, buffer[8:size])
                buffer = buffer[size:]

    def _answer(self, client: socket.socket, object_id: int, opcode: int, arguments: bytes) -> None:
        self.requests.append((object_id, opcode, arguments))
        if (object_id, opcode) == (1, 1):
            offers = offer(10, "wl_compositor", 6) + offer(SEAT, "wl_seat", 9)
            offers += offer(NOTIFIER, "ext_idle_notifier_v1", self.version) if self.version else b""
            for byte in offers:  # in the smallest pieces
                client.sendall(bytes([byte]))
        elif (object_id, opcode) == (1, 0):
            client.sendall(message(3, 0, struct.pack("=I", 1)) + message(1, 1, struct.pack("=I", 3)))
        elif object_id == 5:
            self.notified.set()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the socket is; paths of sockets are short."""
    return tmp_path / "w"


def client_of(place: Path, clock: SimpleNamespace) -> WaylandIdle:
    """As the environment tells."""
    return WaylandIdle({"XDG_RUNTIME_DIR": str(place.parent), "WAYLAND_DISPLAY": place.name}, lambda: clock.now_s)


def until(idle: WaylandIdle, wanted: float | None) -> None:
    """Read until it says so; fails by the test's own time-out else."""
    while idle.idle_s() != wanted:
        threading.Event().wait(0.002)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_compositor_tells_when_input_stops_and_comes_back(place: Path, version: int) -> None:
    """Idle since its word plus what it waited; 0 again with the first input. The variant without inhibitors is asked
    where there is one."""
    clock, compositor = SimpleNamespace(now_s=100.0), Compositor(place, version)
    idle = client_of(place, clock)
    try:
        assert idle.idle_s() == 0.0
        assert compositor.notified.wait(20)
        [(_, opcode, arguments)] = [each for each in compositor.requests if each[0] == 5]
        assert opcode == min(version, 2)
        assert struct.unpack("=III", arguments) == (6, IDLE_MS, 4)
        compositor.say(message(4, 0, struct.pack("=I", 3)) + message(6, 0))
        until(idle, IDLE_MS / 1000)
        clock.now_s = 160.0
        assert idle.idle_s() == IDLE_MS / 1000 + 60
        compositor.say(message(6, 1))
        until(idle, 0.0)
    finally:
        idle.close()
        compositor.close()


def test_a_compositor_that_cannot_tell_is_not_asked(place: Path) -> None:
    """Nothing is known, and nothing was bound."""
    compositor = Compositor(place, version=0)
    idle = client_of(place, SimpleNamespace(now_s=0.0))
    assert idle.idle_s() is None
    compositor.close()
    assert [each[:2] for each in compositor.requests] == [(1, 1), (1, 0)]


@pytest.mark.parametrize("words", [message(1, 0, b"\0" * 12), b"\xff" * 8, b"\0" * 8, None])
def test_what_is_not_understood_is_not_believed(place: Path, words: bytes | None) -> None:
    """A complaint, nonsense, or the end: nothing is known, and it is tried anew."""
    clock, compositor = SimpleNamespace(now_s=0.0), Compositor(place)
    idle = client_of(place, clock)
    try:
        assert idle.idle_s() == 0.0
        assert compositor.notified.wait(20)
        compositor.say(message(6, 0))
        until(idle, IDLE_MS / 1000)
        if words is None:
            assert compositor.client is not None
            compositor.client.shutdown(socket.SHUT_RDWR)
        elif words.startswith(b"\xff"):
            compositor.say(words + b"\0" * 70_000)
        else:
            compositor.say(words)
        until(idle, None)
        until(idle, 0.0)
    finally:
        idle.close()
        compositor.close()


def test_without_a_display_nothing_is_known(tmp_path: Path) -> None:
    """No variable, no socket."""
    assert WaylandIdle({}).idle_s() is None
    assert WaylandIdle({"XDG_RUNTIME_DIR": str(tmp_path), "WAYLAND_DISPLAY": "wayland-9"}).idle_s() is None
