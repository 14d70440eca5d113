"""`potluck node …`: share this machine's engines with a gateway. Works with the agent's own packages alone.

The commands that the running agent is asked with are in `node_agent`.
"""

import re
import sys
from typing import TYPE_CHECKING, Any

import click

from potluck.cli.commands.node_agent import drain, pause, presence_helper, resume, run, status
from potluck.cli.failure import FAILED, NO_CONNECTION, USAGE, Failure
from potluck.cli.node_home import (
    ENGINE_KEYS,
    change_settings,
    engine_keys,
    failing,
    node_home_option,
    open_home,
    order,
    read_settings,
    report_of,
)
from potluck.cli.number import Number
from potluck.cli.secrets_in import read_secret
from potluck.cli.session import Group, Session, current
from potluck.model.secret import Secret

if TYPE_CHECKING:
    from potluck.node.settings import NodeSettings

JOIN_VARIABLE = "POTLUCK_JOIN_TOKEN"
_MAX_TOKEN_BYTES = 4096
_NANOUSD = 1_000_000_000
_MAX_USD = 1_000_000.0
_END_S = 15.0  # beyond what runs may run on: to end links, engines and page


@click.group(cls=Group)
def node() -> None:
    """Share this machine's engines with a gateway."""


for each in (run, status, pause, resume, drain, presence_helper):
    node.add_command(each)


@node.command()
@click.argument("address", metavar="URL")
@click.option("--token", metavar="TOKEN", help=f"The join token; others can see it in `ps`. [{JOIN_VARIABLE}]")
@click.option("--token-stdin", is_flag=True, help="Take the token from standard input.")
@click.option("--name", metavar="NAME", help="What to call this machine. [its host name]")
@click.option("--engine", "engines", metavar="URL", multiple=True, help="An engine to share, beside those found here.")
@click.option("--mode", metavar="MODE", help="When to serve: always, idle, schedule, manual, or several.")
@click.option("--schedule", metavar="WINDOWS", help="For mode schedule: `mon-fri 22:00-07:00`.")
@click.option(
    "--price",
    "prices",
    type=(str, Number(0, _MAX_USD), Number(0, _MAX_USD)),
    multiple=True,
    metavar="MODEL IN OUT",
    help="USD per million tokens that you ask for a model, or for `*`.",
)
@click.option("--local-model", is_flag=True, help="Share the built-in model.")
@click.option("--insecure", is_flag=True, help="Plain http to another machine is what I want.")
@click.option("--ca-file", metavar="FILE", type=click.Path(), default="", help="Trust these roots, not the system's.")
@click.option("--force", is_flag=True, help="Join anew, though this machine has joined already.")
@node_home_option
@failing
def join(
    address: str,
    token: str | None,
    token_stdin: bool,
    name: str | None,
    engines: tuple[str, ...],
    mode: str | None,
    schedule: str | None,
    prices: tuple[tuple[str, float, float], ...],
    local_model: bool,
    insecure: bool,
    ca_file: str,
    force: bool,
    home: str | None,
) -> None:
    """Enrol this machine with a gateway, by a join token from its administrator.

    Give the token as POTLUCK_JOIN_TOKEN or --token-stdin: what stands on a command line, others can see.
    """
    from pathlib import Path

    from potluck.node import keys
    from potluck.node.enrolment import Gateway, trust
    from potluck.node.settings import NodeSettings, with_value

    def wanted(settings: NodeSettings) -> NodeSettings:
        for setting, value in (("schedule", schedule), ("mode", mode), ("engines", ",".join(engines))):
            settings = with_value(settings, setting, value) if value else settings
        if local_model:
            settings = with_value(settings, "local_model", "yes")
        for model, input_usd, output_usd in prices:
            settings = _priced(settings, model, input_usd, output_usd)
        return settings

    session, files = current(), open_home(home)
    before = _joined_before(files, force)
    secret = _token(session, token, token_stdin)
    wanted(read_settings(files))  # what cannot be taken is said before anything is sent
    if insecure and not session.json:
        session.output.warn([f"what goes to {address} over plain http can be read and changed on the way"])
    roots = str(Path(ca_file).absolute()) if ca_file else ""
    if roots:
        trust(roots)  # of no use for a plain address, and wrong on the day that this changes
    gateway = Gateway(address, insecure=insecure, ca_file=roots)
    enrolled, state = keys.join(files, gateway, secret, name or _host_name(), force=force)
    settings = change_settings(files, wanted)
    left = _leave_before(before) if before is not None and before[0].node != enrolled.node else ""
    _warn_of_dear(session, settings, enrolled)
    if session.json:
        session.output.data({"node": enrolled.node, "name": enrolled.name, "state": state, "home": str(files.path)})
        return
    session.output.line(f"this machine is {enrolled.name!r} at {enrolled.url}")
    if left:
        session.output.line(left)
    if state != "approved":
        session.output.line(f"an administrator has to approve it there: potluck nodes approve {enrolled.name}")
    if report_of(files) is not None:
        session.output.line("the agent that runs goes on as this node")
    else:
        session.output.line("start it: potluck node run (or with the machine: potluck node install-service)")


