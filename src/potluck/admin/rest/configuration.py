"""`/api/v1/config`: a whole `potluck.toml`, checked, compared, applied, exported."""

import asyncio
from collections.abc import Sequence

import msgspec
from litestar import Router, get, post
from litestar.params import JSONBody

from potluck.admin import apply as applying
from potluck.admin.asking import ask
from potluck.admin.export import export
from potluck.admin.operations.work import Work
from potluck.admin.rest.auth import AdminRequest, FromGateway, idempotency_of
from potluck.admin.rest.bodies import ConfigText
from potluck.admin.rest.problems import described
from potluck.config.document import Document
from potluck.config.errors import ConfigError, Problem
from potluck.config.reading import parse, read
from potluck.config.writing import dump

ASK_ON_APPLY_S = 3.0


class Checked(msgspec.Struct, frozen=True):
    """What is wrong with a text: empty when nothing is."""

    ok: bool
    problems: list[dict[str, str | int]]


class Exported(msgspec.Struct, frozen=True):
    """A `potluck.toml`; secrets stand in it as `${VARIABLE}`."""

    text: str


@post("/config/check", status_code=200, responses=described())
async def check(request: AdminRequest, control: FromGateway, data: JSONBody[ConfigText]) -> Checked:
    """Say everything that would keep a text from being applied to this gateway. Changes nothing."""
    found: Sequence[Problem]
    try:
        draft = await asyncio.to_thread(read, data.text, data.variables, source=data.source)
    except ConfigError as error:
        found = error.problems
    else:
        actor = applying.file_actor(request.user)
        faults = await control.do(actor, lambda work: applying.check(work, draft))
        found = await asyncio.to_thread(draft.problems, *faults)
    return Checked(not found, [{"message": each.message, "where": each.where, "line": each.line} for each in found])


@post("/config/diff", status_code=200, responses=described(409))
async def diff(request: AdminRequest, control: FromGateway, data: JSONBody[ConfigText]) -> applying.Applied:
    """Show what applying would do. Changes nothing."""
    document = await _read(data)
    actor = applying.file_actor(request.user)
    return await control.do(actor, lambda work: applying.diff(work, document))


@post("/config/apply", status_code=200, responses=described(409, 422))
async def apply(request: AdminRequest, control: FromGateway, data: JSONBody[ConfigText]) -> applying.Applied:
    """Make it so: all or nothing; the same text again changes nothing. Secrets of new keys are shown this once."""
    document = await _read(data)
    actor = applying.file_actor(request.user)
    done = await control.do(actor, lambda work: applying.apply(work, document), await idempotency_of(request, 200))
    touched = {line.name.partition("/")[0] for line in done.changes if line.kind in ("provider", "credential")}
    named = [provider.name for provider in document.providers if provider.name in touched]
    await asyncio.gather(*(ask(control, request.user, name, ASK_ON_APPLY_S) for name in named))
    return done


@get("/config/export", responses=described())
async def export_config(request: AdminRequest, control: FromGateway) -> Exported:
    """The stored configuration as a `potluck.toml`, without secrets."""

    def look(work: Work) -> str:
        return dump(export(work))

    return Exported(await control.see(request.user, look))


async def _read(data: JSONBody[ConfigText]) -> Document:
    return await asyncio.to_thread(parse, data.text, data.variables, source=data.source)


ROUTES = Router("/", route_handlers=[check, diff, apply, export_config], tags=["configuration"])
