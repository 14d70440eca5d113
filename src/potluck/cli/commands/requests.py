"""`potluck request show|list`."""

from typing import Any

import click

from potluck.cli.output import count, milliseconds, when
from potluck.cli.session import Group, current


@click.group(cls=Group)
def request() -> None:
    """Single requests: where they went, what they cost, where the time went."""


@request.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, help="How many, newest first. Default: 20.")
@click.option("--outcome", help="Only those that ended so: ok, client_closed, upstream_error, …")
@click.option("--model", help="Only those that named this model.")
def list_(limit: int, outcome: str | None, model: str | None) -> None:
    """List the newest requests."""
    session = current()
    page = session.gateway.get("/requests", limit=limit, outcome=outcome, model=model)
    if session.json:
        session.output.data(page)
        return
    rows = [
        each
        | {
            "at": when(each["at_ms"]),
            "tokens": f"{count(each['input_tokens'])} → {count(each['output_tokens'])}",
            "cost": _cost(each),
            "took": milliseconds(each["total_us"]),
        }
        for each in page["data"]
    ]
    columns = [("AT", "at"), ("REQUEST", "id"), ("MODEL", "model"), ("TARGET", "target"), ("OUTCOME", "outcome")]
    columns += [("TOKENS", "tokens"), ("COST $", "cost"), ("TOOK", "took")]
    session.output.table(
        columns, rows, empty="no requests", right=("tokens", "cost", "took"), optional=("took", "cost", "model")
    )


@request.command()
@click.argument("request_id", metavar="ID")
def show(request_id: str) -> None:
    """Show one request: phases, attempts, reasons, tokens, cost."""
    session = current()
    found = session.gateway.get(session.gateway.path_of("/requests", request_id))
    if session.json:
        session.output.data(found)
        return
    tokens = f"{count(found['input_tokens'])} in, {count(found['output_tokens'])} out"
    parts = [
        f"{count(found[member])} {label}"
        for member, label in (
            ("cached_input_tokens", "cached"),
            ("cache_write_tokens", "written to cache"),
            ("reasoning_tokens", "reasoning"),
        )
        if found.get(member)
    ]
    session.output.facts(
        [
            ("request", found["id"]),
            ("at", when(found["at_ms"])),
            ("endpoint", found["endpoint"] + (", streamed" if found["stream"] else "")),
            ("model", found["model"]),
            ("key", found.get("key") or found["key_id"]),
            ("project", found.get("project") or found["project_id"]),
            ("user", found["user"]),
            ("tags", found["tags"]),
            ("outcome", f"{found['outcome']} (HTTP {found['status']})" if found["status"] else found["outcome"]),
            ("error", found["error_code"]),
            ("finish reason", found["finish_reason"]),
            ("target", found["target"]),
            ("tokens", f"{tokens}{' (' + ', '.join(parts) + ')' if parts else ''}{_estimated(found)}"),
            ("cost", _cost_said(found)),
            ("body read", milliseconds(found["read_us"])),
            ("first content", milliseconds(found["first_content_us"])),
            ("whole", milliseconds(found["total_us"])),
            ("in the gateway", milliseconds(found["overhead_us"])),
            ("bytes", f"{count(found['request_bytes'])} in, {count(found['response_bytes'])} out"),
        ]
    )
    session.output.line()
    rows = [_attempt(each) for each in found["attempts"]]
    columns = [("ATTEMPT", "n"), ("TARGET", "target"), ("ENDED", "ended"), ("HTTP", "status"), ("START", "start")]
    columns += [("CONNECTED", "connected"), ("FIRST BYTE", "first"), ("END", "end"), ("WHY", "error")]
    right = ("n", "status", "start", "connected", "first", "end")
    session.output.table(columns, rows, empty="no attempt was made", right=right, optional=("connected", "start"))


def _attempt(attempt: dict[str, Any]) -> dict[str, Any]:
    return {
        "n": attempt["n"],
        "target": attempt["target"],
        "ended": "well" if attempt.get("error_class", "none") == "none" else attempt["error_class"],
        "status": attempt.get("status") or None,
        "start": milliseconds(attempt.get("start_us")),
        "connected": milliseconds(attempt.get("connected_us")),
        "first": milliseconds(attempt.get("first_byte_us")),
        "end": milliseconds(attempt.get("end_us")),
        "error": attempt.get("error") or None,
    }


def _cost(record: dict[str, Any]) -> str:
    return "-" if record["cost_usd"] is None else f"{record['cost_usd']:.9f}".rstrip("0").rstrip(".")


def _cost_said(record: dict[str, Any]) -> str:
    if record["cost_usd"] is not None:
        return f"{_cost(record)} USD"
    return "not known: the target has no price" if record["target"] else "0 USD: no target was called"


def _estimated(record: dict[str, Any]) -> str:
    return ", estimated" if record["estimated"] else ""
