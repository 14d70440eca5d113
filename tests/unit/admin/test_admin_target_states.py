"""How targets stand, clearing by hand, and explanations, over the admin API without a data plane's sockets."""

from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from joining import offering

from potluck.admin.app import Deps, create_app
from potluck.identity.keys import new_secret
from potluck.model.snapshot import CompiledTarget
from potluck.ports import Failure
from potluck.proxy.registry import Registry
from potluck.proxy.routing import Router
from potluck.store import tables as t

DOWN = Failure("target_down", "connect", "could not connect: refused")
REFUSED = Failure("key_dead", "first_byte", "HTTP 401", status=401)


class Live:
    """A control plane with a router whose targets can be broken, and a client of it."""

    def __init__(self, gateway: Any) -> None:
        self.gateway = gateway
        self.registry = Registry()
        router = Router(gateway.snapshots, self.registry, lambda _: None)
        self.app = create_app(
            Deps(
                store=gateway.store,
                vault=gateway.first.vault,
                snapshots=gateway.snapshots,
                version="0",
                router=router,
            )
        )

    def client(self, token: str = "") -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {token or self.gateway.token}"}
        transport = httpx.ASGITransport(self.app)
        return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7171/api/v1", headers=headers)

    def targets(self, name: str) -> tuple[CompiledTarget, ...]:
        return tuple(self.gateway.snapshots.current.models[name].targets)

    def fail(self, name: str, failure: Failure, times: int = 1, index: int = 0) -> None:
        lane = self.registry.lane(self.targets(name)[index])
        for _ in range(times):
            self.registry.failed(lane, failure, 1.0e9)


@pytest.fixture
async def live(gateway: Any) -> Live:
    """A provider `lab` with the keys `main` and `spare`, and the models `small` and `big` there."""
    made = Live(gateway)
    async with made.client() as api:
        provider = {"name": "lab", "base_url": "http://127.0.0.1:9/v1", "own": True, "key": "sk-main-0123456789"}
        assert (await api.post("/providers", json=provider)).status_code == 201
        body = {"provider": "lab", "name": "spare", "key": "sk-spare-0123456789"}
        assert (await api.post("/credentials", json=body)).status_code == 201
        for name in ("small", "big"):
            assert (
                await api.post("/models", json={"name": name, "targets": [{"target": f"lab/{name}"}]})
            ).status_code == 201
    return made


async def states(api: httpx.AsyncClient, **query: str) -> list[tuple[str, str, str]]:
    answer = await api.get("/target-states", params=query)
    assert answer.status_code == 200, answer.text
    return [(each["target"], each["credential"], each["state"]) for each in answer.json()["data"]]


async def test_what_was_never_asked_for_has_no_state(live: Live) -> None:
    """The list begins empty, and an explanation does not fill it."""
    async with live.client() as api:
        assert await states(api) == []
        assert (await api.post("/routes/explain", json={"model": "small"})).json()["order"] == ["lab/small"]
        assert await states(api) == []


async def test_a_state_and_its_reason_are_seen_and_cleared(live: Live) -> None:
    """What the registry knows is in the very next answer; a clearing by hand is in the next after it, and audited."""
    live.fail("small", DOWN, 5)
    live.fail("big", REFUSED, index=1)
    async with live.client() as api:
        assert await states(api) == [("lab/big", "spare", "dead"), ("lab/small", "main", "open")]
        (seen,) = (await api.get("/target-states", params={"target": "lab/small"})).json()["data"]
        assert seen["reason"] == "breaker open: 5 failures in a row, the last: could not connect: refused"
        assert (seen["failures"], seen["calls"], seen["in_flight"], seen["tokens_per_s"]) == (5, 5, 0, None)
        assert seen["retry_in_s"] > 0
        cleared = await api.post("/target-states/clear", json={"target": "lab/small"})
        assert (cleared.status_code, cleared.json()) == (200, {"cleared": 1})
        assert await states(api) == [("lab/big", "spare", "dead"), ("lab/small", "main", "closed")]
        (entry, *_) = (await api.get("/audit", params={"limit": 1})).json()["data"]
        assert (entry["action"], entry["name"], entry["detail"]) == (
            "target.clear",
            "lab/small",
            {"cleared": 1, "credential": None},
        )


