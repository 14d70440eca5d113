"""Join tokens and nodes, from the operator's side; what a node announces; what is forgotten by itself."""

import time
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from joining import Machine, joined, token

from potluck.admin.fleet_readings import LinkReading, ModelReading, NodeReading
from potluck.admin.operations import nodes
from potluck.admin.operations.node_views import standing
from potluck.admin.operations.work import Actor, Work
from potluck.model.node import NodePrice, Offer, OfferedModel
from potluck.snapshot import Change
from potluck.store import tables as t

MODEL = OfferedModel("ollama", "llama3.2:3b", ("chat",), ("/v1/chat/completions",), price=NodePrice(5, 7))


async def announce(gateway: Any, machine: Machine, offer: Offer, agent: str = "potluck/0.0") -> bool:
    """Store an offer as the gateway does when its node announces it."""
    actor = Actor(machine.node, "lab-1", gateway.actor.organisation_id, role="node")
    differs: bool = await gateway.control.do(actor, lambda work: nodes.store_offer(work, machine.node, offer, agent))
    return differs


async def actions(api: httpx.AsyncClient) -> list[str]:
    """What the audit log says, the newest first."""
    return [each["action"] for each in (await api.get("/api/v1/audit")).json()["data"]]


async def test_a_join_token_is_shown_once(api: httpx.AsyncClient) -> None:
    """Made with defaults it is for one machine, a day, and needs no approval; later nobody sees its secret."""
    made = (await api.post("/api/v1/join-tokens", json={})).json()
    assert made["secret"].startswith("plj-")
    assert (made["uses_left"], made["needs_approval"], made["status"]) == (1, False, "active")
    assert made["name"] == f"join-{made['id'][-6:]}"
    assert abs(made["expires_at_ms"] / 1000 - time.time() - 86_400) < 60
    shown = (await api.get(f"/api/v1/join-tokens/{made['name']}")).json()
    assert "secret" not in shown
    assert made == shown | {"secret": made["secret"], "url": "http://127.0.0.1:7171"}
    assert (await api.get("/api/v1/join-tokens")).json()["data"] == [shown]


async def test_a_join_token_is_made_once_per_idempotency_key(api: httpx.AsyncClient) -> None:
    """The same request with the same Idempotency-Key makes one token, and shows its secret the first time only."""
    headers = {"idempotency-key": "one"}
    first = (await api.post("/api/v1/join-tokens", json={"name": "a"}, headers=headers)).json()
    again = await api.post("/api/v1/join-tokens", json={"name": "a"}, headers=headers)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json() == first | {"secret": None}
    assert len((await api.get("/api/v1/join-tokens")).json()["data"]) == 1


@pytest.mark.parametrize(
    ("said", "status", "where"),
    [
        ({"uses": 0}, 400, "uses"),
        ({"uses": 10_001}, 400, "uses"),
        ({"lifetime_s": 3599}, 400, "lifetime_s"),
        ({"lifetime_s": 90 * 86_400 + 1}, 400, "lifetime_s"),
        ({"owner": "lab"}, 400, "owner"),
        ({"owner": "project:lab\n"}, 400, "owner"),
        ({"owner": "project:none"}, 404, ""),
        ({"max_models": 0}, 400, "max_models"),
        ({"max_price": {"input": 1}}, 400, "max_price.output"),
        ({"max_price": {"input": -1, "output": 1}}, 400, "max_price.input"),
        ({"tags": ["\n"]}, 400, "tags[0]"),
        ({"name": "a b"}, 400, "name"),
        ({"uses_left": 1}, 400, "uses_left"),
    ],
)
async def test_terms_of_a_token_are_checked(api: httpx.AsyncClient, said: Any, status: int, where: str) -> None:
    """What cannot be is refused, naming the member, and no token is made."""
    answer = await api.post("/api/v1/join-tokens", json=said)
    assert answer.status_code == status, answer.text
    assert answer.json().get("where", "") == where
    assert (await api.get("/api/v1/join-tokens")).json()["data"] == []


async def test_the_state_of_a_token_is_told(gateway: Any, api: httpx.AsyncClient) -> None:
    """Active, used up, expired, revoked; its name is free once it is revoked, and revoking by id twice is no error."""
    used = (await api.post("/api/v1/join-tokens", json={"name": "used"})).json()
    await Machine().joins(api, used["secret"])
    ended = (await api.post("/api/v1/join-tokens", json={"name": "ended"})).json()
    taken = await api.post("/api/v1/join-tokens", json={"name": "ended"})
    assert (taken.status_code, taken.json()["code"]) == (409, "already_exists")
    for _ in range(2):
        answer = await api.post(f"/api/v1/join-tokens/{ended['id']}/revoke")
        assert answer.json()["status"] == "revoked"
    assert (await api.get("/api/v1/join-tokens/ended")).status_code == 404
    late = (await api.post("/api/v1/join-tokens", json={"name": "ended"})).json()
    expire = sa.update(t.join_tokens).where(t.join_tokens.c.id == late["id"]).values(expires_at_ms=1)
    gateway.store.write_now(lambda connection: connection.execute(expire))
    states = {each["id"]: each["status"] for each in (await api.get("/api/v1/join-tokens")).json()["data"]}
    assert states == {used["id"]: "used_up", ended["id"]: "revoked", late["id"]: "expired"}
    assert (await actions(api)).count("join_token.revoke") == 1


