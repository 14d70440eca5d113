"""The admin API's edges: who may call, how errors look, health, metrics, reference, the audit log, secrets."""

import json
import logging
import sqlite3
from contextlib import closing
from typing import Any

import pytest
import sqlalchemy as sa
from joining import joined
from litestar import Litestar

from potluck.admin.operations.tokens import create_token
from potluck.admin.operations.work import Work, perform
from potluck.identity.keys import new_secret
from potluck.model.secret import Secret
from potluck.store import tables as t

LISTS = (
    "keys", "projects", "providers", "credentials", "models", "targets", "prices", "routes", "nodes", "join-tokens",
    "audit", "requests",
)  # fmt: skip
MADE_UP = ("zzz", "usr_0mwv9zmc30db2066y7001", "key_", "prv_0MWV9ZMC30DB2066Y7001")
PUBLIC = {"/healthz", "/readyz", "/metrics", "/api/docs", "/api/openapi.json", "/style.css", "/api"}
FOR_NODES = {"/node/v1/enroll", "/node/v1/rotate", "/node/v1/leave"}
"""open to whoever has a join token, or a node's key"""
INSTALLERS = {"/install.sh", "/install.ps1", "/install/{name:str}"}


def routes_of(app: Any) -> list[tuple[str, str]]:
    inner: Litestar = app.app
    return [(method, route.path) for route in inner.routes for method in getattr(route, "methods", [])]


def filled(path: str) -> str:
    return "/".join("x" if part.startswith("{") else part for part in path.split("/"))


async def test_every_route_is_closed_without_a_token(gateway: Any) -> None:
    """Walk all routes and methods: without a token, with a wrong one or an API key, all but the public are 401."""
    routes = routes_of(gateway.app)
    assert len(routes) > 40
    stranger = new_secret("pla")
    async with gateway.client(None) as client:
        for method, path in routes:
            if path in PUBLIC | FOR_NODES | INSTALLERS or method == "OPTIONS":
                continue
            assert path.startswith("/api/v1/"), path
            for header in (
                {},
                *({"authorization": f"Bearer {token}"} for token in (stranger, gateway.api_key, "pla-")),
            ):
                answer = await client.request(method, filled(path), headers=header, json={})
                assert answer.status_code == 401, (method, path)
                assert answer.headers["www-authenticate"] == "Bearer"
                assert answer.json()["code"] == "invalid_token"


async def test_no_stranger_learns_from_options(gateway: Any) -> None:
    """OPTIONS says which methods a path takes, and nothing of anybody's."""
    async with gateway.client(None) as client:
        answer = await client.options("/api/v1/keys")
        assert answer.status_code in (204, 401)
        assert answer.text == "" or answer.json()["code"] == "invalid_token"


async def test_an_auditor_looks_and_does_not_change(gateway: Any) -> None:
    """An auditor's token opens every GET and no other method; a revoked token opens nothing, from the next call on."""
    token = new_secret("pla")

    def make(work: Work) -> str:
        return create_token(work, "auditor", "auditor", secret=Secret(token))

    gateway.store.write_now(perform(gateway.first.vault, gateway.actor, make))
    async with gateway.client(token) as client:
        assert (await client.get("/api/v1/keys")).status_code == 200
        for method, path in routes_of(gateway.app):
            if path.startswith("/api/v1/") and method not in ("GET", "OPTIONS", "HEAD"):
                assert (await client.request(method, filled(path), json={})).status_code == 403, (method, path)
        revoke = sa.update(t.admin_tokens).where(t.admin_tokens.c.name == "auditor").values(revoked_at_ms=1)
        gateway.store.write_now(lambda connection: connection.execute(revoke))
        assert (await client.get("/api/v1/keys")).status_code == 401


