"""What node and gateway say to each other: payloads, limits, closed lists. No state; frames are in `link_frames.py`.

Everything in a payload is the claim of a stranger: each string has a pattern and a length, each number a range, each
list a length. Members that a struct does not have are skipped, so that a later minor version may add some. Names, codes
and limits in here are the protocol: `docs/reference/node-link.md` shows them, and a test compares.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

SUBPROTOCOL: Final = "potluck.node.v1"
MINOR: Final = 0
FEATURES: Final = frozenset({"resume", "log"})
"""what this implementation speaks; the name `inner` is reserved for encryption inside TLS"""

# limits of frames
MAX_DATA_BYTES: Final = 64 * 1024
TURN_BYTES: Final = 16 * 1024  # of one stream before the next one's turn, and so the largest DATA frame we send
MAX_CONTROL_BYTES: Final = 64 * 1024
MAX_CAPS_BYTES: Final = 256 * 1024
MAX_EARLY_BYTES: Final = 4 * 1024  # any frame before WELCOME
# limits of links and jobs
STREAM_WINDOW_BYTES: Final = 256 * 1024  # yamux 256 KiB
LINK_WINDOW_BYTES: Final = 4 * 1024 * 1024
MAX_STREAMS: Final = 256
MAX_TASKS: Final = 16
MAX_QUEUED_BYTES: Final = 1024 * 1024  # of control frames that the socket does not take
LOG_EVERY_S: Final = 1.0
CONTROL_BURST: Final = 100
CONTROL_PER_S: Final = 20
MAX_BODY_BYTES: Final = 32 * 1024 * 1024
# times
HEARTBEAT_S: Final = 15.0
SUSPECT_HEARTBEATS: Final = 4 / 3  # one is missed, with a third of grace for the peer's timers
LOST_HEARTBEATS: Final = 3
HANDSHAKE_S: Final = 10.0
CONFIRM_S: Final = 30.0  # from CANCEL to the stream's end
NODE_KEEPS_S: Final = 45.0  # a job whose link is gone
GATEWAY_KEEPS_S: Final = 30.0

PROOF_CONTEXT: Final = b"potluck.node.v1 proof\n"
WELCOME_CONTEXT: Final = b"potluck.node.v1 welcome\n"
SIGNATURE_BYTES: Final = 64

Id = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_.-]{1,64}\Z")]
Name = Annotated[str, Meta(pattern=r"\A[\x21-\x7e]{1,200}\Z")]
Word = Annotated[str, Meta(pattern=r"\A[a-z][a-z0-9_]{0,39}\Z")]
Text = Annotated[
    str, Meta(max_length=300, pattern=r"\A[^\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]*\Z")
]
"""shown to people: nothing that moves the cursor, ends the line or turns the direction of what stands beside it"""
Nonce = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
"""32 random bytes in hexadecimal"""
Token = Annotated[str, Meta(pattern=r"\A(?:[0-9a-f]{32,64})?\Z")]
Origin = Annotated[str, Meta(pattern=r"\A(?:https?|wss?)://[\x21-\x7e]{1,255}\Z")]
Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Seconds = Annotated[float, Meta(ge=0, le=86_400)]
Share = Annotated[float, Meta(ge=0, le=1)]
Speed = Annotated[float, Meta(ge=0, le=1e7)]
HeaderName = Annotated[str, Meta(pattern=r"\A[a-z0-9-]{1,64}\Z")]
HeaderValue = Annotated[str, Meta(pattern=r"\A[\x20-\x7e]{0,1024}\Z")]
Headers = Annotated[list[tuple[HeaderName, HeaderValue]], Meta(max_length=16)]

PATHS: Final = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/moderations",
        "/v1/rerank",
        "/v1/images/generations",
        "/v1/audio/speech",
        "/v1/audio/transcriptions",
    }
)
"""the only ones that OPEN may name; the method is always POST"""
REQUEST_HEADERS: Final = frozenset({"accept", "content-type", "x-request-id", "traceparent", "anthropic-version"})
ANSWER_HEADERS: Final = frozenset({"content-type", "retry-after", "x-request-id"})

RefuseCode = Literal[
    "busy",
    "owner_active",
    "paused",
    "draining",
    "model_gone",
    "model_loading",
    "context_too_long",
    "no_vram",
    "data_class",
    "price_floor",
    "schedule",
    "battery",
    "thermal",
    "bad_request",
]
ResetCode = Literal[
    "cancelled", "engine_failed", "engine_timeout", "owner_active", "draining", "overflow", "expired", "internal"
]
CancelReason = Literal["client_closed", "timeout", "hedge_lost", "too_slow", "shutdown", "policy"]
FailCode = Literal[
    "bad_frame",  # not a frame: header, layout, flags, length, unknown kind
    "bad_payload",  # the payload is not what its kind says
    "bad_state",  # a frame that may not come now, or not from this side
    "bad_stream",  # a stream that was never opened, or was over
    "bad_offset",  # DATA that leaves a gap
    "bad_end",  # END whose total is not what came
    "bad_window",  # a grant that takes back, or gives more than a window
    "bad_resume",  # an answer to RESUME that does not fit the question
    "over_window",  # DATA beyond what was granted
    "forbidden",  # engine, path or header outside the closed lists
    "flood",  # more control frames than the rate allows
    "too_large",
    "bad_origin",
    "bad_proof",
    "bad_gateway",
    "version",
    "handshake_timeout",
    "lost",  # three heartbeats missed
    "overflow",  # control frames wait that the socket does not take
    "unconfirmed",  # a CANCEL that the node did not confirm
]
"""why a side ends the link by itself, as in its last GOAWAY"""


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """A JSON payload."""


class Hello(Message, frozen=True):
    """Node: who dials. `boot` changes with every start of the agent; `key` is the id of the key that will sign."""

    node: Id
    key: Id
    boot: Id
    agent: Text
    min_minor: Count
    max_minor: Count
    features: Annotated[list[Word], Meta(max_length=32)]
    nonce: Nonce


class Challenge(Message, frozen=True):
    """Gateway: what the node has to sign, and where the gateway believes to be."""

    origin: Origin
    session: Id
    nonce: Nonce


class Welcome(Message, frozen=True):
    """Gateway: the terms of the link. Features are among those that HELLO named."""

    minor: Count
    features: Annotated[list[Word], Meta(max_length=32)]
    heartbeat_s: Annotated[float, Meta(ge=1, le=120)] = HEARTBEAT_S
    stream_window_bytes: Annotated[int, Meta(ge=16 * 1024, le=STREAM_WINDOW_BYTES)] = STREAM_WINDOW_BYTES
    link_window_bytes: Annotated[int, Meta(ge=256 * 1024, le=LINK_WINDOW_BYTES)] = LINK_WINDOW_BYTES
    max_streams: Annotated[int, Meta(ge=1, le=MAX_STREAMS)] = MAX_STREAMS


class EngineOffer(Message, frozen=True):
    """An engine as the node offers it: its address is never said. `paths` ⊆ `PATHS`."""

    id: Id
    kind: Word
    paths: Annotated[list[Name], Meta(min_length=1, max_length=16)]
    version: Text = ""


class ModelOffer(Message, frozen=True):
    """A model of an engine. `price_…`: the owner's, in nano-USD per million tokens; absent = the gateway's default."""

    engine: Id
    name: Name
    digest: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9:._-]{0,128}\Z")] = ""
    format: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_.-]{0,40}\Z")] = ""
    quantization: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_.-]{0,40}\Z")] = ""
    confidence: Literal["high", "medium", "low"] = "low"
    context_tokens: Count | None = None
    capabilities: Annotated[list[Word], Meta(max_length=32)] = []
    price_input_nanousd: Count | None = None
    price_output_nanousd: Count | None = None


class Caps(Message, frozen=True):
    """Node: all that it offers, replacing what it said before. `revision` grows with each."""

    revision: Count
    slots: Annotated[int, Meta(ge=0, le=10_000)]
    queue: Annotated[int, Meta(ge=0, le=10_000)]
    engines: Annotated[list[EngineOffer], Meta(max_length=32)]
    models: Annotated[list[ModelOffer], Meta(max_length=500)]
    os: Text = ""
    arch: Text = ""


class CapsAck(Message, frozen=True):
    """Gateway: this revision is in force."""

    revision: Count


class EngineState(Message, frozen=True):
    """Load of one engine; a member that is absent is unknown, not 0."""

    id: Id
    reachable: bool
    waiting: Count | None = None
    running: Count | None = None
    slots: Count | None = None
    kv_used: Share | None = None
    local_use: bool | None = None


class ModelState(Message, frozen=True):
    """Load of one model. Speeds in tokens per second, measured, prefill apart from decode."""

    engine: Id
    name: Name
    resident: bool | None = None
    loading_eta_s: Seconds | None = None
    running: Count | None = None
    waiting: Count | None = None
    prefill_tps: Speed | None = None
    decode_tps: Speed | None = None
    load_s: Seconds | None = None


class Load(Message, frozen=True):
    """Node: how it is. `state` decides whether the gateway opens streams; `reason` is shown to people."""

    state: Literal["ready", "paused", "draining"]
    reason: Text = ""
    presence: Literal["active", "idle", "unknown"] = "unknown"
    engines: Annotated[list[EngineState], Meta(max_length=32)] = []
    models: Annotated[list[ModelState], Meta(max_length=500)] = []


class Drain(Message, frozen=True):
    """Gateway: please drain. Node: is draining. No OPEN any more; what runs may run on until the deadline."""

    then: Literal["pause", "stop"]
    deadline_s: Seconds = 120.0
    resume_after_s: Seconds | None = None
    reason: Text = ""


class Goaway(Message, frozen=True):
    """Both. `graceful`: no new stream here; what runs may end; the node dials anew after a random part of `spread_s`.

    Otherwise the sender has closed the link with this frame.
    """

    code: Word
    detail: Text = ""
    graceful: bool = False
    spread_s: Seconds = 0.0


class Task(Message, frozen=True):
    """Gateway: a command out of a closed list; the node's owner decides whether it is followed."""

    task: Id
    action: Literal["probe", "load", "unload"]
    engine: Id
    model: Name | None = None