async def test_nodes_are_listed_in_pages(api: httpx.AsyncClient) -> None:
    """Oldest first, the revoked ones only when asked for; a revoked one is shown by id, not by name."""
    machines = [await joined(api, f"m-{number}") for number in range(3)]
    await api.delete("/api/v1/nodes/m-1")
    page = (await api.get("/api/v1/nodes?limit=1")).json()
    rest = (await api.get("/api/v1/nodes", params={"cursor": page["next_cursor"]})).json()
    assert [each["name"] for each in page["data"] + rest["data"]] == ["m-0", "m-2"]
    assert rest["next_cursor"] is None
    everything = (await api.get("/api/v1/nodes?revoked=true")).json()["data"]
    assert [each["state"] for each in everything] == ["approved", "revoked", "approved"]
    assert (await api.get("/api/v1/nodes/m-1")).status_code == 404
    assert (await api.get(f"/api/v1/nodes/{machines[1].node}")).json()["standing"] == "revoked"


async def test_a_node_is_approved_drained_and_renamed(gateway: Any, api: httpx.AsyncClient) -> None:
    """Each change is in force with its answer, is audited once, and doing it again changes nothing."""
    machine = await joined(api, needs_approval=True)
    for body in (
        {"approved": True},
        {"drained": True},
        {"name": "lab-2", "tags": ["gpu"], "owner": "project:default"},
        {"approved": False, "drained": False, "owner": ""},
    ):
        for _ in range(2):
            answer = await api.patch(f"/api/v1/nodes/{machine.node}", json=body)
            assert answer.status_code == 200
        shown = answer.json()
        state = {True: "approved", False: "pending"}
        assert all(
            shown["state"] == state[value] if member == "approved" else shown[member] == value
            for member, value in body.items()
        )
        compiled = gateway.snapshots.current.nodes[machine.node]
        assert (compiled.name, compiled.approved) == (shown["name"], shown["state"] == "approved")
        assert compiled.drained == shown["drained"]
    assert (await actions(api))[:5] == ["node.update"] * 4 + ["node.enrol"]


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({"name": "two"}, 409),
        ({"name": "a/b"}, 400),
        ({"name": "a\n"}, 400),
        ({"name": None}, 400),
        ({"owner": "project:none"}, 404),
        ({"owner": "key:a"}, 400),
        ({"state": "approved"}, 400),
        ({"max_models": 1}, 400),
    ],
)
async def test_changes_of_a_node_are_checked(api: httpx.AsyncClient, said: Any, status: int) -> None:
    """A taken or impossible name, a project that is not there, members that do not change: refused, nothing done."""
    await joined(api)
    await joined(api, "two")
    before = (await api.get("/api/v1/nodes/lab-1")).json()
    assert (await api.patch("/api/v1/nodes/lab-1", json=said)).status_code == status
    assert (await api.get("/api/v1/nodes/lab-1")).json() == before


async def test_revoking_is_at_once_and_for_ever(gateway: Any, api: httpx.AsyncClient) -> None:
    """The node is out of the snapshot with the answer; again by id is no error, and nothing changes it any more."""
    machine = await joined(api)
    assert (await api.delete("/api/v1/nodes/lab-1")).status_code == 204
    assert machine.node not in gateway.snapshots.current.nodes
    assert (await api.delete(f"/api/v1/nodes/{machine.node}")).status_code == 204
    assert (await api.delete("/api/v1/nodes/lab-1")).status_code == 404
    assert (await api.patch(f"/api/v1/nodes/{machine.node}", json={"approved": True})).status_code == 404
    assert (await actions(api)).count("node.revoke") == 1