async def test_another_organisations_objects_are_not_there(gateway: Any, api: Any) -> None:
    """An admin of another organisation sees none of the first one's objects, by list, name or id, and changes none."""
    made = (await api.post("/api/v1/keys", json={"name": "web"})).json()
    provider = (await api.post("/api/v1/providers", json={"name": "p", "base_url": "http://127.0.0.1:9/v1"})).json()
    node = (await joined(api)).node
    join_token = (await api.get("/api/v1/join-tokens")).json()["data"][0]["id"]
    token = new_secret("pla")

    def other(connection: sa.Connection) -> None:
        connection.execute(sa.insert(t.organisations).values(id="org_2", name="other", created_at_ms=1))
        values = {
            "id": "tok_2",
            "organisation_id": "org_2",
            "name": "o",
            "role": "admin",
            "hint": "",
            "created_at_ms": 1,
        }
        hashed = gateway.first.vault.hash(token.encode())
        connection.execute(sa.insert(t.admin_tokens).values(**values, hash=hashed, updated_at_ms=1))

    gateway.store.write_now(other)
    async with gateway.client(token) as client:
        for path in set(LISTS) - {"audit"}:
            assert (await client.get(f"/api/v1/{path}")).json()["data"] == [], path
        mine = f"keys/{made['id']}", "keys/web", f"providers/{provider['id']}", "projects/default"
        for path in (*mine, f"nodes/{node}", "nodes/lab-1"):
            assert (await client.get(f"/api/v1/{path}")).status_code == 404
            assert (await client.patch(f"/api/v1/{path}", json={})).status_code == 404
        assert (await client.post(f"/api/v1/keys/{made['id']}/revoke")).status_code == 404
        assert (await client.delete(f"/api/v1/providers/{provider['id']}")).status_code == 404
        assert (await client.delete(f"/api/v1/nodes/{node}")).status_code == 404
        price = {"model": "m", "price": None}
        assert (await client.put(f"/api/v1/nodes/{node}/prices", json=price)).status_code == 404
        assert (await client.get(f"/api/v1/join-tokens/{join_token}")).status_code == 404
        assert (await client.post(f"/api/v1/join-tokens/{join_token}/revoke")).status_code == 404
    assert gateway.finds(made["secret"])
    assert (await api.get("/api/v1/nodes/lab-1")).json()["state"] == "approved"


async def test_what_is_not_there_is_a_problem(api: Any) -> None:
    """Unknown paths and methods, bodies that are no JSON: problem details with the request's id, no internals."""
    for answer, status in (
        (await api.get("/nothing"), 404),
        (await api.get("/api/v1/nothing"), 404),
        (await api.put("/api/v1/keys"), 405),
        (await api.post("/api/v1/keys", content=b"{not json"), 400),
        (await api.post("/api/v1/keys", content=b"[1]"), 400),
        (await api.post("/api/v1/keys", content=b"\xff\xfe"), 400),
        (await api.post("/api/v1/keys"), 400),
        (await api.get("/api/v1/keys?limit=0"), 400),
        (await api.get("/api/v1/keys?limit=x"), 400),
        (await api.get("/api/v1/usage?by=nothing"), 400),
        (await api.get("/api/v1/usage?since=yesterday"), 400),
        (await api.get("/api/v1/audit?cursor=x"), 400),
        *[(await api.get(f"/api/v1/{path}?cursor={made_up}"), 400) for path in LISTS for made_up in MADE_UP],
    ):
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"].startswith("application/problem+json")
        problem = answer.json()
        assert problem["status"] == status
        assert problem["type"] == "about:blank"
        assert problem["request_id"] == answer.headers["x-request-id"]
        assert "Traceback" not in answer.text


