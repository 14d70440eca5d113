"""`Document` → text of a `potluck.toml` that `reading.parse` turns back into the same document.

Secrets are never written: each becomes a `${VARIABLE}` named after what it opens.
"""

import datetime as dt
import json
import re
from typing import Any

import msgspec

from potluck.config.document import IDENTITY, CredentialEntry, Document, KeyEntry, ProviderEntry
from potluck.model.secret import Secret

_BARE_KEY = re.compile(r"^[A-Za-z0-9_-]+\Z")


def dump(document: Document) -> str:
    """The document as TOML: one `[[section]]` block per object, members at their defaults left out."""
    blocks = []
    for section in msgspec.structs.fields(Document):
        identity = IDENTITY[section.name]
        for entry in getattr(document, section.name):
            lines = [f"[[{section.name}]]"]
            # what it is called goes first
            for member, value in sorted(_members(entry), key=lambda each: each[0] != identity):
                if member == "targets" and len(value) > 1:
                    inner = "".join(f"  {_toml(item, entry)},\n" for item in value)
                    lines.append(f"{member} = [\n{inner}]")
                else:
                    lines.append(f"{member} = {_toml(value, entry)}")
            blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def credential_variable(provider: str, credential: str) -> str:
    """Which environment variable an exported credential is read from: `OPENAI_API_KEY`, `OPENAI_SPARE_API_KEY`."""
    parts = [provider] if credential in ("main", "env") else [provider, credential]
    return _variable(*parts, "API_KEY")


def key_variable(key: str) -> str:
    """Which environment variable an exported API key with a secret of its own is read from."""
    return _variable("POTLUCK_KEY", key)


def _variable(*parts: str) -> str:
    name = re.sub(r"[^A-Za-z0-9]+", "_", "_".join(parts)).upper()
    return name if name[0].isalpha() else f"_{name}"


def _members(entry: msgspec.Struct) -> list[tuple[str, Any]]:
    """Members that say something: required ones, and those that differ from their default."""
    said = []
    for field in msgspec.structs.fields(type(entry)):
        value = getattr(entry, field.name)
        if field.required or value != field.default:
            said.append((field.name, value))
    return said


def _toml(value: object, owner: msgspec.Struct, inside: msgspec.Struct | None = None) -> str:
    """`value` on one line. `owner` is the object of the section, `inside` the inline table that holds the value."""
    if isinstance(value, Secret):
        if isinstance(owner, ProviderEntry) and isinstance(inside, CredentialEntry):
            name = credential_variable(owner.name, inside.name)
        else:
            assert isinstance(owner, KeyEntry)
            name = key_variable(owner.name)
        return f'"${{{name}}}"'
    if isinstance(value, msgspec.Struct):
        inner = ", ".join(f"{_key(name)} = {_toml(member, owner, value)}" for name, member in _members(value))
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(_toml(item, owner) for item in value)}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value.replace("${", "$${"))
    if isinstance(value, float):
        # plain decimals: an exponent is valid TOML, but nobody reads a price as 1e-05
        return str(int(value)) if value.is_integer() else f"{value:.12f}".rstrip("0")
    if isinstance(value, dt.datetime):
        return value.isoformat()
    return str(value)


def _key(name: str) -> str:
    return name if _BARE_KEY.match(name) else _text(name)


def _text(value: str) -> str:
    # a JSON string is a TOML basic string, save for DEL, which TOML wants escaped
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
