"""Rows → what routing reads: routes, shares and tiers of targets, places, aliases, probes."""

import asyncio
import json
import time
from collections.abc import Generator
from typing import Any

import pytest
from snapshot_rows import OPENAI, Rows

from potluck.model.resources import (
    Affinity,
    Hedge,
    Probe,
    Route,
    RouteConstraints,
    RouteMatch,
    RouteTimeouts,
)
from potluck.model.secret import Secret
from potluck.snapshot import EVERYTHING, Change, SnapshotStore
from potluck.store.database import connect

LAB = "http://10.0.0.7:8000/v1"


def test_routes_stand_in_the_order_in_which_they_are_tried(rows: Rows) -> None:
    """By position, then age, then id; what a row leaves out has the defaults of the struct."""
    rows.route("late", position=2)
    rows.route("young", position=1, created_at_ms=9)
    rows.route("b", position=1, created_at_ms=8)
    rows.route("a", position=1, created_at_ms=8)
    current = rows.source().current
    assert [route.name for route in current.routes] == ["a", "b", "young", "late"]
    assert current.routes[0] == Route("rte_a", "org_1", "a", 8, position=1)


def test_a_route_is_read_with_all_it_says(rows: Rows) -> None:
    """Every column of a route comes out as the struct that it was written from."""
    rows.route(
        "full",
        created_at_ms=7,
        match={"models": ["small"], "projects": ["web"], "keys": ["a*"]},
        strategy="weighted",
        split_by="user",
        constraints={"only": ["lab"], "max_price_input": 5, "data_class": "private"},
        fallback=["big", "node:*", "key:*"],
        timeouts={"first_token_s": 2.5},
        hedge={"after_ms": 300},
        affinity={},
    )
    assert rows.source().current.routes == (
        Route(
            "rte_full",
            "org_1",
            "full",
            7,
            match=RouteMatch(("small",), ("web",), ("a*",)),
            strategy="weighted",
            split_by="user",
            constraints=RouteConstraints(only=("lab",), max_price_input=5, data_class="private"),
            fallback=("big", "node:*", "key:*"),
            timeouts=RouteTimeouts(first_token_s=2.5),
            hedge=Hedge(after_ms=300),
            affinity=Affinity(),
        ),
    )


async def test_a_new_route_compiles_no_model_again(rows: Rows) -> None:
    """A change of rules alone swaps the routes and leaves keys and models the very same objects, and the other way."""
    openai = rows.provider("openai")
    rows.route("first")
    source = rows.source()
    before = source.current
    rows.route("second")
    await source.refresh(Change(rows.version, rules=True))
    after = source.current
    assert [route.name for route in after.routes] == ["first", "second"]
    assert after.version == rows.version
    assert (after.models, after.pins, after.keys) == (before.models, before.pins, before.keys)
    assert after.models is before.models
    rows.write("UPDATE providers SET own = 1")
    await source.refresh(Change(rows.version, providers=frozenset({openai})))
    assert source.current.routes is after.routes
    rows.write("DELETE FROM routes")
    await source.refresh(EVERYTHING)
    assert source.current.routes == ()


def test_changes_add_up() -> None:
    """What only touched rules is no empty change, needs no places, and survives being joined with another."""
    rules = Change(3, rules=True)
    assert not rules.is_empty
    assert not rules.places
    assert (rules | Change(4, models=True)) == Change(4, models=True, rules=True)
    assert Change(5).is_empty
    assert EVERYTHING.places


