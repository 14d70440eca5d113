"""`potluck nodes …` and `potluck nodes token …`: machines that joined, from the operator's side."""

from collections.abc import Mapping
from typing import Any, get_args
from urllib.parse import urlsplit

import click

from potluck.cli.failure import USAGE, Failure
from potluck.cli.number import Number
from potluck.cli.output import count, when
from potluck.cli.session import Group, Session, current
from potluck.cli.times import length_s
from potluck.model.engine import EngineKind

_USD = Number(0, 1_000_000)
_PRESENCE: Mapping[str | None, str] = {"active": "somebody is there", "idle": "nobody is there"}
_ENGINES: Mapping[str, str] = {kind.replace(".", "_").replace("-", "_"): kind for kind in get_args(EngineKind)}
FEW = 4
"""models of a node that a list of nodes names"""
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class _Uses(click.ParamType[Any]):
    """A number of machines, or `unlimited`."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "unlimited":
            return None
        if not str(value).isdecimal() or not 1 <= int(value) <= 10_000:
            self.fail(f"{value!r} is neither a number (1 to 10000) nor unlimited", param, ctx)
        return int(value)


@click.group(cls=Group)
def nodes() -> None:
    """Machines that joined: what they serve, whether they may, what they cost."""


@nodes.command("list")
@click.option("--all", "everything", is_flag=True, help="Revoked ones too.")
def list_(everything: bool) -> None:
    """List nodes, and how each stands."""
    session = current()
    found = list(session.gateway.pages("/nodes", revoked="true" if everything else None))
    if session.json:
        session.output.data({"data": found})
        return
    rows = [
        each
        | {
            "stands": _stands(each),
            "models": _first([model["name"] for model in each["models"]]),
            "running": (each["live"] or {}).get("running"),
            "whose": _whose(each),
            "seen": _seen(each),
        }
        for each in found
    ]
    columns = [("NODE", "name"), ("STATE", "stands"), ("MODELS", "models"), ("SLOTS", "slots"), ("RUNNING", "running")]
    columns += [("OWNER", "whose"), ("LAST SEEN", "seen"), ("AGENT", "agent"), ("ID", "id")]
    session.output.table(
        columns,
        rows,
        empty="no nodes: potluck nodes token create, then run on the machine what it prints",
        right=("slots", "running"),
        optional=("id", "agent", "seen", "whose", "running", "slots", "models"),
    )


@nodes.command()
@click.argument("ref", metavar="NODE")
def show(ref: str) -> None:
    """Show a node: how it stands and why, its links, models, prices, refusals."""
    session = current()
    node = session.gateway.get(_path(session, ref))
    if session.json:
        session.output.data(node)
        return
    live: Mapping[str, Any] = node["live"] or {}
    output = session.output
    output.facts(
        [
            ("name", node["name"]),
            ("id", node["id"]),
            ("state", _stands(node)),
            ("enrolment", node["state"]),
            ("owner", _whose(node)),
            ("tags", node["tags"]),
            ("kept", "forgotten an hour after it was last seen" if node["ephemeral"] else None),
            ("at most", _terms(node)),
            ("system", " ".join(part for part in (node["os"], node["arch"]) if part)),
            ("agent", node["agent"]),
            ("engines", [f"{_engine(each['kind'])} {each['version']}".strip() for each in node["engines"]]),
            ("links", [_link(each) for each in live.get("links", ())]),
            ("reconnects", live.get("reconnects")),
            ("at the machine", _PRESENCE.get(live.get("presence", ""))),
            ("slots", node["slots"]),
            ("calls", _calls(live)),
            ("last probe", _probe(live)),
            ("last report", live.get("last_report")),
            ("key", node["key"]),
            ("old key until", when(node["previous_until_ms"])),
            ("joined", when(node["created_at_ms"])),
            ("last seen", _seen(node) or "never"),
            ("revoked", when(node["revoked_at_ms"])),
        ]
    )
    _counts(session, "no work", live.get("no_work", {}))
    _counts(session, "refused", live.get("refusals", {}))
    if node["models"] or node["prices"]:
        output.line()
        _models(session, node, live)
        _left_out(session, node, live)


@nodes.command()
@click.argument("ref", metavar="NODE")
def approve(ref: str) -> None:
    """Let a node that waits for approval work."""
    _change(ref, {"approved": True}, "is approved")


@nodes.command()
@click.argument("ref", metavar="NODE")
def revoke(ref: str) -> None:
    """End a node for ever: its links drop at once, its key is void."""
    session = current()
    node = session.gateway.get(_path(session, ref))
    session.gateway.delete(f"/nodes/{node['id']}")
    if session.json:
        session.output.data({"revoked": node["id"]})
    else:
        session.output.line(f"node {node['name']} is revoked")


@nodes.command()
@click.argument("ref", metavar="NODE")
@click.option("--undo", is_flag=True, help="Give it work again.")
def drain(ref: str, undo: bool) -> None:
    """Give a node no new work; what runs may finish."""
    _change(ref, {"drained": not undo}, "gets work again" if undo else "gets no new work: --undo ends that")


@nodes.command()
@click.argument("ref", metavar="NODE")
@click.argument("name")
def rename(ref: str, name: str) -> None:
    """Give a node another name; its models' names follow."""
    _change(ref, {"name": name}, "is its name now")


