"""`/api/v1/routes/explain` and `/api/v1/target-states`: what the data plane knows and would do at this moment.

Rule: looking changes nothing. What is held against a target can be cleared by hand, and that is written down first.
"""

import asyncio
import time
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from litestar import Router, get, post
from litestar.params import JSONBody, QueryParameter

from potluck.admin.control import Control
from potluck.admin.errors import OperationError, invalid, not_found
from potluck.admin.operations.work import Actor, Work
from potluck.admin.rest.auth import AdminRequest, FromGateway, idempotency_of
from potluck.admin.rest.bodies import Body
from potluck.admin.rest.deps import Deps
from potluck.admin.rest.lists import Listed
from potluck.admin.rest.problems import described
from potluck.config.forms import ModelName
from potluck.model.node import NODE_PREFIX
from potluck.model.resources import Capability
from potluck.model.snapshot import CompiledKey, Snapshot
from potluck.proxy import routing
from potluck.proxy.registry import Lane, LaneView, Registry, State
from potluck.proxy.rehearsal import Explanation, rehearse
from potluck.store import tables as t

DEFAULT_PROJECT = "default"
SAMPLES: dict[Capability, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "Hello"}]},
    "completions": {"prompt": "Hello"},
    "embeddings": {"input": "Hello"},
    "responses": {"input": "Hello"},
}
"""what is asked when only a model is named"""
VIEWS_PER_STEP = 100
"""how many states are read between two turns of the loop: well under a millisecond"""

_REF = msgspec.Meta(min_length=1, max_length=300)
Ref = Annotated[str, _REF]


class Explain(Body, frozen=True, kw_only=True):
    """A request to explain: a model's name, or a whole body. What is said beside the body wins over it."""

    model: ModelName | None = None
    key: Ref | None = None
    """API key, by id or name; null: the oldest live one of the project `default`"""
    endpoint: Capability = "chat"
    stream: bool | None = None
    body: dict[str, Any] | None = None
    """its `potluck` member counts, as all of it does"""


class ClearStates(Body, frozen=True, kw_only=True):
    """Null: all of them."""

    target: Ref | None = None
    """`openai/gpt-4o-mini`"""
    credential: Ref | None = None
    """by id, name, or `provider/name`"""


class Cleared(msgspec.Struct, frozen=True):
    """`cleared`: against how many targets, by credential, something was held."""

    cleared: int


class TargetState(msgspec.Struct, frozen=True, kw_only=True):
    """One target by one of its provider's keys, as it stands now."""

    target: str
    credential_id: str | None
    credential: str
    state: State
    """`closed`: used; `half_open`: the next call is a probe; `open`: called after all others; `parked`, `dead`: not;
    `away`: on a node that takes no calls now"""
    reason: str
    """why it is not `closed`"""
    retry_in_s: float
    """when it is used again, or probed"""
    failures: int
    """of the last minute, that count against it"""
    calls: int
    """of the last minute"""
    in_flight: int
    """calls that the target answers now, by all its keys"""
    first_token_ms: float | None
    """of a small prompt, the moving average; as the next two, of the target by all its keys"""
    p95_first_token_ms: float | None
    tokens_per_s: float | None


@post("/routes/explain", status_code=200, responses=described(), tags=["routes"])
async def explain_route(request: AdminRequest, control: FromGateway, data: JSONBody[Explain]) -> Explanation:
    """Explain what would become of a request that came now: its rule, each target in or out with its reason, in the
    order in which they would be called. Nothing is called, and nothing changes."""
    if data.model is None and data.body is None:
        raise invalid("model", "'model' is missing: name a model, or give a whole body")
    said = dict(SAMPLES[data.endpoint] if data.body is None else data.body)
    said |= {} if data.model is None else {"model": data.model}
    said |= {} if data.stream is None else {"stream": data.stream}
    current = control.snapshots.current
    key = await asyncio.to_thread(_find_key, current, request.user.organisation_id, data.key)
    return rehearse(_router(request), key, data.endpoint, msgspec.json.encode(said))


@get("/target-states", responses=described(), tags=["usage and state"])
async def list_target_states(
    request: AdminRequest,
    control: FromGateway,
    target: Annotated[str | None, QueryParameter(description="only this one, by name", max_length=300)] = None,
) -> Listed[TargetState]:
    """List how targets stand, by credential: all that were considered for a request since the gateway started, on one
    page, those in trouble first."""
    lanes = await _lanes(request, control)
    wanted = [lane for lane in lanes if target is None or lane.target == target]
    found: list[TargetState] = []
    for start in range(0, len(wanted), VIEWS_PER_STEP):
        some = wanted[start : start + VIEWS_PER_STEP]
        found += [_view(each) for each in _router(request).registry.view(time.monotonic(), some)]
        await asyncio.sleep(0)
    return Listed(found, None)


