"""`config apply`: idempotent, all or nothing, removes only what it made; diff and export."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from potluck.config.errors import ConfigError
from potluck.config.reading import parse
from potluck.runtime.configuration import AppliedFile, apply_file

FILE = """
[[providers]]
name = "lab"
base_url = "http://127.0.0.1:9/v1"
own = true
credentials = [{ name = "main", key = "${LAB_KEY}", weight = 2 }]

[[models]]
name = "small"
targets = [{ target = "lab/qwen" }, { target = "lab/phi", price = { input = 0.02, output = 0.05 } }]

[[projects]]
name = "web"
data_class = "private"

[[keys]]
name = "web-backend"
project = "web"
models = ["small"]
"""
VARIABLES = {"LAB_KEY": "lab-canary"}


async def post(api: Any, what: str, text: str, variables: dict[str, str] | None = None) -> Any:
    body = {"text": text, "variables": VARIABLES if variables is None else variables}
    return await api.post(f"/api/v1/config/{what}", json=body)


def lines(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [f"{each['action']} {each['kind']} {each['name']}" for each in answer.json()["changes"]]


def adopted(answer: Any) -> list[str]:
    return [f"{each['kind']} {each['name']}" for each in answer.json()["adopted"]]


EVERYTHING = ["project web", "provider lab", "credential lab/main", "model small", "key web-backend"]


async def test_apply_makes_it_so_once(gateway: Any, api: Any) -> None:
    """The first apply adds everything and shows the new key's secret; the second changes nothing, nor the version."""
    applied = await post(api, "apply", FILE)
    assert lines(applied) == [f"add {each}" for each in EVERYTHING]
    (secret,) = applied.json()["secrets"]
    assert gateway.finds(secret["secret"])
    assert [each.name for each in gateway.snapshots.current.models["small"].targets] == ["lab/qwen", "lab/phi"]
    target = gateway.snapshots.current.models["small"].targets[0]
    assert b"Bearer lab-canary" in target.heads["chat"].wire
    version = gateway.snapshots.current.version
    again = await post(api, "apply", FILE)
    assert lines(again) == []
    assert again.json()["secrets"] == []
    assert gateway.snapshots.current.version == version


async def test_diff_says_and_does_nothing(gateway: Any, api: Any) -> None:
    """What diff lists is what apply does next, and after diff nothing has changed."""
    before = gateway.snapshots.current
    assert lines(await post(api, "diff", FILE)) == [f"add {each}" for each in EVERYTHING]
    assert gateway.snapshots.current is before
    assert (await api.get("/api/v1/providers/lab")).status_code == 404
    await post(api, "apply", FILE)
    changed = FILE.replace("weight = 2", "weight = 3").replace("0.02", "0.03").replace('"private"', '"open"')
    expected = ["change project web", "change credential lab/main", "change model small"]
    assert lines(await post(api, "diff", changed)) == expected
    assert lines(await post(api, "apply", changed)) == expected
    assert lines(await post(api, "apply", changed)) == []
    rotated = {"LAB_KEY": "lab-canary-2"}
    assert lines(await post(api, "apply", changed, rotated)) == ["change credential lab/main"]
    target = gateway.snapshots.current.models["small"].targets[0]
    assert b"Bearer lab-canary-2" in target.heads["chat"].wire


async def test_it_removes_only_what_it_made(gateway: Any, api: Any) -> None:
    """An empty file removes the file's objects; the first key, the built-in model and handmade objects stay."""
    await api.post("/api/v1/providers", json={"name": "mine", "base_url": "http://127.0.0.1:9/v1", "own": True})
    applied = await post(api, "apply", FILE)
    secret = applied.json()["secrets"][0]["secret"]
    removed = lines(await post(api, "apply", FILE.partition("[[projects]]")[0]))
    assert removed == ["remove key web-backend", "release project web"]
    assert not gateway.finds(secret)
    assert lines(await post(api, "apply", "")) == ["remove model small", "remove provider lab"]
    names = [each["name"] for each in (await api.get("/api/v1/providers")).json()["data"]]
    assert names == ["local", "mine"]
    assert gateway.finds(gateway.api_key)
    assert "smollm2-135m" in gateway.snapshots.current.models