@nodes.command()
@click.argument("ref", metavar="NODE")
@click.argument("model")
@click.option("--input", type=_USD, metavar="USD", help="Per million input tokens.")
@click.option("--output", type=_USD, metavar="USD", help="Per million output tokens.")
@click.option("--clear", is_flag=True, help="Take the price away: what the node announces counts again.")
def price(ref: str, model: str, clear: bool, **parts: float | None) -> None:
    """Set what calls of a model on a node cost, inside the ceiling of its join token. 0 is a price."""
    session = current()
    given = {part: value for part, value in parts.items() if value is not None}
    if clear and given:
        raise Failure("--clear takes no price beside it", USAGE)
    if not clear and len(given) < len(parts):
        raise Failure("a price needs both: --input USD --output USD (per million tokens)", USAGE)
    body = {"model": model, "price": None if clear else given}
    node = session.gateway.call("PUT", f"{_path(session, ref)}/prices", body)
    if session.json:
        session.output.data(node)
        return
    said = "as the node announces" if clear else f"input {_usd(given['input'])}, output {_usd(given['output'])} USD"
    session.output.line(f"price of node:{node['name']}/{model}: {said}{'' if clear else ' (per million tokens)'}")
    if not clear and all(each["name"] != model for each in node["models"]):
        session.output.line(f"node {node['name']} offers no such model now: potluck nodes show {node['name']}")


@nodes.group()
def token() -> None:
    """Join tokens, by which machines become nodes."""


@token.command("create")
@click.option("--name", help="What it is called here.")
@click.option("--uses", type=_Uses(), default="1", metavar="N", help="Machines, or unlimited. Default: 1.")
@click.option("--expires", metavar="TIME", default="24h", help="1h to 90d. Default: 24h.")
@click.option(
    "--needs-approval/--pre-approved",
    default=None,
    help="Whether its nodes wait for an admin. Default: only with --community.",
)
@click.option("--ephemeral", is_flag=True, help="Its nodes are forgotten an hour after they were last seen.")
@click.option("--community", is_flag=True, help="Somebody else's machines: they get data of class open only.")
@click.option("--owner", metavar="project:NAME", help="Whose its nodes are. Default: the whole organisation's.")
@click.option("--tag", "tags", multiple=True, help="A tag of its nodes; several times for more.")
@click.option("--max-models", type=click.IntRange(1, 500), help="Models that a node may offer.")
@click.option("--max-price-input", type=_USD, metavar="USD", help="The most a node may ask per million input tokens.")
@click.option(
    "--max-price-output",
    type=_USD,
    metavar="USD",
    help="The same of output tokens. Without the two: own nodes nothing; a community node is priced by hand.",
)
def create(
    uses: int | None, expires: str, max_price_input: float | None, max_price_output: float | None, **terms: Any
) -> None:
    """Make a join token and print it, once, with what to run on the machine."""
    session = current()
    if (max_price_input is None) != (max_price_output is None):
        raise Failure("a ceiling needs both: --max-price-input USD --max-price-output USD", USAGE)
    body = {name: value for name, value in terms.items() if value not in (None, False, ())}
    if terms["needs_approval"] is not None:
        body["needs_approval"] = terms["needs_approval"]
    lifetime_s = int(length_s(expires))
    if not 3600 <= lifetime_s <= 90 * 86_400:
        raise Failure(f"--expires {expires}: a join token is good for 1h to 90d", USAGE)
    body |= {"uses": uses, "lifetime_s": lifetime_s}
    if max_price_input is not None:
        body["max_price"] = {"input": max_price_input, "output": max_price_output}
    made = session.gateway.post("/join-tokens", body)
    if session.json:
        session.output.data(made)
        return
    _print_token(session, made)


