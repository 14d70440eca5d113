"""HTTP/1.1 as we accept it from callers: one head at a time, framing rules, body framing. No I/O.

Rules of this file
- A head is cut out of the byte stream at its blank line, within `MAX_HEAD_BYTES`, *before* llhttp sees it: llhttp keeps
  no limit on sizes, and a 50 MB header inside it costs seconds. llhttp (strict) then refuses bare LF and CR, obs-fold,
  NUL, white space before a colon, both length and chunked, and every malformed or repeated Content-Length.
- Ours above llhttp's: exactly one Host, no transfer coding on HTTP/1.0 and none but `chunked`, origin-form targets
  only, no CONNECT or TRACE, HTTP/1.0 and 1.1 only. `Upgrade` is ignored here.
- A body is cut by our own framing, so that the boundary between two messages is known to the byte: pipelining and
  hand-over between the two planes need it.
- Everything wrong is a `BadRequest` with the status to answer; after it the connection closes.
"""

import re

import httptools

# Limits, with what others use.
MAX_HEAD_BYTES = 32 * 1024  # nginx 4 x 8 KiB, Node 16 KiB, h11 16 KiB, Apache 100 x 8 KiB
MAX_HEADERS = 100  # Apache 100, Go none
MAX_TARGET_BYTES = 8 * 1024  # RFC 9112 §3: at least 8000
MAX_CHUNK_LINE_BYTES = 256  # size and extensions; Node 16 KiB over the whole body
MAX_TRAILER_BYTES = 8 * 1024
SPARE_FRAMING_BYTES = 64 * 1024  # of chunk lines, beyond as many bytes as the body has: chunks of 5 bytes always pass
DRAIN_BYTES = 64 * 1024  # of a refused body: read before the close, so that the answer is not lost to a reset

_SINGLETONS = frozenset({b"host", b"authorization", b"content-length", b"content-type", b"x-api-key", b"api-key"})
_METHODS_REFUSED = frozenset({b"CONNECT", b"TRACE"})
MAX_LENGTH_DIGITS = 15
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,15})(?=\r\n)", re.IGNORECASE)
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")


