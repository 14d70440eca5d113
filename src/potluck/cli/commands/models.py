"""`potluck model list|show|create|update|target|remove|price`."""

import fnmatch
from typing import Any

import click

from potluck.cli.commands.targets import health, rounded_ms, states_of
from potluck.cli.empty_value import OrEmpty
from potluck.cli.failure import USAGE, Failure
from potluck.cli.number import Number
from potluck.cli.output import count, plain, when
from potluck.cli.session import Group, Session, current


@click.group(cls=Group)
def model() -> None:
    """Models, the targets that serve them, and prices."""


@model.command("list")
@click.argument("pattern", required=False)
@click.option("--all", "everything", is_flag=True, help="Those that are not routable too.")
def list_(pattern: str | None, everything: bool) -> None:
    """List the models that callers can name; of PATTERN, with * and ?, if one is given."""
    session = current()
    models = [each for each in _cards(session) if not pattern or fnmatch.fnmatchcase(each["name"], pattern)]
    if session.json:
        session.output.data({"data": models})
        return
    # what a provider merely lists is often in the hundreds; what was declared is shown even when it does not work
    shown = [each for each in models if everything or pattern or each["id"] or _usable(each)]
    rows = []
    for each in shown:
        price = next((target["price"] for target in _usable(each) if target["price"]), None)
        rows.append(
            {
                "name": each["name"],
                "targets": f"alias of {each['alias_of']}"
                if each["alias_of"]
                else [target["target"] for target in each["targets"]],
                "input": price and _usd(price["input"]),
                "output": price and _usd(price["output"]),
                "state": "routable" if _usable(each) else "not routable",
            }
        )
    columns = [
        ("MODEL", "name"),
        ("TARGETS", "targets"),
        ("IN $/M", "input"),
        ("OUT $/M", "output"),
        ("STATE", "state"),
    ]
    empty = "no models: potluck provider add NAME --base-url URL, or potluck local-model install"
    session.output.table(columns, rows, empty=empty, right=("input", "output"))
    hidden = len(models) - len(shown)
    if any(not _usable(each) for each in shown):
        session.output.line()
        session.output.line("why one is not routable: potluck model show NAME")
    if hidden:
        session.output.line()
        session.output.line(f"{count(hidden)} more are listed by providers and not routable: potluck model list --all")


@model.command()
@click.argument("name")
def show(name: str) -> None:
    """Show a model's targets: price, latency and errors of the last day, how each stands now and why."""
    session = current()
    cards = _cards(session)
    found = next((each for each in cards if name in (each["name"], each["id"])), None)
    if found is None:
        raise Failure(f"there is no model {name!r}: `potluck model list` shows what there is")
    traffic = {row["target"]: row for row in session.gateway.get("/usage", by="target", since="1d")["data"]}
    states: dict[str, list[dict[str, Any]]] = {}
    for each in states_of(session):
        states.setdefault(each["target"], []).append(each)
    targets = [
        each | {"last_day": traffic.get(each["target"]), "states": states.get(each["target"], [])}
        for each in found["targets"]
    ]
    proper = found["alias_of"] or found["name"]
    aliases = [each["name"] for each in cards if each["alias_of"] == proper]
    if session.json:
        session.output.data(found | {"targets": targets, "aliases": aliases})
        return
    declared = found["id"] is not None
    session.output.facts(
        [
            ("model", proper),
            ("aliases", aliases),
            ("id", found["id"]),
            ("placement", found["placement"]),
            ("declared", "yes" if declared else "no: its provider lists it"),
        ]
    )
    session.output.line()
    rows = []
    for each in targets:
        price, day = each["price"], each["last_day"]
        rows.append(
            {
                "target": each["target"],
                "own": each["own"],
                "price": price and f"{_usd(price['input'])} / {_usd(price['output'])}",
                "source": price and _price_origin(price),
                "weight": each["weight"],
                "priority": each["priority"],
                "slots": each["slots"],
                "requests": day and count(day["requests"]),
                "errors": day and count(day["errors"]),
                "first": day and _milliseconds(day["mean_first_content_ms"]),
                "mean": day and _milliseconds(day["mean_ms"]),
                "p95": next((rounded_ms(state["p95_first_token_ms"]) for state in each["states"]), None),
                "state": "not routable" if each["unroutable"] else health(each["states"]),
            }
        )
    columns = [("TARGET", "target"), ("OWN", "own"), ("IN / OUT $/M", "price"), ("PRICE FROM", "source")]
    columns += [("WEIGHT", "weight"), ("TIER", "priority"), ("SLOTS", "slots")]
    columns += [("REQUESTS 24H", "requests"), ("ERRORS", "errors"), ("FIRST TOKEN", "first"), ("WHOLE", "mean")]
    columns += [("P95 NOW", "p95"), ("STATE", "state")]
    optional = ("source", "p95", "slots", "own", "mean", "first", "errors", "requests", "weight", "priority")
    right = ("weight", "priority", "slots", "requests", "errors", "first", "mean", "p95")
    session.output.table(columns, rows, empty="no targets", right=right, optional=optional)
    for each in targets:
        if each["unroutable"]:
            session.output.line()
            session.output.line(f"{each['target']} is not routable: {each['unroutable']}")
        for state in each["states"]:
            if state["reason"] and not each["unroutable"]:
                by = f" by {state['credential']}" if state["credential"] else ""
                session.output.line()
                session.output.line(f"{each['target']}{by} is {state['state']}: {state['reason']}")