async def test_what_it_took_over_it_lets_go(api: Any) -> None:
    """A handmade provider that a file names is the file's while it does, read-only by hand, and free again after."""
    await api.post("/api/v1/providers", json={"name": "lab", "base_url": "http://127.0.0.1:1/v1", "own": True})
    file = FILE.partition("[[models]]")[0]
    assert lines(await post(api, "apply", file)) == ["change provider lab", "add credential lab/main"]
    shown = (await api.get("/api/v1/providers/lab")).json()
    assert shown["origin"] == "file"
    refused = await api.patch("/api/v1/providers/lab", json={"own": False})
    assert refused.status_code == 409
    assert "configuration file" in refused.json()["detail"]
    assert (await api.delete(f"/api/v1/credentials/{shown['credentials'][0]['id']}")).status_code == 409
    assert lines(await post(api, "apply", "")) == ["release provider lab"]
    assert (await api.patch("/api/v1/providers/lab", json={"own": False})).status_code == 200


async def test_all_or_nothing(gateway: Any, api: Any) -> None:
    """A fault in the last object leaves nothing of the first, and the message names the object."""
    before = gateway.snapshots.current.version
    broken = FILE + '\n[[keys]]\nname = "other"\nproject = "nobody"\n'
    answer = await post(api, "apply", broken)
    assert answer.status_code == 404
    assert "key other" in answer.json()["where"]
    assert (await api.get("/api/v1/providers/lab")).status_code == 404
    assert gateway.snapshots.current.version == before


async def test_every_mistake_is_reported_at_once(api: Any) -> None:
    """A text with several faults is refused with all of them, each with its line; `check` says the same, with 200."""
    text = '[[providers]]\nname = "a b"\nbase_url = "ftp://x"\n\n[[modles]]\n'
    answer = await post(api, "apply", text)
    assert answer.status_code == 400
    assert {problem["line"] for problem in answer.json()["problems"]} >= {2, 5}
    checked = (await post(api, "check", text)).json()
    assert checked["ok"] is False
    assert checked["problems"] == answer.json()["problems"]
    assert (await post(api, "check", FILE)).json() == {"ok": True, "problems": [], "warnings": []}
    missing = await post(api, "apply", FILE, {})
    assert "LAB_KEY" in missing.json()["detail"]


async def test_apply_says_all_that_is_wrong(gateway: Any, api: Any) -> None:
    """What it refuses comes out at once, each with file and line, as `check` and the start with a file say it."""
    text = """[[providers]]
name = "lab"
base_url = "http://127.0.0.1:9/v1"

[[models]]
name = "m"
targets = [{ target = "gone/a" }]

[[keys]]
name = "k"
project = "nobody"
models = ["m", "mm"]

[[routes]]
name = "r"
match = { models = ["later"], projects = ["nobody"], keys = ["none"] }
constraints = { only = ["lob"] }
fallback = ["mn"]
"""
    places = [
        (7, "models[0].targets[0].target"),
        (11, "keys[0].project"),
        (16, "routes[0].match.projects[0]"),
        (16, "routes[0].match.keys[0]"),
        (17, "routes[0].constraints.only[0]"),
        (18, "routes[0].fallback[0]"),
    ]
    for verb in ("diff", "apply"):
        answer = await post(api, verb, text)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        assert [(each["line"], each["where"]) for each in answer.json()["problems"]] == places
        told = answer.json()["detail"].splitlines()
        assert [each.split(": ")[:2] for each in told] == [[f"potluck.toml:{line}", where] for line, where in places]
    checked = (await post(api, "check", text)).json()
    assert checked["problems"] == answer.json()["problems"]
    assert [(each["line"], each["where"]) for each in checked["warnings"]] == [
        (12, "keys[0].models[1]"),
        (16, "routes[0].match.models[0]"),
    ]
    both = await post(api, "apply", text.replace('name = "lab"', 'name = "any"'))
    assert [each["line"] for each in both.json()["problems"]] == [2, 7, 11, 16, 16, 17, 18]
    assert (await api.get("/api/v1/providers/lab")).status_code == 404


