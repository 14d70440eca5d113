"""`potluck route set|list|show|remove`; `explain` is in `explanation`."""

from typing import Any, get_args

import click

from potluck.cli.commands.explanation import explain
from potluck.cli.empty_value import OrEmpty
from potluck.cli.failure import USAGE, Failure
from potluck.cli.gateway import Refused
from potluck.cli.number import Number
from potluck.cli.output import when
from potluck.cli.session import Group, current
from potluck.model.resources import DataClass, SplitBy, Strategy

NOT_FOUND = 404


class _Hedge(click.ParamType[Any]):
    """`p95`, a whole number of milliseconds, or `off`."""

    name = "hedge"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in ("", "off"):
            return ""
        if value == "p95" or isinstance(value, int):
            return value
        if not str(value).isdecimal() or not 1 <= int(value) <= 600_000:
            self.fail(f"{value!r} is neither p95, nor milliseconds (1 to 600000), nor off", param, ctx)
        return int(value)


class _Names(click.ParamType[Any]):
    """Names separated by commas."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ARG002
        return value if isinstance(value, list) else [each.strip() for each in value.split(",") if each.strip()] or ""


_NAMES = _Names()
_USD = OrEmpty(Number(0, 1_000_000))
_SECONDS = OrEmpty(Number(0, 86_400, min_open=True))
_MEMBERS = {
    "models": ("match", "models"),
    "projects": ("match", "projects"),
    "keys": ("match", "keys"),
    "strategy": ("strategy",),
    "split": ("split",),
    "fallback": ("fallback",),
    "only": ("constraints", "only"),
    "ignore": ("constraints", "ignore"),
    "max_input_price": ("constraints", "max_price", "input"),
    "max_output_price": ("constraints", "max_price", "output"),
    "data_class": ("constraints", "data_class"),
    "connect_s": ("timeouts", "connect_s"),
    "first_token_s": ("timeouts", "first_token_s"),
    "idle_s": ("timeouts", "idle_s"),
    "total_s": ("timeouts", "total_s"),
    "hedge": ("hedge", "after"),
    "affinity": ("affinity",),
    "position": ("position",),
}
"""where each option stands in a route"""


@click.group(cls=Group)
def route() -> None:
    """Routing rules. The first that matches a request is the request's."""


@route.command("set")
@click.argument("name")
@click.option("--models", type=_NAMES, metavar="A,B", help="Models it takes; patterns with * too. Default: all.")
@click.option("--projects", type=_NAMES, metavar="A,B", help="Projects whose requests it takes. Default: all.")
@click.option("--keys", type=_NAMES, metavar="A,B", help="Keys whose requests it takes. Default: all.")
@click.option(
    "--strategy", type=OrEmpty(click.Choice(get_args(Strategy))), help="How a target is chosen. Default: priority."
)
@click.option(
    "--split",
    type=OrEmpty(click.Choice([each for each in get_args(SplitBy) if each])),
    help="With weighted: the same target for the same key or end user.",
)
@click.option(
    "--fallback",
    type=_NAMES,
    metavar="A,B",
    help="Where to when the model's own targets fail, in order: models, aliases, provider/model, patterns with *.",
)
@click.option("--only", type=_NAMES, metavar="A,B", help="Only these providers or kinds of them.")
@click.option("--ignore", type=_NAMES, metavar="A,B", help="None of these providers or kinds.")
@click.option("--max-input-price", type=_USD, metavar="USD", help="At most this per million input tokens.")
@click.option("--max-output-price", type=_USD, metavar="USD", help="At most this per million output tokens.")
@click.option(
    "--data-class",
    type=OrEmpty(click.Choice(get_args(DataClass))),
    help="Where its requests may go; private: own infrastructure only.",
)
@click.option("--connect-s", type=_SECONDS, metavar="SECONDS", help="Time for a connection.")
@click.option("--first-token-s", type=_SECONDS, metavar="SECONDS", help="Time until a target's first token.")
@click.option("--idle-s", type=_SECONDS, metavar="SECONDS", help="Silence inside an answer.")
@click.option("--total-s", type=_SECONDS, metavar="SECONDS", help="The whole request, over all attempts.")
@click.option(
    "--hedge",
    type=_Hedge(),
    metavar="p95|MS|off",
    help="Ask a second target when the first is later than this: 95 % of its own, or milliseconds.",
)
@click.option("--affinity/--no-affinity", default=None, help="Prompts with the same beginning to the same target.")
@click.option("--position", type=click.IntRange(-10_000, 10_000), help="Lowest first. Default: last.")
def set_(name: str, **given: Any) -> None:
    """Make a route, or change what is given in it. An empty value ('') takes a setting away."""
    session = current()
    body = _body(given)
    path = session.gateway.path_of("/routes", name)
    try:
        session.gateway.get(path)
    except Refused as refused:
        if refused.http_status != NOT_FOUND:
            raise
        made = session.gateway.post("/routes", {"name": name, **_said(body)})
        what = "is made"
    else:
        if not body:
            raise Failure("nothing to change: give at least one option (see: potluck route set --help)", USAGE)
        made = session.gateway.patch(path, body)
        what = "is changed"
    if session.json:
        session.output.data(made)
    else:
        session.output.line(f"route {made['name']} {what}: {_sentence(made)}")
        session.output.warn(made.get("warnings", []))


