"""What the objects of a text refer to, looked up in the text itself and in the store, each fault with its place.

Rule: what an earlier file made and this text no longer names is leaving, and nothing can refer to it. What a stored
route names already may have lost its meaning since, as lists of providers do.
"""

import sqlalchemy as sa

from potluck.admin.operations.names import Mention, PublicNames, nearest
from potluck.admin.operations.work import Work
from potluck.config.reading import Draft, Place
from potluck.config.references import Reference, references
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
        self.names = PublicNames(work)
        self.had = set(self.names.mentions)
        self._apply_names()

    def faults(self) -> list[tuple[Place, str]]:
        """What leads nowhere: targets and fallbacks, filters, projects and keys, neither in the text nor stored."""
        return [(each.at, wrong) for each in references(self.draft) if (wrong := self._astray(each))]

    def warnings(self) -> list[tuple[Place, str]]:
        """What is named and may come later: models in `match`, and in the lists of keys; nodes."""
        found = []
        for each in references(self.draft):
            wrong = ""
            if each.kind == "matched model":
                wrong = self.names.unmatched(each.name)
            elif each.kind == "models of a key":
                wrong = self.names.unused(each.name)
            elif each.kind in ("node", "filter", "fallback"):
                wrong = self.names.to_come(each.name)
            if wrong:
                found.append((each.at, wrong))
        return found

    def _astray(self, each: Reference) -> str:
        name, provider = each.name, each.name.partition("/")[0]
        match each.kind:
            case "target":
                return self._unknown("provider", provider, ids=True)
            case "project":
                return self._unknown("project", name, ids=True)
            case "matched project":
                kind, named, wrong = "project", name, self._unknown("project", name)
            case "matched key":
                kind, named, wrong = "key", name, self._unknown("key", name)
            case "filter":
                kind, named, wrong = "provider", provider, self.names.foreign(name)
            case "fallback":
                kind, named, wrong = "model", name, self.names.astray(name)
            case _:
                return ""
        if wrong and named in self.leaving[kind]:
            return self._leaves(kind, named)
        return "" if Mention(each.route, each.member, name) in self.had else wrong

    def _unknown(self, kind: str, name: str, *, ids: bool = False) -> str:
        if name in self.here[kind]:
            return ""
        if name in self.leaving[kind]:
            return self._leaves(kind, name)
        if name in self.stored[kind] or (ids and name in self.ids):
            return ""
        known = (self.here[kind] | self.stored[kind]) - self.leaving[kind]
        return f"there is no {kind} {name!r}, in this file or in the gateway{nearest(name, known)}"

    def _leaves(self, kind: str, name: str) -> str:
        return f"{kind} {name!r} is an earlier file's, and applying this one removes it"

    def _apply_names(self) -> None:
        """The public names as they are once the text is applied."""
        names, values = self.names, self.draft.values
        models = self.draft.names("models")
        names.models = (names.models - self.leaving["model"]) | self.here["model"]
        names.aliases = [(model, alias) for model, alias in names.aliases if model in names.models - self.here["model"]]
        for at, value in values.items():
            match at:
                case ("models", index, "aliases", _):
                    names.aliases.append((models.get(("models", index, "name"), ""), str(value)))
                case ("models", _, "targets", _, "target"):
                    names.targets.add(str(value))
                case ("providers", index, "name"):
                    names.providers[str(value)] = str(values.get(("providers", index, "base_url"), ""))
        names.providers = {name: url for name, url in names.providers.items() if name not in self.leaving["provider"]}
        names.routes |= set(self.draft.names("routes").values())