async def test_apply_warns_of_what_may_come_later(api: Any) -> None:
    """A rule for a model that there is not, and a pattern in a key's list, are applied, with a warning each."""
    text = '[[routes]]\nname = "r"\nmatch = { models = ["later"] }\n\n[[keys]]\nname = "k"\nmodels = ["gpt-*"]\n'
    for verb in ("diff", "apply"):
        warned = (await post(api, verb, text)).json()["warnings"]
        assert [(each["line"], each["where"]) for each in warned] == [
            (3, "routes[0].match.models[0]"),
            (7, "keys[0].models[0]"),
        ]
        assert "letter by letter" in warned[1]["message"]


async def test_an_export_applied_changes_no_object(api: Any) -> None:
    """What export writes is a valid file without secrets; applying it takes the objects over and changes no value."""
    await post(api, "apply", FILE)
    text = (await api.get("/api/v1/config/export")).json()["text"]
    assert "canary" not in text
    document = parse(text, {"LAB_API_KEY": "lab-canary"})
    assert [each.name for each in document.models] == ["small"]
    before = (await api.get("/api/v1/models/small")).json()
    applied = await post(api, "apply", text, {"LAB_API_KEY": "lab-canary"})
    assert (lines(applied), adopted(applied)) == ([], ["project default", "key first"])
    assert (await api.get("/api/v1/models/small")).json() == before


async def test_a_given_api_key_is_taken(gateway: Any, api: Any) -> None:
    """A key whose secret the file brings is in force with it, is not shown, and changes when the variable does."""
    text = '[[keys]]\nname = "fixed"\nkey = "${K}"\n'
    first, second = "plk-" + "a" * 46, "plk-" + "b" * 46
    applied = await post(api, "apply", text, {"K": first})
    assert applied.json()["secrets"] == []
    assert gateway.finds(first)
    await post(api, "apply", text, {"K": second})
    assert gateway.finds(second)
    assert not gateway.finds(first)
    assert (await post(api, "apply", text, {"K": "short"})).status_code == 400


def test_a_file_at_start_is_applied_before_anything_listens(gateway: Any, tmp_path: Path) -> None:
    """The lines say what changed and show a new secret once; the next start changes nothing, nor does a faulty file."""
    file = tmp_path / "potluck.toml"
    file.write_text(FILE)
    applied = apply_file(gateway.store, gateway.first.vault, file, VARIABLES)
    assert applied.lines[: len(EVERYTHING)] == [f"potluck.toml: add {each}" for each in EVERYTHING]
    assert applied.providers == ["lab"]
    gateway.snapshots.load()
    assert gateway.finds(applied.lines[-1])
    assert apply_file(gateway.store, gateway.first.vault, file, VARIABLES) == AppliedFile([], [])
    changed = FILE.replace("weight = 2", "weight = 3").replace('["small"]', '["small", "smal"]')
    file.write_text(changed)
    applied = apply_file(gateway.store, gateway.first.vault, file, VARIABLES)
    assert applied.providers == ["lab"]
    assert applied.lines[0] == (
        "potluck.toml:19: keys[0].models[1]: warning: no model is called 'smal' now; did you mean 'small'?"
    )
    file.write_text(FILE.replace('project = "web"', 'project = "nobody"'))
    with pytest.raises(ConfigError, match=r"^potluck.toml:18: keys\[0\].project: .*nobody"):
        apply_file(gateway.store, gateway.first.vault, file, VARIABLES)
    file.write_text("[[providers]]")
    with pytest.raises(ConfigError):
        apply_file(gateway.store, gateway.first.vault, file, VARIABLES)