@pytest.mark.parametrize("ref", ["spare", "lab/spare"])
async def test_one_key_is_cleared_by_its_name(live: Live, ref: str) -> None:
    """A credential is meant by name, by `provider/name` or by id; the others stay as they are."""
    live.fail("small", REFUSED, index=0)
    live.fail("small", REFUSED, index=1)
    async with live.client() as api:
        assert (await api.post("/target-states/clear", json={"credential": ref})).json() == {"cleared": 1}
        assert await states(api) == [("lab/small", "main", "dead"), ("lab/small", "spare", "closed")]
        (by_id,) = {target.credential_id for target in live.targets("small") if target.credential == "main"}
        assert (await api.post("/target-states/clear", json={"credential": by_id})).json() == {"cleared": 1}
        assert {state for _, _, state in await states(api)} == {"closed"}


async def test_what_is_not_there_cannot_be_cleared(live: Live) -> None:
    """An unknown target or credential is 404; a known one that was never called is nothing to clear."""
    async with live.client() as api:
        assert (await api.post("/target-states/clear", json={"target": "lab/tiny"})).status_code == 404
        assert (await api.post("/target-states/clear", json={"credential": "gone"})).status_code == 404
        assert (await api.post("/target-states/clear", json={"target": "lab/big"})).json() == {"cleared": 0}
        assert (await api.post("/target-states/clear", json={})).json() == {"cleared": 0}


async def test_a_repeated_clearing_is_not_done_twice(live: Live) -> None:
    """With the same Idempotency-Key the first answer comes again, and what broke since stays broken."""
    live.fail("small", DOWN, 5)
    key = {"idempotency-key": "once"}
    async with live.client() as api:
        assert (await api.post("/target-states/clear", json={}, headers=key)).json() == {"cleared": 1}
        live.fail("small", DOWN, 5)
        again = await api.post("/target-states/clear", json={}, headers=key)
        assert (again.json(), again.headers["idempotency-replayed"]) == ({"cleared": 1}, "true")
        assert await states(api) == [("lab/small", "main", "open")]


async def test_what_the_configuration_lost_is_not_shown(live: Live) -> None:
    """A removed model's target goes from the list with it."""
    live.fail("small", DOWN, 5)
    live.fail("big", DOWN, 5)
    async with live.client() as api:
        assert (await api.delete("/models/small")).status_code == 204
        assert await states(api) == [("lab/big", "main", "open")]


async def test_another_organisation_sees_and_clears_nothing(live: Live) -> None:
    """An admin of another organisation neither sees these targets nor ends what is held against them."""
    live.fail("small", DOWN, 5)
    token = new_secret("pla")

    def other(connection: sa.Connection) -> None:
        connection.execute(sa.insert(t.organisations).values(id="org_2", name="other", created_at_ms=1))
        values = {"id": "tok_2", "organisation_id": "org_2", "name": "o", "role": "admin", "hint": ""}
        values |= {"created_at_ms": 1, "updated_at_ms": 1}
        connection.execute(
            sa.insert(t.admin_tokens).values(**values, hash=live.gateway.first.vault.hash(token.encode()))
        )

    live.gateway.store.write_now(other)
    async with live.client(token) as stranger, live.client() as api:
        assert await states(stranger) == []
        assert (await stranger.post("/target-states/clear", json={"target": "lab/small"})).status_code == 404
        assert (await stranger.post("/target-states/clear", json={"target": "lab/big"})).status_code == 404
        assert (await stranger.post("/target-states/clear", json={})).json() == {"cleared": 0}
        assert (await stranger.post("/routes/explain", json={"model": "small", "key": "first"})).status_code == 404
        assert await states(api) == [("lab/small", "main", "open")]