def _joined_before(files: Any, force: bool) -> tuple[Any, Any] | None:
    """The enrolment that this one replaces, and its key, as far as both can be read."""
    from potluck.node.home import HomeError

    try:
        enrolled = files.enrolled()
        if enrolled is not None and not force:
            raise Failure(f"this machine has joined already ({files.path}): potluck node leave, or --force")
        return None if enrolled is None else (enrolled, files.key())
    except HomeError:
        if not force:
            raise
        return None


def _leave_before(before: tuple[Any, Any]) -> str:
    """End the enrolment that was replaced; what became of it, in a line."""
    from potluck.node.enrolment import EnrolmentError, Gateway
    from potluck.node.home import HomeError
    from potluck.node.keys import identity_of

    enrolled, key = before
    try:
        gateway = Gateway(enrolled.url, insecure=enrolled.insecure, ca_file=enrolled.ca_file)
        gateway.leave(enrolled, key.id, identity_of(key))
    except (EnrolmentError, HomeError) as error:
        return (
            f"{enrolled.name!r} stays enrolled at {enrolled.url}: {error}; there: potluck nodes revoke {enrolled.name}"
        )
    return f"it has left {enrolled.url}, where it was {enrolled.name!r}"


@node.command()
@click.option("--force", is_flag=True, help="Forget the gateway though it cannot be told.")
@node_home_option
@failing
def leave(force: bool, home: str | None) -> None:
    """End the enrolment: the gateway forgets this machine, and this machine the gateway."""
    from potluck.node.enrolment import EnrolmentError, Gateway
    from potluck.node.home import ENROLMENT_LOCK, NEXT_KEY, HomeError
    from potluck.node.keys import BUSY, identity_of
    from potluck.node.remembered import OFFERS_FILE

    session, files = current(), open_home(home)
    enrolled, untold = _joined(files), ""
    with files.alone(ENROLMENT_LOCK, BUSY):
        try:
            key = files.key()
            gateway = Gateway(enrolled.url, insecure=enrolled.insecure, ca_file=enrolled.ca_file)
            gateway.leave(enrolled, key.id, identity_of(key))
        except (EnrolmentError, HomeError) as error:
            if not force:
                status = NO_CONNECTION if isinstance(error, EnrolmentError) and not error.connected else FAILED
                raise Failure(f"{error}; --force forgets it here all the same", status) from None
            untold = str(error)
        files.remove("node.json", "key", NEXT_KEY, "state.json", OFFERS_FILE)
    if session.json:
        session.output.data({"left": enrolled.name, "told": not untold})
    elif untold:
        session.output.line(f"this machine has forgotten {enrolled.url}, which was not told: {untold}")
        session.output.line(f"there it stays enrolled until: potluck nodes revoke {enrolled.name}")
    else:
        session.output.line(f"{enrolled.name} has left {enrolled.url}; an agent that runs will find that out")


@node.command("rotate-key")
@node_home_option
@failing
def rotate_key(home: str | None) -> None:
    """Give this machine a new key; the old one is good for another day."""
    from potluck.node.keys import rotate

    session, files = current(), open_home(home)
    _joined(files)
    key_id = rotate(files)
    if session.json:
        session.output.data({"key": key_id})
    else:
        session.output.line(f"the new key is {key_id}; links that are dialled from now on use it")