async def test_operator_prices_survive_export_and_apply(
    gateway: Any, api: Any, make_gateway: Callable[[str], Any]
) -> None:
    """Prices set by hand are in the export; a new home that it is applied to has the same, and applies it once."""
    await post(api, "apply", FILE)
    cheap = {"input": 0.15, "output": 0.6, "cached_input": 0.075, "per_request": 0.001}
    for model, price in (("lab/qwen", cheap), ("small", {"input": 0, "output": 0})):
        assert (await api.post("/api/v1/prices", json={"model": model, "price": price})).status_code == 200
    text = (await api.get("/api/v1/config/export")).json()["text"]
    other = make_gateway("other")
    async with other.client() as there:
        applied = await post(there, "apply", text, {"LAB_API_KEY": "lab-canary"})
        assert "add price lab/qwen" in lines(applied)
        assert "add price small" in lines(applied)
        kept = [(each["model"], each["price"]) for each in (await api.get("/api/v1/prices")).json()["data"]]
        prices = (await there.get("/api/v1/prices")).json()["data"]
        assert [(each["model"], each["price"]) for each in prices] == kept
        target = other.snapshots.current.models["small"].targets[0]
        assert (target.price.input, target.price.per_request) == (150_000_000, 1_000_000)
        assert lines(await post(there, "apply", text, {"LAB_API_KEY": "lab-canary"})) == []


async def test_a_files_price_is_the_files(api: Any) -> None:
    """A price that a file made is read-only by hand, changes with the file, and goes with it; a handmade one stays."""
    await api.post("/api/v1/prices", json={"model": "mine", "price": {"input": 1, "output": 1}})
    text = '[[prices]]\nmodel = "m"\ninput = 1\noutput = 2\n\n[[prices]]\nmodel = "mine"\ninput = 1\noutput = 1\n'
    planned = await post(api, "diff", text)
    assert (lines(planned), adopted(planned)) == (["add price m"], ["price mine"])
    await post(api, "apply", text)
    refused = await api.post("/api/v1/prices", json={"model": "m", "price": {"input": 3, "output": 3}})
    assert refused.status_code == 409
    assert "price 'm' comes from a configuration file" in refused.json()["detail"]
    assert lines(await post(api, "apply", text.replace("output = 2", "output = 3"))) == ["change price m"]
    assert lines(await post(api, "apply", "")) == ["remove price m", "release price mine"]
    assert [each["model"] for each in (await api.get("/api/v1/prices")).json()["data"]] == ["mine"]


async def test_the_same_price_again_keeps_its_version(api: Any) -> None:
    """Records refer to a price by its version: setting what is set already makes no new one."""
    body = {"model": "m", "price": {"input": 1, "output": 2}}
    first = (await api.post("/api/v1/prices", json=body)).json()
    assert (await api.post("/api/v1/prices", json=body)).json() == first


async def problems_of(api: Any, text: str, variables: dict[str, str] | None = None) -> list[str]:
    found = (await post(api, "check", text, variables)).json()
    assert found["ok"] is not bool(found["problems"])
    return [f"{each['line']} {each['where']}: {each['message']}" for each in found["problems"]]


async def test_check_finds_every_reference_that_leads_nowhere(gateway: Any, api: Any) -> None:
    """Unknown providers and projects come out together, with their places, beside faults of the text; nothing is made.

    What the store has counts, and so does what the file itself names, be it faulty.
    """
    await api.post("/api/v1/providers", json={"name": "mine", "base_url": "http://127.0.0.1:9/v1", "own": True})
    text = """[[providers]]
name = "lab"
base_url = "ftp://h"

[[models]]
name = "m"
targets = [{ target = "mine/a" }, { target = "gone/a" }, { target = "lab/a" }, { target = "away/b" }]

[[models]]
name = "m"
targets = [{ target = "gone/b", prize = 1 }]

[[keys]]
name = "k"
project = "nobody"

[[keys]]
name = "l"
project = "default"
"""
    before = gateway.snapshots.current
    providers = "(known: lab, local, mine)"
    assert await problems_of(api, text) == [
        "3 providers[0].base_url: is not an http(s) URL: write https://host/v1",
        f"7 models[0].targets[1].target: there is no provider 'gone', in this file or in the gateway {providers}",
        f"7 models[0].targets[3].target: there is no provider 'away', in this file or in the gateway {providers}",
        "10 models[1].name: two of them are named 'm': give each its own name",
        "11 models[1].targets[0].prize: unknown member; did you mean 'price'?",
        f"11 models[1].targets[0].target: there is no provider 'gone', in this file or in the gateway {providers}",
        "15 keys[0].project: there is no project 'nobody', in this file or in the gateway (known: default)",
    ]
    assert gateway.snapshots.current is before
    assert [each["name"] for each in (await api.get("/api/v1/keys")).json()["data"]] == ["first"]


