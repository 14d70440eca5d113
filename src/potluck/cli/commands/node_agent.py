"""`potluck node run|status|pause|resume|drain|presence-helper`: the agent, and orders to it."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from potluck.cli.failure import USAGE, Failure
from potluck.cli.node_home import (
    engine_keys,
    engine_mend,
    failing,
    links_shown,
    node_home_option,
    open_home,
    order,
    page_url,
    read_settings,
)
from potluck.cli.node_home import report_of as ask_report
from potluck.cli.output import when
from potluck.cli.session import Command, Session, current
from potluck.cli.times import length_s

if TYPE_CHECKING:
    from potluck.node.home import Enrolled

_MAX_FOR_S = 1e8  # what the agent takes
_SHOWN_MODELS = 20


@click.command(cls=Command)
@click.option("--engine", "engines", metavar="URL", multiple=True, help="Share this engine too.")
@click.option("--mode", metavar="MODE", help="When to serve: always, idle, schedule, manual, or several.")
@click.option("--local-model", is_flag=True, help="Share the built-in model, with nothing else installed.")
@click.option("--page-port", type=click.IntRange(0, 65_535), help="Port of the status page. [7173]")
@click.option("--model-home", metavar="DIR", type=click.Path(), help="Where the built-in model lies. [POTLUCK_HOME]")
@node_home_option
@failing
def run(
    engines: tuple[str, ...],
    mode: str | None,
    local_model: bool,
    page_port: int | None,
    model_home: str | None,
    home: str | None,
) -> None:
    """Run the agent until it is told to stop (Ctrl-C, SIGTERM). Options hold for this run; `node set` keeps them."""
    from potluck.node.machine import OwnMachine
    from potluck.node.process import serve
    from potluck.node.settings import NodeSettings, with_value

    session, files = current(), open_home(home)

    def settings() -> NodeSettings:
        said = read_settings(files)
        given = {
            "mode": mode,
            "engines": ",".join([*said.engines, *engines]) if engines else None,
            "local_model": "yes" if local_model else None,
            "page_port": page_port,
        }
        for key, value in given.items():
            said = said if value is None else with_value(said, key, str(value))
        return said

    if (enrolled := files.enrolled()) is None:
        raise Failure(f"this machine has not joined a gateway: potluck node join URL (nothing in {files.path})")
    files.prepare()
    place = files.path
    if settings().local_model:
        place = _model_place(session, files.path, enrolled, model_home, asked_now=local_model)
    try:
        serve(
            files,
            settings,
            lambda: OwnMachine(files),
            engine_keys=engine_keys(files),
            model_home=place,
            say=lambda line: click.echo(line, err=True),
        )
    except OSError as error:
        raise Failure(f"the status page cannot listen: {error}") from None


def _model_place(session: Session, home: Path, enrolled: "Enrolled", given: str | None, *, asked_now: bool) -> Path:
    """Where the built-in model lies; it is fetched into the node's home if it lies nowhere. Raises Failure.

    A service that lacks the engine runs on and shares what else there is: ending it would only have it started again.
    """
    from potluck.cli.commands.local_model import STEPS
    from potluck.cli.progress import Bar
    from potluck.config.settings import home_directory
    from potluck.engines import local_model, model_file

    places = [Path(given).absolute()] if given else [home, home_directory(None, session.env)]
    if not model_file.has_engine():
        missing = f"the built-in model's engine is not installed: {engine_mend(enrolled)}"
        if asked_now:
            raise Failure(missing)
        session.output.warn([missing])
        return places[0]
    for place in places:
        if not model_file.problem(place):
            return place
    try:
        with Bar(session) as bar:
            local_model.install(places[0], lambda step, done, total: bar.tick(STEPS.get(step, step), done, total))
    except local_model.LocalModelError as error:
        raise Failure(str(error)) from None
    return places[0]


@click.command(cls=Command)
@click.option("--page", is_flag=True, help="Print the address of the page with its buttons; it holds a secret.")
@node_home_option
@failing
def status(page: bool, home: str | None) -> int:
    """Say whether this node serves and why; exit 1 if no agent runs."""
    session, files = current(), open_home(home)
    said = ask_report(files)
    if said is None:
        enrolled = files.enrolled()
        start = "potluck node run; to start it with the machine: potluck node install-service"
        why = "it has not joined a gateway: potluck node join URL" if enrolled is None else f"no agent runs: {start}"
        if session.json:
            session.output.data({"state": "stopped", "reason": why})
        else:
            session.output.line(f"this machine does not serve: {why}")
        return 1
    if page:
        session.output.line(page_url(files) or "")
        return 0
    _show(session, said)
    return 0


@click.command(cls=Command)
@click.option("--for", "for_", metavar="LENGTH", help="Serve again after this long: 30m, 2h.")
@node_home_option
@failing
def pause(for_: str | None, home: str | None) -> None:
    """Stop serving at once: what runs is ended, and the GPU is freed. Holds over restarts."""
    _order(home, "pause", for_)


@click.command(cls=Command)
@node_home_option
@failing
def resume(home: str | None) -> None:
    """Serve again, as far as the mode allows."""
    _order(home, "resume", None)


@click.command(cls=Command)
@click.option("--for", "for_", metavar="LENGTH", help="Serve again after this long: 30m, 2h.")
@click.option("--stop", is_flag=True, help="End the agent when nothing runs any more; it will serve at its next start.")
@node_home_option
@failing
def drain(for_: str | None, stop: bool, home: str | None) -> None:
    """Take nothing new and let what runs end. Holds over restarts."""
    _order(home, "stop" if stop else "drain", for_)


@click.command("presence-helper", cls=Command)
@click.option("--port", type=click.IntRange(1, 65_535), help="Where the agent listens. [its setting presence_port]")
@node_home_option
@failing
def presence_helper(port: int | None, home: str | None) -> None:
    """Tell an agent that runs as a service whether somebody is at this desktop."""
    from potluck.node.presence import presence_here
    from potluck.node.presence.reports import SECRET_FILE, read_secret, report_for_ever

    files = open_home(home)
    port = port or read_settings(files).presence_port
    if not port:
        raise Failure(
            "the agent does not listen for it: potluck node set presence_port 7174, and start the agent anew; or --port"
        )
    try:
        secret = read_secret(files.path / SECRET_FILE)
    except OSError as error:
        raise Failure(f"{files.path / SECRET_FILE} cannot be read: {error.strerror}; has the agent run?") from None

    def stop(wait_s: float) -> bool:
        time.sleep(wait_s)
        return False

    report_for_ever(presence_here(), secret, port, stop)


def _order(home: str | None, action: str, for_: str | None) -> None:
    from potluck.node.home import Kept

    session, files = current(), open_home(home)
    for_s = None if for_ is None else length_s(for_)
    if for_s is not None and not 0 < for_s < _MAX_FOR_S:
        raise Failure(f"--for {for_}: from a second to 1000d; without --for it holds until potluck node resume", USAGE)
    said = order(files, action, for_s)
    if said is not None:
        if session.json:
            session.output.data(said)
        else:
            session.output.line(_headline(said))
        if action != "stop" and said.get("unkept"):
            raise Failure(f"{action}: done, but it does not hold over a restart: {said['unkept']}")
        return
    if action == "stop":
        raise Failure("no agent runs")
    if files.enrolled() is None:
        raise Failure("this machine has not joined a gateway: potluck node join URL")
    until_s = None if for_s is None else time.time() + for_s
    word = Kept(True) if action == "resume" else files.kept().pause(until_s, drain=action == "drain")
    files.write("state.json", word)
    if session.json:
        session.output.data({"state": "stopped", "reason": f"no agent runs; its next start heeds: {action}"})
    else:
        session.output.line(f"no agent runs; its next start heeds it: {action}")


def _show(session: Session, said: dict[str, Any]) -> None:
    output = session.output
    if session.json:
        output.data(said)
        return
    output.line(_headline(said))
    output.facts(
        [
            ("gateway", said["gateway"]),
            ("mode", ",".join(said["mode"])),
            ("links", links_shown(said["links"])),
            ("slots", f"{said['running']} of {said['slots']} in use, {said['waiting']} waiting"),
            ("requests", _counts(said["ends"])),
            ("refused", _counts(said["refusals"])),
            ("local model", said["local_model"]),
            ("not shared", "; ".join(said["withheld"])),
            ("last error", said["errors"][-1]["what"] if said["errors"] else ""),
        ]
    )
    output.line()
    columns = [("MODEL", "name"), ("ENGINE", "engine"), ("CONTEXT", "context_tokens"), ("IN MEMORY", "resident")]
    columns.append(("RUNNING", "running"))
    models = sorted(said["models"], key=lambda each: (not each["running"], not each["resident"]))
    output.table(columns, models[:_SHOWN_MODELS], empty="no models", right=("context_tokens", "running"))
    if len(models) > _SHOWN_MODELS:
        output.line(f"and {len(models) - _SHOWN_MODELS} more: potluck node status --json")


def _headline(said: dict[str, Any]) -> str:
    until = f" (until {when(said['until'] * 1000)})" if said["until"] else ""
    return f"{said['name']}: {said['state']}; {said['reason']}{until}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.items())
