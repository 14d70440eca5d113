"""`potluck nodes` and `potluck nodes token` against a real control plane: what is printed and what is done."""

import asyncio
import json
import re
import time
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest

from potluck.admin.fleet_readings import LinkReading, ModelReading, NodeReading
from potluck.admin.operations import node_views
from potluck.cli.commands.nodes import _first
from potluck.model.node import NodePrice, Offer, OfferedModel
from potluck.model.secret import Secret
from potluck.node import enrolment
from potluck.node.identity import Identity, fresh_key
from tests.unit.admin.joining import Machine

Ok = Callable[..., str]


@pytest.fixture
def join(ok: Ok, gateway: dict[str, str]) -> Callable[..., Machine]:
    """`join("lab-1", "--community")` → a machine that enrolled by a token with these options."""

    def call(name: str, *options: str) -> Machine:
        secret = json.loads(ok("nodes", "token", "create", *options, "--json"))["secret"]
        machine = Machine()

        async def joins() -> None:
            async with httpx.AsyncClient(base_url=gateway["POTLUCK_URL"]) as client:
                assert (await machine.joins(client, secret, name)).status_code == 201

        asyncio.run(joins())
        return machine

    return call


def test_a_token_is_printed_with_what_to_paste(ok: Ok, gateway: dict[str, str]) -> None:
    """Once, at the start of a line, then a command per system; a gateway on loopback says that it is that."""
    said = ok("nodes", "token", "create", "--name", "lab", "--uses", "3").splitlines()
    url, secret = gateway["POTLUCK_URL"], said[2]
    assert said[0].startswith("join token lab for 3 machine(s) until ")
    assert secret.startswith("plj-")
    assert len(secret) == 50
    assert f"curl -fsSL {url}/install.sh | POTLUCK_JOIN_TOKEN={secret} sh" in said
    assert f"POTLUCK_JOIN_TOKEN={secret} potluck node join {url}" in said
    windows = f"$env:POTLUCK_JOIN_TOKEN = '{secret}'; irm {url}/install.ps1 -OutFile install.ps1; "
    assert windows + "powershell -ExecutionPolicy Bypass -File install.ps1" in said
    assert "for others: potluck serve --host 0.0.0.0 --public-url URL" in said[-1]
    assert secret not in ok("nodes", "token", "list", "--json")