async def test_a_fault_of_ours_tells_the_log_and_not_the_caller(
    gateway: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """An unforeseen error is a 500 with an id; the log has the id and the error, the caller neither, stderr nothing."""

    async def fail(*_: object) -> None:
        raise RuntimeError("canary inside")

    monkeypatch.setattr("potluck.admin.control.Control.see", fail)
    with caplog.at_level(logging.ERROR, "potluck.admin"):
        async with gateway.client(raise_app_exceptions=False) as client:
            answer = await client.get("/api/v1/keys")
    assert answer.status_code == 500
    assert "canary" not in answer.text
    assert answer.json()["request_id"] in caplog.text
    assert answer.json()["request_id"] in answer.json()["detail"]
    assert "canary inside" in caplog.text
    assert capfd.readouterr().err == ""


async def test_a_full_disk_is_507_and_one_line(gateway: Any, api: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A write that finds no room says so, with the request's id, and the log has a line; reading goes on."""

    def fill(connection: sa.Connection) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    gateway.store.write_now(fill)
    tags = ["x" * 64] * 50
    with caplog.at_level(logging.DEBUG, "potluck.admin"):
        for number in range(200):
            answer = await api.post("/api/v1/keys", json={"name": f"key-{number}", "tags": tags})
            if answer.status_code != 201:
                break
    assert answer.status_code == 507
    problem = answer.json()
    assert problem.pop("request_id") == answer.headers["x-request-id"]
    assert problem == {
        "type": "about:blank",
        "title": "Insufficient Storage",
        "status": 507,
        "code": "disk_full",
        "detail": "the disk is full: free space in the home directory",
    }
    (record,) = caplog.records
    assert answer.headers["x-request-id"] in record.getMessage()
    assert record.exc_info is None
    assert "INSERT" not in caplog.text
    assert (await api.get("/api/v1/keys")).status_code == 200
    gateway.store.write_now(lambda connection: connection.exec_driver_sql("PRAGMA max_page_count = 100000"))
    assert (await api.post("/api/v1/keys", json={"name": "later", "tags": tags})).status_code == 201


async def test_what_does_not_fit_is_said_in_words(api: Any) -> None:
    """A body that is missing or no object, and members that are wrong: what is wanted, and the member named."""
    key = "/api/v1/keys"
    for answer, detail, where in (
        (await api.post(key), "the request has no body: a JSON object is needed", ""),
        (await api.patch(f"{key}/first"), "the request has no body: a JSON object is needed", ""),
        (await api.post(key, json=[1]), "must be an object, not an array: a JSON object is needed", ""),
        (await api.post(key, json={}), "'name' is missing", "name"),
        (await api.post(key, json={"name": "a", "nmae": 1}), "unknown member 'nmae'", "nmae"),
        (
            await api.post(f"{key}/first/rotate", json={"overlap_s": 1 << 30}),
            "overlap_s: must be a whole number, at most 2592000",
            "overlap_s",
        ),
        (
            await api.post(key, json={"name": "a", "tags": ["\n"]}),
            "tags[0]: allowed: printable ASCII, at most 64 characters",
            "tags[0]",
        ),
    ):
        assert answer.status_code == 400
        assert answer.json()["detail"] == detail
        assert answer.json().get("where", "") == where


async def test_health_and_readiness(gateway: Any) -> None:
    """`/healthz` needs nothing; `/readyz` says 503 with the reasons by part, and 200 when there are none."""
    async with gateway.client(None) as client:
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        assert (await client.get("/readyz")).json() == {"ready": True, "reasons": {}}
        assert (await client.head("/readyz")).status_code == 200
        gateway.reasons["spool"] = "disk full"
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["reasons"] == {"spool": "disk full"}
        gateway.reasons.clear()
        gateway.snapshots.problem = "broken row"
        assert (await client.get("/readyz")).json()["reasons"] == {"snapshot": "broken row"}


async def test_metrics_are_for_this_machine_or_a_token(gateway: Any) -> None:
    """Loopback without a proxy in between, or an admin's token; anybody else gets 401."""
    async with gateway.client(None) as client:
        answer = await client.get("/metrics")
        assert answer.status_code == 200
        assert answer.text == "potluck_up 1\n"
        assert (await client.get("/metrics", headers={"x-forwarded-for": "10.0.0.9"})).status_code == 401
    async with gateway.client(None, client=("10.0.0.9", 1)) as client:
        assert (await client.get("/metrics")).status_code == 401
    async with gateway.client(client=("10.0.0.9", 1)) as client:
        assert (await client.get("/metrics")).status_code == 200


async def test_the_reference_works_without_the_internet(gateway: Any) -> None:
    """The OpenAPI document is 3.1 and names every route; the page shows each, without scripts or foreign parts."""
    async with gateway.client(None) as client:
        document = (await client.get("/api/openapi.json")).json()
        page = await client.get("/api/docs")
        style = await client.get("/style.css")
    assert document["openapi"].startswith("3.1")
    served = {path for _, path in routes_of(gateway.app) if path.startswith("/api/v1")}
    assert {path.replace(":str}", "}") for path in served} == {
        path for path in document["paths"] if path.startswith("/api/v1")
    }
    for path in document["paths"]:
        assert path in page.text
    assert "<script" not in page.text
    assert "http://" not in page.text.replace("http://127.0.0.1", "")
    assert "https://" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert style.headers["content-type"].startswith("text/css")
    assert "prefers-color-scheme: dark" in style.text


async def test_the_audit_log_tells_and_notices_changes(gateway: Any, api: Any) -> None:
    """Every write is an entry with who and what; a changed entry breaks the chain there."""
    await api.post("/api/v1/keys", json={"name": "web"})
    await api.post("/api/v1/keys/web/revoke")
    page = (await api.get("/api/v1/audit", params={"limit": 2})).json()
    assert [each["action"] for each in page["data"]] == ["key.revoke", "key.create"]
    assert all(each["actor"].startswith("tok_") for each in page["data"])
    older = (await api.get("/api/v1/audit", params={"cursor": page["next_cursor"]})).json()
    assert older["data"][-1]["action"] == "project.create"
    checked = (await api.get("/api/v1/audit/verify")).json()
    assert checked["ok"] is True
    assert checked["entries"] == len(page["data"]) + len(older["data"])
    change = sa.update(t.audit).where(t.audit.c.seq == 2).values(name="forged")
    gateway.store.write_now(lambda connection: connection.execute(change))
    assert (await api.get("/api/v1/audit/verify")).json() == {"ok": False, "entries": 2, "broken_at": 2}


async def test_secrets_stay_inside(gateway: Any, api: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Canary keys appear in no list, error, export, audit entry, OpenAPI document, log line or database dump."""
    canary = "sk-canary-9f8e7d"
    headers = {"idempotency-key": "c"}
    seen = []
    with caplog.at_level(logging.DEBUG):
        body = {"name": "p", "base_url": "http://127.0.0.1:9/v1", "own": True, "key": canary}
        for path, sent in (
            ("providers", body),
            ("providers", body),
            ("credentials", {"provider": "p", "name": "two", "key": canary}),
            ("credentials", {"provider": "none", "key": canary}),
            ("credentials", {"provider": "p", "key": canary, "wrong": canary}),
            ("credentials", {"provider": "p", "name": "bad name", "key": canary}),
            ("credentials", {"provider": "p", "name": 5, "key": [canary]}),
            ("config/apply", {"text": "[[providers]]\nkey = '${X}'\nname = 5", "variables": {"X": canary}}),
        ):
            seen.append((await api.post(f"/api/v1/{path}", json=sent, headers=headers)).text)
            headers = {}
        made = (await api.post("/api/v1/keys", json={"name": "k"}, headers={"idempotency-key": "k"})).json()
        paths = ("keys", "providers", "credentials", "audit", "snapshot", "config/export", "requests")
        seen += [(await api.get(f"/api/v1/{path}")).text for path in paths]
        seen.append((await api.post("/api/v1/providers/p/test")).text)
    everything = "\n".join(seen) + caplog.text
    with closing(sqlite3.connect(gateway.store.main_path)) as connection:
        dump = "\n".join(connection.iterdump())
    for secret in (canary, made["secret"], gateway.token, gateway.api_key):
        assert secret not in everything
        assert secret not in dump
        assert secret.encode().hex() not in dump.lower()
    assert json.loads(seen[8])["data"][-1]["hint"].startswith("plk-")