@route.command("list")
def list_() -> None:
    """List routes, in the order in which they are tried."""
    session = current()
    routes = sorted(session.gateway.pages("/routes"), key=lambda each: (each["position"], each["created_at_ms"]))
    if session.json:
        session.output.data({"data": routes})
        return
    rows = [each | each["match"] | {"more": _more(each), "strategy": _strategy(each)} for each in routes]
    columns = [("NAME", "name"), ("MODELS", "models"), ("PROJECTS", "projects"), ("KEYS", "keys")]
    columns += [("STRATEGY", "strategy"), ("FALLBACK", "fallback"), ("MORE", "more")]
    columns += [("POSITION", "position"), ("FROM", "origin"), ("ID", "id")]
    session.output.table(
        columns,
        rows,
        empty="no routes: every model's own targets, in order (potluck route set NAME --models MODEL --strategy …)",
        right=("position",),
        optional=("id", "position", "origin", "keys", "projects", "more"),
    )


@route.command()
@click.argument("ref", metavar="ROUTE")
def show(ref: str) -> None:
    """Show a route, by name or id."""
    session = current()
    found = session.gateway.get(session.gateway.path_of("/routes", ref))
    if session.json:
        session.output.data(found)
        return
    match, filters = found["match"], found["constraints"]
    session.output.facts(
        [
            ("name", found["name"]),
            ("id", found["id"]),
            ("models", match["models"]),
            ("projects", match["projects"]),
            ("keys", match["keys"]),
            ("strategy", _strategy(found)),
            ("fallback", found["fallback"]),
            ("only", filters["only"]),
            ("ignore", filters["ignore"]),
            ("at most", _dearest(filters["max_price"])),
            ("data class", filters["data_class"]),
            ("timeouts", _timeouts(found)),
            ("hedge", _hedge(found)),
            ("affinity", _affinity(found)),
            ("position", found["position"]),
            ("created", when(found["created_at_ms"])),
            ("from", "configuration file" if found["origin"] == "file" else None),
        ]
    )


@route.command()
@click.argument("ref", metavar="ROUTE")
def remove(ref: str) -> None:
    """Remove a route."""
    session = current()
    session.gateway.delete(session.gateway.path_of("/routes", ref))
    if session.json:
        session.output.data({"removed": ref})
    else:
        session.output.line(f"route {ref} is removed")


route.add_command(explain)


def _body(given: dict[str, Any]) -> dict[str, Any]:
    """The options as members of a route; null where a setting is taken away."""
    body: dict[str, Any] = {}
    for option, value in given.items():
        if value is None:
            continue
        *path, last = _MEMBERS[option]
        if option == "hedge" and value == "":
            path, last = [], "hedge"
        inside = body
        for member in path:
            inside = inside.setdefault(member, {})
        inside[last] = ([] if option == "fallback" else None) if value == "" else value
    return body


def _said(body: dict[str, Any]) -> dict[str, Any]:
    """Without nulls: a new route has nothing that could be taken away."""
    return {
        name: _said(value) if isinstance(value, dict) else value for name, value in body.items() if value is not None
    }


def _sentence(found: dict[str, Any]) -> str:
    """`cheapest for small, gpt-*; then node:*; hedge after p95`."""
    models = found["match"]["models"]
    parts = [f"{_strategy(found)} for {'all models' if models == ['*'] else ', '.join(models)}"]
    parts += [f"then {', '.join(found['fallback'])}"] if found["fallback"] else []
    return "; ".join([*parts, *_more(found)])


def _strategy(found: dict[str, Any]) -> str:
    return f"{found['strategy']} by {found['split']}" if found["split"] else str(found["strategy"])


def _more(found: dict[str, Any]) -> list[str]:
    """What a rule does besides, each in a word or two; `show` has the rest."""
    filters, hedge = found["constraints"], found["hedge"]
    said = {
        "only": filters["only"] and "+".join(filters["only"]),
        "not": filters["ignore"] and "+".join(filters["ignore"]),
        "at most": _dearest(filters["max_price"]),
        "data": filters["data_class"],
        "hedge": hedge and _after(hedge),
    }
    parts = [f"{name} {value}" for name, value in said.items() if value]
    parts += ["affinity"] if found["affinity"] else []
    return [*parts, "timeouts"] if _timeouts(found) else parts


def _dearest(price: dict[str, Any] | None) -> str | None:
    parts = [f"{value:g} {part}" for part, value in (price or {}).items() if value is not None]
    return f"${' / '.join(parts)}" if parts else None


def _timeouts(found: dict[str, Any]) -> str | None:
    given = {name.removesuffix("_s").replace("_", " "): value for name, value in found["timeouts"].items()}
    return ", ".join(f"{name} {value:g} s" for name, value in given.items() if value is not None) or None


def _hedge(found: dict[str, Any]) -> str | None:
    if not (hedge := found["hedge"]):
        return None
    return f"after {_after(hedge)}, at most {hedge['max_extra'] * 100:g} % of calls"


def _after(hedge: dict[str, Any]) -> str:
    return "p95" if hedge["after"] == "p95" else f"{hedge['after']} ms"


def _affinity(found: dict[str, Any]) -> str | None:
    if not (affinity := found["affinity"]):
        return None
    return f"{affinity['window_s']:g} s, up to {affinity['tolerance']:g} times the best"
