"""What the caller is told: pure functions from targets and failures to response fields and errors."""

from functools import reduce
from typing import TYPE_CHECKING, Any

from potluck.model.price import NANOUSD_PER_USD
from potluck.model.resources import Capability
from potluck.model.snapshot import CompiledTarget
from potluck.model.usage import Answered, AttemptRecord, Outcome, TokenUsage
from potluck.policy.retry import smallest_retry_after
from potluck.ports import Failure
from potluck.providers.openai import classify_error
from potluck.proxy.answers import retry_after
from potluck.wire.dialects.resume import joined_usage
from potluck.wire.errors import RequestError
from potluck.wire.sse import encode_comment

if TYPE_CHECKING:
    from potluck.proxy.candidates import Candidates, LaneOption

_OUTCOMES: dict[str, Outcome] = {
    "upstream_error": "upstream_error",
    "upstream_truncated": "upstream_truncated",
    "upstream_timeout": "upstream_timeout",
    "upstream_rate_limited": "upstream_rate_limited",
    "no_target_available": "no_target",
    "invalid_request": "caller_error",
    "request_too_large": "caller_error",
    "policy_denied": "policy",
    "accounting_unavailable": "policy",
    "overloaded": "shutdown",
    "internal_error": "internal_error",
}


def stream_fields(candidates: "Candidates", option: "LaneOption", calls: int) -> bytes:
    """Potluck's response fields that are known when an answer begins. `calls`: upstream calls made so far."""
    if calls == 1 and option.first_fields:
        return option.first_fields
    fields = b"x-potluck-target: %s\r\nx-potluck-route: %s\r\nx-potluck-cache: off\r\nx-potluck-attempts: %d\r\n" % (
        option.target.name.encode(),
        candidates.route_field,
        calls,
    )
    if option.model not in candidates.own_models:
        fields += b"x-potluck-model: %s\r\n" % option.model.encode()  # a fallback to another model
    if calls == 1:
        option.first_fields = fields
    return fields


def answer_fields(
    candidates: "Candidates", option: "LaneOption", calls: int, cost: int | None, overhead_us: int
) -> bytes:
    """Potluck's response fields of a whole answer. No cost field when the target has no price."""
    fields = option.first_fields if calls == 1 else b""
    if not fields:
        fields = stream_fields(candidates, option, calls)
    if cost is None:
        return b"%sx-potluck-overhead-us: %d\r\n" % (fields, overhead_us)
    usd, nanousd = divmod(cost, NANOUSD_PER_USD)
    return b"%sx-potluck-overhead-us: %d\r\nx-potluck-cost-usd: %d.%09d\r\n" % (fields, overhead_us, usd, nanousd)


def error_fields(error: RequestError, attempts: int) -> bytes:
    """Response fields of an error answer."""
    return b"x-potluck-attempts: %d\r\n%s" % (attempts, retry_after(error))


def hidden_of(target: CompiledTarget, capability: Capability) -> tuple[str, ...]:
    """What an upstream's own words must not tell a caller: our key, and where the target is."""
    endpoint = target.endpoint
    authorization = dict(target.heads[capability].headers).get("authorization", "")
    secret = authorization.removeprefix("Bearer ")
    address = (f"{endpoint.host}:{endpoint.port}", endpoint.host) if endpoint.host else ()
    return tuple(text for text in (secret, *address) if text)


def late_comment(target: CompiledTarget, attempts: int) -> bytes:
    """Target and attempts as a comment, for a stream whose head went out before they were known."""
    return encode_comment(f"x-potluck-target: {target.name}, x-potluck-attempts: {attempts}")


def outcome_of(code: str) -> Outcome:
    """The record's outcome for an error code told to the caller."""
    return _OUTCOMES[code]


def upstream_us(failed: list[AttemptRecord], answered: Answered | None) -> int:
    """Microseconds in which the request waited for somebody else: calls, which may overlap, and pauses before them."""
    total = until = 0
    calls: list[AttemptRecord | Answered] = [each for each in failed if each.start_us >= 0]
    if answered is not None:
        calls.append(answered)
    for call in sorted(calls, key=lambda each: each.start_us):
        since = until if call.kind == "same" else max(until, call.start_us)
        if call.end_us > since:
            total += call.end_us - since
            until = call.end_us
    return total


