"""`potluck request show|list`. What the gateway says is shown as far as it is known here: more members do no harm."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from potluck.cli.output import Column, Output, count, milliseconds, plain, when
from potluck.cli.session import Group, current

CONNECTING, WAITING, ANSWERING = "░", "▒", "█"
MAX_BAR = 60
MIN_BAR = 20
MAX_LABEL = 32
TIMES = ("start_ms", "connected_ms", "first_byte_ms", "end_ms")

Span = tuple[float, float, str]
"""from, to (ms), and the character that it is drawn with"""


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
            ("tokens", f"{tokens}{' (' + ', '.join(parts) + ')' if parts else ''}"),
            ("cost", _cost_said(found)),
            ("counted", "in part from lengths: an upstream did not say" if found["estimated"] else None),
            ("body read", milliseconds(found["read_us"])),
            ("first content", milliseconds(found["first_content_us"])),
            ("whole", milliseconds(found["total_us"])),
            ("in the gateway", milliseconds(found["overhead_us"])),
            ("bytes", f"{count(found['request_bytes'])} in, {count(found['response_bytes'])} out"),
        ]
    )
    _show_attempts(session.output, found)
    if found.get("plan"):
        _show_plan(session.output, found["plan"])


def _show_attempts(output: Output, found: Mapping[str, Any]) -> None:
    """Bars on a terminal that is wide enough, the same as numbers elsewhere; then how each attempt ended."""
    output.line()
    bars = timeline(found, output.width) if output.terminal else []
    for bar in bars:
        output.line(bar)
    columns = [("ATTEMPT", "n"), ("TARGET", "target"), ("ENDED", "ended"), ("HTTP", "status"), ("BLAME", "blame")]
    columns += [("KIND", "kind"), ("KEY", "key")]
    if not bars:
        columns += [("START", "start_ms"), ("CONNECTED", "connected_ms")]
        columns += [("FIRST BYTE", "first_byte_ms"), ("END", "end_ms")]
    columns += [("TOKENS", "tokens"), ("COST $", "cost"), ("WHY", "error")]
    output.table(
        columns,
        [_attempt(each) for each in found["attempts"]],
        empty="no attempt was made",
        right=("n", "status", "tokens", "cost", *TIMES),
        optional=("tokens", "cost", "connected_ms", "start_ms", "key", "kind"),
    )


def _show_plan(output: Output, plan: Mapping[str, Any]) -> None:
    """Each target, in the order in which they were to be tried, in or out, with the number that ranked it and why."""
    output.line()
    output.facts([("plan", ", ".join(f"{name} {plan[name]}" for name in ("route", "strategy") if plan.get(name)))])
    targets = plan.get("targets") or []
    columns: list[Column] = [("PLAN", "in"), ("TARGET", "target"), ("KEY", "credential")]
    if len({each["model"] for each in targets if each.get("model")}) > 1:
        columns.append(("MODEL", "model"))
    columns += [("STATE", "state"), ("SCORE", "score"), ("WHY", "error")]
    output.table(
        columns,
        [_considered(each) for each in targets],
        empty="no target was considered",
        right=("score",),
        optional=("state", "credential"),
    )


def timeline(found: Mapping[str, Any], width: int) -> list[str]:
    """Lines of at most `width` that draw when the body was read and what each attempt waited for.

    Empty when there is nothing to draw, or no room.
    """
    rows: list[tuple[str, list[Span]]] = [("body read", [(0.0, found["read_us"] / 1000, WAITING)])]
    rows += [(f"{each['n']} {plain(each['target'])}", _spans(each)) for each in found["attempts"]]
    rows = [(label, spans) for label, spans in rows if spans]
    ends = [end for _, spans in rows for _, end, _ in spans]
    whole_ms = max([*ends, found["total_us"] / 1000])
    if len(rows) < 2 or whole_ms <= 0:
        return []
    labels = [label if len(label) <= MAX_LABEL else f"{label[: MAX_LABEL - 1]}…" for label, _ in rows]
    times = [milliseconds(round((spans[-1][1] - spans[0][0]) * 1000)) for _, spans in rows]
    label_width, time_width = max(map(len, labels)), max(map(len, times))
    bar_width = min(MAX_BAR, width - label_width - time_width - 4)
    if bar_width < MIN_BAR:
        return []
    lines = [
        f"{label.ljust(label_width)}  {_bar(spans, whole_ms, bar_width)}  {time.rjust(time_width)}"
        for label, time, (_, spans) in zip(labels, times, rows, strict=True)
    ]
    legend = f"{CONNECTING} connecting  {WAITING} waiting  {ANSWERING} answering"
    return [*lines, f"{' ' * label_width}  {legend}"]


def _spans(attempt: Mapping[str, Any]) -> list[Span]:
    start, connected, first_byte, end = (attempt.get(name) for name in TIMES)
    if start is None or end is None:
        return []
    if connected is None and first_byte is None and attempt.get("phase") == "connect":
        connected = first_byte = end  # it never got further
    if connected is None:
        connected = start  # it took an idle connection
    if first_byte is None:
        first_byte = end
    spans = [(start, connected, CONNECTING), (connected, first_byte, WAITING), (first_byte, end, ANSWERING)]
    return [span for span in spans if span[0] < span[1]] or [(start, end, WAITING)]


def _bar(spans: Sequence[Span], whole_ms: float, width: int) -> str:
    """`width` cells for `whole_ms`; each span has one at least, the later ones before the earlier."""
    cells = [" "] * width
    for start, end, character in spans:
        first = min(int(start / whole_ms * width), width - 1)
        last = max(first + 1, min(round(end / whole_ms * width), width))
        cells[first:last] = character * (last - first)
    return "".join(cells)


def _attempt(attempt: Mapping[str, Any]) -> dict[str, Any]:
    usage = attempt.get("usage")
    return {
        "n": attempt["n"],
        "target": attempt["target"],
        "ended": _ended(attempt),
        "status": attempt["status"] or None,
        "blame": attempt["blame"],
        "kind": attempt["kind"],
        "key": attempt.get("credential") or attempt["credential_id"],
        "tokens": f"{count(usage['input_tokens'])} → {count(usage['output_tokens'])}" if usage else None,
        "cost": _cost(attempt),
        "error": attempt["error"] or None,
    } | {name: None if attempt[name] is None else f"{attempt[name]:,.1f} ms" for name in TIMES}


def _ended(attempt: Mapping[str, Any]) -> str:
    if attempt["error_class"] != "none":
        return str(attempt["error_class"])
    return "cancelled" if attempt["error"] else "well"  # a hedge's loser is at no fault


def _considered(target: Mapping[str, Any]) -> dict[str, Any]:
    score = target.get("score")
    number = f"{score:,.6g}" if isinstance(score, int | float) else score
    return {
        "in": "in" if target.get("in") else "out",
        "target": target.get("target"),
        "credential": target.get("credential") or None,
        "model": target.get("model"),
        "state": target.get("state") or None,
        "score": None if number is None else f"{number} {target.get('unit') or ''}".rstrip(),
        "error": target.get("why") or None,  # the member whose cells may fold
    }


def _cost(record: Mapping[str, Any]) -> str:
    return "-" if record["cost_usd"] is None else f"{record['cost_usd']:.9f}".rstrip("0").rstrip(".")


def _cost_said(record: dict[str, Any]) -> str:
    if record["cost_usd"] is not None:
        return f"{_cost(record)} USD"
    return "not known: the target has no price" if record["target"] else "0 USD: no target was called"
