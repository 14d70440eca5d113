"""Providers and their credentials: upstream accounts and servers of one's own."""

from collections.abc import Iterable
from typing import Any

import msgspec
import sqlalchemy as sa

from potluck.admin.errors import OperationError, conflict, invalid, not_found
from potluck.admin.operations.names import names_kept
from potluck.admin.operations.views import CredentialView, ProviderView, credential_view, provider_view
from potluck.admin.operations.work import Row, Work
from potluck.config.document import provider_name_fault
from potluck.config.routing import ProbeEntry
from potluck.identity.keys import hint
from potluck.model.ids import new_id
from potluck.model.resources import AssistantPrefix, OnHangup, Timeouts
from potluck.model.secret import Secret
from potluck.providers.base_url import parse_base_url
from potluck.store import tables as t

SPOKEN_DIALECTS = ("openai",)


def create_provider(
    work: Work,
    name: str,
    base_url: str,
    *,
    dialect: str = "openai",
    own: bool = False,
    on_hangup: OnHangup = "cancel",
    timeouts: Timeouts | None = None,
    max_connections: int = 1024,
    assistant_prefix: AssistantPrefix | None = None,
    probe: ProbeEntry | None = None,
    builtin: bool = False,
) -> ProviderView:
    """Raises 400 for a name, address or dialect that cannot be, 409 when the name is taken."""
    _check_name(name)
    check_provider(base_url, dialect)
    row = work.insert(
        t.providers,
        f"there is a provider {name!r} already: choose another name, or update that one",
        id=new_id("prv"),
        name=name,
        dialect=dialect,
        base_url=base_url.rstrip("/"),
        own=own,
        on_hangup=on_hangup,
        timeouts=msgspec.json.encode(timeouts or Timeouts()).decode(),
        max_connections=max_connections,
        assistant_prefix=assistant_prefix,
        probe=_probe_text(probe),
        builtin=builtin,
    )
    work.touch(providers=[row["id"]], models=True)
    work.audit("provider.create", row["id"], name, base_url=row["base_url"], dialect=dialect, own=own)
    return view_provider(work, row)


def update_provider(
    work: Work,
    ref: str,
    *,
    name: str | None = None,
    base_url: str | None = None,
    dialect: str | None = None,
    own: bool | None = None,
    on_hangup: OnHangup | None = None,
    timeouts: Timeouts | None = None,
    max_connections: int | None = None,
    assistant_prefix: AssistantPrefix | msgspec.UnsetType | None = msgspec.UNSET,
    probe: ProbeEntry | msgspec.UnsetType | None = msgspec.UNSET,
) -> ProviderView:
    """Change what is given; None takes an assistant prefix or probes away. Raises 400, 404, 409."""
    row = find_provider(work, ref)
    if name not in (None, row["name"]):
        _check_name(name)
    check_provider(row["base_url"] if base_url is None else base_url, row["dialect"] if dialect is None else dialect)
    given = {
        "name": name,
        "base_url": None if base_url is None else base_url.rstrip("/"),
        "dialect": dialect,
        "own": own,
        "on_hangup": on_hangup,
        "timeouts": None if timeouts is None else msgspec.json.encode(timeouts).decode(),
        "max_connections": max_connections,
    }
    values: dict[str, Any] = {member: value for member, value in given.items() if value is not None}
    if assistant_prefix is not msgspec.UNSET:
        values["assistant_prefix"] = assistant_prefix
    if probe is not msgspec.UNSET:
        values["probe"] = _probe_text(probe)
    with names_kept(work):
        changed = work.update(t.providers, row, f"there is a provider {name!r} already: choose another name", **values)
    if changed is not row:
        if changed["base_url"] != row["base_url"]:
            # what another server named says nothing about this one
            work.connection.execute(sa.delete(t.provider_models).where(t.provider_models.c.provider_id == row["id"]))
        work.touch(providers=[row["id"]], models=True)
        members = [member for member in values if changed[member] != row[member]]
        work.audit("provider.update", row["id"], changed["name"], members=members, base_url=changed["base_url"])
    return view_provider(work, changed)


def delete_provider(work: Work, ref: str) -> None:
    """Remove a provider with its credentials. Raises 404, and 409 while a model has a target there."""
    row = find_provider(work, ref)
    used = work.connection.execute(
        sa.select(t.models.c.name)
        .join(t.targets, t.targets.c.model_id == t.models.c.id)
        .where(t.targets.c.provider_id == row["id"])
    ).scalar()
    if used is not None:
        raise conflict(f"model {used!r} has a target at provider {row['name']!r}: remove that target first", "in_use")
    with names_kept(work):
        work.delete(t.providers, row)
    work.touch(providers=[row["id"]], models=True)
    work.audit("provider.delete", row["id"], row["name"])


def show_provider(work: Work, ref: str) -> ProviderView:
    return view_provider(work, work.find(t.providers, "provider", ref))


def find_provider(work: Work, ref: str) -> Row:
    """A provider that the actor may change. Raises 404, 409."""
    row = work.find(t.providers, "provider", ref)
    work.check_writable("provider", row)
    if row["builtin"]:
        raise conflict(
            f"provider {row['name']!r} is the built-in model's: it changes with `potluck local-model` only", "builtin"
        )
    return row


def check_provider(base_url: str, dialect: str) -> None:
    """Raises 400 when this program cannot call such a provider."""
    try:
        url = parse_base_url(base_url)
    except ValueError as error:
        raise invalid("base_url", str(error)) from None
    if not url.port:
        raise invalid("base_url", "port 0 cannot be called")
    if dialect not in SPOKEN_DIALECTS:
        raise invalid(
            "dialect",
            f"this version speaks the openai dialect, not {dialect!r}: use the provider's OpenAI-compatible address",
        )