def total_cost(failed: list[AttemptRecord], answered: int | None) -> int | None:
    """The cost of all attempts, of those that have one; None when none has."""
    costs = [attempt.cost_nanousd for attempt in failed if attempt.cost_nanousd is not None]
    if answered is not None:
        costs.append(answered)
    return sum(costs) if costs else None


def total_usage(failed: list[AttemptRecord], answered: TokenUsage | None) -> TokenUsage | None:
    """What all attempts used, of those that say; None when none does.

    Beside an answer a hedge that lost counts in the cost alone: its tokens are nothing that anybody read.
    """
    counts_losers = answered is None
    known = [
        attempt.usage
        for attempt in failed
        if attempt.usage is not None and (counts_losers or attempt.error_class != "none")
    ]
    if answered is not None:
        known.append(answered)
    if len(known) < 2:
        return known[0] if known else None
    counts = {
        name: sum([getattr(each, name) for each in known])
        for name in TokenUsage.__struct_fields__
        if name != "estimated"
    }
    return TokenUsage(**counts, estimated=any(each.estimated for each in known))


def shown_usage(cut: list[AttemptRecord]) -> TokenUsage:
    """The usage that a caller sees of a stream which was cut, maybe more than once: its prompt counts once."""
    usages = [attempt.usage for attempt in cut if attempt.usage is not None and attempt.error_class != "none"]
    return reduce(joined_usage, usages) if usages else TokenUsage(estimated=True)


def shown_cost(cut: list[AttemptRecord]) -> int | None:
    """What these attempts cost, in nano-USD; None when one that used something has no price."""
    if any(attempt.usage is not None and attempt.cost_nanousd is None for attempt in cut):
        return None
    return total_cost(cut, None)


def of_error_object(error: dict[str, Any], where: str) -> Failure:
    """An error object inside a 200 or a stream, by what it calls itself. Its text stays here: it may name accounts.

    A fault that it lays at the caller's door is still the target's here: it said 200 first.
    """
    error_class = classify_error(error)
    if error_class in ("caller_fault", "none"):
        error_class = "target_down"
    return Failure(error_class, "first_byte", f"reported an error {where}")


def of_failures(failures: list[tuple[str, Failure]], parked_waits_s: list[float] | None = None) -> RequestError:
    """What the caller is told when every allowed target failed: how many, and the class of each.

    `parked_waits_s`: for how long all lanes are parked by now, those too that were not called; None: some are not.
    """
    # a refusal says nothing against the others' reasons, unless an answer had begun
    weighty = [failure for _, failure in failures if failure.error_class != "refused" or failure.truncated]
    last = weighty[-1] if weighty else failures[-1][1]
    objected = all(failure.by_node for failure in weighty)
    if last.error_class == "caller_fault" or (objected and last.error_class == "target_down"):
        code = "request_too_large" if last.status == 413 else "invalid_request"
        return RequestError(code, last.detail)
    classes = {failure.error_class for failure in weighty}
    told = "; ".join(f"{name} {failure.detail} ({failure.error_class})" for name, failure in failures)
    count = "the only call failed" if len(failures) == 1 else f"all {len(failures)} calls failed"
    message = f"{count}: {told}"
    asked_s = [failure.retry_after_s for _, failure in failures]
    if not classes:
        return RequestError("no_target_available", message, retry_after_s=smallest_retry_after(asked_s))
    if classes == {"key_limited"}:
        waits = asked_s if parked_waits_s is None else parked_waits_s
        return RequestError("upstream_rate_limited", message, retry_after_s=smallest_retry_after(waits) or 1.0)
    if classes == {"policy"}:
        return RequestError("policy_denied", message)
    if classes == {"target_slow"}:
        return RequestError("upstream_timeout", message)
    if last.truncated:
        return RequestError("upstream_truncated", message)
    return RequestError("upstream_error", message)
