"""`/api/v1/config`: a whole `potluck.toml`, checked, compared, applied, exported."""

import asyncio
from collections.abc import Callable

import msgspec
from litestar import Router, get, post
from litestar.params import JSONBody

from potluck.admin import apply as applying
from potluck.admin.asking import ask
from potluck.admin.control import Control
from potluck.admin.errors import OperationError
from potluck.admin.export import export
from potluck.admin.operations.work import Actor, Idempotency, Work
from potluck.admin.rest.auth import AdminRequest, FromGateway, idempotency_of
from potluck.admin.rest.bodies import ConfigText
from potluck.admin.rest.problems import described
from potluck.config.document import Document
from potluck.config.errors import ConfigError, Problem
from potluck.config.reading import Draft, read
from potluck.config.writing import dump

ASK_ON_APPLY_S = 3.0


class Checked(msgspec.Struct, frozen=True):
    """What is wrong with a text: empty when nothing is. Warnings keep it from nothing."""

    ok: bool
    problems: list[dict[str, str | int]]
    warnings: list[dict[str, str | int]]


class Exported(msgspec.Struct, frozen=True):
    """A `potluck.toml`; secrets stand in it as `${VARIABLE}`."""

    text: str


@post("/config/check", status_code=200, responses=described())
async def check(request: AdminRequest, control: FromGateway, data: JSONBody[ConfigText]) -> Checked:
    """Say everything that would keep a text from being applied to this gateway. Changes nothing."""
    try:
        draft = await _read(data)
    except ConfigError as error:
        return Checked(False, [each.as_member() for each in error.problems], [])

    def look(work: Work) -> tuple[list[Problem], list[Problem]]:
        return applying.check(work, draft), applying.warnings(work, draft)

    found, warned = await control.do(applying.file_actor(request.user), look)
    return Checked(not found, [each.as_member() for each in found], [each.as_member() for each in warned])


@post("/config/diff", status_code=200, responses=described(409))
async def diff(request: AdminRequest, control: FromGateway, data: JSONBody[ConfigText]) -> applying.Applied:
    """Show what applying would do. Changes nothing."""
    done, _ = await _perform(control, request.user, data, applying.diff, None)
    return done


@post("/config/apply", status_code=200, responses=described(409, 422))
async def apply(request: AdminRequest, control: FromGateway, data: JSONBody[ConfigText]) -> applying.Applied:
    """Make it so: all or nothing; the same text again changes nothing. Secrets of new keys are shown this once."""
    done, document = await _perform(control, request.user, data, applying.apply, await idempotency_of(request, 200))
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


async def _read(data: JSONBody[ConfigText]) -> Draft:
    return await asyncio.to_thread(read, data.text, data.variables, source=data.source)


async def _perform(
    control: Control,
    user: Actor,
    data: JSONBody[ConfigText],
    deed: Callable[[Work, Document], applying.Applied],
    idempotency: Idempotency | None,
) -> tuple[applying.Applied, Document]:
    """Apply or compare. Raises with all that is wrong with the text, each with its line, not only the first of it."""
    draft = await _read(data)
    actor, document = applying.file_actor(user), draft.document
    if document is None:
        raise ConfigError(await control.do(actor, lambda work: applying.check(work, draft)))

    def perform(work: Work) -> applying.Applied:
        warned = applying.warnings(work, draft)
        return msgspec.structs.replace(deed(work, document), warnings=[each.as_member() for each in warned])

    try:
        return await control.do(actor, perform, idempotency), document
    except OperationError as error:
        found = await control.do(actor, lambda work: applying.check(work, draft))
        if found:
            error.detail = "\n".join(map(str, found))
            error.more["problems"] = [each.as_member() for each in found]
        raise


ROUTES = Router("/", route_handlers=[check, diff, apply, export_config], tags=["configuration"])