@token.command("list")
@click.option("--all", "everything", is_flag=True, help="Those that are over, too.")
def list_tokens(everything: bool) -> None:
    """List join tokens, without their secrets."""
    session = current()
    found = [each for each in session.gateway.pages("/join-tokens") if everything or each["status"] == "active"]
    if session.json:
        session.output.data({"data": found})
        return
    rows = [
        each
        | {
            "uses": "unlimited" if each["uses_left"] is None else each["uses_left"],
            "ends": when(each["expires_at_ms"]),
            "whose": _whose(each),
            "approval": "needed" if each["needs_approval"] else "given",
        }
        for each in found
    ]
    columns = [("NAME", "name"), ("TOKEN", "hint"), ("STATUS", "status"), ("USES LEFT", "uses"), ("EXPIRES", "ends")]
    columns += [("APPROVAL", "approval"), ("OWNER", "whose"), ("ID", "id")]
    session.output.table(
        columns,
        rows,
        empty="no join tokens: potluck nodes token create",
        right=("uses",),
        optional=("id", "whose", "approval"),
    )


@token.command("revoke")
@click.argument("ref", metavar="TOKEN")
def revoke_token(ref: str) -> None:
    """No machine joins by it any more; those that did stay."""
    session = current()
    ended = session.gateway.post(session.gateway.path_of("/join-tokens", ref) + "/revoke")
    if session.json:
        session.output.data(ended)
    else:
        session.output.line(f"join token {ended['name']} ({ended['hint']}) is revoked")


def _print_token(session: Session, made: dict[str, Any]) -> None:
    url, secret, output = made["url"] or session.url, made["secret"], session.output
    parts = urlsplit(url)
    here = parts.hostname in _LOOPBACK
    plain = parts.scheme == "http" and not here
    uses = "any number of machines" if made["uses_left"] is None else f"{count(made['uses_left'])} machine(s)"
    approval = ", each to be approved" if made["needs_approval"] else ""
    output.line(f"join token {made['name']} for {uses} until {when(made['expires_at_ms'])}{approval}, shown this once:")
    output.line()
    output.line(secret)
    output.line()
    output.line("on Linux or macOS:")
    output.line(f"curl -fsSL {url}/install.sh | POTLUCK_JOIN_TOKEN={secret} sh{' -s -- --insecure' if plain else ''}")
    output.line("on Windows, in PowerShell:")
    output.line(
        f"$env:POTLUCK_JOIN_TOKEN = '{secret}'; irm {url}/install.ps1 -OutFile install.ps1; "
        f"powershell -ExecutionPolicy Bypass -File install.ps1{' -Insecure' if plain else ''}"
    )
    output.line("where potluck is installed:")
    output.line(f"POTLUCK_JOIN_TOKEN={secret} potluck node join {url}{' --insecure' if plain else ''}")
    if here:
        output.line()
        output.line(f"{url} is this machine only; for others: potluck serve --host 0.0.0.0 --public-url URL")
    elif plain:
        output.line()
        output.line("over plain http whoever is on the way reads prompts and answers: better give the gateway TLS")


def _change(ref: str, body: dict[str, Any], what: str) -> None:
    session = current()
    node = session.gateway.patch(_path(session, ref), body)
    if session.json:
        session.output.data(node)
    else:
        session.output.line(f"node {node['name']} {what}")


def _path(session: Session, ref: str) -> str:
    return session.gateway.path_of("/nodes", ref.removeprefix("node:"))


def _first(names: list[str]) -> list[str]:
    """The first few, and how many more there are."""
    return names if len(names) <= FEW else [*names[:FEW], f"+{len(names) - FEW}"]


def _stands(node: Mapping[str, Any]) -> str:
    """Its state in a line."""
    since = when((node["live"] or {}).get("since_ms") or node["last_seen_at_ms"])
    return f"{node['standing']} since {since}" if node["standing"] == "not connected" and since else node["standing"]