async def test_prices_stay_inside_the_ceiling(gateway: Any, api: httpx.AsyncClient) -> None:
    """Above it a price is refused with the number; without one, own machines are free and the community's have no
    limit. Null takes a price away."""

    async def price(node: str, input_: float, output: float) -> httpx.Response:
        said = {"model": MODEL.name, "price": {"input": input_, "output": output}}
        return await api.put(f"/api/v1/nodes/{node}/prices", json=said)

    machine = await joined(api, max_price={"input": 0.5, "output": 2})
    await joined(api, "own")
    await joined(api, "theirs", community=True)
    refused = await price("lab-1", 0.5, 2.000000001)
    assert (refused.status_code, refused.json()["where"]) == (400, "price.output")
    assert "at most 2 USD" in refused.json()["detail"]
    assert "at most 0.5 USD" in (await price("lab-1", 0.6, 2)).json()["detail"]
    assert "at most 0 USD" in (await price("own", 0, 0.01)).json()["detail"]
    assert (await price("own", 0, 0)).status_code == 200
    assert (await price("theirs", 900, 900)).status_code == 200
    await announce(gateway, machine, Offer(models=(MODEL,)))
    model = (await api.get("/api/v1/nodes/lab-1")).json()["models"][0]
    assert (model["price"], model["price_from"]) == ({"input": 5e-9, "output": 7e-9}, "node")
    shown = (await price("lab-1", 0.25, 1)).json()
    assert shown["prices"] == {MODEL.name: {"input": 0.25, "output": 1}}
    assert (shown["models"][0]["price"], shown["models"][0]["price_from"]) == ({"input": 0.25, "output": 1}, "gateway")
    cleared = await api.put("/api/v1/nodes/lab-1/prices", json={"model": MODEL.name, "price": None})
    assert (cleared.json()["prices"], cleared.json()["models"][0]["price_from"]) == ({}, "node")
    assert (await api.put("/api/v1/nodes/lab-1/prices", json={"model": MODEL.name})).status_code == 400


async def test_what_a_node_announces_is_kept(gateway: Any, api: httpx.AsyncClient) -> None:
    """Only what differs is written; only other models are audited; `max_models` cuts; the agent's name is kept."""
    machine = await joined(api, max_models=2)
    more = tuple(OfferedModel("ollama", f"m-{number}") for number in range(4))
    offer = Offer(models=(MODEL, *more), engines=(("ollama", "ollama", "0.9"),), slots=4, os="linux", arch="x86_64")
    assert await announce(gateway, machine, offer)
    shown = (await api.get("/api/v1/nodes/lab-1")).json()
    assert [each["target"] for each in shown["models"]] == ["node:lab-1/llama3.2:3b", "node:lab-1/m-0"]
    assert (shown["slots"], shown["engines"]) == (4, [{"id": "ollama", "kind": "ollama", "version": "0.9"}])
    assert [each.name for each in gateway.snapshots.current.nodes[machine.node].offer.models] == [MODEL.name, "m-0"]
    assert not await announce(gateway, machine, offer)
    assert await announce(gateway, machine, Offer(models=(MODEL, *more), slots=8), "potluck/0.1")
    shown = (await api.get("/api/v1/nodes/lab-1")).json()
    assert (shown["slots"], shown["agent"]) == (8, "potluck/0.1")
    assert gateway.snapshots.current.nodes[machine.node].offer.slots == 8
    assert not await announce(gateway, machine, Offer()), "it has nothing now: what it is for stays known"
    assert [each.name for each in gateway.snapshots.current.nodes[machine.node].offer.models] == [MODEL.name, "m-0"]
    await announce(gateway, machine, Offer(models=(more[0],)))
    entries = (await api.get("/api/v1/audit")).json()["data"]
    told = [each for each in entries if each["action"] == "node.models"]
    assert [(each["actor"], each["detail"]["new"], each["detail"]["gone"]) for each in told] == [
        (machine.node, [], ["ollama/llama3.2:3b"]),
        (machine.node, ["ollama/llama3.2:3b", "ollama/m-0"], []),
    ]


async def test_last_contact_is_written_without_a_version(gateway: Any, api: httpx.AsyncClient) -> None:
    """Many nodes at once; nothing is audited and nothing compiled."""
    first, second = await joined(api), await joined(api, "two")
    version = gateway.snapshots.current.version
    await gateway.store.write(nodes.seen([first.node, second.node, "node_none"], 1_700_000_000_000))
    await gateway.store.write(nodes.seen([], 1))
    shown = (await api.get("/api/v1/nodes")).json()["data"]
    assert [each["last_seen_at_ms"] for each in shown] == [1_700_000_000_000] * 2
    assert [each["standing"] for each in shown] == ["not connected"] * 2
    assert await gateway.snapshots.refresh() == version