async def test_check_finds_what_apply_would_refuse(api: Any) -> None:
    """Each is refused by apply too: dialects not spoken, the built-in provider, keys of no shape, expiries gone by."""
    text = """[[providers]]
name = "a"
base_url = "https://h/v1"
dialect = "anthropic"

[[providers]]
name = "local"
base_url = "https://h/v1"

[[models]]
name = "m"
targets = [{ target = "a/x" }]

[[keys]]
name = "k"
key = "${K}"

[[keys]]
name = "l"
expires_at = 2001-01-01T00:00:00Z
"""
    found = await problems_of(api, text, {"K": "short"})
    assert [each.partition(": ")[0] for each in found] == [
        "4 providers[0].dialect",
        "6 providers[1]",
        "16 keys[0].key",
        "20 keys[1].expires_at",
    ]
    assert (await post(api, "apply", text, {"K": "short"})).status_code == 400


async def test_check_knows_what_applying_removes(api: Any) -> None:
    """A provider that an earlier file made is gone once this file no longer names it: a target there is a fault."""
    await post(api, "apply", FILE)
    assert await problems_of(api, FILE) == []
    text = '[[models]]\nname = "new"\ntargets = [{ target = "lab/a" }]\n'
    assert await problems_of(api, text) == [
        "3 models[0].targets[0].target: provider 'lab' is an earlier file's, and applying this one removes it"
    ]
    assert (await post(api, "apply", text)).status_code == 409
    await api.post("/api/v1/models", json={"name": "hand", "targets": [{"target": "lab/a"}]})
    (found,) = await problems_of(api, "")
    assert found == "0 : provider lab: model 'hand' has a target at provider 'lab': remove that target first"


async def test_an_export_has_no_model_without_a_target(api: Any) -> None:
    """The format has no form for one, and it serves nothing: what is exported can be applied."""
    await api.post("/api/v1/models", json={"name": "empty"})
    text = (await api.get("/api/v1/config/export")).json()["text"]
    assert "empty" not in text
    assert await problems_of(api, text) == []


ROUTED = """
[[providers]]
name = "lab"
base_url = "http://127.0.0.1:9/v1"
own = true
assistant_prefix = "plain"
probe = { every_s = 30, model = "qwen", budget_usd_per_day = 0.1 }

[[models]]
name = "small"
aliases = ["tiny"]
targets = [{ target = "lab/qwen", weight = 3, priority = 0, slots = 4 }, { target = "lab/phi", priority = 0 }]

[[projects]]
name = "web"

[[routes]]
name = "frugal"
match = { models = ["small"], projects = ["web", "*"] }
strategy = "cheapest"
fallback = ["node:*", "tiny", "lab/other"]
timeouts = { connect_s = 5, first_token_s = 60, idle_s = 30, total_s = 900 }
hedge = { after = "p95" }

[[routes]]
name = "ab"
strategy = "weighted"
split = "user"
constraints = { ignore = ["local"], max_price = { output = 0.5 }, data_class = "private" }
hedge = { after = 300, max_extra = 0.1 }
affinity = true
"""


