"""Error statuses. Every body and header holds the word canary: an upstream's own words about itself stay inside."""

from collections.abc import Mapping
from email.utils import formatdate
from time import time
from types import MappingProxyType

from potluck.conformance import answers
from potluck.conformance.call import Call, Header
from potluck.conformance.faults.catalogue import DOWN, KEY_DEAD, LIMITED, REFUSED, SLOW, Expect, Play, fault

CANARY = "Incorrect API key provided: sk-canary. Organization org-canary at https://canary.example/v1"
"""what an upstream may say of its account; must not reach a caller"""


def _callers_fault(status: int) -> Expect:
    return Expect(status=status, code="*", outcome="caller_error", error_class="caller_fault")


STATUSES: Mapping[int, tuple[str, Expect]] = MappingProxyType({
    400: ("Bad Request", _callers_fault(400)),
    401: ("Unauthorized", KEY_DEAD),
    402: ("Payment Required", KEY_DEAD),
    403: ("Forbidden", KEY_DEAD),
    404: ("Not Found", DOWN),
    408: ("Request Timeout", DOWN),
    413: ("Content Too Large", _callers_fault(413)),
    422: ("Unprocessable Content", _callers_fault(400)),
    429: ("Too Many Requests", LIMITED),
    500: ("Internal Server Error", DOWN),
    502: ("Bad Gateway", DOWN),
    503: ("Service Unavailable", DOWN),
    504: ("Gateway Timeout", SLOW),
    529: ("Overloaded", DOWN),
})  # fmt: skip
"""status → reason, and what one target's answer with it means for the caller"""


def _refuse(status: int, *headers: Header) -> Play:
    async def play(call: Call) -> None:
        message = "messages[0].role is not one of user, system" if status in (400, 413, 422) else CANARY
        kind = "invalid_request_error" if status < 500 else "server_error"
        body = answers.error(status, message, kind=kind)
        await call.answer(body, *headers, status=status, reason=STATUSES[status][0])

    return play


for _status, (_reason, _expect) in STATUSES.items():
    fault(f"status-{_status}", f"answers {_status} {_reason}", f"caller: {_expect.status}", plain=_expect,
          stream=_expect)(_refuse(_status))  # fmt: skip

fault("status-429-seconds", "429 with retry-after: 7", "caller: 429, retry-after: 7", plain=LIMITED, stream=LIMITED)(
    _refuse(429, (b"retry-after", b"7"))
)
fault("status-429-fraction", "429 with retry-after: 1.2", "rounded up to 2", plain=LIMITED, stream=LIMITED)(
    _refuse(429, (b"retry-after", b"1.2"))
)
fault("status-429-absurd", "429 with retry-after of 30 years", "capped", plain=LIMITED, stream=LIMITED)(
    _refuse(429, (b"retry-after", b"946080000"))
)
fault("status-429-junk", "429 with retry-after: soon, and twice", "ignored", plain=LIMITED, stream=LIMITED)(
    _refuse(429, (b"retry-after", b"soon"), (b"retry-after", b"-3"))
)


@fault("status-403-flagged", "403, for it has flagged the prompt", "the key is not dead", plain=REFUSED, stream=REFUSED)
async def status_403_flagged(call: Call) -> None:
    message = f"Your chosen model requires moderation and your input was flagged. {CANARY}"
    await call.answer(answers.error(403, message), status=403, reason="Forbidden")


@fault("status-402-tokens", "402, for `max_tokens` is beyond its credit", "the key is not dead", plain=REFUSED,
       stream=REFUSED)  # fmt: skip
async def status_402_tokens(call: Call) -> None:
    message = f"This request requires more credits, or fewer max_tokens, but can only afford 1234. {CANARY}"
    await call.answer(answers.error(402, message), status=402, reason="Payment Required")


@fault("status-429-date", "429 with retry-after as a date in 30 s", "about 30 seconds", plain=LIMITED, stream=LIMITED)
async def status_429_date(call: Call) -> None:
    await _refuse(429, (b"retry-after", formatdate(time() + 30, usegmt=True).encode()))(call)


@fault("status-500-html", "500 with an HTML page", "an envelope of our own", plain=DOWN, stream=DOWN)
async def status_500_html(call: Call) -> None:
    await call.answer(b"<html>canary</html>", status=500, reason="Oops", kind=b"text/html")


@fault("status-400-html", "400 with an HTML page", "an envelope of our own, 400", plain=_callers_fault(400),
       stream=_callers_fault(400))  # fmt: skip
async def status_400_html(call: Call) -> None:
    await call.answer(b"<html>canary</html>", status=400, reason="Bad", kind=b"text/html")


@fault("status-503-empty", "503 without a body", "an envelope of our own", plain=DOWN, stream=DOWN)
async def status_503_empty(call: Call) -> None:
    await call.answer(b"", (b"retry-after", b"3"), status=503, reason="")


@fault("status-500-endless", "500 whose body never ends", "an envelope of our own, soon", plain=DOWN, stream=DOWN)
async def status_500_endless(call: Call) -> None:
    await call.head(500, (b"content-type", b"text/plain"), (b"transfer-encoding", b"chunked"), reason="Oops")
    while True:
        await call.chunk(b"canary " * 1000)
        await call.pause(0)


@fault("status-500-cut", "500 whose body is cut", "502 upstream_error", plain=DOWN, stream=DOWN)
async def status_500_cut(call: Call) -> None:
    await call.head(500, (b"content-type", b"application/json"), (b"content-length", b"900"), reason="Oops")
    await call.send(b'{"error": {"mess')
    call.fin()


@fault("redirect", "answers 302 to another place", "never follow it", plain=DOWN, stream=DOWN)
async def redirect(call: Call) -> None:
    await call.answer(b"", (b"location", b"http://127.0.0.1:9/canary"), status=302, reason="Found")


@fault("no-content", "answers 204", "a success that carries nothing is a failure", plain=DOWN, stream=DOWN)
async def no_content(call: Call) -> None:
    await call.head(204, reason="No Content")
