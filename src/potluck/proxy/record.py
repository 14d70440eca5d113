"""What an exchange leaves behind: the intent of an attempt, and the record of the whole. Nothing here acts.

Times in records are microseconds since the request was accepted; money is nano-USD. Usage and cost of a record are the
sums over all its attempts.
"""

import time
from typing import TYPE_CHECKING

from potluck.model.price import cost_nanousd
from potluck.model.usage import Answered, Intent, IntentForm, Outcome, TokenUsage, UsageRecord
from potluck.proxy import verdict
from potluck.proxy.candidates import MAX_FORMS

if TYPE_CHECKING:
    from potluck.proxy.attempt import Attempt
    from potluck.proxy.exchange import Exchange

clock_ns = time.monotonic_ns


def brief_intent(exchange: "Exchange", attempt: "Attempt") -> bytes | None:
    """The intent of a request's first attempt, made of what was encoded for earlier ones; None: it is not so plain."""
    envelope = exchange.envelope
    if attempt.n != 1 or envelope.user or envelope.tags:
        return None
    forms, form_of = attempt.option.forms, (exchange.key.id, envelope.stream)
    form = forms.get(form_of)
    if form is None:
        if len(forms) >= MAX_FORMS:
            forms.clear()
        form = forms[form_of] = IntentForm(intent_of(exchange, attempt, 0))
    return form.line(exchange.id, exchange.at_ms, len(exchange.body))


def intent_of(exchange: "Exchange", attempt: "Attempt", request_bytes: int) -> Intent:
    """What the provider of an attempt may bill from now on."""
    envelope, key, target = exchange.envelope, exchange.key, attempt.target
    return Intent(
        id=exchange.id,
        n=attempt.n,
        at_ms=exchange.at_ms,
        organisation_id=key.organisation_id,
        project_id=key.project_id,
        key_id=key.id,
        endpoint=exchange.capability,
        model=envelope.model,
        target_id=target.id,
        target=target.name,
        provider_id=target.provider_id,
        credential_id=target.credential_id,
        stream=envelope.stream,
        route=exchange.candidates.route.name,
        user=envelope.user,
        tags=envelope.tags,
        request_bytes=request_bytes,
        price_version=target.price.version if target.price else "",
        failed=tuple(exchange.attempts),
        kind=attempt.kind,
    )


def record_of(
    exchange: "Exchange",
    outcome: Outcome,
    status: int,
    last: "Attempt | None",
    answer: "Attempt | None",
    usage: TokenUsage | None,
    finish_reason: str,
    error_code: str,
) -> UsageRecord:
    """The record of a request that ends now. `answer`: the attempt that ended well, if any; `last`: that ran last."""
    envelope, key, attempts = exchange.envelope, exchange.key, exchange.attempts
    target = last.target if last is not None else None
    now_us, started_us, first_content_us = clock_ns() // 1000, exchange.started_us, exchange.first_content_us
    answered: Answered | None = None
    cost: int | None = None
    upstream_us = 0
    if answer is not None:
        price, start_us = answer.target.price, answer.start_us
        upstream_us = now_us - start_us
        if price is not None and usage is not None:
            cost = cost_nanousd(usage, price)
        answered = Answered(
            answer.n,
            answer.target.credential_id,
            start_us - started_us,
            (answer.connected_us or start_us) - started_us,
            answer.first_byte_us - started_us,
            now_us - started_us,
            price.version if price is not None else "",
            cost if attempts else None,
            answer.kind,
            usage if attempts else None,
        )
    if attempts:
        usage, cost = verdict.total_usage(attempts, usage), verdict.total_cost(attempts, cost)
        upstream_us = verdict.upstream_us(attempts, answered)
    # by place, in the order of its fields: as keywords they cost 0.7 µs, a fiftieth of a plain request
    return UsageRecord(
        exchange.id,
        exchange.at_ms,
        key.organisation_id,
        key.project_id,
        key.id,  # key_id
        exchange.capability,  # endpoint
        envelope.model,
        "client_closed" if exchange.connection is None else outcome,  # outcome
        status,
        envelope.stream,
        exchange.candidates.route.name,  # route
        envelope.user,
        envelope.tags,
        target.id if target is not None else "",  # target_id
        target.name if target is not None else "",  # target
        target.provider_id if target is not None else "",  # provider_id
        usage,
        cost,  # cost_nanousd
        finish_reason,
        error_code,
        tuple(attempts),  # attempts
        answered,
        len(exchange.body),  # request_bytes
        exchange.response_bytes,
        exchange.read_us - started_us,  # read_us
        first_content_us - started_us if first_content_us else -1,  # first_content_us
        now_us - started_us,  # total_us
        now_us - exchange.read_us - upstream_us,  # overhead_us
        exchange.candidates.plan,
    )