async def test_routes_of_a_file(gateway: Any, api: Any, make_gateway: Callable[[str], Any]) -> None:
    """They are tried in the file's order, are read-only by hand, survive export and apply, and go with the file."""
    applied = await post(api, "apply", ROUTED)
    added = ["project web", "provider lab", "model small", "route frugal", "route ab"]
    assert lines(applied) == [f"add {each}" for each in added]
    assert [route.name for route in gateway.snapshots.current.routes] == ["frugal", "ab"]
    assert lines(await post(api, "apply", ROUTED)) == []
    assert await problems_of(api, ROUTED) == []
    refused = await api.patch("/api/v1/routes/ab", json={"split": "key"})
    assert (refused.status_code, refused.json()["code"]) == (409, "kept_by_file")
    assert (await api.delete("/api/v1/routes/ab")).status_code == 409

    text = (await api.get("/api/v1/config/export")).json()["text"]
    head, first, second = ROUTED.split("[[routes]]")
    assert first.strip().replace(', projects = ["web", "*"]', "") in text.replace(', projects = ["web", "*"]', "")
    assert second.strip() in text
    applied = await post(api, "apply", text)
    assert (lines(applied), adopted(applied)) == ([], ["project default", "key first"])
    applied = await post(api, "apply", text)
    assert (lines(applied), adopted(applied)) == ([], [])
    other = make_gateway("other")
    async with other.client() as there:
        assert "add route frugal" in lines(await post(there, "apply", text))
        routes = [(await client.get("/api/v1/routes")).json()["data"] for client in (api, there)]
        members = ("match", "constraints", "fallback", "timeouts", "hedge", "affinity")
        assert [[each[name] for name in members] for each in routes[0]] == [
            [each[name] for name in members] for each in routes[1]
        ]

    swapped = f"{head}[[routes]]{second}[[routes]]{first}"
    changes = lines(await post(api, "diff", swapped))
    assert changes == ["change route ab", "change route frugal", "release key first", "release project default"]
    await post(api, "apply", swapped)
    assert [route.name for route in gateway.snapshots.current.routes] == ["ab", "frugal"]
    await post(api, "apply", head)
    assert gateway.snapshots.current.routes == ()


async def test_the_example_of_a_route_applies_but_for_its_cache(api: Any) -> None:
    """A cache policy inside a route is refused in one line; without it the route is taken."""
    text = ROUTED.partition('[[routes]]\nname = "ab"')[0]
    (problem,) = await problems_of(api, text + "cache = { ttl_s = 300 }\n")
    assert problem.endswith("routes[0].cache: cache policies are not in this version of Potluck yet: remove `cache`")
    assert await problems_of(api, text) == []


async def test_check_finds_what_routes_do_not_lead_to(api: Any) -> None:
    """Fallbacks, projects and keys, looked up in the text and in the gateway; apply refuses the first of them."""
    await api.post("/api/v1/providers", json={"name": "mine", "base_url": "http://127.0.0.1:9/v1", "own": True})
    await api.post("/api/v1/models", json={"name": "hand", "targets": [{"target": "mine/a"}]})
    text = """[[models]]
name = "m"
aliases = ["n"]
targets = [{ target = "mine/a" }]

[[routes]]
name = "r"
match = { projects = ["default", "nobody", "no*"], keys = ["first", "k", "z"] }
fallback = ["m", "n", "hand", "mine/x", "smollm2-135m", "key:*", "hant", "our/x", "r"]

[[keys]]
name = "k"
"""
    anything = "model, alias, provider/model or pattern with *"
    assert await problems_of(api, text) == [
        "8 routes[0].match.projects[1]: there is no project 'nobody', in this file or in the gateway (known: default)",
        "8 routes[0].match.keys[2]: there is no key 'z', in this file or in the gateway (known: first, k)",
        f"9 routes[0].fallback[6]: 'hant' names no {anything}; did you mean 'hand'?",
        "9 routes[0].fallback[7]: there is no provider 'our' (known: local, mine)",
        f"9 routes[0].fallback[8]: 'r' is a route: a fallback is a {anything}",
    ]
    answer = await post(api, "apply", text)
    assert (answer.status_code, answer.json()["where"]) == (404, "route r: fallback")
    assert (await api.get("/api/v1/models/m")).status_code == 404