class BadRequest(Exception):  # noqa: N818 — named for what it is on the wire
    """The bytes are not an acceptable request. `status` is the answer; the connection closes after it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Head:
    """A request head. `headers`: lower-case names; repeated fields joined by `, ` (a repeated singleton is refused).

    A value may end in white space: llhttp takes off only what comes before it.
    """

    __slots__ = (
        "chunked",
        "content_length",
        "control_fields",
        "expect_continue",
        "headers",
        "keep_alive",
        "method",
        "minor",
        "target",
    )

    def __init__(self) -> None:
        self.method = b""
        self.target = b""
        self.minor = 1
        self.headers: dict[bytes, bytes] = {}
        self.keep_alive = True
        self.expect_continue = False
        self.content_length = 0
        """0 when there is no body, or when it is chunked"""
        self.chunked = False
        self.control_fields: dict[bytes, bytes] | None = None
        """the `x-potluck-…` fields, if there are any"""

    @property
    def path(self) -> bytes:
        """The target without its query."""
        return self.target.partition(b"?")[0]

    @property
    def has_body(self) -> bool:
        """Whether bytes of a body follow the head."""
        return self.chunked or self.content_length > 0

    # llhttp's callbacks
    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        headers = self.headers
        if name in headers:
            if name in _SINGLETONS:
                raise BadRequest(400, f"header {name.decode('latin-1')} appears more than once")
            value = headers[name] + b", " + value
        headers[name] = value
        if name[:10] == b"x-potluck-":
            self.control_fields = {**(self.control_fields or {}), name: value}


def find_head_end(buffer: bytes | bytearray, searched_bytes: int = 0) -> int:
    """Where the head in `buffer` ends (after its blank line), or -1 if it is incomplete.

    `searched_bytes`: how much of the buffer an earlier call has already seen. Raises BadRequest when the head is too
    large, or when a line end that is not CRLF shows that no blank line will ever come.
    """
    end = buffer.find(b"\r\n\r\n", max(0, searched_bytes - 3))
    if end >= 0:
        if end + 4 > MAX_HEAD_BYTES:
            raise BadRequest(431, f"the request head is larger than {MAX_HEAD_BYTES} bytes")
        return end + 4
    if len(buffer) > MAX_HEAD_BYTES:
        raise BadRequest(431, f"the request head is larger than {MAX_HEAD_BYTES} bytes")
    # a CR that ended the last read goes with the LF that begins this one
    start = searched_bytes - 1 if searched_bytes and buffer[searched_bytes - 1] == 0x0D else searched_bytes
    if buffer.count(b"\n", start) != buffer.count(b"\r\n", start):
        raise BadRequest(400, "a line of the request head does not end with CRLF")
    return -1


def parse_head(raw: bytes) -> Head:
    """Parse one complete head (`raw` ends with its blank line). Raises BadRequest."""
    head = Head()
    parser = httptools.HttpRequestParser(head)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # ignored: the body that follows is framed as if nobody had asked
    except httptools.HttpParserCallbackError as error:
        if isinstance(error.__context__, BadRequest):
            raise error.__context__ from None
        raise BadRequest(400, "the request head could not be read") from None
    except httptools.HttpParserError as error:
        raise BadRequest(400, f"the request head is malformed: {_in_words(error)}") from None
    version = parser.get_http_version()
    if version == "1.0":
        head.minor = 0
    elif version != "1.1":
        raise BadRequest(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
    head.method = parser.get_method()
    _check(head)
    return head


def _check(head: Head) -> None:
    headers, target = head.headers, head.target
    if head.method in _METHODS_REFUSED:
        raise BadRequest(405, f"method {head.method.decode()} is not served")
    if target[:1] != b"/" and not (target == b"*" and head.method == b"OPTIONS"):
        raise BadRequest(400, "the request target must be a path that begins with /")
    if len(target) > MAX_TARGET_BYTES:
        raise BadRequest(414, f"the request target is longer than {MAX_TARGET_BYTES} bytes")
    if len(headers) > MAX_HEADERS:
        raise BadRequest(431, f"more than {MAX_HEADERS} header fields")
    if b"host" not in headers and head.minor:
        raise BadRequest(400, "the Host header is missing")
    if b"transfer-encoding" in headers:
        _check_coding(head)
    elif b"content-length" in headers:
        # llhttp has refused what is not a number; its bound is 2⁶⁴, ours what a body can be
        head.content_length = int(headers[b"content-length"])
    if b"connection" in headers or not head.minor:
        tokens = headers.get(b"connection", b"").lower()
        head.keep_alive = b"close" not in tokens and (head.minor == 1 or b"keep-alive" in tokens)
    if b"expect" in headers:
        if headers[b"expect"].rstrip().lower() != b"100-continue":
            raise BadRequest(417, "the only expectation understood is 100-continue")
        head.expect_continue = head.minor == 1 and head.has_body


def _check_coding(head: Head) -> None:
    if head.minor == 0:
        raise BadRequest(400, "Transfer-Encoding is not allowed in HTTP/1.0")
    if head.headers[b"transfer-encoding"].rstrip().lower() != b"chunked":
        raise BadRequest(501, "the only transfer coding accepted is chunked")
    if b"content-length" in head.headers:
        raise BadRequest(400, "both Content-Length and Transfer-Encoding are given")
    head.chunked = True


def _in_words(error: Exception) -> str:
    text = str(error)
    return text if text.isascii() and text.isprintable() and len(text) < 100 else "unreadable"


class BodyReader:
    """Cuts one body out of a byte stream, by length or by chunks.

    `feed(data)` returns how many bytes belong to this body; `done` says that it is complete; `body()` is what came,
    transfer coding removed. Raises BadRequest for bad framing and 413 when the body passes `max_bytes`.
    """

    __slots__ = ("_chunked", "_framing_bytes", "_kept", "_line", "_state", "_todo", "done", "max_bytes", "size_bytes")

    def __init__(self, head: Head, max_bytes: int) -> None:
        self._kept = bytearray()  # one block: a list of tiny pieces takes many times their size
        self._framing_bytes = 0
        self.size_bytes = 0
        self.max_bytes = max_bytes
        self.done = not head.has_body
        self._chunked = head.chunked
        self._todo = head.content_length
        self._line = b""
        self._state = "size"

    def feed(self, data: bytes) -> int:
        if self.done:
            return 0
        if self._chunked:
            return self._feed_chunked(data)
        taken = min(len(data), self._todo)
        self._keep(data if taken == len(data) else data[:taken])
        self._todo -= taken
        self.done = self._todo == 0
        return taken

    def body(self) -> bytes:
        """The whole body; call it when `done`."""
        return bytes(self._kept)

    def discard(self) -> None:
        """Forget what was kept (a refused body that is still read to its end)."""
        self._kept.clear()

    def _keep(self, piece: bytes) -> None:
        self.size_bytes += len(piece)
        if self.size_bytes > self.max_bytes:
            self._kept.clear()
            raise BadRequest(413, f"the request body is larger than {self.max_bytes} bytes")
        self._kept += piece

    def _feed_chunked(self, data: bytes) -> int:
        at, end = 0, len(data)
        while at < end and not self.done:
            if self._state == "data":
                taken = min(end - at, self._todo)
                self._keep(data[at : at + taken])
                at += taken
                self._todo -= taken
                if self._todo == 0:
                    self._state = "data_end"
                continue
            if self._state == "size" and not self._line:
                at = self._take_whole_chunks(data, at)
                if at == end:
                    break
            # a line: chunk size, the CRLF after a chunk, or a trailer field
            cut = data.find(b"\n", at)
            piece = data[at : cut + 1] if cut >= 0 else data[at:]
            at += len(piece)
            self._line += piece
            limit = MAX_TRAILER_BYTES if self._state == "trailer" else MAX_CHUNK_LINE_BYTES
            if len(self._line) > limit:
                raise BadRequest(400, f"a line of the chunked body is longer than {limit} bytes")
            if cut >= 0:
                line, self._line = self._line, b""
                self._take_line(line)
        return at

    def _take_whole_chunks(self, data: bytes, at: int) -> int:
        """Take, quickly, the chunks that are complete in `data`. Returns where the first other begins."""
        kept, match_line = self._kept, _CHUNK_LINE.match
        size_bytes, framing_bytes = self.size_bytes, self._framing_bytes
        while match := match_line(data, at, at + MAX_CHUNK_LINE_BYTES):
            start = match.end()
            end = start + int(match[1], 16)
            if start == end or data[end : end + 2] != b"\r\n":
                break  # the last chunk, one that goes on in the next read, or a wrong one
            if size_bytes + end - start > self.max_bytes or framing_bytes > size_bytes + SPARE_FRAMING_BYTES:
                break
            kept += data[start:end]
            size_bytes += end - start
            framing_bytes += start - at + 2
            at = end + 2
        self.size_bytes, self._framing_bytes = size_bytes, framing_bytes
        return at

    def _take_line(self, line: bytes) -> None:
        if self._state != "trailer":
            self._framing_bytes += len(line)
            if self._framing_bytes > self.size_bytes + SPARE_FRAMING_BYTES:
                raise BadRequest(400, "the body comes in chunks that are too small")
        if self._state == "size":
            match = _CHUNK_LINE.fullmatch(line)
            if match is None:
                raise BadRequest(400, "a chunk of the body has no readable size")
            self._todo = int(match[1], 16)
            if self.size_bytes + self._todo > self.max_bytes:
                raise BadRequest(413, f"the request body is larger than {self.max_bytes} bytes")
            self._state = "data" if self._todo else "trailer"
        elif self._state == "data_end":
            if line != b"\r\n":
                raise BadRequest(400, "a chunk of the body is longer than its size says")
            self._state = "size"
        elif line == b"\r\n":
            self.done = True
        else:
            # trailers are read and dropped; they count against one limit so that they end
            if not line.endswith(b"\r\n"):
                raise BadRequest(400, "a trailer line does not end with CRLF")
            self._todo += len(line)
            if self._todo > MAX_TRAILER_BYTES:
                raise BadRequest(400, f"the trailers are larger than {MAX_TRAILER_BYTES} bytes")


class HeadReader:
    """`parse_head` for the heads of one connection, which mostly differ in their Content-Length alone.

    A head that is byte for byte the last one but for the digits of its Content-Length is the last one but for that
    number: nothing else is parsed again. The same `Head` object is handed out, so one message at a time may use it.
    """

    __slots__ = ("_after", "_before", "_head")

    def __init__(self) -> None:
        self._before = b""
        """up to the digits; empty while there is nothing to compare with"""
        self._after = b""
        self._head = Head()

    def parse(self, raw: bytes) -> Head:
        """One complete head. Raises BadRequest."""
        before = self._before
        start = len(before)
        if start and raw[:start] == before:
            end = raw.find(b"\r", start, start + MAX_LENGTH_DIGITS + 1)
            digits = raw[start:end]
            if end > start and digits.isdigit() and raw[end:] == self._after:
                self._head.content_length = int(digits)
                return self._head
        self._before = b""
        self._head = head = parse_head(raw)
        length = head.headers.get(b"content-length")
        if length is not None and length.isdigit() and head.content_length and not head.expect_continue:
            found = _CONTENT_LENGTH.search(raw)
            if found is not None:
                self._before, self._after = raw[: found.start(1)], raw[found.end(1) :]
        return head
