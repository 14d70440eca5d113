"""Frames of the node link: their kinds, who may send which, reading and writing them. No state.

Rules of this file
- One WebSocket binary message is one frame: a header of 12 bytes (`HEADER`: layout, kind, flags, stream, payload
  bytes), DATA with 8 more (`OFFSET`), then the payload. Numbers are big-endian.
- `FRAMES` says of each kind who may send it, whether it belongs to a stream, and what its payload is: a JSON object
  (a struct of `link_messages.py`), or raw bytes of a fixed or limited size.
- `read` checks whatever can be known without the link's state, and raises `Violation`.
"""

import struct
from typing import Any, Final, Literal

import msgspec

from potluck.wire import link_messages as m

LAYOUT: Final = 1
HEADER: Final = struct.Struct(">BBHII")
DATA_HEADER: Final = struct.Struct(">BBHIIQ")
OFFSET: Final = struct.Struct(">Q")
IGNORABLE: Final = 0x8000
"""flag: a receiver that does not know the kind skips the frame. All other flag bits are 0."""

HELLO, CHALLENGE, PROOF, WELCOME, GOAWAY, PING, PONG = 1, 2, 3, 4, 5, 6, 7
CAPS, CAPS_ACK, LOAD, DRAIN, DRAINED, TASK, TASK_RESULT, LOG = 16, 17, 18, 19, 20, 21, 22, 23
OPEN, ACCEPT, REFUSE, HEAD, DATA, WINDOW, END, DONE, RESET, CANCEL = 32, 33, 34, 35, 36, 37, 38, 39, 40, 41
RESUME, RESUME_RESULT = 48, 49


class Violation(Exception):  # noqa: N818 — what the peer did; never leaves `LinkCore`
    """The peer broke a rule: the link ends with this code."""

    def __init__(self, code: m.FailCode, detail: str) -> None:
        super().__init__(detail)
        self.code: m.FailCode = code
        self.detail = detail


class BadMessage(ValueError):  # noqa: N818 — named for what it is on the wire
    """A payload that is not what its kind says; the message is in our words."""


class Frame(msgspec.Struct, frozen=True):
    """What the protocol knows of a kind. `payload`: a struct, or the exact size of raw bytes; None where it varies."""

    name: str
    sender: Literal["node", "gateway", "both"]
    on_stream: bool
    payload: type[m.Message] | int | None
    max_bytes: int = m.MAX_CONTROL_BYTES


FRAMES: Final[dict[int, Frame]] = {
    HELLO: Frame("HELLO", "node", False, m.Hello),
    CHALLENGE: Frame("CHALLENGE", "gateway", False, m.Challenge),
    PROOF: Frame("PROOF", "node", False, m.SIGNATURE_BYTES),
    WELCOME: Frame("WELCOME", "gateway", False, None),
    GOAWAY: Frame("GOAWAY", "both", False, m.Goaway),
    PING: Frame("PING", "both", False, 8),
    PONG: Frame("PONG", "both", False, 8),
    CAPS: Frame("CAPS", "node", False, m.Caps, m.MAX_CAPS_BYTES),
    CAPS_ACK: Frame("CAPS_ACK", "gateway", False, m.CapsAck),
    LOAD: Frame("LOAD", "node", False, m.Load),
    DRAIN: Frame("DRAIN", "both", False, m.Drain),
    DRAINED: Frame("DRAINED", "node", False, 0),
    TASK: Frame("TASK", "gateway", False, m.Task),
    TASK_RESULT: Frame("TASK_RESULT", "node", False, m.TaskResult),
    LOG: Frame("LOG", "node", False, m.Log),
    RESUME: Frame("RESUME", "node", False, m.Resume),
    RESUME_RESULT: Frame("RESUME_RESULT", "gateway", False, m.ResumeResult),
    OPEN: Frame("OPEN", "gateway", True, m.Open),
    ACCEPT: Frame("ACCEPT", "node", True, 0),
    REFUSE: Frame("REFUSE", "node", True, m.Refuse),
    HEAD: Frame("HEAD", "node", True, m.Head),
    DATA: Frame("DATA", "both", True, None, m.MAX_DATA_BYTES),
    WINDOW: Frame("WINDOW", "both", True, 8),
    END: Frame("END", "node", True, m.End),
    DONE: Frame("DONE", "gateway", True, 0),
    RESET: Frame("RESET", "node", True, m.Reset),
    CANCEL: Frame("CANCEL", "gateway", True, m.Cancel),
}
"""WINDOW is also sent with stream 0, for the link; see `OFFSET` for DATA"""