async def test_names_of_a_file_are_judged_when_it_is_in_place(api: Any) -> None:
    """An alias may become a model and a route give its name away in one apply; a name of a handmade object may not."""
    await api.post("/api/v1/providers", json={"name": "mine", "base_url": "http://127.0.0.1:9/v1", "own": True})
    model = '[[models]]\nname = "{}"\naliases = [{}]\ntargets = [{{ target = "mine/a" }}]\n'
    assert len(lines(await post(api, "apply", model.format("m", '"x"') + '[[routes]]\nname = "y"\n'))) == 2
    turned = model.format("x", "") + model.format("m", '"y"')
    assert await problems_of(api, turned) == []
    assert lines(await post(api, "apply", turned)) == ["add model x", "change model m", "remove route y"]
    await api.post("/api/v1/routes", json={"name": "hand"})
    clash = turned.replace('"y"', '"hand"')
    assert await problems_of(api, clash) == [
        "0 : route hand: 'hand' would be an alias of model 'm' and a route: choose another name"
    ]
    refused = await post(api, "apply", clash)
    assert (refused.status_code, refused.json()["where"]) == (409, "route hand")


async def test_a_file_takes_no_model_from_under_a_route(api: Any) -> None:
    """What a route falls back to cannot leave with the file: neither a handmade route's, nor one in the file itself."""
    await post(api, "apply", FILE)
    await api.post("/api/v1/routes", json={"name": "hand", "fallback": ["small"]})
    assert await problems_of(api, "") == ["0 : route hand: route 'hand' falls back to 'small': change that route first"]
    assert (await post(api, "apply", "")).status_code == 409
    await api.delete("/api/v1/routes/hand")
    text = '[[routes]]\nname = "r"\nfallback = ["small"]\n'
    assert await problems_of(api, text) == [
        "3 routes[0].fallback[0]: model 'small' is an earlier file's, and applying this one removes it"
    ]
    assert (await post(api, "apply", text)).json()["code"] == "in_use"


async def test_its_own_export_changes_nothing(gateway: Any, api: Any, make_gateway: Callable[[str], Any]) -> None:
    """However the objects were made, and wherever routes stand, there is nothing to do; a new gateway that it is
    applied to exports the same text."""
    for name in ("zeta", "alpha", "mid"):
        body = {"name": name, "base_url": f"http://{name}.example/v1", "key": f"sk-{name}"}
        assert (await api.post("/api/v1/providers", json=body)).status_code == 201
    for name in ("zz", "aa", "mm", "bb", "yy"):
        targets = [{"target": f"{each}/m-{name}"} for each in ("mid", "alpha", "zeta")]
        await api.post("/api/v1/models", json={"name": name, "targets": targets, "aliases": [f"{name}-y", f"{name}-x"]})
        await api.post("/api/v1/projects", json={"name": f"p-{name}"})
        body = {"name": f"k-{name}", "project": f"p-{name}", "expires_at_ms": 4_102_444_800_123}
        await api.post("/api/v1/keys", json=body)
        await api.post("/api/v1/prices", json={"model": name, "price": {"input": 0.1, "output": 1}})
    for name, position in (("r3", 30), ("r1", -5), ("r2", 7), ("r4", 30)):
        body = {"name": name, "position": position, "fallback": ["aa"], "constraints": {"only": ["zeta"]}}
        assert (await api.post("/api/v1/routes", json=body)).status_code == 201
    text = (await api.get("/api/v1/config/export")).json()["text"]
    variables = {f"{name.upper()}_API_KEY": f"sk-{name}" for name in ("zeta", "alpha", "mid")}
    planned = await post(api, "diff", text, variables)
    assert lines(planned) == []
    assert "route r1" in adopted(planned)
    other = make_gateway("other")
    async with other.client() as there:
        assert "add route r4" in lines(await post(there, "apply", text, variables))
        assert (await there.get("/api/v1/config/export")).json()["text"] == text
        assert [each.name for each in other.snapshots.current.routes] == ["r1", "r2", "r3", "r4"]
        assert lines(await post(there, "diff", text, variables)) == []
    assert lines(await post(api, "apply", text, variables)) == []
    assert [each.position for each in gateway.snapshots.current.routes] == [-5, 7, 30, 30]
    swapped = text.replace('"r1"', '"new"')
    assert "add route new" in lines(await post(api, "apply", swapped, variables))
    # what was made by hand stays, where it was
    assert [each.name for each in gateway.snapshots.current.routes] == ["r1", "new", "r2", "r3", "r4"]
