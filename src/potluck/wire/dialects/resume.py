"""A stream that was cut goes on elsewhere: which request may, what the next target is sent, what the caller is told.

How the parts are used, attempt by attempt:

1. `why_not(envelope)` once. A reason: the stream is read by a plain `StreamTap` and a cut ends it. `""`: by a
   `splice.ResumableTap`, which keeps the text that it forwarded.
2. Cut after content, `tap.stuck` is `""`, a target of the same model for which `goes_on(envelope, prefix)`:
   `continuation(…)` is what to send there, or None when the caller's token limit is used up (`tap.ending()` then ends
   the answer with `length`).
3. The next attempt's tap is `tap.after(continuation, earlier)`. It drops the second opening, an echo of the text and
   white space that comes twice, and shows usage and cost of the whole answer. Its own `usage` is its attempt's alone.
4. Before its first event `seam_comment(…)` is written. Ids and model of its chunks stay as they came: the official SDKs
   gather by the order of chunks, not by id, and the chunks then say who wrote them.

Rules:
- White space at the end of a chat's text is not sent: some chat templates cut it off and some do not, and after a lone
  space a model writes worse. The next target writes it again, and the tap takes it out again.
- A caller's own last message of role `assistant` is extended, never followed by a second one.
- An answer that is bound to a form (a JSON schema, a grammar) goes on only where `plain` is the target's way: llama.cpp
  holds the form against the text that is there, others start it anew at the first new token.
"""

import msgspec

from potluck.model.resources import AssistantPrefix
from potluck.model.usage import TokenUsage
from potluck.wire.dialects.envelope import Envelope
from potluck.wire.sse import encode_comment

MIN_ECHO_CHARS = 8
"""a shorter text that comes again is more likely the answer's own"""


class Continuation(msgspec.Struct, frozen=True):
    """What the next target is sent, and what the tap of its stream has to know."""

    body: bytes
    sent: str
    """the text that the target goes on from, as it would echo it; empty where none can"""
    tail: str
    """white space that the caller has and the target has not"""


def why_not(envelope: Envelope) -> str:
    """Why this request can never be resumed, in words; empty if it can."""
    raise NotImplementedError


def goes_on(envelope: Envelope, prefix: AssistantPrefix) -> bool:
    """A target with this way of continuing can go on from text: any, for completions."""
    return envelope.capability == "completions" or prefix != "none"


def continuation(
    envelope: Envelope,
    delivered: str,
    model_json: bytes,
    prefix: AssistantPrefix,
    quirks: frozenset[str] = frozenset(),
    delivered_tokens: int = 0,
) -> Continuation | None:
    """The request for the rest of an answer of which the caller has `delivered`; None when its token limit is used up.

    Only for a request without `why_not` at a target that `goes_on`. Members other than the conversation and the limits
    are those of `encode_upstream_body`.
    """
    raise NotImplementedError


def seam_comment(cut_target: str, delivered_chars: int, target: str) -> bytes:
    """`: x-potluck-resumed: from openai/x after 123 characters, on lab/y`."""
    return encode_comment(f"x-potluck-resumed: from {cut_target} after {delivered_chars} characters, on {target}")


def joined_usage(first: TokenUsage, second: TokenUsage) -> TokenUsage:
    """The usage of the whole answer: the prompt once, the output of both."""
    raise NotImplementedError
