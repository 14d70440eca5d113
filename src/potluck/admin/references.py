"""What the objects of a text refer to, looked up in the text itself and in the store, each fault with its place.

Rule: what an earlier file made and this text no longer names is leaving, and nothing can refer to it.
"""

import sqlalchemy as sa

from potluck.admin.operations.names import PublicNames, nearest
from potluck.admin.operations.work import Work
from potluck.config.reading import Draft, Place
from potluck.store import tables as t

TABLES = {"provider": t.providers, "project": t.projects, "key": t.api_keys, "model": t.models}
SECTIONS = {"provider": "providers", "project": "projects", "key": "keys", "model": "models"}


class References:
    """What a text can refer to, by kind, once it is applied."""

    def __init__(self, work: Work, draft: Draft) -> None:
        self.draft = draft
        self.here = {kind: set(draft.names(section).values()) for kind, section in SECTIONS.items()}
        self.stored: dict[str, set[str]] = {kind: set() for kind in TABLES}
        self.ids: set[str] = set()
        self.leaving: dict[str, set[str]] = {kind: set() for kind in TABLES}
        for kind, table in TABLES.items():
            where = [table.c.organisation_id == work.organisation_id]
            if kind == "key":
                where.append(t.api_keys.c.revoked_at_ms.is_(None))
            for row in work.rows(sa.select(table).where(*where)):
                self.ids.add(row["id"])
                self.stored[kind].add(row["name"])
                # a project stays while keys refer to it
                if kind != "project" and row["origin"] == row["maker"] == "file" and row["name"] not in self.here[kind]:
                    self.leaving[kind] |= {row["id"], row["name"]}
        self.names = self._names(work)

    def faults(self) -> list[tuple[Place, str]]:
        """Targets and fallbacks that lead nowhere; projects and keys that are neither in the text nor in the store."""
        found = []
        for at, value in self.draft.values.items():
            name = str(value)
            match at:
                case ("models", _, "targets", _, "target"):
                    provider, _, upstream_model = name.partition("/")
                    if not provider or not upstream_model or provider.startswith("node:"):
                        continue  # a fault of the text itself
                    wrong = self._unknown("provider", provider)
                case ("keys", _, "project"):
                    wrong = self._unknown("project", name)
                case ("routes", _, "match", "projects" | "keys" as member, _):
                    wrong = "" if "*" in name else self._unknown(member.removesuffix("s"), name)
                case ("routes", _, "fallback", _):
                    wrong = self._astray(name)
                case _:
                    continue
            if wrong:
                found.append((at, wrong))
        return found

    def _unknown(self, kind: str, name: str) -> str:
        if name in self.here[kind]:
            return ""
        if name in self.leaving[kind]:
            return f"{kind} {name!r} is an earlier file's, and applying this one removes it"
        if name in self.stored[kind] or name in self.ids:
            return ""
        known = (self.here[kind] | self.stored[kind]) - self.leaving[kind]
        return f"there is no {kind} {name!r}, in this file or in the gateway{nearest(name, known)}"

    def _astray(self, fallback: str) -> str:
        wrong = self.names.astray(fallback)
        if wrong and fallback in self.leaving["model"]:
            return f"model {fallback!r} is an earlier file's, and applying this one removes it"
        return wrong

    def _names(self, work: Work) -> PublicNames:
        """The public names once the text is applied."""
        names, values = PublicNames(work), self.draft.values
        models = self.draft.names("models")
        names.models = (names.models - self.leaving["model"]) | self.here["model"]
        names.aliases = [(model, alias) for model, alias in names.aliases if model in names.models - self.here["model"]]
        for at, value in values.items():
            match at:
                case ("models", index, "aliases", _):
                    names.aliases.append((models.get(("models", index, "name"), ""), str(value)))
                case ("providers", index, "name"):
                    names.providers[str(value)] = str(values.get(("providers", index, "base_url"), ""))
        names.providers = {name: url for name, url in names.providers.items() if name not in self.leaving["provider"]}
        names.fallbacks |= dict.fromkeys(self.draft.names("routes").values(), ())
        return names