@node.command()
@click.argument("model", required=False)
@click.option("--input", "input_", type=Number(0, _MAX_USD), metavar="USD", help="Per million tokens of prompt.")
@click.option("--output", type=Number(0, _MAX_USD), metavar="USD", help="Per million tokens of answer.")
@click.option("--clear", is_flag=True, help="Ask nothing for it any more.")
@node_home_option
@failing
def price(model: str | None, input_: float | None, output: float | None, clear: bool, home: str | None) -> None:
    """Show what you ask for models, or set it; MODEL `*` stands for all others. A running agent takes it up."""
    import msgspec

    from potluck.node.settings import NodeSettings

    def changed(settings: NodeSettings) -> NodeSettings:
        assert model is not None
        if clear:
            prices = {name: each for name, each in settings.prices.items() if name != model}
            return msgspec.structs.replace(settings, prices=prices)
        if input_ is None or output is None:
            raise Failure("a price needs both: --input USD --output USD (per million tokens), or --clear", USAGE)
        return _priced(settings, model, input_, output)

    session, files = current(), open_home(home)
    settings = read_settings(files) if model is None else change_settings(files, changed)
    rows = [
        {"model": name, "input": each.input / _NANOUSD, "output": each.output / _NANOUSD}
        for name, each in sorted(settings.prices.items())
    ]
    _warn_of_dear(session, settings, files.enrolled())
    if session.json:
        session.output.data({"data": rows})
        return
    columns = [("MODEL", "model"), ("IN $/M", "input"), ("OUT $/M", "output")]
    session.output.table(columns, rows, empty="no prices: nothing is asked", right=("input", "output"))


@node.command("set", context_settings={"ignore_unknown_options": True})  # `-1` is a value, though a wrong one
@click.argument("key", required=False)
@click.argument("value", required=False, callback=lambda _ctx, _param, value: value or None)
@node_home_option
@failing
def set_(key: str | None, value: str | None, home: str | None) -> None:
    """Show the settings, or set one; without VALUE it gets its default. See docs/reference/node-settings.md."""
    from potluck.node.settings import shown, table, with_value

    session, files = current(), open_home(home)
    settings = read_settings(files)
    if key is None:
        rows = [
            {
                "key": each.key,
                "value": shown(each.key, getattr(settings, each.key)),
                "unit": each.unit,
                "help": each.help,
            }
            for each in table()
        ]
        if session.json:
            session.output.data({"data": rows})
        else:
            columns = [("SETTING", "key"), ("VALUE", "value"), ("UNIT", "unit"), ("WHAT", "help")]
            session.output.table(columns, rows, empty="")
        return
    settings = change_settings(files, lambda before: with_value(before, key, value or ""))
    name = key.replace("-", "_")
    said = shown(name, getattr(settings, name))
    late = name in _AT_START and report_of(files) is not None
    if session.json:
        session.output.data({"key": name, "value": said, "needs_restart": late})
    else:
        session.output.line(f"{name} = {said or '(none)'}{'; the agent heeds it from its next start' if late else ''}")


_AT_START = ("engines", "discover", "local_model", "links", "page_port", "presence_port", "send_log")


@node.command("engine-key")
@click.argument("address", metavar="URL")
@click.option("--key-env", metavar="VAR", help="Take the key from this environment variable.")
@click.option("--key-stdin", is_flag=True, help="Take the key from standard input.")
@click.option("--clear", is_flag=True, help="Forget it.")
@node_home_option
@failing
def engine_key(address: str, key_env: str | None, key_stdin: bool, clear: bool, home: str | None) -> None:
    """Keep the key that an engine of yours wants; it stays on this machine."""
    import msgspec

    from potluck.node.home import SETTINGS_LOCK

    session, files = current(), open_home(home)
    secret = None if clear else read_secret(session, key_env, key_stdin)
    if not clear and secret is None:
        raise Failure("which key? --key-env VARIABLE or --key-stdin", USAGE)
    files.prepare()
    with files.alone(SETTINGS_LOCK):
        keys = engine_keys(files)
        was_there = keys.pop(address, None) is not None
        if secret is not None:
            keys[address] = secret.reveal()
        files.write_bytes(ENGINE_KEYS, msgspec.json.encode(keys))
    if session.json:
        session.output.data({"engine": address, "key": address in keys})
        return
    if clear and not was_there:
        others = f"; there are keys of {', '.join(sorted(keys))}" if keys else ""
        session.output.line(f"there was no key of {address}{others}")
        return
    session.output.line(f"the key of {address} is {'forgotten' if clear else 'kept'}, from the agent's next start")
    if not clear and address not in read_settings(files).engines:
        session.output.line(f"name the engine too: potluck node set engines {address}")