def test_plain_http_to_others_is_said_aloud(ok: Ok, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines carry --insecure, and why that is not good is said; over https neither."""
    monkeypatch.setattr("potluck.admin.rest.join_tokens._url", lambda *_: "http://lab:7171")
    said = ok("nodes", "token", "create")
    assert "| POTLUCK_JOIN_TOKEN=plj-" in said
    assert " sh -s -- --insecure\n" in said
    assert "install.ps1 -Insecure\n" in said
    assert " --insecure\n\nover plain http whoever is on the way reads" in said
    monkeypatch.setattr("potluck.admin.rest.join_tokens._url", lambda *_: "https://lab")
    assert "nsecure" not in ok("nodes", "token", "create")


def test_terms_of_a_token_reach_the_gateway(ok: Ok) -> None:
    """Each option is the term of the same name."""
    made = json.loads(
        ok(
            *("nodes", "token", "create", "--json", "--name", "t", "--uses", "unlimited", "--expires", "7d"),
            *("--community", "--pre-approved", "--ephemeral", "--owner", "project:default", "--tag", "a", "--tag", "b"),
            *("--max-models", "2", "--max-price-input", "0.5", "--max-price-output", "1"),
        )
    )
    assert abs(made["expires_at_ms"] / 1000 - time.time() - 7 * 86_400) < 60
    wanted = {
        "uses_left": None,
        "community": True,
        "needs_approval": False,
        "ephemeral": True,
        "owner": "project:default",
        "tags": ["a", "b"],
        "max_models": 2,
        "max_price": {"input": 0.5, "output": 1},
    }
    assert {name: made[name] for name in wanted} == wanted
    assert json.loads(ok("nodes", "token", "create", "--json", "--needs-approval"))["needs_approval"] is True
    assert "needs both" in ok("nodes", "token", "create", "--max-price-input", "1", fails=2)
    assert "unlimited" in ok("nodes", "token", "create", "--uses", "0", fails=2)
    assert "--expires 5m" in ok("nodes", "token", "create", "--expires", "5m", fails=2)


def test_tokens_are_listed_and_revoked(ok: Ok) -> None:
    """Those that are over only with --all."""
    ok("nodes", "token", "create", "--name", "lab")
    assert "lab" in ok("nodes", "token", "list")
    assert ok("nodes", "token", "revoke", "lab").startswith("join token lab (plj-")
    assert ok("nodes", "token", "list").startswith("no join tokens: ")
    assert "revoked" in ok("nodes", "token", "list", "--all")
    assert "list them" in ok("nodes", "token", "revoke", "lab", fails=1)


def test_a_node_is_listed_changed_and_revoked(ok: Ok, join: Callable[..., Machine]) -> None:
    """Its life from the operator's side, by name, id, or as callers name it."""
    assert ok("nodes", "list").startswith("no nodes: potluck nodes token create")
    machine = join("lab-1", "--needs-approval")
    assert "waits for approval, not connected" in ok("nodes", "list")
    assert ok("nodes", "approve", "lab-1") == "node lab-1 is approved\n"
    assert "never connected" in ok("nodes", "show", machine.node)
    assert ok("nodes", "drain", "node:lab-1").startswith("node lab-1 gets no new work")
    assert json.loads(ok("nodes", "show", "lab-1", "--json"))["drained"] is True
    assert ok("nodes", "drain", "lab-1", "--undo") == "node lab-1 gets work again\n"
    assert ok("nodes", "rename", "lab-1", "rig") == "node rig is its name now\n"
    assert "no node 'lab-1'" in ok("nodes", "show", "lab-1", fails=1)
    assert "`potluck nodes list`" in ok("nodes", "show", "a/b", fails=1)
    assert ok("nodes", "revoke", "rig") == "node rig is revoked\n"
    assert ok("nodes", "list").startswith("no nodes")
    assert machine.node in ok("nodes", "list", "--all")


def test_a_price_is_set_and_cleared(ok: Ok, join: Callable[..., Machine]) -> None:
    """Both parts or --clear; above the token's ceiling the number is named."""
    join("lab-1", "--max-price-input", "0.5", "--max-price-output", "0.5")
    said = ok("nodes", "price", "lab-1", "llama3.2:3b", "--input", "0.1", "--output", "0")
    priced, noted = said.splitlines()
    assert priced == "price of node:lab-1/llama3.2:3b: input 0.1, output 0 USD (per million tokens)"
    assert noted == "node lab-1 offers no such model now: potluck nodes show lab-1"
    assert "at most 0.5 USD" in ok("nodes", "price", "lab-1", "m", "--input", "1", "--output", "0", fails=1)
    assert "smallest price" in ok("nodes", "price", "lab-1", "m", "--input", "1e-10", "--output", "0", fails=1)
    assert _first(list("abcdef")) == ["a", "b", "c", "d", "+2"]
    assert "needs both" in ok("nodes", "price", "lab-1", "m", "--input", "0.1", fails=2)
    assert "no price beside" in ok("nodes", "price", "lab-1", "m", "--input", "0.1", "--clear", fails=2)
    assert ok("nodes", "price", "lab-1", "llama3.2:3b", "--clear").endswith(": as the node announces\n")
    assert json.loads(ok("nodes", "show", "lab-1", "--json"))["prices"] == {}


def test_what_is_seen_of_a_node_is_shown(ok: Ok, join: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    """In lines for people: why it does not serve, its links, speeds, and counts, the most frequent first."""
    join("lab-1")
    reading = NodeReading(
        stands="paused by its owner: in use",
        connected=True,
        links=[LinkReading(since_ms=1_700_000_000_000, rtt_ms=0.44, streams=2)],
        running=2,
        waiting=1,
        models=[ModelReading(engine="ollama", name="llama3.2:3b", prefill_tps=812.4, decode_tps=31.4, running=2)],
        no_work={"drained": 1, "paused by its owner": 7},
        refusals={"busy": 3},
        reconnects=4,
        last_probe_at_ms=1_700_000_000_000,
        last_probe="answered in 40 ms",
    )
    model = OfferedModel("ollama", "llama3.2:3b", quantization="Q4_K_M", context_tokens=8192, price=NodePrice(1000, 0))
    real = node_views.node_view
    engines = (
        ("ollama", "ollama", "0.9"),
        ("a", "openai_compatible", ""),
        ("b", "llama_cpp", "1"),
        ("c", "my_own", ""),
    )
    offer = msgspec.json.encode(Offer(models=(model,), engines=engines))

    def shown(row: Any, _: Any) -> Any:
        return real({**row, "offer": offer.decode()}, reading)  # type: ignore[arg-type]

    monkeypatch.setattr("potluck.admin.rest.nodes.node_view", shown)
    lines = ok("nodes", "show", "lab-1").splitlines()
    text = "\n".join(lines)
    for part in (
        "paused by its owner: in use",
        "round trip 0.4 ms · 2 calls",
        "2 running, 1 waiting",
        "answered in 40 ms (20",
        "ollama 0.9, openai-compatible, llama.cpp 1, my-own",
    ):
        assert part in text, part
    assert re.search(r"(?m)^last seen: +now$", text)
    assert "at the machine" not in text
    table = next(line for line in lines if line.startswith("llama3.2:3b"))
    assert table.split() == ["llama3.2:3b", "ollama", "Q4_K_M", "8,192", "0.000001", "0", "812", "31", "2", "-"]
    assert [line.split()[0] for line in lines if line.endswith(("paused by its owner", "drained", "busy"))] == [
        "7",
        "1",
        "3",
    ]
    assert "paused by its owner: in use" in ok("nodes", "list")
    assert " now " in ok("nodes", "list")
    for presence, words in (("active", "somebody is there"), ("idle", "nobody is there"), ("unknown", None)):
        reading = NodeReading(stands="", connected=True, presence=presence)
        assert (words is not None) == ("at the machine" in (said := ok("nodes", "show", "lab-1")))
        assert (words or "") in said
    reading = NodeReading(stands="not connected", since_ms=1_700_000_000_000)
    assert "not connected since 2023-11-1" in ok("nodes", "list")


@pytest.mark.parametrize(
    ("options", "seen", "words"),
    [
        (("--max-models", "1"), ["a"], "allows 1 model: what the machine leaves out for it, potluck node status says"),
        (("--max-models", "1"), ["a", "b", "c"], "left out here, as the join token allows 1 model: b, c\n"),
        (("--max-models", "2"), ["a"], ""),
        ((), ["a"], ""),
    ],
)
def test_models_over_what_the_token_allows_are_said(
    ok: Ok,
    join: Callable[..., Machine],
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    seen: list[str],
    words: str,
) -> None:
    """By name where the gateway cut them; else where to look, as the machine alone knows what it left out."""
    join("lab-1", *options)
    real = node_views.node_view
    offer = msgspec.json.encode(Offer(models=(OfferedModel("e", "a"),), engines=(("e", "ollama", ""),))).decode()
    reading = NodeReading(stands="", connected=True, models=[ModelReading(engine="e", name=name) for name in seen])
    monkeypatch.setattr("potluck.admin.rest.nodes.node_view", lambda row, _: real({**row, "offer": offer}, reading))
    said = ok("nodes", "show", "lab-1")
    assert words in said
    assert bool(words) == ("join token allows" in said)


def test_the_agents_client_and_the_gateway_agree(ok: Ok, gateway: dict[str, str]) -> None:
    """What the agent signs is what the gateway asks for: it joins, changes its key, leaves, and is gone."""
    secret = Secret(json.loads(ok("nodes", "token", "create", "--json"))["secret"])
    client = enrolment.Gateway(gateway["POTLUCK_URL"])
    old, new = Identity(fresh_key()), Identity(fresh_key())
    enrolled, key, state = client.enroll(secret, old, "rig")
    assert (enrolled.name, enrolled.organisation, state) == ("rig", "default", "approved")
    with pytest.raises(enrolment.EnrolmentError, match="used up or revoked"):
        client.enroll(secret, new, "rig")
    rotated = client.rotate(enrolled, key, old, new)
    assert json.loads(ok("nodes", "show", "rig", "--json"))["key"] == rotated != key
    with pytest.raises(enrolment.EnrolmentError, match="no enrolled node"):
        client.leave(enrolled, rotated, old)
    client.leave(enrolled, rotated, new)
    assert json.loads(ok("nodes", "show", enrolled.node, "--json"))["state"] == "revoked"
