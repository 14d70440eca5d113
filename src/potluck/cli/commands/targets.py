"""`potluck target list|clear`: how targets stand right now, by credential."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from potluck.cli.session import Group, Session, current

BEST_FIRST = ("closed", "half_open", "open", "parked", "dead", "away")
"""what `state` may be"""


@click.group(cls=Group)
def target() -> None:
    """How targets stand right now: breakers, parked and dead keys, calls in flight, latency."""


@target.command("list")
@click.argument("name", required=False)
def list_(name: str | None) -> None:
    """List how targets stand, by credential, those in trouble first; or one target."""
    session = current()
    found = states_of(session, name)
    if session.json:
        session.output.data({"data": found})
        return
    columns = [("TARGET", "target"), ("CREDENTIAL", "credential"), ("STATE", "state"), ("RETRY", "retry")]
    columns += [("IN FLIGHT", "in_flight"), ("FIRST TOKEN", "first"), ("P95", "p95"), ("TOKENS/S", "speed")]
    columns += [("WHY", "error")]
    session.output.table(
        columns,
        [_row(each) for each in found],
        empty="no target has been asked for anything yet",
        right=("retry", "in_flight", "first", "p95", "speed"),
        optional=("speed", "first", "p95", "in_flight"),
    )


@target.command()
@click.argument("name", required=False)
@click.option("--credential", metavar="PROVIDER/NAME", help="Only by this credential.")
def clear(name: str | None, credential: str | None) -> None:
    """Use a target again at once, whatever is held against it; without NAME, all of them."""
    session = current()
    said = {"target": name, "credential": credential}
    done = session.gateway.post("/target-states/clear", {key: value for key, value in said.items() if value})
    if session.json:
        session.output.data(done)
        return
    whose = f"{name or 'all targets'}{f' by {credential}' if credential else ''}"
    number = done["cleared"]
    if number:
        session.output.line(f"{whose}: cleared{f', {number} states' if number > 1 else ''}")
    else:
        session.output.line(f"{whose}: nothing was held against {'it' if name else 'them'}")


def states_of(session: Session, target: str | None = None) -> list[dict[str, Any]]:
    """What the gateway says of all targets, or of one."""
    return list(session.gateway.get("/target-states", target=target)["data"])


def health(states: Sequence[Mapping[str, Any]]) -> str:
    """How one target stands over all its credentials: `closed`, or `closed; 1 of 2 keys dead`; `unused`."""
    if not states:
        return "unused"
    counts = {state: sum(each["state"] == state for each in states) for state in BEST_FIRST}
    best, *worse = [state for state, number in counts.items() if number] or [str(states[0]["state"])]
    return "; ".join([best, *(f"{counts[state]} of {len(states)} keys {state}" for state in worse)])


def rounded_ms(value: float | None) -> str | None:
    """`12.3 ms`, `1,234 ms`."""
    return None if value is None else f"{value:,.{0 if value >= 100 else 1}f} ms"


def _row(state: Mapping[str, Any]) -> dict[str, Any]:
    speed = state["tokens_per_s"]
    return {
        "target": state["target"],
        "credential": state["credential"] or None,
        "state": state["state"],
        "retry": f"in {state['retry_in_s']:,.0f} s" if state["retry_in_s"] > 0 else None,
        "in_flight": state["in_flight"],
        "first": rounded_ms(state["first_token_ms"]),
        "p95": rounded_ms(state["p95_first_token_ms"]),
        "speed": None if speed is None else f"{speed:,.1f}",
        "error": state["reason"] or None,  # the member whose cells may fold
    }
