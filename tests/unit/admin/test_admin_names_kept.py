"""What routes and keys name: it stays while they do, it has to mean something, and some names mean something else."""

from typing import Any

import pytest


@pytest.fixture
async def named(api: Any) -> Any:
    """A provider `lab`, the models `small` (alias `s`) and `spare`, a project `web` with the key `app`."""
    await api.post("/api/v1/providers", json={"name": "lab", "base_url": "http://127.0.0.1:9/v1", "own": True})
    for body in (
        {"name": "small", "aliases": ["s"], "targets": [{"target": "lab/a"}]},
        {"name": "spare", "targets": [{"target": "lab/b"}]},
    ):
        assert (await api.post("/api/v1/models", json=body)).status_code == 201
    await api.post("/api/v1/projects", json={"name": "web"})
    await api.post("/api/v1/keys", json={"name": "app", "project": "web"})
    return api


async def rule(api: Any, **members: Any) -> Any:
    answer = await api.post("/api/v1/routes", json={"name": "r", **members})
    assert answer.status_code == 201, answer.text
    return answer.json()


@pytest.mark.parametrize(
    ("members", "method", "path", "body", "said"),
    [
        ({"match": {"models": ["small"]}}, "PATCH", "models/small", {"name": "t"}, "'small' in `match.models`"),
        ({"match": {"models": ["small"]}}, "DELETE", "models/small", None, "'small' in `match.models`"),
        ({"match": {"models": ["s"]}}, "PATCH", "models/small", {"aliases": []}, "'s' in `match.models`"),
        ({"match": {"models": ["lab/z"]}}, "PATCH", "providers/lab", {"name": "lob"}, "'lab/z' in `match.models`"),
        ({"match": {"projects": ["web"]}}, "PATCH", "projects/web", {"name": "site"}, "'web' in `match.projects`"),
        ({"match": {"projects": ["empty"]}}, "DELETE", "projects/empty", None, "'empty' in `match.projects`"),
        ({"match": {"keys": ["app"]}}, "PATCH", "keys/app", {"name": "app2"}, "'app' in `match.keys`"),
        ({"constraints": {"only": ["lab"]}}, "PATCH", "providers/lab", {"name": "x"}, "'lab' in `constraints.only`"),
        ({"constraints": {"ignore": ["idle"]}}, "DELETE", "providers/idle", None, "'idle' in `constraints.ignore`"),
        (
            {"constraints": {"only": ["lab/a"]}},
            "PATCH",
            "providers/lab",
            {"name": "x"},
            "'lab/a' in `constraints.only`",
        ),
    ],
)
async def test_what_a_rule_names_is_not_taken_away(
    named: Any, members: Any, method: str, path: str, body: Any, said: str
) -> None:
    """Renaming or removing it is refused with the rule to change; once that names it no longer, it goes."""
    await named.post("/api/v1/projects", json={"name": "empty"})
    await named.post("/api/v1/providers", json={"name": "idle", "base_url": "http://127.0.0.1:9/v1"})
    await rule(named, **members)
    answer = await named.request(method, f"/api/v1/{path}", json=body)
    assert (answer.status_code, answer.json()["code"]) == (409, "in_use"), answer.text
    assert answer.json()["detail"] == f"route 'r' names {said}: change that route first"
    other = {"data_class": "open"} if path.startswith("projects") else {"tags": ["x"]} if "keys" in path else None
    if other is not None and method == "PATCH":
        assert (await named.patch(f"/api/v1/{path}", json=other)).status_code == 200
    assert (await named.patch("/api/v1/routes/r", json={"match": None, "constraints": None})).status_code == 200
    answer = await named.request(method, f"/api/v1/{path}", json=body)
    assert answer.status_code in (200, 204), answer.text


async def test_a_key_can_always_be_revoked(gateway: Any, named: Any) -> None:
    """A leaked key ends at once, whatever rule names it; the rule then takes nobody, and can still be changed."""
    made = (await named.post("/api/v1/keys", json={"name": "leaked"})).json()
    await rule(named, match={"keys": ["leaked"]})
    assert (await named.post("/api/v1/keys/leaked/revoke")).status_code == 200
    assert not gateway.finds(made["secret"])
    assert (await named.patch("/api/v1/routes/r", json={"strategy": "fastest"})).status_code == 200
    text = (await named.get("/api/v1/config/export")).json()["text"]
    assert (await named.post("/api/v1/config/check", json={"text": text})).json()["problems"] == []


