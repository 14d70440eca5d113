"""A fault of the gateway's own in one request: it ends honestly, leaves nothing behind, and costs nobody else anything.

The faults are put in: a step raises what nobody expects, at each door through which a request is moved on.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dataplane import Gateway

from potluck.conformance.caller import CutError
from potluck.model.faults import fault_of
from potluck.model.resources import Hedge
from potluck.proxy import attempt as attempts
from potluck.proxy import exchange as exchanges
from potluck.proxy.exchange import Exchange
from potluck.proxy.relay import Relay


class OddError(Exception):
    """Nobody foresees it."""


Break = Callable[..., None]


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Break:
    """`broken(owner, name, at)`: the `at`-th call of `owner.name` raises, the others do what they always did."""

    def break_(owner: Any, name: str, at: int = 1) -> None:
        real, calls = getattr(owner, name), iter(range(1, 1_000_000))

        def raising(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == at:
                raise OddError("the prompt was: canary")
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, raising)

    return break_


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """What was logged of faults; none of it may hold what was being handled."""
    caplog.set_level(logging.ERROR)
    yield lambda: [record.getMessage() for record in caplog.records if "fault of the gateway" in record.getMessage()]
    assert "canary" not in caplog.text


async def others_are_served(gateway: Gateway) -> None:
    """The next request, and that nothing is left of the last one."""
    await gateway.at_rest()
    for model in gateway.snapshots.current.models.values():
        for target in model.targets:
            assert gateway.plane.registry.standing(target.place).in_flight == 0
    async with gateway.caller() as caller:
        await caller.send(gateway.request("ok"))
        assert (await caller.read()).status == 200


BEFORE_CONTENT: dict[str, tuple[Callable[[Gateway], Any], str, bool]] = {
    "who may serve it": (lambda gateway: gateway.plane.router, "candidates", False),
    "who is first": (lambda gateway: gateway.plane.router, "first", True),
    "the attempt": (lambda _: exchanges, "Attempt", True),
    "the intent": (lambda gateway: gateway.spool, "intend_line", True),
    "the deadline": (lambda _: Exchange, "_watch", True),
    "the body": (lambda _: attempts, "encode_upstream_body", True),
    "the upstream": (lambda gateway: gateway.pool, "open", True),
    "the stream's reader": (lambda _: attempts, "Relay", True),
    "the first read": (lambda _: Relay, "feed", True),
    "the record": (lambda _: exchanges, "record_of", True),
}


@pytest.mark.parametrize("case", BEFORE_CONTENT)
async def test_a_fault_before_content_is_a_500_with_a_record(
    gateway: Gateway, broken: Break, said: Callable[[], list[str]], case: str
):
    """The caller gets `internal_error` on a connection that goes on; record, counters and log say so once."""
    owner, name, recorded = BEFORE_CONTENT[case]
    asked = "ok" if case != "the record" else "status-400"
    broken(owner(gateway), name)
    async with gateway.caller() as caller:
        await caller.send(gateway.request(asked, stream=True))
        response = await caller.read()
        assert (response.status, response.code) == (500, "internal_error")
        if recorded:
            record = await gateway.record(asked)
            assert (record.outcome, record.status, record.error_code) == ("internal_error", 500, "internal_error")
        else:
            assert [reason for reason, _ in gateway.spool.refusals] == ["internal_error"]
        (line,) = said()
        assert str(response.header("x-request-id")) in line
        await caller.send(gateway.request("ok"))
        assert (await caller.read()).status == 200
    await others_are_served(gateway)


async def test_a_fault_inside_a_stream_ends_it_with_an_error_event(
    gateway: Gateway, broken: Break, said: Callable[[], list[str]]
):
    """What was sent stays, an error event follows and no `[DONE]`; the upstream call is closed, its cost recorded."""
    gateway.add("ok;chunks=20;gap_ms=10", _base_url(gateway))
    broken(Relay, "feed", 6)
    async with gateway.caller() as caller:
        await caller.send(gateway.request("ok;chunks=20;gap_ms=10", stream=True))
        response = await caller.read()
    assert response.status == 200
    assert b'"content"' in response.events[0]
    assert b"internal_error" in response.events[-1]
    assert b"[DONE]" not in response.body
    record = await gateway.record("ok;chunks=20;gap_ms=10")
    assert (record.outcome, record.status, record.error_code) == ("internal_error", 200, "internal_error")
    assert record.usage is not None
    assert len(said()) == 1
    await others_are_served(gateway)


async def test_an_answer_that_is_there_is_delivered_whatever_counts_it(gateway: Gateway, broken: Break):
    """A meter that raises costs no caller an answer."""
    broken(gateway.plane.meter, "request")
    async with gateway.caller() as caller:
        await caller.send(gateway.request("ok"))
        assert (await caller.read()).status == 200
    await others_are_served(gateway)


async def test_a_fault_in_the_last_words_cuts_the_connection(gateway: Gateway, broken: Break):
    """Of an answer of which nobody knows how far it came, the caller sees the end and does not wait for more."""
    broken(exchanges.verdict, "answer_fields")
    async with gateway.caller() as caller:
        await caller.send(gateway.request("ok"))
        with pytest.raises(CutError):
            await caller.read()
    await others_are_served(gateway)


async def test_a_request_that_cannot_even_be_ended_is_cut(
    gateway: Gateway, broken: Break, monkeypatch: pytest.MonkeyPatch
):
    """Where the end itself raises, nothing stays behind all the same, and the caller's connection is closed."""

    def never(*_: Any) -> None:
        raise OddError

    gateway.spool.intents.clear()
    monkeypatch.setattr(exchanges, "record_of", never)
    async with gateway.caller() as caller:
        await caller.send(gateway.request("ok"))
        with pytest.raises(CutError):
            await caller.read()
    gateway.spool.intents.clear()  # without a record: the next start settles it
    monkeypatch.undo()
    await others_are_served(gateway)


