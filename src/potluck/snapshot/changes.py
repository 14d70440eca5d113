"""What a write touched, so that only that is compiled again."""

import msgspec


class Change(msgspec.Struct, frozen=True):
    """The objects that one transaction touched, by id, and the version that it made (0: unknown)."""

    version: int = 0
    keys: frozenset[str] = frozenset()
    providers: frozenset[str] = frozenset()
    """their addresses, credentials or model lists"""
    models: bool = False
    """declared models and targets: all are compiled again, there are few"""
    prices: bool = False
    rules: bool = False
    """routes: read again by themselves, nothing else is compiled"""
    nodes: frozenset[str] = frozenset()
    """enrolled, approved, drained, announced, priced, revoked"""
    everything: bool = False

    @property
    def is_empty(self) -> bool:
        """Nothing that the data plane reads."""
        return not (self.keys or self.places or self.rules)

    @property
    def places(self) -> bool:
        """Providers, nodes, models or prices: what targets are compiled from."""
        return bool(self.providers or self.models or self.prices or self.nodes or self.everything)

    def __or__(self, other: "Change") -> "Change":
        return Change(
            max(self.version, other.version),
            self.keys | other.keys,
            self.providers | other.providers,
            self.models or other.models,
            self.prices or other.prices,
            self.rules or other.rules,
            self.nodes | other.nodes,
            self.everything or other.everything,
        )


EVERYTHING = Change(everything=True)
