"""Routes over the admin API, and the new members of models, targets and providers."""

from typing import Any

import pytest

from potluck.model.resources import Affinity, Hedge, RouteConstraints, RouteMatch, RouteTimeouts

WHOLE = {
    "name": "frugal",
    "match": {"models": ["small", "gpt-*"], "projects": ["default"], "keys": ["first"]},
    "strategy": "weighted",
    "split": "user",
    "constraints": {
        "only": ["lab", "*"],
        "ignore": ["local"],
        "max_price": {"input": 0.5, "output": 2},
        "data_class": "private",
    },
    "fallback": ["lab/b", "spare", "s", "node:*", "key:*", "smollm2-135m"],
    "timeouts": {"connect_s": 5, "first_token_s": 60, "idle_s": 30, "total_s": 900},
    "hedge": {"after": 250, "max_extra": 0.1},
    "affinity": {"window_s": 60, "tolerance": 1.5},
}


@pytest.fixture
async def small(api: Any) -> Any:
    """A provider `lab`, the models `small` (alias `s`) and `spare`."""
    await api.post("/api/v1/providers", json={"name": "lab", "base_url": "http://127.0.0.1:9/v1", "own": True})
    for body in (
        {"name": "small", "aliases": ["s"], "targets": [{"target": "lab/a"}]},
        {"name": "spare", "targets": [{"target": "lab/b"}]},
    ):
        assert (await api.post("/api/v1/models", json=body)).status_code == 201
    return api


async def made(api: Any, **members: Any) -> Any:
    answer = await api.post("/api/v1/routes", json=members)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def refused(api: Any, status: int, part: str, path: str = "/api/v1/routes", **members: Any) -> Any:
    answer = await api.post(path, json=members)
    assert answer.status_code == status, answer.text
    assert part in answer.json()["detail"], answer.json()
    return answer.json()


async def test_a_route_is_shown_as_it_was_said(gateway: Any, small: Any) -> None:
    """Every member comes back as it was sent, by name and id, and is in force at once, in the nouns of the router."""
    route = await made(small, **WHOLE)
    assert route.pop("warnings") == []
    assert WHOLE.items() <= route.items()
    assert (route["position"], route["origin"]) == (0, "api")
    assert route["id"].startswith("rte_")
    for ref in ("frugal", route["id"]):
        assert (await small.get(f"/api/v1/routes/{ref}")).json() == route
    (compiled,) = gateway.snapshots.current.routes
    assert compiled.match == RouteMatch(("small", "gpt-*"), ("default",), ("first",))
    assert (compiled.strategy, compiled.split_by) == ("weighted", "user")
    assert compiled.constraints == RouteConstraints(("lab", "*"), ("local",), 500_000_000, 2_000_000_000, "private")
    assert compiled.fallback == tuple(WHOLE["fallback"])
    assert compiled.timeouts == RouteTimeouts(5, 60, 30, 900)
    assert (compiled.hedge, compiled.affinity) == (Hedge(250, 0.1), Affinity(60, 1.5))
    assert (await small.get("/api/v1/snapshot")).json()["routes"] == ["frugal"]


async def test_a_bare_route_takes_everything(gateway: Any, api: Any) -> None:
    """A name alone is a rule for all requests, with the plain order of targets and nothing else."""
    route = await made(api, name="all")
    assert route["match"] == {"models": ["*"], "projects": ["*"], "keys": ["*"]}
    assert (route["strategy"], route["split"], route["fallback"]) == ("priority", None, [])
    assert (route["hedge"], route["affinity"]) == (None, None)
    assert gateway.snapshots.current.routes[0].match == RouteMatch()


async def test_a_patch_merges_into_objects(small: Any) -> None:
    """What is sent replaces what is there, member by member; null gives the default; the rest stays."""
    await made(small, **WHOLE)

    async def patched(**members: Any) -> Any:
        answer = await small.patch("/api/v1/routes/frugal", json=members)
        assert answer.status_code == 200, answer.text
        return answer.json()

    changed = await patched(constraints={"only": None, "max_price": {"input": 1}}, timeouts={"idle_s": 9})
    assert changed["constraints"] == {
        "only": None,
        "ignore": ["local"],
        "max_price": {"input": 1, "output": 2},
        "data_class": "private",
    }
    assert changed["timeouts"] == {"connect_s": 5, "first_token_s": 60, "idle_s": 9, "total_s": 900}
    assert (await patched(hedge={"after": "p95"}))["hedge"] == {"after": "p95", "max_extra": 0.1}
    assert (await patched(affinity=True))["affinity"] == {"window_s": 600, "tolerance": 2}
    assert (await patched(affinity={"window_s": 5}))["affinity"] == {"window_s": 5, "tolerance": 2}
    last = await patched(hedge=None, affinity=False, match=None, split=None, strategy="cheapest", position=7)
    assert (last["hedge"], last["affinity"], last["split"], last["position"]) == (None, None, None, 7)
    assert last["match"] == {"models": ["*"], "projects": ["*"], "keys": ["*"]}
    assert last["fallback"] == WHOLE["fallback"]
    version = (await small.get("/api/v1/snapshot")).json()["version"]
    assert await patched(strategy="cheapest") == last
    assert (await small.get("/api/v1/snapshot")).json()["version"] == version
    answer = await small.patch("/api/v1/routes/frugal", json={"hedge": {"max_extra": 0.2}})
    assert (answer.status_code, answer.json()["where"]) == (400, "hedge.after")