class TaskResult(Message, frozen=True):
    """Node: how a TASK went."""

    task: Id
    ok: bool
    detail: Text = ""
    took_ms: Count = 0


class Log(Message, frozen=True):
    """Node: a diagnostic, when its owner allows (feature `log`)."""

    level: Literal["info", "warning", "error"]
    text: Text


class Open(Message, frozen=True):
    """Gateway: a new request; its body of exactly `body_bytes` follows as DATA. An empty `token`: never resumed."""

    job: Id
    engine: Id
    model: Name
    path: Name
    body_bytes: Annotated[int, Meta(ge=0, le=MAX_BODY_BYTES)]
    headers: Headers = []
    deadline_s: Seconds = 900.0
    data_class: Literal["open", "standard", "private"] = "standard"
    own: bool = False
    """the caller is the machine's owner: first in its queue"""
    token: Token = ""


class Refuse(Message, frozen=True):
    """Node: not now, not here. `eta_s` with `model_loading`, `max_tokens` with `context_too_long`."""

    code: RefuseCode
    detail: Text = ""
    retry_after_s: Seconds | None = None
    eta_s: Seconds | None = None
    max_tokens: Count | None = None


class Head(Message, frozen=True):
    """Node: the engine's answer begins."""

    status: Annotated[int, Meta(ge=200, le=599)]
    headers: Headers = []