def test_targets_have_their_share_their_tier_and_their_slots(rows: Rows) -> None:
    """Written weight, priority and slots count; else 1, the position, and the provider's connections."""
    lab, openai = rows.provider("lab", LAB, own=True), rows.provider("openai")
    rows.model("small", (lab, "m"), (openai, "gpt-4o-mini"), (openai, "gpt-4o"))
    rows.write("UPDATE providers SET max_connections = 7 WHERE id = 'prv_lab'")
    rows.write("UPDATE targets SET weight = 3, priority = 0, slots = 4 WHERE id = 'tgt_small_1'")
    current = rows.source().current
    plain, written, third = current.models["small"].targets
    assert (plain.weight, plain.priority, plain.slots) == (1, 0, 7)
    assert (written.weight, written.priority, written.slots) == (3, 0, 4)
    assert (third.weight, third.priority, third.slots) == (1, 2, 1024)
    pin = current.pins["openai/gpt-4o-mini"].targets[0]
    assert (pin.weight, pin.priority, pin.slots) == (1, 0, 1024)


def test_credentials_are_named_and_weighed_side_by_side(rows: Rows) -> None:
    """Every target of a model has all its credentials together, heaviest first, with their names and weights."""
    openai, lab = rows.provider("openai"), rows.provider("lab", LAB, own=True)
    rows.credential(openai, "spare", "sk-aaa", weight=1)
    rows.credential(openai, "main", "sk-bbb", weight=5)
    rows.model("small", (openai, "gpt-4o-mini"), (lab, "m"), (openai, "gpt-4o"))
    targets = rows.source().current.models["small"].targets
    assert [(target.name, target.credential, target.credential_weight) for target in targets] == [
        ("openai/gpt-4o-mini", "main", 5),
        ("openai/gpt-4o-mini", "spare", 1),
        ("lab/m", "", 1),
        ("openai/gpt-4o", "main", 5),
        ("openai/gpt-4o", "spare", 1),
    ]
    assert len({target.endpoint.key for target in targets if target.provider == "openai"}) == 1
    assert [target.priority for target in targets] == [0, 0, 1, 2, 2]


def test_a_name_that_several_offer_is_tried_in_order(rows: Rows) -> None:
    """Each provider is a tier of its own, the older first, at equal weight; their pins stay the first choice."""
    rows.provider("one", "http://10.0.0.1/v1", own=True)
    two = rows.provider("two", "http://10.0.0.2/v1", own=True)
    rows.credential(two, "x", "sk-x")
    rows.credential(two, "y", "sk-y")
    rows.write("INSERT INTO provider_models VALUES ('prv_one', 'qwen', 1), ('prv_two', 'qwen', 1)")
    current = rows.source().current
    targets = current.models["qwen"].targets
    assert [(target.provider, target.priority, target.weight) for target in targets] == [
        ("one", 0, 1),
        ("two", 1, 1),
        ("two", 1, 1),
    ]
    assert current.pins["two/qwen"].targets[0].priority == 0


def test_a_place_is_the_same_for_all_that_have_it(rows: Rows) -> None:
    """Declared model, alias, offered name and pin share the place of a target; another address is another place."""
    lab = rows.provider("lab", LAB, own=True)
    rows.write("INSERT INTO provider_models VALUES ('prv_lab', 'm', 1), ('prv_lab', 'n', 1)")
    rows.model("small", (lab, "m"))
    rows.model("other", (lab, "n"), (lab, "m"))
    source = rows.source()
    current = source.current
    same = {
        current.models["small"].targets[0].place,
        current.models["other"].targets[1].place,
        current.models["m"].targets[0].place,
        current.pins["lab/m"].targets[0].place,
    }
    assert len(same) == 1
    assert current.models["other"].targets[0].place not in same
    rows.write("UPDATE providers SET base_url = 'http://10.0.0.8:8000/v1'")
    source.load()
    assert source.current.models["small"].targets[0].place not in same


async def test_the_built_in_model_keeps_its_place_over_restarts(rows: Rows) -> None:
    """Its place does not depend on the port on which the supervisor started it; it goes on from given text."""
    rows.provider("local", "http://127.0.0.1:1/v1", builtin=True)
    source = rows.source()
    before = source.current.models["smollm2-135m"].targets[0]
    source.set_local(43210, Secret("engine-key"))
    async with asyncio.timeout(5):
        while (after := source.current.models["smollm2-135m"].targets[0]).endpoint.port != 43210:
            await asyncio.sleep(0)
    assert after.place == before.place
    assert "43210" not in after.place
    assert after.assistant_prefix == "plain"