@model.command()
@click.argument("name")
@click.option(
    "--target",
    "targets",
    multiple=True,
    required=True,
    help="provider/upstream-model, node:NAME/model or 'node:*/model'; several, in order.",
)
@click.option("--alias", "aliases", multiple=True, help="Another name for it; several times for more.")
@click.option("--placement", type=click.Choice(["any", "own"]), help="own: never leaves own infrastructure.")
def create(name: str, targets: tuple[str, ...], aliases: tuple[str, ...], placement: str | None) -> None:
    """Declare a model name and the targets that serve it."""
    session = current()
    body: dict[str, Any] = {"name": name, "targets": [{"target": each} for each in targets]}
    if aliases:
        body["aliases"] = list(aliases)
    if placement:
        body["placement"] = placement
    _say(session, session.gateway.post("/models", body), "is declared")


@model.command()
@click.argument("ref", metavar="MODEL")
@click.option("--name", help="A new name.")
@click.option("--placement", type=click.Choice(["any", "own"]), help="own: never leaves own infrastructure.")
@click.option("--add-target", "added", multiple=True, metavar="TARGET", help="Add this target, last.")
@click.option("--remove-target", "removed", multiple=True, metavar="TARGET", help="Remove this target.")
@click.option("--add-alias", "new_aliases", multiple=True, metavar="NAME", help="Add this name for it.")
@click.option("--remove-alias", "old_aliases", multiple=True, metavar="NAME", help="Remove this name.")
def update(
    ref: str,
    name: str | None,
    placement: str | None,
    added: tuple[str, ...],
    removed: tuple[str, ...],
    new_aliases: tuple[str, ...],
    old_aliases: tuple[str, ...],
) -> None:
    """Change a declared model."""
    session = current()
    path = session.gateway.path_of("/models", ref)
    body: dict[str, Any] = {member: value for member, value in (("name", name), ("placement", placement)) if value}
    if added or removed:
        have = session.gateway.get(path)["targets"]
        _check_has(ref, "target", removed, [each["target"] for each in have])
        body["targets"] = [_entry(each) for each in have if each["target"] not in removed]
        body["targets"] += [{"target": each} for each in added]
    if new_aliases or old_aliases:
        have = session.gateway.get(path)["aliases"]
        _check_has(ref, "alias", old_aliases, have)
        body["aliases"] = [*(each for each in have if each not in old_aliases), *new_aliases]
    if not body:
        raise Failure("nothing to change: give at least one option (see: potluck model update --help)", USAGE)
    _say(session, session.gateway.patch(path, body), "is changed")


@model.command()
@click.argument("ref", metavar="MODEL")
@click.argument("target")
@click.option("--weight", type=click.IntRange(1, 1000), help="Its share under the strategy weighted, and among ties.")
@click.option(
    "--priority",
    type=OrEmpty(click.IntRange(0, 1000)),
    help="Its tier under the strategy priority, lowest first. Default: its place in the list.",
)
@click.option(
    "--slots",
    type=OrEmpty(click.IntRange(1, 1_000_000)),
    help="Requests at once that it serves well. Default: its provider's connections.",
)
def target(ref: str, target: str, **changes: int | str | None) -> None:
    """Change a target of a declared model: provider/upstream-model, or its id. An empty value ('') is the default."""
    session = current()
    have = session.gateway.get(session.gateway.path_of("/models", ref))["targets"]
    found = next((each for each in have if target in (each["target"], each["id"])), None)
    if found is None:
        raise Failure(f"{ref} has no target {target!r}: it has {plain([each['target'] for each in have])}")
    body = {member: None if value == "" else value for member, value in changes.items() if value is not None}
    if not body:
        raise Failure("nothing to change: give at least one option (see: potluck model target --help)", USAGE)
    changed = session.gateway.patch(f"/targets/{found['id']}", body)
    if session.json:
        session.output.data(changed)
        return
    said = ", ".join(f"{member} {plain(changed[member])}" for member in ("weight", "priority", "slots"))
    session.output.line(f"target {changed['target']} of model {changed['model']} is changed: {said}")


