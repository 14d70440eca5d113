"""Providers, credentials, models, targets and prices through the admin API."""

from typing import Any

import pytest

OWN = "http://127.0.0.1:9/v1"


async def test_a_provider_with_a_key_is_routable_at_once(gateway: Any, api: Any) -> None:
    """One POST makes a provider, its credential, and the catalogue's models behind it; no answer shows the key."""
    body = {"name": "openai", "base_url": "http://127.0.0.1:9/v1/", "key": "sk-canary"}
    made = await api.post("/api/v1/providers", json=body)
    assert made.status_code == 201, made.text
    assert made.json()["base_url"] == "http://127.0.0.1:9/v1"
    assert [each["name"] for each in made.json()["credentials"]] == ["main"]
    assert "canary" not in made.text
    await api.patch("/api/v1/providers/openai", json={"base_url": "https://api.openai.com/v1"})
    target = gateway.snapshots.current.pins["openai/gpt-4o-mini"].targets[0]
    assert b"Bearer sk-canary" in target.heads["chat"].wire
    assert target.endpoint.host == "api.openai.com"


async def test_credentials_rotate_weigh_and_end(gateway: Any, api: Any) -> None:
    """A rotated key is in the next head, a heavier one comes first, a disabled or removed one is gone."""
    await api.post("/api/v1/providers", json={"name": "p", "base_url": OWN, "own": True})
    one = (await api.post("/api/v1/credentials", json={"provider": "p", "name": "one", "key": "k-1"})).json()
    two = (await api.post("/api/v1/credentials", json={"provider": "p", "name": "two", "key": "k-2"})).json()
    await api.post("/api/v1/models", json={"name": "m", "targets": [{"target": "p/x"}]})

    def keys() -> list[str]:
        targets = gateway.snapshots.current.models["m"].targets
        return [dict(each.heads["chat"].headers).get("authorization", "none") for each in targets]

    assert keys() == ["Bearer k-1", "Bearer k-2"]
    await api.patch(f"/api/v1/credentials/{two['id']}", json={"weight": 5})
    assert keys() == ["Bearer k-2", "Bearer k-1"]
    await api.post(f"/api/v1/credentials/{two['id']}/rotate", json={"key": "k-3"})
    assert keys() == ["Bearer k-3", "Bearer k-1"]
    await api.patch(f"/api/v1/credentials/{one['id']}", json={"disabled": True})
    assert keys() == ["Bearer k-3"]
    assert (await api.delete(f"/api/v1/credentials/{two['id']}")).status_code == 204
    assert keys() == ["none"]
    listed = (await api.get("/api/v1/credentials", params={"provider": "p"})).json()["data"]
    assert [each["name"] for each in listed] == ["one"]


@pytest.mark.parametrize(
    "base_url",
    [
        "ftp://host/v1",
        "https://user:pw@host/v1",
        "https://host/v1?key=1",
        "https://host/v1#x",
        "https://",
        "host/v1",
        "https://host:0/v1",
        "https://ho st/v1",
        "https://host/../v1",
    ],
)
async def test_addresses_that_cannot_be_are_refused(api: Any, base_url: str) -> None:
    """Only http(s) with a host, and without user, query or fragment; the message says how to write it."""
    answer = await api.post("/api/v1/providers", json={"name": "p", "base_url": base_url})
    assert answer.status_code == 400
    assert answer.json()["where"] == "base_url"
    assert "pw" not in answer.json()["detail"]


async def test_other_dialects_wait(api: Any) -> None:
    """A dialect that this version does not speak is refused with what to do instead."""
    body = {"name": "p", "base_url": "https://host/v1", "dialect": "anthropic"}
    answer = await api.post("/api/v1/providers", json=body)
    assert answer.status_code == 400
    assert "this version speaks the openai dialect" in answer.json()["detail"]


async def test_a_provider_in_use_stays(api: Any) -> None:
    """A provider with a declared target cannot be removed until the target is; the built-in one never by hand."""
    await api.post("/api/v1/providers", json={"name": "p", "base_url": OWN, "own": True})
    await api.post("/api/v1/models", json={"name": "m", "targets": [{"target": "p/x"}]})
    answer = await api.delete("/api/v1/providers/p")
    assert answer.status_code == 409
    assert "'m'" in answer.json()["detail"]
    await api.delete("/api/v1/models/m")
    assert (await api.delete("/api/v1/providers/p")).status_code == 204
    assert (await api.delete("/api/v1/providers/local")).status_code == 409