def test_what_is_written_of_the_assistant_prefix_counts(rows: Rows) -> None:
    """A provider's own word on how it goes on from given text is in its targets."""
    lab = rows.provider("lab", LAB, own=True)
    rows.model("small", (lab, "m"))
    rows.write("UPDATE providers SET assistant_prefix = 'continue_flag'")
    assert rows.source().current.models["small"].targets[0].assistant_prefix == "continue_flag"


def test_an_alias_is_another_name_for_a_model(rows: Rows) -> None:
    """It has the model's targets, a card of its own that says whose it is, and a place in the list after the models."""
    lab = rows.provider("lab", LAB, own=True)
    rows.write("INSERT INTO provider_models VALUES ('prv_lab', 'offered', 1), ('prv_lab', 'hidden', 1)")
    rows.model("small", (lab, "m"))
    rows.model("big", (lab, "n"))
    rows.write("""UPDATE models SET aliases = '["fast", "hidden"]' WHERE name = 'small'""")
    models = rows.source().current.models
    assert list(models) == ["small", "big", "fast", "hidden", "offered"]
    assert (models["fast"].name, models["fast"].alias_of) == ("fast", "small")
    assert models["fast"].targets is models["small"].targets
    card, own = json.loads(models["fast"].card), json.loads(models["small"].card)
    assert card["potluck"].pop("alias_of") == "small"
    assert card == own | {"id": "fast"}
    assert models["hidden"].alias_of == "small"
    assert models["small"].alias_of == ""


def test_an_alias_never_hides_a_model_or_a_pin(rows: Rows) -> None:
    """Declared names and pins win, the older model's alias wins over the younger's, none outlives its model."""
    lab = rows.provider("lab", LAB, own=True)
    rows.provider("local", "http://127.0.0.1:1/v1", builtin=True)
    rows.write("INSERT INTO provider_models VALUES ('prv_lab', 'm', 1)")
    rows.model("small", (lab, "m"))
    rows.model("big", (lab, "n"))
    rows.model("mine", ("prv_local", "smollm2-135m"))
    rows.write("""UPDATE models SET aliases = '["big", "lab/m", "small", "both"]' WHERE name = 'small'""")
    rows.write("""UPDATE models SET aliases = '["both"]' WHERE name = 'big'""")
    rows.write("""UPDATE models SET aliases = '["ours"]' WHERE name = 'mine'""")
    current = rows.source().current
    assert {name: model.alias_of for name, model in current.models.items() if model.alias_of} == {
        "both": "small",
        "ours": "mine",
    }
    assert current.models["big"].targets[0].name == "lab/n"
    assert "lab/m" not in current.models
    assert "ours" not in rows.source(local_model=False).current.models


def test_a_key_keeps_the_order_of_its_models(rows: Rows) -> None:
    """The order in which a key names its models is there, for routes that fall back to them."""
    secret, _, _ = rows.key("web")
    free, _, _ = rows.key("free")
    rows.write("""UPDATE api_keys SET models = '["z", "a", "m"]' WHERE name = 'web'""")
    source = rows.source()
    key = source.current.keys[source.hash_key(secret.encode())]
    assert key.model_order == ("z", "a", "m")
    assert key.models == {"a", "m", "z"}
    assert source.current.keys[source.hash_key(free.encode())].model_order == ()


