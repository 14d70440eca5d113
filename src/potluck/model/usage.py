"""What a request leaves behind: its token parts, its attempts, its record, and the spool lines that carry it."""

from typing import Literal

import msgspec


class TokenUsage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Token counts of one call. Parts (`cached_…`, `reasoning_…`, …) are *inside* input or output, never beside."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    estimated: bool = False
    """the upstream did not say; counted from lengths"""


Outcome = Literal[
    "ok",
    "caller_error",
    "policy",
    "client_closed",
    "upstream_error",
    "upstream_truncated",
    "upstream_timeout",
    "upstream_rate_limited",
    "no_target",
    "shutdown",
    "internal_error",
    "lost",
]
"""How a request ended. `shutdown`: the gateway's drain was over first. `internal_error`: by a fault of the gateway.
`lost`: the process died in between."""

ErrorClass = Literal[
    "none",
    "key_dead",
    "key_limited",
    "target_down",
    "target_slow",
    "refused",
    "caller_fault",
    "policy",
    "client_closed",
    "lost",
]
"""Why an attempt failed (architecture §5.2): a closed set, used in metrics, logs, records and headers.

`refused`: a node said not now or not here; the next target's turn, and nothing is held against it."""


AttemptKind = Literal["first", "next", "key", "same", "hedge", "resume"]
"""Why a call was made: the request's first; the next target; another key of the same target; the same target again;
beside a late one; to go on where a stream was cut."""


class AttemptRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One upstream call of a request. Times in microseconds since the request was accepted, -1 where not reached."""

    n: int
    target_id: str
    target: str
    """`openai/gpt-4o-mini`, as in `x-potluck-target`"""
    provider_id: str
    credential_id: str | None = None
    error_class: ErrorClass = "none"
    error: str = ""
    """what the upstream did, in our words; never its text"""
    status: int = 0
    """the upstream's HTTP status, 0 when none came"""
    start_us: int = -1
    connected_us: int = -1
    sent_us: int = -1
    first_byte_us: int = -1
    end_us: int = -1
    usage: TokenUsage | None = None
    cost_nanousd: int | None = None
    price_version: str = ""
    kind: AttemptKind = "first"
    phase: str = ""
    """in which it failed: `connect|send|first_byte|stream`"""
    resent: bool = False
    """sent once more on a new connection, since the kept-alive one was dead: the target may have seen it twice"""


class Answered(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The attempt that answered, as far as the record does not say it itself: `AttemptRecord` without what repeats.

    Nearly every request has this attempt alone; writing it out in full cost a tenth of a plain request.
    """

    n: int
    credential_id: str | None
    start_us: int
    connected_us: int
    first_byte_us: int
    end_us: int
    price_version: str = ""
    cost_nanousd: int | None = None
    """only where earlier attempts had a cost as well"""
    kind: AttemptKind = "first"
    usage: TokenUsage | None = None
    """its own, only where the record's is the sum over several attempts"""


class UsageRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One per admitted request, written as a settlement line before the caller's last byte."""

    id: str
    at_ms: int
    """unix time of acceptance, milliseconds"""
    organisation_id: str
    project_id: str
    key_id: str
    endpoint: str
    """`chat`, `completions`, `embeddings`, `responses`"""
    model: str
    """as the caller named it"""
    outcome: Outcome
    status: int
    """the HTTP status that the caller got (0: hung up before any)"""
    stream: bool = False
    route: str = ""
    user: str = ""
    tags: tuple[str, ...] = ()
    target_id: str = ""
    target: str = ""
    provider_id: str = ""
    usage: TokenUsage | None = None
    cost_nanousd: int | None = None
    """None: the target has no price"""
    finish_reason: str = ""
    error_code: str = ""
    attempts: tuple[AttemptRecord, ...] = ()
    """those that did not answer, in order"""
    answered: Answered | None = None
    request_bytes: int = 0
    response_bytes: int = 0
    read_us: int = 0
    """phase timings, microseconds since acceptance: body read …"""
    first_content_us: int = -1
    total_us: int = 0
    overhead_us: int = 0
    """spent in the gateway itself"""
    plan: str = ""
    """id of the `PlanLine` that says which targets were considered, and why; empty: the gateway died before the end"""


class Intent(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, tag="i", tag_field="t"):
    """Spool line before the first upstream byte of an attempt: what the provider may bill if we die now."""

    id: str
    n: int
    at_ms: int
    organisation_id: str
    project_id: str
    key_id: str
    endpoint: str
    model: str
    target_id: str
    target: str
    provider_id: str
    credential_id: str | None = None
    stream: bool = False
    route: str = ""
    user: str = ""
    tags: tuple[str, ...] = ()
    request_bytes: int = 0
    reserved_nanousd: int = 0
    price_version: str = ""
    reserved_input_tokens: int = 0
    reserved_output_tokens: int = 0
    failed: tuple[AttemptRecord, ...] = ()
    """attempts of this request that have already ended: what is not in here and has an intent counts as in flight"""
    kind: AttemptKind = "first"


class IntentForm:
    """Intents that differ in id, time and size only, as those of one key for one target mostly do: encoded once.

    `line` is the same JSON as of the `Intent` (its members in another order), at a fifth of the cost.
    """

    __slots__ = ("_rest",)

    def __init__(self, intent: Intent) -> None:
        """Of an intent with `n` 1 and `request_bytes` 0."""
        line = msgspec.json.encode(intent)
        self._rest = line[line.index(b'"organisation_id"') :]

    def line(self, request_id: str, at_ms: int, request_bytes: int) -> bytes:
        """The spool line of one intent. `request_id` is ours, so it needs no escaping."""
        return b'{"t":"i","id":"%b","n":1,"at_ms":%d,"request_bytes":%d,%b' % (
            request_id.encode(),
            at_ms,
            request_bytes,
            self._rest,
        )


class Settlement(msgspec.Struct, frozen=True, gc=False, tag="s", tag_field="t"):
    """Spool line that closes a request: the record whole. The first one of a request id wins."""

    r: UsageRecord


class RefusalCount(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, tag="r", tag_field="t"):
    """Spool line: `count` more calls were refused for one reason, from one caller, within one minute."""

    reason: str
    """an error code of the interface, `invalid_api_key`"""
    who: str
    """key id or address prefix; `*` once a minute has too many of them to tell apart"""
    minute: int
    """unix time in whole minutes"""
    count: int
    first_at_ms: int = 0
    detail: str = ""
    """of the first one in the minute; absent in later lines of the same minute"""


class PlanLine(msgspec.Struct, frozen=True, gc=False, tag="p", tag_field="t"):
    """Spool line: a routing decision that records refer to by `id`, a digest of `plan`. The same one may come often."""

    id: str
    plan: msgspec.Raw
    """JSON: `proxy.explain.Plan`"""


SpoolLine = Intent | Settlement | RefusalCount | PlanLine
