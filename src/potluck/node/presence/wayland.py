"""How long a Wayland seat had no input, by `ext-idle-notify-v1`: KWin, Sway, Hyprland and others, and Mutter of late.

The compositor says when there was no input for `IDLE_MS` (`idled`), and when there is again (`resumed`).
A message is: object id, size << 16 | opcode, arguments; words of four bytes in the machine's order.

Rules of this file
- One connection, kept. It is read without waiting; only its beginning waits, for `CONNECT_S` at most.
- The variant that video players cannot hold up is used where there is one.
- What is not understood ends the connection, and nothing is known.
"""

import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

IDLE_MS = 5000
CONNECT_S = 1.0
MAX_BUFFER_BYTES = 1 << 20
_DISPLAY, _REGISTRY, _CALLBACK, _SEAT, _NOTIFIER, _NOTIFICATION = 1, 2, 3, 4, 5, 6
"""object ids"""
_SEAT_INTERFACE, _NOTIFIER_INTERFACE = "wl_seat", "ext_idle_notifier_v1"


class WaylandIdle:
    """Of the seat of `$WAYLAND_DISPLAY`."""

    def __init__(self, env: Mapping[str, str], clock: Callable[[], float] = time.monotonic) -> None:
        self._env = env
        self._clock = clock
        self._socket: socket.socket | None = None
        self._buffer = b""
        self._idled_s: float | None = None

    def idle_s(self) -> float | None:
        """0 while there was input within `IDLE_MS`; None: the compositor does not tell."""
        try:
            if self._socket is None:
                self._connect()
            self._listen()
        except (OSError, ValueError, struct.error):
            self.close()
            return None
        return 0.0 if self._idled_s is None else IDLE_MS / 1000 + self._clock() - self._idled_s

    def close(self) -> None:
        """Leave the compositor."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._buffer, self._idled_s = None, b"", None

    def _connect(self) -> None:
        """Raises OSError, and ValueError for a compositor that cannot tell."""
        display = self._env.get("WAYLAND_DISPLAY", "")
        if not display:
            raise ValueError("no display")
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(CONNECT_S)
        self._socket.connect(str(Path(self._env.get("XDG_RUNTIME_DIR", "/"), display)))
        self._socket.sendall(_message(_DISPLAY, 1, _word(_REGISTRY)) + _message(_DISPLAY, 0, _word(_CALLBACK)))
        offered: dict[str, tuple[int, int]] = {}
        deadline_s = time.monotonic() + CONNECT_S
        while True:
            self._receive(max(deadline_s - time.monotonic(), 0.001))
            for sender, opcode, arguments in self._messages():
                if sender == _REGISTRY and opcode == 0:
                    number, length = struct.unpack_from("=II", arguments)
                    interface = arguments[8 : 8 + length - 1].decode("ascii")
                    (version,) = struct.unpack_from("=I", arguments, 8 + _padded(length))
                    offered.setdefault(interface, (number, version))
                elif sender == _CALLBACK:
                    self._ask(self._socket, offered)
                    return

    def _ask(self, to: socket.socket, offered: dict[str, tuple[int, int]]) -> None:
        if _SEAT_INTERFACE not in offered or _NOTIFIER_INTERFACE not in offered:
            raise ValueError("the compositor does not tell")
        version = min(offered[_NOTIFIER_INTERFACE][1], 2)
        to.sendall(
            _bind(offered[_SEAT_INTERFACE][0], _SEAT_INTERFACE, 1, _SEAT)
            + _bind(offered[_NOTIFIER_INTERFACE][0], _NOTIFIER_INTERFACE, version, _NOTIFIER)
            + _message(_NOTIFIER, version, struct.pack("=III", _NOTIFICATION, IDLE_MS, _SEAT))
        )

    def _listen(self) -> None:
        """Take what came, without waiting."""
        while self._receive(0):
            pass
        for sender, opcode, _ in self._messages():
            if sender == _NOTIFICATION:
                self._idled_s = self._clock() if opcode == 0 else None

    def _receive(self, timeout_s: float) -> bool:
        """True: something came. Raises OSError for a closed connection, and at the end of a time-out that is not 0."""
        assert self._socket is not None
        self._socket.settimeout(timeout_s)
        try:
            data = self._socket.recv(64 << 10)
        except BlockingIOError:
            return False
        if not data or len(self._buffer) > MAX_BUFFER_BYTES:
            raise ConnectionError("the compositor left")
        self._buffer += data
        return True

    def _messages(self) -> Iterator[tuple[int, int, bytes]]:
        """Sender, opcode and arguments of each whole message. Raises ValueError for the compositor's complaint."""
        while len(self._buffer) >= 8:
            sender, second = struct.unpack_from("=II", self._buffer)
            size, opcode = second >> 16, second & 0xFFFF
            if size < 8:
                raise ValueError("no message")
            if len(self._buffer) < size:
                return
            arguments, self._buffer = self._buffer[8:size], self._buffer[size:]
            if (sender, opcode) == (_DISPLAY, 0):
                raise ValueError("the compositor complains")
            yield sender, opcode, arguments


def _padded(length: int) -> int:
    return (length + 3) // 4 * 4


def _word(value: int) -> bytes:
    return struct.pack("=I", value)


def _message(object_id: int, opcode: int, arguments: bytes) -> bytes:
    return struct.pack("=II", object_id, (8 + len(arguments)) << 16 | opcode) + arguments


def _bind(number: int, interface: str, version: int, object_id: int) -> bytes:
    text = interface.encode() + b"\0"
    text = _word(len(text)) + text.ljust(_padded(len(text)), b"\0")
    return _message(_REGISTRY, 0, _word(number) + text + struct.pack("=II", version, object_id))
