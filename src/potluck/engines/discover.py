"""What serves models on this machine: addresses that were named, then well-known ports of loopback."""

import asyncio
from collections.abc import Sequence

from potluck.engines.asking import ASK_TIMEOUT_S, Place, converse, is_loopback
from potluck.engines.fingerprints import PORTS, Absent, identify
from potluck.engines.inventory import Inventory, UnansweredError, take_inventory
from potluck.model.engine import Engine


async def look(place: Place, before: Engine | None = None, timeout_s: float = ASK_TIMEOUT_S) -> Engine | Absent:
    """Who is there, and what it serves. `before`: as it was found last, which saves questions. Raises nothing.

    `timeout_s` is for each question; the first that is not answered ends it.
    """
    identity = await converse(place, identify(), timeout_s)
    if isinstance(identity, Absent):
        return identity
    if before is not None and before.kind != identity.kind:
        before = None
    found = Inventory(())
    if identity.state == "ready":
        try:
            found = await converse(place, take_inventory(identity, before), timeout_s)
        except UnansweredError:
            return Absent("it stopped answering while it was asked what it serves")
    said = (identity.kind, place.base_url, identity.state, identity.version)
    return Engine(*said, found.models, found.elsewhere, found.unusable)


async def discover(
    places: Sequence[Place] = (), ports: Sequence[int] = PORTS, timeout_s: float = ASK_TIMEOUT_S
) -> list[Engine]:
    """The engines at `places`, then those behind `ports` of 127.0.0.1, in that order; each once. All are asked at
    the same time.

    Raises nothing: what is closed, slow or speaks something else is not an engine.
    """
    distinct: dict[tuple[str, int, str], Place] = {}
    for place in (*places, *(Place("127.0.0.1", port) for port in ports)):
        host = "loopback" if is_loopback(place.host) else place.host
        distinct.setdefault((host, place.port, place.prefix), place)
    found = await asyncio.gather(*(look(place, timeout_s=timeout_s) for place in distinct.values()))
    return [engine for engine in found if isinstance(engine, Engine)]