@pytest.mark.parametrize("member", ["only", "ignore"])
@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("lob", "did you mean 'lab'?"),
        (
            "smalls",
            "'smalls' is no kind (own, provider, node, community), provider, target (provider/model) or pattern with *",
        ),
        ("lob/a", "is no kind"),
        ("lab/zz", "provider 'lab' has no model 'zz' (known: q)"),
        ("lab/qq", "provider 'lab' has no model 'qq'; did you mean 'q'?"),
        ("owm", "did you mean 'own'?"),
    ],
)
async def test_a_filter_that_means_no_target_is_refused(gateway: Any, named: Any, member: str, entry: str, said: str
) -> None:  # fmt: skip
    """A mistyped `only` or `ignore` would filter nothing or everything unseen: it is refused, with near matches."""
    from potluck.admin.operations.providers import list_models_of

    await gateway.control.do(gateway.actor, lambda work: list_models_of(work, "lab", ["q"]))
    body = {"name": "r", "constraints": {member: ["lab", entry]}}
    answer = await named.post("/api/v1/routes", json=body)
    assert (answer.status_code, answer.json()["where"]) == (400, f"constraints.{member}")
    assert said in answer.json()["detail"]
    text = f'[[routes]]\nname = "r"\nconstraints = {{ {member} = ["lab", "{entry}"] }}\n'
    (problem,) = (await named.post("/api/v1/config/check", json={"text": text})).json()["problems"]
    assert (problem["line"], problem["where"]) == (3, f"routes[0].constraints.{member}[1]")
    assert said in problem["message"]


async def test_filters_that_mean_something(gateway: Any, named: Any) -> None:
    """Kinds, providers, listed and declared targets, any target of a provider that has named none, and patterns."""
    from potluck.admin.operations.providers import list_models_of

    await named.post("/api/v1/providers", json={"name": "idle", "base_url": "http://127.0.0.1:9/v1"})
    await gateway.control.do(gateway.actor, lambda work: list_models_of(work, "lab", ["q"]))
    said = ["own", "provider", "node", "lab", "lab/q", "lab/a", "idle/any", "local", "no*", "node:*"]
    assert (await rule(named, constraints={"only": said, "ignore": said}))["constraints"]["only"] == said


@pytest.mark.parametrize("name", ["own", "provider", "node", "nodes", "any"])
async def test_names_that_mean_kinds_are_no_providers(named: Any, name: str) -> None:
    """A provider called as a kind of providers would be what a filter of that name lets through."""
    body = {"name": name, "base_url": "http://127.0.0.1:9/v1"}
    for answer in (
        await named.post("/api/v1/providers", json=body),
        await named.patch("/api/v1/providers/lab", json={"name": name}),
    ):
        assert (answer.status_code, answer.json()["where"]) == (400, "name")
        assert "means a kind of provider" in answer.json()["detail"]
    text = f'[[providers]]\nname = "{name}"\nbase_url = "http://h/v1"\n'
    (problem,) = (await named.post("/api/v1/config/check", json={"text": text})).json()["problems"]
    assert (problem["line"], problem["where"]) == (2, "providers[0].name")


@pytest.mark.parametrize("name", ["default", "explain"])
async def test_names_that_routes_cannot_have(named: Any, name: str) -> None:
    """`default` is what applies without a route, and `explain` would be out of reach."""
    await rule(named)
    for answer in (
        await named.post("/api/v1/routes", json={"name": name}),
        await named.patch("/api/v1/routes/r", json={"name": name}),
    ):
        assert (answer.status_code, answer.json()["where"]) == (400, "name")
        assert "choose another name for the route" in answer.json()["detail"]
    text = f'[[routes]]\nname = "{name}"\n'
    (problem,) = (await named.post("/api/v1/config/check", json={"text": text})).json()["problems"]
    assert (problem["line"], problem["where"]) == (2, "routes[0].name")


async def test_a_rule_may_be_there_before_its_models(named: Any) -> None:
    """A model that there is not yet can be matched; a warning says that it is not there, and how it may be spelt."""
    said = ["small", "s", "spare", "lab/new", "smollm2-135m", "gpt-*", "smal", "r"]
    assert (await rule(named, match={"models": said}))["warnings"] == [
        "no model is called 'smal' now; did you mean 'small'?",
        "'r' is a route: a rule takes requests by the name of a model or alias",
    ]
    changed = (await named.patch("/api/v1/routes/r", json={"match": {"models": ["small"]}})).json()
    assert changed["warnings"] == []
    assert "warnings" not in (await named.get("/api/v1/routes/r")).json()


async def test_a_key_is_told_what_it_names_in_vain(named: Any) -> None:
    """Unknown names and patterns, which a key takes letter by letter; names of routes, aliases and pins are fine."""
    await rule(named, match={"models": ["small"]})
    body = {"name": "k", "models": ["small", "s", "r", "lab/x", "smollm2-135m", "smal", "gpt-*"]}
    made = (await named.post("/api/v1/keys", json=body)).json()
    assert made["models"] == body["models"]
    assert made["warnings"] == [
        "no model is called 'smal' now; did you mean 'small'?",
        "'gpt-*' is taken as a name, letter by letter: a key's list of models has no patterns",
    ]
    assert (await named.post("/api/v1/keys", json={"name": "all"})).json()["warnings"] == []