def _seen(node: Mapping[str, Any]) -> str | None:
    """When it was here last: what is stored of that is up to half a minute old."""
    return "now" if (node["live"] or {}).get("connected") else when(node["last_seen_at_ms"])


def _engine(kind: str) -> str:
    """Its name, out of the word that stands for it on the link."""
    return _ENGINES.get(kind, kind.replace("_", "-"))


def _whose(each: Mapping[str, Any]) -> str:
    return "community" if each["community"] else each["owner"] or "organisation"


def _terms(node: Mapping[str, Any]) -> list[str]:
    """What its join token allows."""
    said = [] if node["max_models"] is None else [f"{node['max_models']} models"]
    if price := node["max_price"]:
        said.append(f"{_usd(price['input'])} USD in and {_usd(price['output'])} USD out per million tokens")
    return said


def _link(link: Mapping[str, Any]) -> str:
    said = [f"since {when(link['since_ms'])}"] if link["since_ms"] else ["connected"]
    if link["rtt_ms"] is not None:
        said.append(f"round trip {link['rtt_ms']:.1f} ms")
    if link["streams"] is not None:
        said.append(f"{link['streams']} calls")
    return " · ".join(said)


def _calls(live: Mapping[str, Any]) -> str | None:
    said = [f"{live[name]} {name}" for name in ("running", "waiting") if live.get(name) is not None]
    return ", ".join(said) or None


def _probe(live: Mapping[str, Any]) -> str | None:
    if live.get("last_probe") is None:
        return None
    return f"{live['last_probe']} ({when(live['last_probe_at_ms']) or 'no time known'})"


def _counts(session: Session, title: str, counts: Mapping[str, int]) -> None:
    if counts:
        session.output.line()
        session.output.table(
            [("TIMES", "times"), (f"{title.upper()} BECAUSE", "why")],
            [{"times": times, "why": why} for why, times in sorted(counts.items(), key=lambda each: -each[1])],
            empty="",
            right=("times",),
        )


def _models(session: Session, node: Mapping[str, Any], live: Mapping[str, Any]) -> None:
    seen = {(each["engine"], each["name"]): each for each in live.get("models", ())}
    rows = []
    for model in node["models"]:
        now, asked = seen.get((model["engine"], model["name"]), {}), model["price"]
        rows.append(
            {
                "name": model["name"],
                "engine": model["engine"],
                "quantization": model["quantization"],
                "context": count(model["context_tokens"]),
                "input": asked and _usd(asked["input"]),
                "output": asked and _usd(asked["output"]),
                "prefill": _speed(now.get("prefill_tps")),
                "decode": _speed(now.get("decode_tps")),
                "running": now.get("running"),
                "waiting": now.get("waiting"),
            }
        )
    columns = [("MODEL", "name"), ("ENGINE", "engine"), ("QUANT", "quantization"), ("CONTEXT", "context")]
    columns += [("IN $/M", "input"), ("OUT $/M", "output"), ("PREFILL T/S", "prefill"), ("DECODE T/S", "decode")]
    columns += [("RUNNING", "running"), ("WAITING", "waiting")]
    session.output.table(
        columns,
        rows,
        empty="it has announced no model",
        right=("context", "input", "output", "prefill", "decode", "running", "waiting"),
        optional=("engine", "quantization", "waiting", "running", "prefill"),
    )


def _left_out(session: Session, node: Mapping[str, Any], live: Mapping[str, Any]) -> None:
    """Models over what the join token allows. The agent leaves them out itself, and then they are known there only."""
    most = node["max_models"]
    if most is None or len(node["models"]) < most:
        return
    kept = {(each["engine"], each["name"]) for each in node["models"]}
    cut = [each["name"] for each in live.get("models", ()) if (each["engine"], each["name"]) not in kept]
    allows = f"the join token allows {most} model{'' if most == 1 else 's'}"
    if cut:
        session.output.line(f"left out here, as {allows}: {', '.join(_first(cut))}")
    else:
        session.output.line(f"{allows}: what the machine leaves out for it, potluck node status says there")


def _speed(tokens_per_s: float | None) -> str | None:
    return None if tokens_per_s is None else f"{tokens_per_s:,.0f}"


def _usd(amount: float) -> str:
    return f"{amount:.9f}".rstrip("0").rstrip(".")