_DECODERS: Final[dict[int, msgspec.json.Decoder[Any]]] = {
    kind: msgspec.json.Decoder(frame.payload)
    for kind, frame in FRAMES.items()
    if frame.payload is not None and not isinstance(frame.payload, int)
}
_WELCOME: Final = msgspec.json.Decoder(m.Welcome)
_ENCODER: Final = msgspec.json.Encoder()


def encode(message: m.Message) -> bytes:
    """The JSON of a payload."""
    return _ENCODER.encode(message)


def frame(kind: int, stream: int, payload: bytes) -> bytes:
    """A frame of any kind but DATA."""
    return HEADER.pack(LAYOUT, kind, 0, stream, len(payload)) + payload


def data_frame(stream: int, offset: int, payload: bytes) -> bytes:
    """DATA: `payload` begins at byte `offset` of this direction of the stream."""
    return DATA_HEADER.pack(LAYOUT, DATA, 0, stream, len(payload), offset) + payload


def decode(kind: int, payload: bytes) -> Any:
    """The struct of a JSON payload. Raises `BadMessage`."""
    return _decode(_DECODERS[kind], FRAMES[kind].name, payload)


def decode_terms(payload: bytes) -> m.Welcome:
    """The terms out of WELCOME, after the signature. Raises `BadMessage`."""
    terms: m.Welcome = _decode(_WELCOME, "WELCOME", payload)
    return terms


def _decode(decoder: msgspec.json.Decoder[Any], name: str, payload: bytes) -> Any:
    try:
        return decoder.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError):  # a lone surrogate is a UnicodeError
        raise BadMessage(f"the payload of {name} is not valid") from None


def read(frame: bytes, role: Literal["gateway", "node"], *, early: bool) -> tuple[int, int, bytes, Any]:
    """Kind, stream, payload and message (the payload itself where it is no JSON) of a frame that reached this role.

    `early`: the handshake is not over. Kind 0 stands for an unknown frame that may be ignored. DATA is read by the link
    itself, so that it costs little. Raises `Violation`.
    """
    if len(frame) < HEADER.size:
        raise Violation("bad_frame", "shorter than a header")
    layout, kind, flags, stream, length = HEADER.unpack_from(frame)
    known = FRAMES.get(kind)
    if layout != LAYOUT or len(frame) != length + HEADER.size or (flags and (known or flags != IGNORABLE)):
        raise Violation("bad_frame", "the header does not fit the frame")
    if known is None and not flags:
        raise Violation("bad_frame", f"unknown kind {kind}")
    if length > (m.MAX_EARLY_BYTES if early else known.max_bytes if known else m.MAX_CONTROL_BYTES):
        raise Violation("too_large", f"{length} bytes of payload")
    payload = frame[HEADER.size :]
    if known is None:
        return 0, 0, payload, payload
    if known.sender == role:
        raise Violation("bad_state", f"{known.name} is not the peer's to send")
    if not (kind == WINDOW and not stream) and (stream % 2 == 0 if known.on_stream else stream):
        raise Violation("bad_stream", f"{known.name} on stream {stream}")
    if isinstance(known.payload, int):
        if length != known.payload:
            raise Violation("bad_payload", f"{known.name} of {length} bytes")
    elif known.payload is not None:
        try:
            return kind, stream, payload, decode(kind, payload)
        except BadMessage as error:
            raise Violation("bad_payload", str(error)) from None
    return kind, stream, payload, payload