def test_a_provider_with_a_probe_can_be_asked(rows: Rows) -> None:
    """Per credential a target and a ready `GET /models`; a paid probe has its model, price and heads; others none."""
    openai, lab = rows.provider("openai"), rows.provider("lab", LAB, own=True)
    rows.provider("silent", "http://10.0.0.9/v1")
    rows.provider("local", "http://127.0.0.1:1/v1", builtin=True)
    rows.credential(openai, "spare", "sk-aaa", weight=1)
    rows.credential(openai, "main", "sk-bbb", weight=5)
    paid = '{"every_s": 30, "model": "gpt-4o-mini", "budget_usd_per_day": 0.1}'
    rows.write("UPDATE providers SET probe = ? WHERE id = 'prv_openai'", values=(paid,))
    rows.write("UPDATE providers SET probe = '{}' WHERE id IN ('prv_lab', 'prv_local')")
    current = rows.source().current
    first, second = current.probes
    assert (first.provider_id, first.provider, first.probe) == (openai, "openai", Probe(30, "gpt-4o-mini", 0.1))
    assert [target.credential for target in first.targets] == ["main", "spare"]
    pin = current.pins["openai/gpt-4o-mini"].targets[0]
    assert (first.targets[0].place, first.targets[0].price) == (pin.place, pin.price)
    assert first.targets[0].heads["chat"].wire == pin.heads["chat"].wire
    head = first.models_heads[1]
    assert head.wire.startswith(b"GET /v1/models HTTP/1.1\r\nhost: api.openai.com\r\n")
    assert head.wire.endswith(b"\r\ncontent-length: ")
    assert b"\r\nauthorization: Bearer sk-aaa\r\n" in head.wire
    assert ("authorization", "Bearer sk-aaa") in head.headers
    assert "sk-aaa" not in repr(first)
    assert (second.provider_id, second.probe) == (lab, Probe())
    (free,) = second.targets
    assert (free.heads, free.unroutable, free.endpoint.host) == ({}, "", "10.0.0.7")
    assert len(second.models_heads) == 1


def test_a_paid_probe_without_a_price_is_not_sent(rows: Rows) -> None:
    """Its target says so, as any other without a price does; an operator's price mends it."""
    rows.provider("shop", "https://shop.example.com/v1")
    rows.write("""UPDATE providers SET probe = '{"model": "m"}'""")
    source = rows.source()
    assert "potluck model price shop/m" in source.current.probes[0].targets[0].unroutable
    rows.write(
        "INSERT INTO prices (id, organisation_id, model, price, created_at_ms, updated_at_ms) VALUES ('prc_1', 'org_1',"
        """ 'shop/m', '{"input":5,"output":6,"version":"operator:1","source":"operator"}', 1, 1)"""
    )
    asyncio.run(source.refresh(Change(rows.version, prices=True)))
    assert source.current.probes[0].targets[0].unroutable == ""