async def test_routes_stand_in_the_order_of_their_positions(gateway: Any, api: Any) -> None:
    """A new one is last unless told; a lower position comes first, and among equals the older."""
    for name, position in (("a", None), ("b", None), ("c", -1), ("d", 1)):
        await made(api, name=name, **({} if position is None else {"position": position}))
    assert [route.name for route in gateway.snapshots.current.routes] == ["c", "a", "b", "d"]
    await api.patch("/api/v1/routes/a", json={"position": 5})
    assert [route.name for route in gateway.snapshots.current.routes] == ["c", "b", "d", "a"]
    assert (await made(api, name="e"))["position"] == 6
    assert (await api.delete("/api/v1/routes/c")).status_code == 204
    assert [route.name for route in gateway.snapshots.current.routes] == ["b", "d", "a", "e"]
    assert (await api.get("/api/v1/routes/c")).status_code == 404


async def test_what_a_route_cannot_be_is_said(small: Any) -> None:
    """Fallbacks, projects and keys that there are not, members that do not go together, and near matches."""
    await made(small, name="other")
    for fallback, part in (
        ("smal", "names no model, alias, provider/model or pattern with *; did you mean 'small'?"),
        ("zzz", "(known: s, small, spare)"),
        ("lob/x", "there is no provider 'lob'; did you mean 'lab'?"),
        ("other", "'other' is a route"),
        ("node:lab", "names no model, alias, provider/model or pattern with *"),
    ):
        problem = await refused(small, 404, part, name="r", fallback=["small", fallback])
        assert problem["where"] == "fallback"
    problem = await refused(small, 404, "did you mean 'default'", name="r", match={"projects": ["*", "defualt"]})
    assert problem["where"] == "match.projects"
    await refused(small, 404, "there is no key 'nobody'", name="r", match={"keys": ["nobody"]})
    await refused(small, 400, 'goes with strategy = "weighted" only', name="r", split="key")
    await refused(small, 400, "at least 1 item", name="r", match={"models": []})
    problem = await refused(small, 400, 'write "p95" or 1 to 600000 milliseconds', name="r", hedge={"after": 0})
    assert problem["where"] == "hedge.after"
    answer = await small.patch("/api/v1/routes/other", json={"hedge": {"after": 0}})
    assert (answer.status_code, answer.json()["where"]) == (400, "hedge.after")
    await refused(small, 400, "unknown member 'tyme'", name="r", timeouts={"tyme": 1})
    await refused(small, 400, "unknown member 'cache'", name="r", cache={"ttl_s": 1})
    assert [each["name"] for each in (await small.get("/api/v1/routes")).json()["data"]] == ["other"]


async def test_public_names_have_one_holder(small: Any) -> None:
    """A model, an alias and a route cannot share a name, whichever comes last, by making or by changing."""
    await made(small, name="way")
    target = [{"target": "lab/c"}]
    for part, path, members in (
        ("'small' would be a model and a route", "/api/v1/routes", {"name": "small"}),
        ("'s' would be an alias of model 'small' and a route", "/api/v1/routes", {"name": "s"}),
        ("there is a route 'way' already", "/api/v1/routes", {"name": "way"}),
        ("'way' would be a model and a route", "/api/v1/models", {"name": "way", "targets": target}),
        ("'s' would be a model and an alias", "/api/v1/models", {"name": "s", "targets": target}),
        ("'way' would be an alias of model 'm' and a route", "/api/v1/models", {"name": "m", "aliases": ["way"]}),
        ("an alias of model 'm' twice", "/api/v1/models", {"name": "m", "aliases": ["x", "x"]}),
        ("'m' would be a model and an alias of model 'm'", "/api/v1/models", {"name": "m", "aliases": ["m"]}),
        ("would hide that model of provider 'lab'", "/api/v1/models", {"name": "m", "aliases": ["lab/x"]}),
    ):
        await refused(small, 409, part, path, **members)
    assert (await small.patch("/api/v1/models/spare", json={"aliases": ["s"]})).status_code == 409
    assert (await small.patch("/api/v1/models/spare", json={"name": "way"})).status_code == 409
    assert (await small.patch("/api/v1/routes/way", json={"name": "spare"})).status_code == 409
    assert (await small.patch("/api/v1/models/small", json={"aliases": ["t", "u/v"]})).json()["aliases"] == ["t", "u/v"]
    await made(small, name="s")