@pytest.mark.parametrize("step", ["on_deadline", "caller_gone", "shut_down"])
async def test_a_fault_in_a_step_from_outside_ends_its_request_alone(gateway: Gateway, broken: Break, step: str):
    """A sweep, a hang-up or a drain that raises at one exchange goes on with the others, and that one is over."""
    gateway.serve("slow", gateway.target(_base_url(gateway), "stall-before-head", id="tgt_slow"))
    broken(Exchange, step)
    async with gateway.caller() as caller, gateway.caller() as other:
        await caller.send(gateway.request("slow"))
        await gateway.until(lambda: gateway.plane.exchanges)
        (first,) = gateway.plane.exchanges
        await other.send(gateway.request("slow"))
        await gateway.until(lambda: len(gateway.plane.exchanges) == 2)
        if step == "on_deadline":
            first.deadline = 0.0
            response = await caller.read()
            assert (response.status, response.code) == (500, "internal_error")
        elif step == "shut_down":
            await gateway.plane.drain(0.01)
            assert {(await each.read()).code for each in (caller, other)} == {"internal_error", "overloaded"}
        else:
            caller.hang_up()
        other.hang_up()
        await gateway.at_rest()
    gateway.plane.draining = False
    await others_are_served(gateway)


async def test_a_hedge_that_raises_ends_its_request(gateway: Gateway, broken: Break):
    """A timer of a request that raises ends the request as everything else does."""
    targets = [
        gateway.target(_base_url(gateway), "stall-before-head", id=f"tgt_{name}", provider=name)
        for name in ("one", "two")
    ]
    gateway.serve("late", *targets)
    gateway.rule("hedged", hedge=Hedge(after_ms=20, max_extra=1.0))
    broken(Exchange, "_hedge")
    async with gateway.caller() as caller:
        await caller.send(gateway.request("late"))
        response = await caller.read()
    assert (response.status, response.code) == (500, "internal_error")
    await others_are_served(gateway)


def test_a_fault_is_told_without_its_words():
    """Type, and the innermost frames; the message stays out of the log."""

    def inner() -> None:
        raise OddError("canary")

    try:
        inner()
    except OddError as error:
        told = fault_of(error)
    assert told.startswith("OddError at test_own_faults.py:")
    assert " inner < test_own_faults.py:" in told
    assert "canary" not in told
    assert fault_of(OddError("canary")) == "OddError"


def _base_url(gateway: Gateway) -> str:
    """The fake provider's."""
    endpoint = gateway.snapshots.current.models["ok"].targets[0].endpoint
    return f"http://{endpoint.host}:{endpoint.port}/v1"