async def test_ephemeral_nodes_are_forgotten(gateway: Any, api: httpx.AsyncClient) -> None:
    """One not seen for an hour is revoked; one seen since, and one that is not ephemeral, stay."""
    gone, kept, lasting = (
        await joined(api, "gone", ephemeral=True),
        await joined(api, "kept", ephemeral=True),
        await joined(api, "lasting"),
    )
    old_ms = int(time.time() - nodes.EPHEMERAL_KEPT_S - 5) * 1000
    await gateway.store.write(nodes.seen([gone.node, lasting.node], old_ms))
    await gateway.store.write(nodes.seen([kept.node], old_ms + 60_000))
    change = await gateway.store.write(nodes.forget_ephemeral(gateway.first.vault))
    assert change.nodes == {gone.node}
    await gateway.snapshots.refresh(change)
    assert set(gateway.snapshots.current.nodes) == {kept.node, lasting.node}
    assert (await actions(api))[0] == "node.forget"
    assert await gateway.store.write(nodes.forget_ephemeral(gateway.first.vault)) == Change()


async def test_a_project_keeps_its_nodes(api: httpx.AsyncClient) -> None:
    """Renamed, its nodes and tokens say the new name; while it owns one, or may yet, it is not removed."""
    await api.post("/api/v1/projects", json={"name": "lab"})
    await joined(api, owner="project:lab")
    spare = (await api.post("/api/v1/join-tokens", json={"owner": "project:lab"})).json()
    await api.patch("/api/v1/projects/lab", json={"name": "rig"})
    assert (await api.get("/api/v1/nodes/lab-1")).json()["owner"] == "project:rig"
    assert (await api.get(f"/api/v1/join-tokens/{spare['id']}")).json()["owner"] == "project:rig"
    refused = await api.delete("/api/v1/projects/rig")
    assert (refused.status_code, refused.json()["code"]) == (409, "in_use")
    assert "lab-1" in refused.json()["detail"]
    await api.patch("/api/v1/nodes/lab-1", json={"owner": ""})
    refused = await api.delete("/api/v1/projects/rig")
    assert (refused.status_code, refused.json()["code"]) == (409, "in_use")
    assert spare["name"] in refused.json()["detail"]
    await api.post(f"/api/v1/join-tokens/{spare['id']}/revoke")
    assert (await api.delete("/api/v1/projects/rig")).status_code == 204


async def test_live_facts_are_shown(gateway: Any, api: httpx.AsyncClient) -> None:
    """What the gateway sees of a node now stands beside what is stored of it."""
    machine = await joined(api)
    reading = NodeReading(
        stands="paused by its owner: in use",
        connected=True,
        links=[LinkReading(since_ms=1, rtt_ms=0.4, streams=2)],
        models=[ModelReading(engine="ollama", name="m", decode_tps=31.5)],
        no_work={"paused by its owner": 3},
        refusals={"busy": 2},
    )
    deps = gateway.app.app.state.deps
    assert (await api.get("/api/v1/nodes/lab-1")).json()["live"] is None
    object.__setattr__(deps, "read_node", {machine.node: reading}.get)
    shown = (await api.get("/api/v1/nodes/lab-1")).json()
    assert shown["standing"] == "paused by its owner: in use"
    assert shown["live"]["links"][0]["rtt_ms"] == 0.4
    assert (shown["live"]["refusals"], shown["live"]["models"][0]["decode_tps"]) == ({"busy": 2}, 31.5)
    assert (await api.get("/api/v1/nodes")).json()["data"][0] == shown
    assert (await api.patch("/api/v1/nodes/lab-1", json={"drained": True})).json()["standing"] == (
        "drained by the operator"
    )


def test_how_a_node_stands_is_one_line() -> None:
    """The operator's decisions come before the node's own words, and both before `ready`."""
    row: Any = {"state": "approved", "drained": False, "last_seen_at_ms": None}
    here = NodeReading(connected=True, stands="")
    assert standing(row, None) == "never connected"
    assert standing(row | {"last_seen_at_ms": 1}, None) == "not connected"
    assert standing(row, NodeReading(connected=False, since_ms=1)) == "not connected"
    assert standing(row, here) == "ready"
    assert standing(row, NodeReading(connected=True, stands="busy")) == "busy"
    assert standing(row | {"drained": True}, here) == "drained by the operator"
    assert standing(row | {"state": "pending"}, here) == "waits for approval"
    assert standing(row | {"state": "pending"}, None) == "waits for approval, not connected"
    assert standing(row | {"state": "revoked"}, here) == "revoked"


async def test_the_ceiling_is_the_tokens(gateway: Any, api: httpx.AsyncClient) -> None:
    """What counts as the ceiling, where the token wrote one and where it did not."""
    await token(api)
    machine, theirs = await joined(api), await joined(api, "theirs", community=True)

    def look(work: Work) -> list[NodePrice | None]:
        return [nodes.ceiling_of(nodes.find_node(work, each.node)) for each in (machine, theirs)]

    assert await gateway.control.see(gateway.actor, look) == [NodePrice(0, 0), None]