async def test_what_a_route_falls_back_to_stays(small: Any) -> None:
    """A model, alias or provider that a fallback names is not removed or renamed under it; an unrelated one is."""
    await made(small, name="r", fallback=["spare", "s", "lab/z"])
    for answer in (
        await small.delete("/api/v1/models/spare"),
        await small.patch("/api/v1/models/spare", json={"name": "other"}),
        await small.patch("/api/v1/models/small", json={"aliases": []}),
        await small.patch("/api/v1/providers/lab", json={"name": "lob"}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "in_use"), answer.text
        assert "route 'r' falls back to" in answer.json()["detail"]
    assert (await small.patch("/api/v1/models/small", json={"name": "tiny"})).status_code == 200
    await small.patch("/api/v1/routes/r", json={"fallback": []})
    assert (await small.delete("/api/v1/models/spare")).status_code == 204


async def test_new_members_of_models_targets_and_providers(gateway: Any, small: Any) -> None:
    """Aliases, weight, priority, slots, assistant prefix and probes are stored, shown, changed and taken away."""
    body = {"target": "lab/t", "weight": 5, "priority": 2, "slots": 8}
    target = (await small.post("/api/v1/targets", json={"model": "small", **body})).json()
    assert body.items() <= target.items()
    shown = (await small.get("/api/v1/snapshot")).json()["models"]
    (card,) = [each for each in shown if each["name"] == "small"]
    assert {"weight": 5, "priority": 2, "slots": 8}.items() <= card["targets"][1].items()
    path = f"/api/v1/targets/{target['id']}"
    changed = (await small.patch(path, json={"weight": 7, "priority": None, "slots": None})).json()
    assert (changed["weight"], changed["priority"], changed["slots"]) == (7, None, None)
    assert (await small.patch(path, json={"weight": 0})).status_code == 400
    misspelt = {"name": "q", "targets": [{"target": "lab/a", "wieght": 2}]}
    await refused(small, 400, "unknown member 'wieght'", "/api/v1/models", **misspelt)
    assert [each["alias_of"] for each in shown if each["name"] == "s"] == ["small"]
    assert gateway.snapshots.current.models["s"].alias_of == "small"

    async def provider(**members: Any) -> Any:
        return await small.patch("/api/v1/providers/lab", json=members)

    assert "how much a day may cost" in (await provider(probe={"model": "a"})).json()["detail"]
    changed = (await provider(assistant_prefix="plain", probe={"model": "a", "budget_usd_per_day": 0.5})).json()
    assert changed["probe"] == {"every_s": 60, "model": "a", "budget_usd_per_day": 0.5}
    assert changed["assistant_prefix"] == "plain"
    assert [each.provider for each in gateway.snapshots.current.probes] == ["lab"]
    changed = (await provider(probe={"every_s": 30}, timeouts={"idle_s": 3})).json()
    assert changed["probe"] == {"every_s": 30, "model": "a", "budget_usd_per_day": 0.5}
    assert changed["timeouts"] == {"connect_s": 5, "first_byte_s": 60, "idle_s": 3, "total_s": 900}
    assert (await provider(probe={"every_s": 1})).status_code == 400
    assert (await provider(probe={"budget_usd_per_day": 0})).json()["where"] == "probe.budget_usd_per_day"
    changed = (await provider(probe=None, assistant_prefix=None)).json()
    assert (changed["probe"], changed["assistant_prefix"]) == (None, None)
    assert gateway.snapshots.current.probes == ()


async def test_a_route_is_made_once_for_an_idempotency_key_and_audited(api: Any) -> None:
    """A repeated POST gives the first answer; each deed stands in the audit log."""
    headers = {"idempotency-key": "one"}
    first = await api.post("/api/v1/routes", json={"name": "r"}, headers=headers)
    again = await api.post("/api/v1/routes", json={"name": "r"}, headers=headers)
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["idempotency-replayed"] == "true"
    await api.patch("/api/v1/routes/r", json={"strategy": "fastest"})
    await api.delete("/api/v1/routes/r")
    entries = (await api.get("/api/v1/audit", params={"limit": 3})).json()["data"]
    assert [each["action"] for each in entries] == ["route.delete", "route.update", "route.create"]
    assert entries[1]["detail"] == {"members": ["strategy"]}
