"""Server-sent events: an incremental reader and a writer.

Reading rules (WHATWG "event stream interpretation", plus what servers of language models do):

1. A line ends with LF, CR LF or a lone CR, wherever the bytes were split. A byte order mark may open the stream.
2. `data` lines of one event are joined by LF; one space after the colon is dropped. `event` names it, the last one
   wins. `id`, `retry`, unknown fields and comments are ignored.
3. A blank line ends the event. An event whose data is empty is ignored: servers send `data:` to keep a line alive, and
   no dialect has an empty payload.
4. At the clean end of a body, an event that lacks only its blank line counts as delivered (many servers omit it): its
   last line was ended, or its data is `[DONE]` or a complete JSON object. Anything else was cut, and stays `pending`.
5. No line and no event may be longer than a limit, counted in bytes of its lines without terminators.
"""

import re

import msgspec

DONE = b"[DONE]"
BOM = b"\xef\xbb\xbf"
DEFAULT_MAX_EVENT_BYTES = 8 << 20

# a rest up to this size is kept raw and parsed again with what follows: the fast path then stays fast when one read
# of the socket ends inside an event, and byte-wise feeding costs at most 4 KiB² / 2 of copying per event
_RAW_REST_BYTES = 4096

_CR, _LF = 13, 10
_NEWLINE = re.compile(rb"[\r\n]+")

Event = tuple[bytes, bytes]
"""(event name or b"", data)"""


class SseError(Exception):
    """The byte stream cannot be read as events any further; the message is in our words and safe to show."""


class SseReader:
    """Bytes in, events out. `feed` raises `SseError` once an event passes `max_event_bytes`, and ever after."""

    __slots__ = (
        "_after_cr",
        "_closed",
        "_data",
        "_max",
        "_name",
        "_partial",
        "_raw",
        "_rest",
        "_size",
        "_started",
        "verbatim",
    )

    def __init__(self, max_event_bytes: int = DEFAULT_MAX_EVENT_BYTES) -> None:
        self._max = max_event_bytes
        self._raw = True
        """nothing is held but `_rest`, so the fast path may run"""
        self._rest = b""
        self._started = False
        self._partial = bytearray()
        """a line whose end has not come"""
        self._after_cr = False
        """the last byte was a CR: an LF that follows belongs to it"""
        self._data: list[bytes] = []
        self._name = b""
        self._size = 0
        """of the lines of the event so far; 0 between events"""
        self._closed = False
        self.verbatim: bytes | None = None
        """what was fed, when it is letter for letter what `encode_event` makes of the last events; else None"""

    @property
    def pending(self) -> bool:
        """Bytes of an event that has not ended are held; after `close`: the last event was cut."""
        return bool(self._rest or self._partial or self._size)

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes, in order."""
        if self._raw:
            if self._rest:
                data = self._rest + data
                self._rest = b""
            # `find` and slices, not `in`, `startswith`, `endswith`: these cost twice to thrice as much on bytes
            if data[:6] == b"data: " and data.find(b"\r") < 0 and len(data) <= self._max:
                if data[-2:] == b"\n\n" and data.find(b"\n") == len(data) - 2 > 6:
                    self._started = True
                    self.verbatim = data
                    return [(b"", data[6:-2])]
                return self._feed_several(data)
        return self._feed_lines(data)

    def _feed_several(self, data: bytes) -> list[Event]:
        """Nothing is held, there is no CR, and `data` begins with an unnamed event."""
        end = data.rfind(b"\n\n") + 2
        rest = data[end:] if end > 1 else data
        if len(rest) <= _RAW_REST_BYTES:
            whole = data[6 : end - 2]
            pieces = whole.split(b"\n\ndata: ") if end > 8 else []
            # k pieces hold no newline if there are 2 (k - 1) around them, and are events if none is empty
            if not pieces or (whole.count(b"\n") == 2 * len(pieces) - 2 and b"" not in pieces):
                self._started = True
                self._rest = rest
                self.verbatim = data[:end] if pieces else None
                return [(b"", piece) for piece in pieces]
        return self._feed_lines(data)

    def close(self) -> list[Event]:
        """What the unterminated rest amounts to at a clean end of the body (rule 4). The reader takes no more."""
        events = self._feed_lines(b"") if self._rest else []
        self._closed = True
        self._raw = False
        if self._partial:
            line = bytes(self._partial)
            if line[:1] == b":":
                self._partial.clear()
            elif not self._is_whole(line):
                return events
            else:
                self._partial.clear()
                self._field(line)
        if self._data:
            payload = b"\n".join(self._data)
            if payload:
                events.append((self._name, payload))
        self._forget_event()
        return events

    def _feed_lines(self, data: bytes) -> list[Event]:
        """The exact way, line by line."""
        self.verbatim = None
        if self._closed:
            raise SseError("the event stream has already ended")
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if not self._started:
            if len(data) < len(BOM) and BOM.startswith(data):
                self._rest = data
                return []
            data = data.removeprefix(BOM)
            self._started = True
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        if not data:
            return []
        events: list[Event] = []
        self._after_cr = data[-1] == _CR
        lines = data.splitlines()
        tail = b"" if data[-1] in (_CR, _LF) else lines.pop()
        if self._partial and lines:
            lines[0] = bytes(self._partial) + lines[0]
            self._partial.clear()
        for line in lines:
            if line:
                if self._size + len(line) > self._max:
                    self._overflow()
                self._field(line)
                continue
            if self._data:
                payload = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
                if payload:
                    events.append((self._name, payload))
            self._forget_event()
        if tail:
            self._partial += tail
            if self._size + len(self._partial) > self._max:
                self._overflow()
        self._raw = not (self._partial or self._size or self._after_cr)
        return events

    def _field(self, line: bytes) -> None:
        field, _, value = line.partition(b":")
        if field == b"data":
            self._size += len(line)
            self._data.append(value.removeprefix(b" "))
        elif field == b"event":
            self._size += len(line)
            self._name = value.removeprefix(b" ")

    def _is_whole(self, line: bytes) -> bool:
        """The data lines and this last, unended one make `[DONE]` or a complete JSON object."""
        field, _, value = line.partition(b":")
        if field != b"data":
            return False
        payload = b"\n".join([*self._data, value.removeprefix(b" ")])
        if payload == DONE:
            return True
        try:
            msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return False
        return True

    def _forget_event(self) -> None:
        self._data = []
        self._name = b""
        self._size = 0

    def _overflow(self) -> None:
        self._closed = True
        self._raw = False
        self._partial.clear()
        self._forget_event()
        raise SseError(f"an event of the stream is longer than {self._max} bytes")


def encode_event(payload: bytes, name: bytes = b"") -> bytes:
    """One event on one `data: ` line. Line ends inside the payload become spaces, which JSON reads alike."""
    if payload.find(b"\n") >= 0 or payload.find(b"\r") >= 0:
        payload = _NEWLINE.sub(b" ", payload)
    if name:
        return b"event: %b\ndata: %b\n\n" % (_NEWLINE.sub(b" ", name), payload)
    return b"data: " + payload + b"\n\n"


def encode_comment(text: str) -> bytes:
    """A comment, which readers skip: `: text`, then a blank line. Line ends inside the text become spaces."""
    return b": " + _NEWLINE.sub(b" ", text.encode()) + b"\n\n"
