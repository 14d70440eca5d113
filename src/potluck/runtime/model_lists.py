"""Providers that came with a start are asked for their models, while requests are answered already.

Rule: it costs no import that the start has not paid for; they are asked over the data plane's own pool.
"""

import asyncio
import logging
from collections.abc import Iterable

from potluck.identity.vault import Vault
from potluck.ports import Upstream
from potluck.runtime.configuration import organisation_of
from potluck.runtime.probe_call import DEADLINE_S, ProbeCall
from potluck.snapshot import SnapshotStore
from potluck.store import Store

log = logging.getLogger("potluck.gateway")


def unlisted(store: Store) -> list[str]:
    """Names of providers that have not named any model yet."""
    query = (
        "SELECT name FROM providers WHERE NOT builtin AND id NOT IN (SELECT provider_id FROM provider_models)"
        " ORDER BY created_at_ms, id"
    )
    return store.read_rows_now(lambda connection: [str(row[0]) for row in connection.execute(query)])


async def ask_for_models(
    store: Store, vault: Vault, snapshots: SnapshotStore, upstream: Upstream, providers: Iterable[str]
) -> None:
    """Ask each for its models, all at once, and keep what it names; one that does not tell is logged."""
    # these came with the providers themselves: a start that brings none imports no SQLAlchemy
    from potluck.admin.asking import named_in
    from potluck.admin.control import Control
    from potluck.admin.errors import OperationError
    from potluck.admin.operations.providers import list_models_of
    from potluck.admin.operations.work import Actor

    actor = Actor("serve", "serve", await asyncio.to_thread(organisation_of, store))
    control = Control(store, vault, snapshots)

    async def ask(name: str) -> str:
        """Why there is no list; an empty text when there is."""
        question = snapshots.models_question(name)
        if question is None:
            return "it was removed"
        target, head = question
        if target.unroutable:
            return target.unroutable
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        call = ProbeCall(loop.time() + DEADLINE_S, lambda _: over.set())
        call.open(upstream, target, head, b"")
        timer = loop.call_at(call.deadline, call.late)
        try:
            await over.wait()
        except asyncio.CancelledError:
            call.cancel("the gateway ends")
            raise
        finally:
            timer.cancel()
        if call.failure is not None:
            return call.failure.detail
        problem, names = named_in(call.status, call.body())
        if problem:
            return problem
        try:
            await control.do(actor, lambda work: list_models_of(work, name, names))
        except OperationError as error:
            return error.detail
        return ""

    async def tell(name: str) -> None:
        if problem := await ask(name):
            log.warning("provider %s has not named its models: %s (potluck provider test %s)", name, problem, name)

    await asyncio.gather(*map(tell, providers))