async def test_many_targets_and_aliases_are_compiled_in_slices(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred models with twenty targets and ten credentials each: no step between two yields is long."""
    openai = rows.provider("openai", OPENAI)
    for number in range(10):
        rows.credential(openai, f"c{number}", f"sk-{number}")
    connection = connect(rows.store.main_path)
    connection.execute("BEGIN")
    for number in range(200):
        aliases = json.dumps([f"alias-{number}-{count}" for count in range(5)])
        connection.execute(
            "INSERT INTO models (id, organisation_id, name, aliases, created_at_ms, updated_at_ms)"
            " VALUES (?, 'org_1', ?, ?, 1, 1)",
            (f"mdl_{number}", f"model-{number}", aliases),
        )
        connection.executemany(
            "INSERT INTO targets (id, organisation_id, model_id, provider_id, upstream_model, position, capabilities,"
            " created_at_ms, updated_at_ms) VALUES (?, 'org_1', ?, 'prv_openai', ?, ?, '[\"chat\"]', 1, 1)",
            [(f"tgt_{number}_{place}", f"mdl_{number}", f"gpt-{place}", place) for place in range(20)],
        )
    connection.execute("COMMIT")
    connection.close()
    source = rows.source()
    assert len(source.current.models["alias-7-3"].targets) == 200
    steps: list[float] = []
    compile_ = SnapshotStore._compile

    def timed(source: SnapshotStore, *of: Any) -> Generator[None, None, Any]:
        work = compile_(source, *of)
        while True:
            started = time.thread_time()
            try:
                next(work)
            except StopIteration as done:
                return done.value
            finally:
                steps.append(time.thread_time() - started)
            yield

    monkeypatch.setattr(SnapshotStore, "_compile", timed)
    await source.refresh(EVERYTHING)
    steps.sort()
    assert len(steps) > 500
    assert steps[int(len(steps) * 0.98)] < 0.002, steps[-10:]


def test_a_declared_place_can_be_pinned(rows: Rows) -> None:
    """What a declared model names is a pin, listed by its provider or not, at the price of its target."""
    lab = rows.provider("lab", LAB, own=True)
    price = '{"input": 5, "output": 6, "version": "operator:1", "source": "operator"}'
    rows.model("small", (lab, "qwen/2.5"), price=price)
    pins = rows.source().current.pins
    assert list(pins) == ["lab/qwen/2.5"]
    (target,) = pins["lab/qwen/2.5"].targets
    assert target.price is not None
    assert (target.price.input, target.price.version) == (5, "operator:1")


def test_a_listed_place_without_a_price_is_pinned_as_it_was_declared(rows: Rows) -> None:
    """A pin that its provider's list left without a price takes the declared target's; a priced one stays as it is."""
    shop = rows.provider("shop", "https://shop.example.com/v1")
    rows.write("INSERT INTO provider_models VALUES ('prv_shop', 'm', 1), ('prv_shop', 'n', 1)")
    rows.model("closed", (shop, "m"), placement="own")
    assert "no price" in rows.source().current.pins["shop/m"].targets[0].unroutable
    price = '{"input": 5, "output": 6, "version": "operator:1", "source": "operator"}'
    rows.model("small", (shop, "m"), price=price)
    current = rows.source().current
    (target,) = current.pins["shop/m"].targets
    assert target.unroutable == ""
    assert target.price is not None
    assert target.price.version == "operator:1"
    assert json.loads(current.pins["shop/m"].card)["potluck"]["targets"][0]["routable"]
    assert "no price" in current.pins["shop/n"].targets[0].unroutable


def test_a_provider_whose_keys_are_all_disabled_is_out(rows: Rows) -> None:
    """None of its targets is called, with the command that mends it, nor is it probed; one without any key is called
    without one."""
    shop, lab = rows.provider("shop", OPENAI), rows.provider("lab", LAB, own=True)
    rows.credential(shop, "main", "sk-aaa")
    rows.credential(shop, "spare", "sk-bbb")
    rows.model("small", (shop, "gpt-4o-mini"), (lab, "m"))
    rows.write("UPDATE providers SET probe = '{}'")
    rows.write("UPDATE credentials SET disabled = 1")
    source = rows.source()
    current = source.current
    out, free = current.models["small"].targets
    said = "no enabled credential: potluck credential update shop/NAME --enable"
    assert (out.unroutable, free.unroutable) == (said, "")
    assert current.pins["shop/gpt-4o-mini"].targets[0].unroutable == said
    assert [probe.provider for probe in current.probes] == ["lab"]
    rows.write("UPDATE credentials SET disabled = 0 WHERE name = 'spare'")
    asyncio.run(source.refresh(Change(rows.version, providers=frozenset({shop}), models=True)))
    (back, _) = source.current.models["small"].targets
    assert (back.credential, back.unroutable) == ("spare", "")


def test_what_is_written_down_is_told_from_what_is_listed(rows: Rows) -> None:
    """Declared models and aliases are `declared`; offered names and pins are not."""
    lab = rows.provider("lab", LAB, own=True)
    rows.write("INSERT INTO provider_models VALUES ('prv_lab', 'offered', 1)")
    rows.model("small", (lab, "m"))
    rows.write("""UPDATE models SET aliases = '["s"]'""")
    current = rows.source().current
    declared = {name: model.declared for name, model in (current.models | current.pins).items()}
    assert declared == {"small": True, "s": True, "offered": False, "lab/m": False, "lab/offered": False}
