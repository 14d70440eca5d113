"""A store that tests of the snapshot fill by hand: each write raises the version, as an operation's does."""

import json
from pathlib import Path
from typing import Any

from potluck import store as stores
from potluck.identity.keys import new_secret
from potluck.identity.vault import Vault
from potluck.model.secret import Secret
from potluck.snapshot import SnapshotStore
from potluck.store.database import connect

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
OPENAI = "https://api.openai.com/v1"


class Rows:
    """A store that the tests fill by hand, each write with the next version."""

    def __init__(self, home: Path) -> None:
        self.store = stores.open(home)
        self.vault = Vault(b"k" * 32)
        self.version = 0
        self.write("INSERT INTO organisations VALUES ('org_1', 'default', 1)")
        self.write(
            "INSERT INTO projects (id, organisation_id, name, data_class, created_at_ms, updated_at_ms)"
            " VALUES ('prj_1', 'org_1', 'default', 'standard', 1, 1)"
        )

    def write(self, *statements: str, values: tuple[Any, ...] = ()) -> int:
        connection = connect(self.store.main_path)
        self.version += 1
        connection.execute("BEGIN IMMEDIATE")
        for statement in statements:
            connection.execute(statement, values)
        connection.execute("INSERT OR REPLACE INTO facts VALUES ('snapshot_version', ?)", (str(self.version),))
        connection.execute("COMMIT")
        connection.close()
        return self.version

    def provider(self, name: str, base_url: str = OPENAI, *, own: bool = False, builtin: bool = False) -> str:
        self.write(
            "INSERT INTO providers (id, organisation_id, name, dialect, base_url, own, builtin, created_at_ms,"
            f" updated_at_ms) VALUES ('prv_{name}', 'org_1', ?, 'openai', ?, ?, ?, {self.version}, 1)",
            values=(name, base_url, own, builtin),
        )
        return f"prv_{name}"

    def credential(self, provider: str, name: str, secret: str, weight: int = 1) -> None:
        row_id = f"crd_{name}"
        self.write(
            "INSERT INTO credentials (id, organisation_id, provider_id, name, sealed, hint, weight, created_at_ms,"
            " updated_at_ms) VALUES (?, 'org_1', ?, ?, ?, '…', ?, 1, 1)",
            values=(row_id, provider, name, self.vault.seal(Secret(secret), row_id), weight),
        )

    def model(self, name: str, *targets: tuple[str, str], placement: str = "any", price: str | None = None) -> None:
        self.write(
            "INSERT INTO models (id, organisation_id, name, placement, created_at_ms, updated_at_ms)"
            f" VALUES (?, 'org_1', ?, ?, {self.version}, 1)",
            values=(f"mdl_{name}", name, placement),
        )
        for position, (provider, upstream) in enumerate(targets):
            self.write(
                "INSERT INTO targets (id, organisation_id, model_id, provider_id, upstream_model, position, price,"
                " capabilities, created_at_ms, updated_at_ms) VALUES (?, 'org_1', ?, ?, ?, ?, ?, '[\"chat\"]', 1, 1)",
                values=(f"tgt_{name}_{position}", f"mdl_{name}", provider, upstream, position, price),
            )

    def node(self, name: str, *models: str | dict[str, Any], **columns: Any) -> str:
        """A node that offers chat models; a dict is one model's members, `columns` are as in the table."""
        offered = [{"engine": "e", "paths": list(PATHS), "name": each} if isinstance(each, str) else each
                   for each in models]  # fmt: skip
        offer = {"models": offered, "engines": [["e", "llama_cpp", "b1"]], "slots": 4} | columns.pop("offer", {})
        node_id = f"node_{name}"
        columns = {
            "id": node_id,
            "name": name,
            "state": "approved",
            "key_id": f"nky_{name}",
            "public_key": name.encode().ljust(32, b"."),
            "offer": json.dumps(offer),
            "created_at_ms": self.version,
        } | {key: json.dumps(value) if isinstance(value, dict) else value for key, value in columns.items()}
        self.write(
            f"INSERT INTO nodes (organisation_id, updated_at_ms, {', '.join(columns)})"
            f" VALUES ('org_1', 1{', ?' * len(columns)})",
            values=tuple(columns.values()),
        )
        return node_id

    def node_target(self, model: str, node: str, upstream_model: str, position: int = 0, **columns: Any) -> None:
        """A target of a declared model on nodes of that name or pattern."""
        columns = {"position": position, "created_at_ms": self.version} | columns
        self.write(
            "INSERT INTO node_targets (id, organisation_id, model_id, node, upstream_model, updated_at_ms,"
            f" {', '.join(columns)}) VALUES (?, 'org_1', ?, ?, ?, 1{', ?' * len(columns)})",
            values=(f"tgt_{self.version}", f"mdl_{model}", node, upstream_model, *columns.values()),
        )

    def route(self, name: str, **columns: Any) -> str:
        """A route; what is not a number is written as JSON text, but for `strategy` and `split_by`."""
        plain = {"position", "strategy", "split_by", "created_at_ms"}
        columns = {column: value if column in plain else json.dumps(value) for column, value in columns.items()}
        columns = {"created_at_ms": self.version} | columns | {"id": f"rte_{name}", "name": name}
        names = ", ".join(f'"{column}"' for column in columns)
        self.write(
            f"INSERT INTO routes (organisation_id, updated_at_ms, {names}) VALUES ('org_1', 1{', ?' * len(columns)})",
            values=tuple(columns.values()),
        )
        return f"rte_{name}"

    def key(self, name: str, expires_at_ms: int | None = None) -> tuple[str, str, int]:
        secret = new_secret("plk")
        version = self.write(
            "INSERT INTO api_keys (id, organisation_id, project_id, name, hash, hint, expires_at_ms, created_at_ms,"
            " updated_at_ms) VALUES (?, 'org_1', 'prj_1', ?, ?, '…', ?, 1, 1)",
            values=(f"key_{name}", name, self.vault.hash(secret.encode()), expires_at_ms),
        )
        return secret, f"key_{name}", version

    def source(self, **options: Any) -> SnapshotStore:
        made = SnapshotStore(self.store, self.vault, **options)
        made.load()
        return made
