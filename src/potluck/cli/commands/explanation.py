"""`potluck route explain`: where a request would go now, and why."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, TextIO, get_args

import click

from potluck.cli.failure import USAGE, Failure
from potluck.cli.output import Output, count
from potluck.cli.session import Command, current
from potluck.model.resources import Capability

DRAWN = frozenset({"weighted", "least_busy", "balanced"})
"""strategies that choose by chance among targets that are not alike"""


@click.command(cls=Command)
@click.option("--model", help="The model that is asked for; else the body's.")
@click.option("--key", metavar="KEY", help="API key, by name or id. Default: the oldest of the project default.")
@click.option("--body", type=click.File("r"), metavar="FILE", help="A whole request body as JSON; - is stdin.")
@click.option("--endpoint", type=click.Choice(get_args(Capability)), help="Default: chat.")
@click.option("--stream/--no-stream", default=None, help="As a stream, or not. Default: as the body says.")
def explain(body: TextIO | None, **said: Any) -> None:
    """Explain where a request would go now: its route, each target in or out, in the order of the calls.

    Nothing is called, and nothing changes.
    """
    session = current()
    asked = {name: value for name, value in said.items() if value is not None}
    if body is not None:
        asked["body"] = _read(body)
    elif "model" not in asked:
        raise Failure("what is to be explained? give --model NAME or --body FILE", USAGE)
    found = session.gateway.post("/routes/explain", asked)
    if session.json:
        session.output.data(found)
    else:
        _show(session.output, found)


def _read(body: TextIO) -> dict[str, Any]:
    try:
        said = json.load(body)
    except ValueError as error:
        raise Failure(f"{body.name} is not JSON: {error}") from None
    if not isinstance(said, dict):
        raise Failure(f"{body.name} is no request body: a JSON object is needed")
    return said


def _show(output: Output, found: Mapping[str, Any]) -> None:
    plan, refused = found["plan"], found["refused"]
    output.facts(
        [
            ("model", found["model"]),
            ("key", f"{found['key']} (project {found['project']})"),
            ("route", f"{plan['route']}, {plan['strategy']}" if plan else None),
            ("costs are of", _mix(found["mix"])),
            ("affinity", found["affinity"]),
            ("refused", refused and f"{refused['status']} {refused['code']}: {refused['message']}"),
        ]
    )
    if not plan:
        return
    targets = plan["targets"]
    considered = [each for each in targets if each["in"]]
    columns = [("#", "number"), ("TARGET", "target"), ("CREDENTIAL", "credential"), ("STATE", "state")]
    columns += [("OF", "of")] if len({each.get("of") for each in considered}) > 1 else []
    columns += [("WHY", "error")]
    output.line()
    rows = list(_numbered(considered, found["order"]))
    optional = ("of", "credential")
    output.table(columns, rows, empty="no target may serve it", right=("number",), optional=optional)
    left_out = [{"target": each["target"], "error": each["why"]} for each in targets if not each["in"]]
    if left_out:
        output.line()
        output.table([("LEFT OUT", "target"), ("WHY", "error")], left_out, empty="")
    for note in _notes(found, plan, considered):
        output.line()
        output.line(note)


def _numbered(considered: list[dict[str, Any]], order: list[str]) -> Iterator[dict[str, Any]]:
    """Rows in the plan's order; a target has its number once, at the key that is the likeliest."""
    numbers = {target: number for number, target in enumerate(order, start=1)}
    for each in considered:
        reason = f"{each['why']}; {each['reason']}" if each.get("reason") else each["why"]
        yield {
            "number": numbers.pop(each["target"], ""),
            "target": each["target"],
            "credential": each.get("credential") or None,
            "state": each["state"],
            "of": each.get("of"),
            "error": reason,  # the member whose cells may fold
        }


def _notes(found: Mapping[str, Any], plan: Mapping[str, Any], considered: list[dict[str, Any]]) -> Iterator[str]:
    if len(found["order"]) > found["max_targets"]:
        yield f"One request calls at most {found['max_targets']} targets, in at most {found['max_calls']} calls."
    order = set(found["order"])
    tried = {each["target"]: (each.get("group"), each.get("score")) for each in considered if each["target"] in order}
    equal = len(set(tried.values())) < len(tried)
    if len(found["order"]) > 1 and (equal or plan["strategy"] in DRAWN):
        yield "This order is partly drawn by chance: another request may see another."


def _mix(mix: Mapping[str, Any] | None) -> str | None:
    if mix is None:
        return None
    cached = f" ({count(mix['cached_input_tokens'])} cached)" if mix["cached_input_tokens"] else ""
    tokens = f"{count(mix['input_tokens'])} tokens read{cached}, {count(mix['output_tokens'])} written"
    return f"{tokens}: {'the mean of this project' if mix['measured'] else 'assumed, until the project has sent more'}"