@model.command()
@click.argument("ref", metavar="MODEL")
def remove(ref: str) -> None:
    """Remove a declared model."""
    session = current()
    session.gateway.delete(session.gateway.path_of("/models", ref))
    if session.json:
        session.output.data({"removed": ref})
    else:
        session.output.line(f"model {ref} is removed")


_USD = Number(0, 1_000_000)


@model.command()
@click.argument("name")
@click.option("--input", type=_USD, metavar="USD", help="Per million input tokens.")
@click.option("--output", type=_USD, metavar="USD", help="Per million output tokens.")
@click.option("--cached-input", type=_USD, metavar="USD", help="Per million input tokens read from a cache.")
@click.option("--cache-write", type=_USD, metavar="USD", help="Per million input tokens written to a cache.")
@click.option("--per-request", type=_USD, metavar="USD", help="For each request, whatever its size.")
@click.option("--unset", is_flag=True, help="Take the price away; the catalogue's applies again.")
def price(name: str, unset: bool, **parts: float | None) -> None:
    """Set the price of a model, an upstream model, or provider/upstream-model. 0 is a price."""
    session = current()
    given = {part: value for part, value in parts.items() if value is not None}
    if unset:
        if given:
            raise Failure("--unset takes no price beside it", USAGE)
        prices = session.gateway.pages("/prices")
        found = next((each for each in prices if name in (each["model"], each["id"])), None)
        if found is None:
            raise Failure(f"no price was set for {name!r}")
        session.gateway.delete(f"/prices/{found['id']}")
        if session.json:
            session.output.data({"removed": name})
        else:
            session.output.line(f"the price of {name} is taken away")
        return
    if "input" not in given or "output" not in given:
        raise Failure("a price needs both: --input USD --output USD (per million tokens)", USAGE)
    made = session.gateway.post("/prices", {"model": name, "price": given})
    if session.json:
        session.output.data(made)
        return
    parts_said = ", ".join(f"{part.replace('_', ' ')} {_usd(value)}" for part, value in given.items())
    session.output.line(f"price of {made['model']}: {parts_said} USD (per million tokens)")


def _cards(session: Session) -> list[dict[str, Any]]:
    """What the data plane serves: declared models, the providers' own, the built-in one."""
    snapshot = session.gateway.get("/snapshot")
    return list(snapshot["models"])


def _usable(card: dict[str, Any]) -> list[dict[str, Any]]:
    return [target for target in card["targets"] if not target["unroutable"]]


def _entry(target: dict[str, Any]) -> dict[str, Any]:
    """A target as it was read, as it is written."""
    members = ("target", "price", "capabilities", "context_tokens", "weight", "priority", "slots")
    return {member: target[member] for member in members if target[member] not in (None, [])}


def _check_has(ref: str, what: str, named: tuple[str, ...], have: list[str]) -> None:
    if missing := set(named) - set(have):
        raise Failure(f"{ref} has no {what} {min(missing)!r}: it has {plain(have)}")


def _usd(amount: float) -> str:
    return f"{amount:.6f}".rstrip("0").rstrip(".")


def _price_origin(price: dict[str, Any]) -> str:
    """`catalog 2026-11-01`, `operator 2026-11-24 21:01:09`: a version says when, some as unix milliseconds."""
    moment = str(price["version"]).partition(":")[2]
    return f"{price['source']} {when(int(moment)) if moment.isdecimal() and len(moment) == 13 else moment}".rstrip()


def _milliseconds(value: float | None) -> str | None:
    return None if value is None else f"{value:,.0f} ms"


def _say(session: Session, made: dict[str, Any], what: str) -> None:
    if session.json:
        session.output.data(made)
        return
    session.output.line(f"model {made['name']} {what}: {plain([each['target'] for each in made['targets']])}")
    session.output.line(f"prices and state: potluck model show {made['name']}")