class Usage(Message, frozen=True):
    """Token counts of one answer as the engine said them; cached ones are inside input."""

    input_tokens: Count
    output_tokens: Count
    cached_input_tokens: Count = 0


class End(Message, frozen=True):
    """Node: the answer is whole, `total_bytes` of body in all."""

    total_bytes: Count
    usage: Usage | None = None


class Reset(Message, frozen=True):
    """Node: the stream ends here and is not whole. Confirms a CANCEL."""

    code: ResetCode
    detail: Text = ""


class Cancel(Message, frozen=True):
    """Gateway: nobody wants the answer any more; the node aborts the engine call and confirms."""

    reason: CancelReason


class ResumeAsk(Message, frozen=True):
    """A job that the node still has: it holds the bytes of the answer from `first` up to `produced`."""

    job: Id
    token: Token
    first: Count
    produced: Count


class Resume(Message, frozen=True):
    """Node: jobs whose link is gone, to go on over this one."""

    jobs: Annotated[list[ResumeAsk], Meta(min_length=1, max_length=MAX_STREAMS)]


class ResumeAnswer(Message, frozen=True):
    """`next`: goes on as `stream` from byte `next`, up to `limit`; `head`: HEAD is known already.

    `done`: the gateway has the whole answer. `rejected`: abort it.
    """

    job: Id
    answer: Literal["next", "done", "rejected"]
    stream: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    next: Count = 0
    limit: Count = 0
    head: bool = False


class ResumeResult(Message, frozen=True):
    """Gateway: one answer per job asked for, in the same order."""

    jobs: Annotated[list[ResumeAnswer], Meta(min_length=1, max_length=MAX_STREAMS)]


def signed(context: bytes, *parts: bytes) -> bytes:
    """The bytes under a signature: the context, then each part after its length in 4 bytes."""
    return context + b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def headers_within(headers: Headers, allowed: frozenset[str]) -> bool:
    """Each name once, and each of them allowed."""
    names = [name for name, _ in headers]
    return len(set(names)) == len(names) and allowed.issuperset(names)


def offered_paths(caps: Caps) -> dict[str, frozenset[str]]:
    """Each engine's paths. Raises ValueError where CAPS contradicts itself or offers what the protocol has not."""
    offered = {engine.id: frozenset(engine.paths) for engine in caps.engines}
    if len(offered) != len(caps.engines) or any(not paths <= PATHS for paths in offered.values()):
        raise ValueError("CAPS names an engine twice, or a path outside the list")
    if any(model.engine not in offered for model in caps.models):
        raise ValueError("CAPS names a model of no engine")
    return offered
