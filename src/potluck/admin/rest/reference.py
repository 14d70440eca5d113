"""The API's reference page, rendered from its OpenAPI document by this server: no script, nothing from elsewhere."""

from collections.abc import Iterable
from html import escape
from typing import Any

from litestar import MediaType, get

from potluck.admin.rest.auth import PUBLIC, AdminRequest
from potluck.admin.rest.openapi import describe
from potluck.admin.rest.pages import document

VERBS = ("get", "post", "patch", "put", "delete")
Json = dict[str, Any]


@get("/api/docs", opt=PUBLIC, include_in_schema=False, media_type=MediaType.HTML, sync_to_thread=True)
def reference(request: AdminRequest) -> str:
    """The reference page."""
    return render(describe(request.app))


def render(schema: Json) -> str:
    """An OpenAPI 3.1 document as one HTML page: every operation, its parameters, bodies and answers."""
    info = schema["info"]
    groups: dict[str, list[str]] = {}
    for path, item in schema["paths"].items():
        for verb in VERBS:
            if operation := item.get(verb):
                for tag in operation.get("tags") or ["other"]:
                    groups.setdefault(tag, []).append(_operation(verb, path, operation, schema))
    parts = [
        f"<h1>{escape(info['title'])}</h1>",
        f'<p class="soft">Version {escape(info["version"])}. {escape(info.get("description", ""))}</p>',
        '<nav aria-label="Places"><a href="/">Home</a><a href="/api/openapi.json">OpenAPI document</a></nav>',
        "<p>Send <code>Authorization: Bearer pla-…</code>; <code>HOME/admin-token</code> has the first token.</p>",
    ]
    for tag, operations in groups.items():
        parts.append(f"<h2>{escape(tag[:1].upper() + tag[1:])}</h2>")
        parts += operations
    shown = sorted(schema.get("components", {}).get("schemas", {}).items())
    parts.append("<h2>Objects</h2>")
    parts += [_object(name, each, schema) for name, each in shown if each.get("type") == "object"]
    return document(info["title"], "\n".join(parts))


def _operation(verb: str, path: str, operation: Json, schema: Json) -> str:
    body: list[str] = [f"<p>{escape(operation.get('description', ''))}</p>"]
    if parameters := operation.get("parameters"):
        rows = (
            (each["name"], each["in"], _type(each.get("schema", {}), schema), each.get("description", ""))
            for each in parameters
        )
        body.append(_table(("Parameter", "In", "Type", ""), rows))
    if content := operation.get("requestBody", {}).get("content"):
        body.append(f"<h3>Body</h3>{_members(next(iter(content.values()))['schema'], schema)}")
    answers = []
    for status, answer in operation.get("responses", {}).items():
        kinds = [_type(media["schema"], schema) for media in answer.get("content", {}).values() if "schema" in media]
        answers.append((status, ", ".join(kinds), answer.get("description", "")))
    body.append(_table(("Status", "Answer", ""), answers))
    summary = f'<span class="verb">{verb.upper()}</span><code>{escape(path)}</code>'
    return f"<details><summary>{summary}</summary><div>{''.join(body)}</div></details>"


def _object(name: str, found: Json, schema: Json) -> str:
    about = f"<p>{escape(found['description'])}</p>" if found.get("description") else ""
    inside = f"{about}{_members(found, schema)}"
    return f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary><div>{inside}</div></details>'


def _members(found: Json, schema: Json) -> str:
    found = _followed(found, schema)
    for each in found.get("oneOf", ()):
        if _followed(each, schema).get("type") == "object":
            found = _followed(each, schema)
    required = set(found.get("required", ()))
    rows = (
        (name, _type(member, schema), "required" if name in required else "", _about(member))
        for name, member in found.get("properties", {}).items()
    )
    return _table(("Member", "Type", "", ""), rows)


def _followed(found: Json, schema: Json) -> Json:
    if "$ref" in found:
        name = found["$ref"].rpartition("/")[2]
        target: Json = schema["components"]["schemas"][name]
        return target
    return found


def _type(found: Json, schema: Json) -> str:
    """A type in words: `string`, `array of KeyView`, `integer or null`."""
    if "$ref" in found:
        return str(found["$ref"].rpartition("/")[2])
    if choices := found.get("oneOf") or found.get("anyOf"):
        return " or ".join(dict.fromkeys(_type(each, schema) for each in choices))
    if "enum" in found:
        return " | ".join(str(each) for each in found["enum"])
    if "const" in found:
        return str(found["const"])
    kind = found.get("type", "any")
    if kind == "array":
        return f"array of {_type(found.get('items', {}), schema)}"
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def _about(found: Json) -> str:
    for each in (found, *found.get("oneOf", ())):
        if each.get("description"):
            return str(each["description"])
    return ""


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    body = "".join(
        f"<tr><td><code>{escape(first)}</code></td>{''.join(f'<td>{escape(cell)}</td>' for cell in rest)}</tr>"
        for first, *rest in rows
    )
    if not body:
        return ""
    names = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    return f"<table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>"


ROUTES = [reference]