def _check_name(name: str) -> None:
    """Raises 400 for a name that means something else."""
    if reason := provider_name_fault(name):
        raise invalid("name", reason)


def list_models_of(work: Work, ref: str, names: Iterable[str]) -> None:
    """Replace what a provider's own `GET /models` named. Raises 404."""
    row = work.find(t.providers, "provider", ref)
    listed = t.provider_models
    wanted = set(names)
    have = {each["name"] for each in work.rows(sa.select(listed.c.name).where(listed.c.provider_id == row["id"]))}
    if gone := have - wanted:
        work.connection.execute(
            sa.delete(listed).where(listed.c.provider_id == row["id"], listed.c.name == sa.bindparam("gone")),
            [{"gone": name} for name in gone],
        )
    if new := wanted - have:
        rows = [{"provider_id": row["id"], "name": name, "seen_at_ms": work.now_ms} for name in sorted(new)]
        work.connection.execute(sa.insert(listed), rows)
    if gone or new:
        work.touch(providers=[row["id"]], models=True)
        work.audit("provider.list_models", row["id"], row["name"], models=len(wanted), new=len(new), gone=len(gone))


def create_credential(work: Work, provider: str, name: str, secret: Secret, *, weight: int = 1) -> CredentialView:
    """Seal a key of an upstream account. Raises 400, 404 (provider), 409 (name taken there)."""
    owner = (
        find_provider(work, provider) if work.actor.origin != "file" else work.find(t.providers, "provider", provider)
    )
    credential_id = new_id("crd")
    row = work.insert(
        t.credentials,
        f"provider {owner['name']!r} has a credential {name!r} already: rotate that one, or choose another name",
        id=credential_id,
        provider_id=owner["id"],
        name=name,
        sealed=work.vault.seal(_usable(secret), credential_id),
        hint=hint(secret.reveal()),
        weight=weight,
        disabled=False,
    )
    work.touch(providers=[owner["id"]], models=True)
    work.audit("credential.create", credential_id, name, provider=owner["name"], weight=weight)
    return credential_view(row, owner["name"])


def update_credential(
    work: Work, credential_id: str, *, name: str | None = None, weight: int | None = None, disabled: bool | None = None
) -> CredentialView:
    """Change what is given. Raises 404, 409."""
    row, owner = find_credential(work, credential_id)
    given = {"name": name, "weight": weight, "disabled": disabled}
    values = {member: value for member, value in given.items() if value is not None}
    changed = work.update(t.credentials, row, f"there is a credential {name!r} there already: choose another", **values)
    if changed is not row:
        work.touch(providers=[owner["id"]], models=True)
        work.audit("credential.update", row["id"], changed["name"], provider=owner["name"], **values)
    return credential_view(changed, owner["name"])


def rotate_credential(work: Work, credential_id: str, secret: Secret) -> CredentialView:
    """Put another key in its place. Raises 400, 404, 409."""
    row, owner = find_credential(work, credential_id)
    sealed = work.vault.seal(_usable(secret), row["id"])
    changed = work.update(t.credentials, row, sealed=sealed, hint=hint(secret.reveal()))
    work.touch(providers=[owner["id"]], models=True)
    work.audit("credential.rotate", row["id"], row["name"], provider=owner["name"])
    return credential_view(changed, owner["name"])


def delete_credential(work: Work, credential_id: str) -> None:
    """Raises 404, 409."""
    row, owner = find_credential(work, credential_id)
    work.delete(t.credentials, row)
    work.touch(providers=[owner["id"]], models=True)
    work.audit("credential.delete", row["id"], row["name"], provider=owner["name"])


def show_credential(work: Work, credential_id: str) -> CredentialView:
    row, owner = find_credential(work, credential_id, writable=False)
    return credential_view(row, owner["name"])


def find_credential(work: Work, ref: str, *, writable: bool = True) -> tuple[Row, Row]:
    """A credential, by id or `provider/name`, and its provider. Raises 404, 409."""
    credentials = t.credentials
    provider, _, name = ref.partition("/")
    if name:
        owner = work.find(t.providers, "provider", provider)
        here = (credentials.c.provider_id == owner["id"], credentials.c.name == name)
        row = work.row(sa.select(credentials).where(*here))
        if row is None:
            raise not_found("credential", ref)
    else:
        mine = credentials.c.organisation_id == work.organisation_id
        row = work.row(sa.select(credentials).where(mine, credentials.c.id == ref))
        if row is None:
            raise not_found("credential", ref)
        owner = work.find(t.providers, "provider", row["provider_id"])
    if writable:
        work.check_writable("credential", row)
    return row, owner


def view_provider(work: Work, row: Row) -> ProviderView:
    credentials, listed = t.credentials, t.provider_models
    own = sa.select(credentials).where(credentials.c.provider_id == row["id"]).order_by(credentials.c.created_at_ms)
    count = sa.select(sa.func.count()).select_from(listed).where(listed.c.provider_id == row["id"])
    return provider_view(row, work.rows(own), int(work.connection.execute(count).scalar() or 0))


def _probe_text(probe: ProbeEntry | None) -> str | None:
    """Probes as stored. Raises 400."""
    if probe is None:
        return None
    for member, message in probe.check().items():
        raise invalid(f"probe.{member}", message)
    return msgspec.json.encode(probe.to_probe()).decode()


def _usable(secret: Secret) -> Secret:
    text = secret.reveal()
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise OperationError(
            400,
            "invalid_request",
            "the key is empty, or holds a space or a character that no key has: is it the whole key and only it?",
            where="key",
        )
    return secret