@post("/target-states/clear", status_code=200, responses=described(409, 422), tags=["usage and state"])
async def clear_target_states(request: AdminRequest, control: FromGateway, data: JSONBody[ClearStates]) -> Cleared:
    """Forget what is held against targets: they are used again at once, as if nothing had happened."""
    lanes, current = await _lanes(request, control), control.snapshots.current
    if data.target is not None and not any(lane.target == data.target for lane in lanes):
        known = await asyncio.to_thread(_has_target, current, data.target)
        if not known or data.target.partition("/")[0] not in await control.see(request.user, _providers):
            raise not_found("target", data.target)
    if data.credential is not None:
        ids = (await control.see(request.user, _credentials)).get(data.credential)
        if ids is None:
            raise not_found("credential", data.credential)
        lanes = [lane for lane in lanes if lane.credential_id in ids]
    doomed = {lane for lane in lanes if lane.held and data.target in (None, lane.target)}

    def note(work: Work) -> Cleared:
        work.audit("target.clear", "", data.target or "*", credential=data.credential, cleared=len(doomed))
        return Cleared(len(doomed))

    cleared = await control.do(request.user, note, await idempotency_of(request, 200))
    _router(request).registry.clear(among=doomed)
    return cleared


def _router(request: AdminRequest) -> routing.Router:
    """The data plane's router; where there is no data plane, one to which nothing has happened."""
    deps: Deps = request.app.state.deps
    return deps.router or routing.Router(deps.snapshots, Registry(), lambda _: None)


async def _lanes(request: AdminRequest, control: Control) -> list[Lane]:
    """Lanes of the caller's own providers and nodes that are still configured."""
    actor: Actor = request.user
    providers = await control.see(actor, _providers)
    lanes = await asyncio.to_thread(_router(request).registry.lanes_of, control.snapshots.current)
    return [lane for lane in lanes if lane.target.partition("/")[0] in providers]


def _providers(work: Work) -> set[str]:
    """Names of providers, and of nodes as they stand among them."""
    providers, nodes = t.providers.c, t.nodes.c
    own = sa.select(providers.name).where(providers.organisation_id == work.organisation_id)
    enrolled = nodes.organisation_id == work.organisation_id, nodes.revoked_at_ms.is_(None)
    names = {str(row["name"]) for row in work.rows(own)}
    return names | {NODE_PREFIX + row["name"] for row in work.rows(sa.select(nodes.name).where(*enrolled))}


def _credentials(work: Work) -> dict[str, set[str]]:
    """What a credential may be called → the ids of those that are."""
    kept, providers = t.credentials, t.providers
    joined = sa.select(kept.c.id, kept.c.name, providers.c.name.label("provider"))
    joined = joined.join(providers, providers.c.id == kept.c.provider_id)
    found: dict[str, set[str]] = {}
    for row in work.rows(joined.where(kept.c.organisation_id == work.organisation_id)):
        for name in (row["id"], row["name"], f"{row['provider']}/{row['name']}"):
            found.setdefault(name, set()).add(row["id"])
    return found


def _find_key(current: Snapshot, organisation_id: str, ref: str | None) -> CompiledKey:
    """A live key by id or name, or the oldest of the default project. Raises 404."""
    now_s = time.time()
    mine = [key for key in current.keys.values() if key.organisation_id == organisation_id and key.expires_at_s > now_s]
    if ref is None:
        mine = [key for key in mine if key.project == DEFAULT_PROJECT]
        if not mine:
            detail = f"the project {DEFAULT_PROJECT!r} has no live API key: name the key that is to be asked for"
            raise OperationError(404, "not_found", detail, where="key")
        return min(mine, key=lambda key: (key.created_at_ms, key.id))
    found = next((key for key in mine if key.id == ref), None) or next((key for key in mine if key.name == ref), None)
    if found is None:
        raise not_found("key", ref)
    return found


def _has_target(current: Snapshot, name: str) -> bool:
    if name in current.pins:
        return True
    return any(target.name == name for model in current.models.values() for target in model.targets)


def _view(lane: LaneView) -> TargetState:
    return TargetState(
        target=lane.target,
        credential_id=lane.credential_id,
        credential=lane.credential,
        state=lane.state,
        reason=lane.reason,
        retry_in_s=lane.retry_in_s,
        failures=lane.breaker.failures,
        calls=lane.breaker.samples,
        in_flight=lane.in_flight,
        first_token_ms=_rounded(lane.first_token_ms),
        p95_first_token_ms=_rounded(lane.p95_first_token_ms),
        tokens_per_s=_rounded(1000 / lane.ms_per_token) if lane.ms_per_token else None,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


ROUTES = Router("/", route_handlers=[explain_route, list_target_states, clear_target_states])
