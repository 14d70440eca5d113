"""Machines enrol, rotate their keys and leave, with nothing but signatures: what is taken, and what is refused."""

import asyncio
import random
import time
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from joining import Machine, joined, text, token

from potluck.admin.operations import enrolment
from potluck.admin.rest.buckets import MAX_PREFIXES, Buckets
from potluck.admin.rest.enrolment import TRIES_PER_MINUTE
from potluck.identity.gateway_key import GatewayIdentity
from potluck.identity.keys import new_secret
from potluck.store import tables as t


@pytest.fixture(autouse=True)
def untired(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strangers may try as often as they like, but where that is the question."""
    monkeypatch.setattr("potluck.admin.rest.enrolment.TRIES_PER_MINUTE", 1_000_000)


async def refused(api: httpx.AsyncClient, path: str, said: Any, status: int, code: str, where: str = "") -> str:
    """What a refusal says; that nothing was made of it is the caller's to look at."""
    answer = await api.post(f"/node/v1/{path}", json=said)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert answer.json()["code"] == code
    assert answer.json().get("where", "") == where
    return str(answer.json()["detail"])


async def test_a_machine_enrols(gateway: Any, api: httpx.AsyncClient) -> None:
    """It learns id, name, key id and terms, and whom to pin; the gateway has its key, approved, with the token's terms.
    Nobody's admin token is needed."""
    secret = await token(
        api,
        name="lab",
        owner="project:default",
        tags=["lab"],
        max_models=3,
        max_price={"input": 0.5, "output": 1},
    )
    machine = Machine()
    async with gateway.client(None) as stranger:
        terms = (await stranger.get("/node/v1/enroll")).json()
        answer = await machine.joins(stranger, secret)
    assert answer.status_code == 201
    said = answer.json()
    identity = GatewayIdentity(gateway.first.vault)
    assert terms["gateway_key"] == said["gateway_key"] == text(identity.public_key)
    assert said | {"node": "", "key": "", "gateway_key": ""} == {
        "node": "",
        "key": "",
        "gateway_key": "",
        "name": "lab-1",
        "state": "approved",
        "organisation": "default",
        "owner": "project:default",
        "community": False,
        "origin": "http://127.0.0.1:7171",
        "max_price": {"input": 500_000_000, "output": 1_000_000_000},
        "max_models": 3,
    }
    assert said["node"].startswith("node_")
    assert said["key"].startswith("nky_")
    shown = (await api.get("/api/v1/nodes/lab-1")).json()
    assert (shown["id"], shown["key"], shown["tags"], shown["os"]) == (said["node"], said["key"], ["lab"], "linux")
    compiled = gateway.snapshots.current.nodes[said["node"]]
    assert compiled.approved
    assert compiled.keys == {said["key"]: machine.public}


async def test_a_token_is_good_for_its_uses(api: httpx.AsyncClient) -> None:
    """A one-off token takes one machine; of many at once, as many as it has uses for get in, and no more."""
    one_off = await token(api)
    assert (await Machine().joins(api, one_off)).status_code == 201
    assert (await Machine().joins(api, one_off)).status_code == 401
    three = await token(api, uses=3)
    answers = await asyncio.gather(*(Machine().joins(api, three, f"m-{number}") for number in range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [401] * 5
    endless = await token(api, uses=None)
    assert {(await Machine().joins(api, endless)).status_code for _ in range(5)} == {201}


async def test_bad_tokens_are_one_answer(gateway: Any, api: httpx.AsyncClient) -> None:
    """Unknown, misshapen, used up, expired and revoked tokens are refused with the same words, and make no node."""
    used, expired, revoked = await token(api), await token(api, name="e"), await token(api, name="r")
    await Machine().joins(api, used)
    expire = sa.update(t.join_tokens).where(t.join_tokens.c.name == "e").values(expires_at_ms=1)
    gateway.store.write_now(lambda connection: connection.execute(expire))
    await api.post("/api/v1/join-tokens/r/revoke")
    said = set()
    for bad in (new_secret("plj"), "plj-short", new_secret("plk"), used, expired, revoked):
        said.add(await refused(api, "enroll", await Machine().asks(api, bad), 401, "invalid_token"))
    assert len(said) == 1
    assert len((await api.get("/api/v1/nodes")).json()["data"]) == 1


async def test_forged_signatures_make_nothing(api: httpx.AsyncClient) -> None:
    """A proof by another key, for another origin, token, challenge or key, or by noise, is refused; the token stays."""
    secret = await token(api)
    machine, other = Machine(), Machine()
    good = await machine.asks(api, secret)
    theirs = await other.asks(api, secret)
    for forged in (
        good | {"proof": theirs["proof"]},
        good | {"public_key": theirs["public_key"]},
        good | {"proof": text(bytes(64))},
        good | {"public_key": text(bytes(32))},
        good | {"token": new_secret("plj")},
        await machine.asks(api, secret, origin="http://evil.example"),
        await machine.asks(api, secret, origin="https://127.0.0.1:7171"),
    ):
        assert "127.0.0.1:7171" in await refused(api, "enroll", forged, 400, "invalid_request", "proof")
    assert (await api.post("/node/v1/enroll", json=good)).status_code == 201


async def test_a_challenge_is_ours_and_young(gateway: Any, api: httpx.AsyncClient) -> None:
    """Made-up, changed, old and future challenges are refused, however well they are signed."""
    secret, machine, now_s = await token(api), Machine(), time.time()
    vault = gateway.first.vault
    good = enrolment.new_challenge(vault, now_s)
    old = enrolment.new_challenge(vault, now_s - enrolment.CHALLENGE_KEPT_S - 2)
    future = enrolment.new_challenge(vault, now_s + 60)
    for bad in ("0", ".", f"{good}0", f"1{good}", good.partition(".")[0], old, future):
        said = await machine.asks(api, secret, challenge=bad)
        await refused(api, "enroll", said, 400, "invalid_request", "challenge")
    assert (await machine.joins(api, secret)).status_code == 201


@pytest.mark.parametrize(("uses", "left"), [(1, 0), (2, 1), (None, None)])
async def test_a_lost_answer_is_given_again(api: httpx.AsyncClient, uses: int | None, left: int | None) -> None:
    """The same token and key get what they got, and spend nothing, be the token used up or revoked meanwhile."""
    secret = await token(api, uses=uses)
    machine = Machine()
    first = await machine.joins(api, secret)
    again = await machine.joins(api, secret, "by-another-name")
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    same = await machine.asks(api, secret)
    answers = await asyncio.gather(*(api.post("/node/v1/enroll", json=same) for _ in range(4)))
    assert [(answer.status_code, answer.json()) for answer in answers] == [(200, first.json())] * 4
    (shown,) = (await api.get("/api/v1/join-tokens")).json()["data"]
    assert shown["uses_left"] == left
    assert len((await api.get("/api/v1/nodes")).json()["data"]) == 1
    await refused(api, "enroll", same | {"proof": text(bytes(64))}, 400, "invalid_request", "proof")
    await api.post(f"/api/v1/join-tokens/{shown['id']}/revoke")
    assert (await machine.joins(api, secret)).status_code == 200
    await refused(api, "enroll", await Machine().asks(api, secret), 401, "invalid_token")


async def test_a_known_key_is_refused(api: httpx.AsyncClient) -> None:
    """The same key by another token, that of a revoked node, or one that was rotated away is 409 and spends nothing."""
    secret, other = await token(api, uses=2), await token(api, uses=2, name="other")
    machine, new = Machine(), Machine()
    said = await machine.asks(api, secret)
    assert (await machine.joins(api, secret)).status_code == 201
    await refused(api, "enroll", await machine.asks(api, other), 409, "already_enrolled")
    assert (await api.post("/node/v1/rotate", json=await machine.rotates(api, new))).status_code == 200
    await refused(api, "enroll", said, 409, "already_enrolled")
    assert {each["uses_left"] for each in (await api.get("/api/v1/join-tokens")).json()["data"]} == {1, 2}
    await api.delete("/api/v1/nodes/lab-1")
    await refused(api, "enroll", said, 409, "already_enrolled")


async def test_names_are_made_unique(api: httpx.AsyncClient) -> None:
    """A taken name gets a number, a long one loses its end to it; a revoked node's name is free again."""
    names = []
    for name in ("lab-1", "lab-1", "lab-1", "x" * 63, "x" * 63):
        machine = Machine()
        names.append((await machine.joins(api, await token(api), name)).json()["name"])
    assert names == ["lab-1", "lab-1-2", "lab-1-3", "x" * 63, "x" * 61 + "-2"]
    await api.delete("/api/v1/nodes/lab-1")
    assert (await Machine().joins(api, await token(api), "lab-1")).json()["name"] == "lab-1"


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a\n", "\n", "ä", "x" * 64, "a\x00", "node:x", None, 5, ["a"]])
async def test_names_are_checked(api: httpx.AsyncClient, name: Any) -> None:
    """Letters, digits, `.`, `_`, `-`, at most 63: else 400 naming the member."""
    said = await Machine().asks(api, await token(api), name)
    await refused(api, "enroll", said, 400, "invalid_request", "name")


async def test_garbage_is_a_bad_request(api: httpx.AsyncClient) -> None:
    """Whatever bytes, types, lengths or members come, the answer is a 400 or 401 with problem details, never a 500."""
    random_ = random.Random(20_261_125)
    good = await Machine().asks(api, await token(api, uses=None))
    odd: list[Any] = [None, True, -1, 1e300, "", "\n", "x" * 300, "é" * 43, "\u0000", [], {}, ["a"], {"a": 1}, "=" * 43]
    for member in good:
        for value in odd:
            answer = await api.post("/node/v1/enroll", json=good | {member: value})
            wanted = {200, 201, 400} if member in ("agent", "os", "arch") else {400, 401}
            assert answer.status_code in wanted, (member, value, answer.text)
        rest = {name: value for name, value in good.items() if name != member}
        if member not in ("agent", "os", "arch"):
            await refused(api, "enroll", rest, 400, "invalid_request", member)
    await refused(api, "enroll", good | {"more": 1}, 400, "invalid_request", "more")
    for path in ("enroll", "rotate", "leave"):
        for body in (b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", *(random_.randbytes(200) for _ in range(20))):
            answer = await api.post(f"/node/v1/{path}", content=body, headers={"content-type": "application/json"})
            assert answer.status_code == 400, (path, body, answer.text)
    for path in ("enroll", "rotate", "leave"):
        assert (await api.post(f"/node/v1/{path}", content=b" " * 16_385)).status_code == 413


async def test_a_gateway_that_is_not_meant_says_so(gateway: Any, api: httpx.AsyncClient) -> None:
    """Under a name that it does not know itself by, it gives no challenge and takes no machine: 421."""
    for path in ("enroll", "rotate", "leave"):
        body = {
            "enroll": await Machine().asks(api, await token(api)),
            "rotate": await Machine().rotates(api, Machine()) | {"node": "n", "key": "k"},
            "leave": await Machine().leaves(api) | {"node": "n", "key": "k"},
        }[path]
        answer = await api.post(f"/node/v1/{path}", json=body, headers={"host": "evil.example"})
        assert answer.status_code == 421
        assert answer.json()["code"] == "wrong_origin"
    assert (await api.get("/node/v1/enroll", headers={"host": "evil.example"})).status_code == 421
    assert (await api.get("/node/v1/enroll", headers={"host": "localhost:9"})).json()["origin"] == "http://localhost:9"


async def test_a_node_belongs_to_its_tokens_organisation(gateway: Any, api: httpx.AsyncClient) -> None:
    """Only that organisation sees and names it; both may have a node of one name, and a key enrols once in all."""
    admin = new_secret("pla")

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
        hashed = gateway.first.vault.hash(admin.encode())
        connection.execute(sa.insert(t.admin_tokens).values(**values, hash=hashed, updated_at_ms=1))

    gateway.store.write_now(other)
    mine = await joined(api)
    async with gateway.client(admin) as theirs:
        machine = Machine()
        said = (await machine.joins(theirs, await token(theirs))).json()
        assert (said["name"], said["organisation"]) == ("lab-1", "other")
        assert [each["id"] for each in (await theirs.get("/api/v1/nodes")).json()["data"]] == [machine.node]
        await refused(theirs, "enroll", await mine.asks(theirs, await token(theirs)), 409, "already_enrolled")
        assert (await theirs.delete(f"/api/v1/nodes/{mine.node}")).status_code == 404
    assert [each["id"] for each in (await api.get("/api/v1/nodes")).json()["data"]] == [mine.node]
    assert gateway.snapshots.current.nodes[machine.node].organisation_id == "org_2"


async def test_a_node_waits_when_its_token_says_so(gateway: Any, api: httpx.AsyncClient) -> None:
    """Tokens with `needs_approval`, and the community's unless they say otherwise, make nodes that are pending."""
    for terms, state in (
        ({"needs_approval": True}, "pending"),
        ({"community": True}, "pending"),
        ({"community": True, "needs_approval": False}, "approved"),
        ({}, "approved"),
    ):
        machine = await joined(api, **terms)
        shown = (await api.get(f"/api/v1/nodes/{machine.node}")).json()
        assert shown["state"] == state
        assert gateway.snapshots.current.nodes[machine.node].approved == (state == "approved")


async def test_a_key_is_rotated(gateway: Any, api: httpx.AsyncClient) -> None:
    """The new key is in force, the old one beside it for a day; the answer can be asked for again, by the same key."""
    machine, new = await joined(api), Machine()
    said = await machine.rotates(api, new)
    answer = await api.post("/node/v1/rotate", json=said)
    assert answer.status_code == 200
    key = answer.json()["key"]
    assert key != machine.key
    assert gateway.snapshots.current.nodes[machine.node].keys == {key: new.public, machine.key: machine.public}
    assert (await api.post("/node/v1/rotate", json=said)).json() == {"key": key}
    assert (await api.post("/node/v1/rotate", json=await machine.rotates(api, new))).json() == {"key": key}
    left_s = (await api.get("/api/v1/nodes/lab-1")).json()["previous_until_ms"] / 1000 - time.time()
    assert 86_300 < left_s <= 86_400
    # the old key does not put a third in force
    await refused(api, "rotate", await machine.rotates(api, Machine()), 401, "invalid_proof")


async def test_a_key_is_not_rotated_by_others(api: httpx.AsyncClient) -> None:
    """Both keys sign, for this node, purpose and origin; a key that is known already is refused."""
    machine, thief, new = await joined(api), await joined(api, "two"), Machine()
    good = await machine.rotates(api, new)
    for forged in (
        good | {"proof_old": good["proof_new"]},
        good | {"node": thief.node},
        good | {"key": thief.key},
        good | {"node": "node_none"},
        good | {"proof_old": text(bytes(64))},
        good | {"public_key": text(Machine().public)},
    ):
        await refused(api, "rotate", forged, 401, "invalid_proof")
    await refused(api, "rotate", good | {"proof_new": good["proof_old"]}, 400, "invalid_request", "proof_new")
    await refused(api, "rotate", await machine.rotates(api, thief), 409, "already_enrolled")


async def test_a_node_leaves(gateway: Any, api: httpx.AsyncClient) -> None:
    """Its own signature revokes it, at once; another's does not, and a second time there is nobody."""
    machine, other = await joined(api), await joined(api, "two")
    good = await machine.leaves(api)
    for forged in (
        good | {"node": other.node},
        good | {"key": other.key},
        good | {"proof": (await other.leaves(api))["proof"]},
    ):
        await refused(api, "leave", forged, 401, "invalid_proof")
    assert machine.node in gateway.snapshots.current.nodes
    answer = await api.post("/node/v1/leave", json=good)
    assert (answer.status_code, answer.content) == (204, b"")
    assert machine.node not in gateway.snapshots.current.nodes
    await refused(api, "leave", good, 401, "invalid_proof")
    await refused(api, "rotate", await machine.rotates(api, Machine()), 401, "invalid_proof")
    shown = (await api.get(f"/api/v1/nodes/{machine.node}")).json()
    assert shown["state"] == "revoked"


async def test_a_rotated_node_leaves_by_its_old_key_for_a_day(gateway: Any, api: httpx.AsyncClient) -> None:
    """The key before the last rotation signs until its time is over, and not after."""
    machine = await joined(api)
    await api.post("/node/v1/rotate", json=await machine.rotates(api, Machine()))
    over = sa.update(t.nodes).values(previous_until_ms=1)
    gateway.store.write_now(lambda connection: connection.execute(over))
    await refused(api, "leave", await machine.leaves(api), 401, "invalid_proof")


async def test_no_key_of_a_revoked_node_enrols_again(api: httpx.AsyncClient) -> None:
    """Neither the last one nor the one before, which may have been rotated because somebody had a copy."""
    machine, new = await joined(api), Machine()
    key = (await api.post("/node/v1/rotate", json=await machine.rotates(api, new))).json()["key"]
    assert (await api.delete(f"/api/v1/nodes/{machine.node}")).status_code == 204
    for each in (machine, new):
        answer = await each.joins(api, await token(api), "lab-2")
        assert (answer.status_code, answer.json()["code"]) == (409, "already_enrolled")
    new.node, new.key = machine.node, key
    for each in (machine, new):
        await refused(api, "leave", await each.leaves(api), 401, "invalid_proof")


async def test_strangers_have_a_few_tries(gateway: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten tries a minute from one network, then 429 with when to come back; other networks are not held up."""
    monkeypatch.undo()
    async with gateway.client(None) as client:
        gateway.app.app.state.tries = Buckets(TRIES_PER_MINUTE)
        statuses = [(await client.post("/node/v1/leave", json={})).status_code for _ in range(TRIES_PER_MINUTE + 2)]
        assert statuses == [400] * TRIES_PER_MINUTE + [429] * 2
        answer = await client.post("/node/v1/enroll", json={})
        assert answer.status_code == 429
        assert answer.json()["code"] == "too_many_tries"
        assert 1 <= int(answer.headers["retry-after"]) <= 6
        assert (await client.get("/node/v1/enroll")).status_code == 200
    async with gateway.client(None, client=("192.0.2.1", 1)) as client:
        assert (await client.post("/node/v1/enroll", json={})).status_code == 400


def test_tries_come_back_with_time() -> None:
    """One every six seconds, never more than ten; the prefix of an address shares them; memory has an end."""
    buckets = Buckets(10)
    assert [buckets.take("192.0.2.1", 0.0) for _ in range(10)] == [0.0] * 10
    assert buckets.take("192.0.2.200", 0.0) == pytest.approx(6.0)
    assert buckets.take("192.0.2.1", 5.9) > 0
    assert buckets.take("192.0.2.1", 6.1) == 0.0
    assert [buckets.take("192.0.2.1", 1e6) for _ in range(11)].count(0.0) == 10
    for number in range(3 * MAX_PREFIXES):
        buckets.take(f"10.{number >> 8}.{number & 255}.1", 1e6)
    assert len(buckets._left) <= MAX_PREFIXES


async def test_enrolment_shows_no_secret(api: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    """The token appears in no answer but its own, no audit entry, log line, list or dump."""
    with caplog.at_level("DEBUG"):
        secret = await token(api, uses=3)
        machine = Machine()
        seen = [(await machine.joins(api, secret)).text]
        seen.append((await api.post("/node/v1/enroll", json=await machine.asks(api, secret))).text)
        seen += [(await api.get(f"/api/v1/{path}")).text for path in ("join-tokens", "nodes", "audit", "snapshot")]
    assert secret not in "\n".join(seen) + caplog.text
    actions = [each["action"] for each in (await api.get("/api/v1/audit")).json()["data"]]
    assert actions[:2] == ["node.enrol", "join_token.create"]
    assert (await api.get("/api/v1/audit/verify")).json()["ok"]