async def test_a_request_is_explained_with_its_key_and_body(live: Live) -> None:
    """The body's model and controls count, what is said beside it wins, and the key decides what may be used."""
    async with live.client() as api:
        assert (await api.post("/keys", json={"name": "narrow", "models": ["big"]})).status_code == 201
        body = {
            "model": "small",
            "messages": [{"role": "user", "content": "Hi"}],
            "potluck": {"ignore": ["lab"]},
            "seed": 10**30,
        }
        said = (await api.post("/routes/explain", json={"body": body})).json()
        assert (said["model"], said["key"], said["project"]) == ("small", "first", "default")
        assert said["refused"]["code"] == "no_target_available"
        assert {each["why"] for each in said["plan"]["targets"]} == {"among the request's `ignore`"}
        said = (await api.post("/routes/explain", json={"model": "big", "body": body | {"potluck": {}}})).json()
        assert (said["model"], said["order"], said["refused"]) == ("big", ["lab/big"], None)
        said = (await api.post("/routes/explain", json={"model": "small", "key": "narrow"})).json()
        assert (said["refused"]["status"], said["refused"]["code"]) == (403, "model_not_allowed")
        assert said["plan"] is None
        for endpoint in ("completions", "embeddings"):
            asked = {"model": "small", "endpoint": endpoint, "stream": endpoint == "completions"}
            said = (await api.post("/routes/explain", json=asked)).json()
            assert (said["order"], said["refused"]) == (["lab/small"], None)


async def test_what_cannot_be_explained_is_said(live: Live) -> None:
    """Neither model nor body, a key that is unknown or revoked, no live key at all."""
    async with live.client() as api:
        answer = await api.post("/routes/explain", json={})
        assert (answer.status_code, answer.json()["where"]) == (400, "model")
        assert (await api.post("/routes/explain", json={"model": "small", "key": "gone"})).status_code == 404
        assert (await api.post("/keys/first/revoke")).status_code == 200
        answer = await api.post("/routes/explain", json={"model": "small"})
        assert (answer.status_code, answer.json()["where"]) == (404, "key")
        assert "has no live API key" in answer.json()["detail"]


async def test_nodes_that_are_away_say_why(live: Live) -> None:
    """Listed with the reason, out of the order of an explanation, and nothing is held against them that one clears."""
    async with live.gateway.client() as api:
        await offering(live.gateway, api, "lab-1", "small")
    async with live.client() as api:
        body = {"name": "both", "targets": [{"target": "node:*/small"}, {"target": "lab/big"}]}
        assert (await api.post("/models", json=body)).status_code == 201
        lane = live.registry.lane(live.targets("both")[0])
        live.registry.set_away(lane.node_id, "paused: the owner is here")
        (state,) = (await api.get("/target-states", params={"target": "node:lab-1/small"})).json()["data"]
        assert (state["state"], state["reason"]) == ("away", "away: paused: the owner is here")
        told = (await api.post("/routes/explain", json={"model": "both"})).json()
        assert told["order"] == ["lab/big"]
        assert ("node:lab-1/small", "away", "away: paused: the owner is here") in [
            (each["target"], each.get("state"), each.get("reason")) for each in told["plan"]["targets"]
        ]
        told = (await api.post("/routes/explain", json={"model": "node:lab-1/small"})).json()
        assert told["refused"]["status"] == 503
        assert "paused: the owner is here" in told["refused"]["message"]
        assert (await api.post("/target-states/clear", json={"target": "node:lab-1/small"})).json() == {"cleared": 0}
        live.registry.set_away(lane.node_id, "")
        told = (await api.post("/routes/explain", json={"model": "both"})).json()
        assert told["order"] == ["node:lab-1/small", "lab/big"]