async def test_models_and_targets_change_in_order(gateway: Any, api: Any) -> None:
    """Replacing a model's targets keeps the ids of those that stay, and the data plane has the new order at once."""
    await api.post("/api/v1/providers", json={"name": "p", "base_url": OWN, "own": True})
    targets = [{"target": "p/a", "price": {"input": 1, "output": 2}}, {"target": "p/b/c"}]
    made = (await api.post("/api/v1/models", json={"name": "m", "targets": targets})).json()
    ids = {each["target"]: each["id"] for each in made["targets"]}
    changed = await api.patch("/api/v1/models/m", json={"targets": [{"target": "p/b/c"}, {"target": "p/a"}]})
    assert [(each["target"], each["id"]) for each in changed.json()["targets"]] == [
        ("p/b/c", ids["p/b/c"]),
        ("p/a", ids["p/a"]),
    ]
    assert [each.name for each in gateway.snapshots.current.models["m"].targets] == ["p/b/c", "p/a"]
    added = (await api.post("/api/v1/targets", json={"model": "m", "target": "p/d", "position": 0})).json()
    assert added["position"] == 0
    await api.patch(f"/api/v1/targets/{added['id']}", json={"price": {"input": 3, "output": 4}})
    shown = (await api.get(f"/api/v1/targets/{added['id']}")).json()
    assert shown["price"]["input"] == 3
    await api.patch(f"/api/v1/targets/{added['id']}", json={"price": None})
    assert (await api.get(f"/api/v1/targets/{added['id']}")).json()["price"] is None
    assert (await api.delete(f"/api/v1/targets/{added['id']}")).status_code == 204
    assert len((await api.get("/api/v1/targets", params={"model": "m"})).json()["data"]) == 2
    assert (await api.post("/api/v1/targets", json={"model": "m", "target": "p/a"})).status_code == 409
    assert (await api.post("/api/v1/targets", json={"model": "m", "target": "nobody/a"})).status_code == 404
    assert (await api.post("/api/v1/targets", json={"model": "m", "target": "noslash"})).status_code == 400


async def test_a_price_makes_a_paid_model_routable(gateway: Any, api: Any) -> None:
    """Without a price the target is listed with the command that prices it; the command's call makes it routable."""
    await api.post("/api/v1/providers", json={"name": "paid", "base_url": OWN})
    await api.post("/api/v1/models", json={"name": "m", "targets": [{"target": "paid/x"}]})
    snapshot = (await api.get("/api/v1/snapshot")).json()
    (target,) = next(each for each in snapshot["models"] if each["name"] == "m")["targets"]
    assert "potluck model price paid/x" in target["unroutable"]
    assert target["price"] is None
    made = await api.post("/api/v1/prices", json={"model": "paid/x", "price": {"input": 0.15, "output": 0.6}})
    assert made.status_code == 200
    compiled = gateway.snapshots.current.models["m"].targets[0]
    assert compiled.unroutable == ""
    assert (compiled.price.input, compiled.price.output, compiled.price.source) == (
        150_000_000,
        600_000_000,
        "operator",
    )
    assert compiled.price.version.startswith("operator:")
    await api.post("/api/v1/prices", json={"model": "paid/x", "price": {"input": 0, "output": 0}})
    assert gateway.snapshots.current.models["m"].targets[0].price.input == 0
    assert len((await api.get("/api/v1/prices")).json()["data"]) == 1
    assert (await api.delete(f"/api/v1/prices/{made.json()['id']}")).status_code == 204
    assert gateway.snapshots.current.models["m"].targets[0].unroutable


async def test_a_test_of_a_silent_provider_says_why(api: Any) -> None:
    """Nobody listens there: the answer is 200 with `ok` false and one sentence, for the built-in one too."""
    await api.post("/api/v1/providers", json={"name": "p", "base_url": OWN, "own": True})
    result = (await api.post("/api/v1/providers/p/test")).json()
    assert result["ok"] is False
    assert "connection refused" in result["detail"]
    assert (await api.post("/api/v1/providers/local/test")).json()["ok"] is False
    assert (await api.post("/api/v1/providers/none/test")).status_code == 404


async def test_a_model_keeps_its_last_target(api: Any) -> None:
    """Replacing a model's targets by none is refused with what to do instead, and changes nothing."""
    body = {"name": "small", "targets": [{"target": "local/smollm2-135m"}]}
    assert (await api.post("/api/v1/models", json=body)).status_code == 201
    refused = await api.patch("/api/v1/models/small", json={"name": "other", "targets": []})
    assert refused.status_code == 400
    assert refused.json()["where"] == "targets"
    assert refused.json()["detail"] == (
        "model 'small' would have no target left and serve nothing: add another target, or remove the model"
    )
    assert len((await api.get("/api/v1/models/small")).json()["targets"]) == 1


async def test_a_model_can_be_renamed(gateway: Any, api: Any) -> None:
    """The data plane serves it under the new name, and the audit log has what changed."""
    body = {"name": "small", "targets": [{"target": "local/smollm2-135m"}]}
    made = (await api.post("/api/v1/models", json=body)).json()
    changed = await api.patch("/api/v1/models/small", json={"name": "tiny"})
    assert changed.status_code == 200
    assert changed.json()["id"] == made["id"]
    assert (await api.get("/api/v1/models/small")).status_code == 404
    entry = (await api.get("/api/v1/audit?limit=1")).json()["data"][0]
    assert (entry["action"], entry["name"], entry["detail"]) == ("model.update", "tiny", {"name": "tiny"})
    assert "small" not in gateway.snapshots.current.models
