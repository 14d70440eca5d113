"""The form of the catalogue: one row per fault, saying what the provider does and what a caller must then get.

`plain` and `stream` are what an honest gateway with **one** target gives a caller who asked for JSON or for a stream;
None where the fault has no meaning there. With a second, healthy target every row whose error comes before the first
content (`in_stream` false, class `key_*`, `target_*` or `policy`) must end as a good answer instead.
"""

from collections.abc import Awaitable, Callable

import msgspec

from potluck.conformance.call import Call
from potluck.model.usage import ErrorClass, Outcome

Play = Callable[[Call], Awaitable[None]]


class Expect(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller gets and what the record says."""

    status: int = 200
    code: str = ""
    """`error.code` of the envelope, or of the event that ends the stream; empty: a good answer"""
    outcome: Outcome = "ok"
    error_class: ErrorClass = "none"
    """of the attempt"""
    in_stream: bool = False
    """status 200 is out already: the error is the stream's last event and no `[DONE]` follows"""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the catalogue; `name` is the model to ask for."""

    name: str
    does: str
    must: str
    play: Play
    plain: Expect | None
    stream: Expect | None
    early: bool = False
    """played when the head is in, before the body is read; chosen by the URL (`/f/NAME/v1`), not by the model"""


GOOD = Expect()
DOWN = Expect(status=502, code="upstream_error", outcome="upstream_error", error_class="target_down")
BROKEN = Expect(code="upstream_error", outcome="upstream_error", error_class="target_down", in_stream=True)
TRUNCATED = Expect(status=502, code="upstream_truncated", outcome="upstream_truncated", error_class="target_down")
CUT = Expect(code="upstream_truncated", outcome="upstream_truncated", error_class="target_down", in_stream=True)
SLOW = Expect(status=504, code="upstream_timeout", outcome="upstream_timeout", error_class="target_slow")
STALLED = Expect(code="upstream_timeout", outcome="upstream_timeout", error_class="target_slow", in_stream=True)
KEY_DEAD = Expect(status=502, code="upstream_error", outcome="upstream_error", error_class="key_dead")
REFUSED = Expect(status=403, code="policy_denied", outcome="policy", error_class="policy")
LIMITED = Expect(status=429, code="upstream_rate_limited", outcome="upstream_rate_limited", error_class="key_limited")

FAULTS: dict[str, Fault] = {}
"""by name; filled by the modules beside this one when `faults` is imported"""


def fault(
    name: str,
    does: str,
    must: str,
    *,
    plain: Expect | None = None,
    stream: Expect | None = None,
    early: bool = False,
) -> Callable[[Play], Play]:
    """Enter a coroutine function into the catalogue. Raises ValueError for a name that is taken."""

    def enter(play: Play) -> Play:
        if name in FAULTS:
            raise ValueError(f"fault {name} stands twice in the catalogue")
        FAULTS[name] = Fault(name=name, does=does, must=must, play=play, plain=plain, stream=stream, early=early)
        return play

    return enter