@node.command()
@node_home_option
@failing
def doctor(home: str | None) -> int:
    """Check this machine as a node and say how to mend it; exit 1 if something is broken."""
    from potluck.cli.checkup import node as checks
    from potluck.cli.commands.doctor import show

    return show(current(), checks.examine(open_home(home)))


@node.command("install-service")
@node_home_option
@failing
def install_service(home: str | None) -> None:
    """Start the agent with the machine, and now."""
    from potluck.node.service import install_service as install

    session, files = current(), open_home(home)
    _joined(files)
    _say_service(session, install(files.path, env=session.env))


@node.command("uninstall-service")
@node_home_option
@failing
def uninstall_service(home: str | None) -> None:
    """Stop the agent, and start it with the machine no more."""
    from potluck.node.service import uninstall_service as uninstall

    session, files = current(), open_home(home)
    found = uninstall(files.path, env=session.env)
    _end_agent(files)
    _say_service(session, found)


def _end_agent(files: Any) -> None:
    """One that no service keeps runs on without the service: let what runs there end, and wait for it."""
    import time

    from potluck.node.agent import STOP_S

    running = files.running()
    if running is None or not _runs(files):
        return
    unended = Failure(
        f"an agent runs from {files.path} that no service keeps, and does not end: end process {running.pid}"
    )
    try:
        order(files, "stop")
    except Failure:
        raise unended from None
    give_up_at = time.monotonic() + STOP_S + _END_S
    while _runs(files):
        if time.monotonic() > give_up_at:
            raise unended
        time.sleep(0.1)


def _runs(files: Any) -> bool:
    """By its lock, which ends with its process, however that ends."""
    from potluck.node.home import HomeError
    from potluck.node.process import LOCK_FILE

    try:
        with files.alone(LOCK_FILE, "busy"):
            return False
    except HomeError:
        return True


def _say_service(session: Session, found: Any) -> None:
    import msgspec

    if session.json:
        session.output.data(msgspec.to_builtins(found))
    else:
        session.output.line(found.line)


def _token(session: Session, given: str | None, from_stdin: bool) -> Secret:
    if from_stdin and sys.stdin.isatty():
        import getpass

        text = getpass.getpass("join token: ")
    elif from_stdin:
        text = sys.stdin.buffer.read(_MAX_TOKEN_BYTES).decode("ascii", "replace")
        if not text.strip():
            raise Failure("no join token came on standard input", USAGE)
    else:
        text = given or session.env.get(JOIN_VARIABLE) or ""
    text = text.strip()
    if not text:
        raise Failure(f"a join token is needed: {JOIN_VARIABLE}, --token-stdin, or --token TOKEN", USAGE)
    if not re.fullmatch(r"plj-[0-9A-Za-z]+", text):
        # what was given may be another secret: it is not repeated
        raise Failure("that is no join token, which begins with plj-: potluck nodes token create makes one", USAGE)
    return Secret(text)


def _joined(files: Any) -> Any:
    enrolled = files.enrolled()
    if enrolled is None:
        raise Failure(f"this machine has not joined a gateway: potluck node join URL (nothing in {files.path})")
    return enrolled


def _warn_of_dear(session: Session, settings: Any, enrolled: Any) -> None:
    ceiling = enrolled.max_price if enrolled is not None else None
    dear = [
        name for name, each in settings.prices.items()
        if ceiling is not None and (each.input > ceiling.input or each.output > ceiling.output)
    ]  # fmt: skip
    session.output.warn(f"{name}: the gateway counts at most what this machine's token allows" for name in dear)


def _priced(settings: "NodeSettings", model: str, input_usd: float, output_usd: float) -> "NodeSettings":
    from decimal import Decimal

    import msgspec

    from potluck.model.node import NodePrice

    input_, output = (int(Decimal(str(each)) * _NANOUSD) for each in (input_usd, output_usd))
    return msgspec.structs.replace(settings, prices={**settings.prices, model: NodePrice(input_, output)})


def _host_name() -> str:
    import socket

    name = re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname().partition(".")[0]).strip("-.")[:48]
    return name or "node"
