"""API keys through the admin API: made, changed, rotated, revoked, in force at once."""

import time
from typing import Any


async def test_a_made_key_is_in_force_and_shown_once(gateway: Any, api: Any) -> None:
    """The answer holds the secret, the data plane takes it at once, and no later answer shows it."""
    made = (await api.post("/api/v1/keys", json={"name": "web", "tags": ["a"]})).json()
    assert made["secret"].startswith("plk-")
    assert len(made["secret"]) == 50
    assert gateway.finds(made["secret"])
    shown = await api.get("/api/v1/keys/web")
    assert shown.json()["id"] == made["id"]
    assert "secret" not in shown.json()
    assert made["secret"] not in shown.text + (await api.get("/api/v1/keys")).text


async def test_a_revoked_key_is_out_of_the_snapshot_within_a_second(gateway: Any, api: Any) -> None:
    """When the answer to a revocation is there, the data plane no longer takes the key; revoking again is no error."""
    made = (await api.post("/api/v1/keys", json={"name": "web"})).json()
    began = time.monotonic()
    answer = await api.post(f"/api/v1/keys/{made['id']}/revoke")
    assert answer.status_code == 200
    assert answer.json()["status"] == "revoked"
    assert not gateway.finds(made["secret"])
    assert time.monotonic() - began < 1
    assert (await api.post(f"/api/v1/keys/{made['id']}/revoke")).status_code == 200
    assert (await api.get("/api/v1/keys/web")).status_code == 404
    assert (await api.get(f"/api/v1/keys/{made['id']}")).json()["status"] == "revoked"


async def test_a_rotated_key_overlaps_as_long_as_it_was_told(gateway: Any, api: Any) -> None:
    """Both secrets work during the overlap, under the same id; without one the old secret ends at once."""
    made = (await api.post("/api/v1/keys", json={"name": "web"})).json()
    second = (await api.post("/api/v1/keys/web/rotate", json={"overlap_s": 60})).json()
    keys, hashed = gateway.snapshots.current.keys, gateway.snapshots.hash_key
    old, new = keys[hashed(made["secret"].encode())], keys[hashed(second["secret"].encode())]
    assert old.id == new.id == made["id"]
    assert time.time() < old.expires_at_s <= time.time() + 60
    assert new.expires_at_s == float("inf")
    third = (await api.post("/api/v1/keys/web/rotate")).json()
    assert not gateway.finds(made["secret"])
    assert not gateway.finds(second["secret"])
    assert gateway.finds(third["secret"])


async def test_changes_reach_the_data_plane(gateway: Any, api: Any) -> None:
    """Models, project, name and expiry of a key are what the data plane sees after a PATCH; null clears an expiry."""
    made = (await api.post("/api/v1/keys", json={"name": "web"})).json()
    await api.post("/api/v1/projects", json={"name": "lab", "data_class": "private"})
    until_ms = int(time.time() * 1000) + 60_000
    change = {"models": ["m"], "project": "lab", "name": "lab-web", "expires_at_ms": until_ms}
    assert (await api.patch("/api/v1/keys/web", json=change)).status_code == 200
    key = gateway.snapshots.current.keys[gateway.snapshots.hash_key(made["secret"].encode())]
    assert (key.name, key.project, key.data_class, key.models) == ("lab-web", "lab", "private", frozenset({"m"}))
    assert key.expires_at_s == until_ms / 1000
    await api.patch("/api/v1/keys/lab-web", json={"expires_at_ms": None})
    key = gateway.snapshots.current.keys[gateway.snapshots.hash_key(made["secret"].encode())]
    assert key.expires_at_s == float("inf")
    await api.patch("/api/v1/projects/lab", json={"data_class": "open"})
    key = gateway.snapshots.current.keys[gateway.snapshots.hash_key(made["secret"].encode())]
    assert key.data_class == "open"


async def test_an_expired_key_is_not_in_the_snapshot(gateway: Any, api: Any) -> None:
    """A key whose expiry a change put into the past is no longer found."""
    made = (await api.post("/api/v1/keys", json={"name": "web"})).json()
    await api.patch("/api/v1/keys/web", json={"expires_at_ms": 1})
    assert not gateway.finds(made["secret"])
    assert (await api.get("/api/v1/keys/web")).json()["status"] == "expired"


async def test_what_cannot_be_is_refused_with_the_member_named(api: Any) -> None:
    """Bad names, unknown members, missing members, past expiries, unknown projects, taken names: 4xx that say which."""
    cases: list[tuple[Any, int, str]] = [
        ({"name": "no spaces"}, 400, "name"),
        ({"name": "a", "nmae": 1}, 400, "nmae"),
        ({}, 400, "name"),
        ({"name": "a", "expires_at_ms": 5}, 400, "expire"),
        ({"name": "a", "project": "none"}, 404, "none"),
        ({"name": "first"}, 409, "first"),
    ]
    for body, status, word in cases:
        answer = await api.post("/api/v1/keys", json=body)
        assert answer.status_code == status, body
        assert answer.headers["content-type"].startswith("application/problem+json")
        problem = answer.json()
        assert word in problem["detail"]
        assert problem["request_id"] == answer.headers["x-request-id"]
        assert problem["request_id"].startswith("req_")


async def test_pages_hold_everything_once(api: Any) -> None:
    """Following `next_cursor` with a small limit gives every key, each once, and ends."""
    for number in range(7):
        await api.post("/api/v1/keys", json={"name": f"key-{number}"})
    seen: list[str] = []
    cursor: str | None = None
    while True:
        params = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        page = (await api.get("/api/v1/keys", params=params)).json()
        seen += [each["name"] for each in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == ["first", *(f"key-{number}" for number in range(7))]


async def test_an_idempotency_key_makes_one_key(gateway: Any, api: Any) -> None:
    """The same request again answers the same object without its secret; another request with that key is refused."""
    headers = {"idempotency-key": "once"}
    first = await api.post("/api/v1/keys", json={"name": "web"}, headers=headers)
    again = await api.post("/api/v1/keys", json={"name": "web"}, headers=headers)
    assert first.status_code == again.status_code == 201
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json() == {**first.json(), "secret": None}
    assert (await api.post("/api/v1/keys", json={"name": "other"}, headers=headers)).status_code == 422
    assert (await api.get("/api/v1/keys/other")).status_code == 404


async def test_a_project_with_keys_stays(api: Any) -> None:
    """A project that keys refer to cannot be removed, an empty one can."""
    await api.post("/api/v1/projects", json={"name": "lab"})
    await api.post("/api/v1/keys", json={"name": "web", "project": "lab"})
    assert (await api.delete("/api/v1/projects/lab")).status_code == 409
    await api.post("/api/v1/projects", json={"name": "empty"})
    assert (await api.delete("/api/v1/projects/empty")).status_code == 204
    assert [each["name"] for each in (await api.get("/api/v1/projects")).json()["data"]] == ["default", "lab"]
