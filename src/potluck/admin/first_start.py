"""What a home directory gets when a gateway first starts on it, and what each later start checks.

Every step is one that can be repeated: secrets are written to their files first, then stored in one transaction with
everything else. A process killed at any moment leaves a home on which the next start goes on.
"""

import secrets
from collections.abc import Mapping
from pathlib import Path

import msgspec

from potluck.identity.keys import Kind, has_shape, new_secret
from potluck.identity.vault import Vault, open_vault
from potluck.model.secret import Secret
from potluck.store import Store
from potluck.store.home import write_secret_file

ADMIN_TOKEN_FILE = "admin-token"  # noqa: S105 — a file's name
API_KEY_FILE = "first-api-key"
LOCAL_PROVIDER = "local"
LOCAL_MODEL = "smollm2-135m"

KNOWN_PROVIDERS: tuple[tuple[str, str, str], ...] = (
    ("OPENAI_API_KEY", "openai", "https://api.openai.com/v1"),
    ("ANTHROPIC_API_KEY", "anthropic", "https://api.anthropic.com/v1"),
    ("GEMINI_API_KEY", "gemini", "https://generativelanguage.googleapis.com/v1beta/openai"),
    ("MISTRAL_API_KEY", "mistral", "https://api.mistral.ai/v1"),
    ("GROQ_API_KEY", "groq", "https://api.groq.com/openai/v1"),
    ("OPENROUTER_API_KEY", "openrouter", "https://openrouter.ai/api/v1"),
    ("DEEPSEEK_API_KEY", "deepseek", "https://api.deepseek.com/v1"),
    ("XAI_API_KEY", "xai", "https://api.x.ai/v1"),
    ("TOGETHER_API_KEY", "together", "https://api.together.xyz/v1"),
    ("FIREWORKS_API_KEY", "fireworks", "https://api.fireworks.ai/inference/v1"),
    ("CEREBRAS_API_KEY", "cerebras", "https://api.cerebras.ai/v1"),
    ("PERPLEXITY_API_KEY", "perplexity", "https://api.perplexity.ai"),
    ("COHERE_API_KEY", "cohere", "https://api.cohere.ai/compatibility/v1"),
    ("MOONSHOT_API_KEY", "moonshot", "https://api.moonshot.ai/v1"),
)
"""variable, provider, and the address at which it speaks the openai dialect"""


class FirstStartError(Exception):
    """The home cannot be used as asked. The message says what, why and how to mend it; it holds no secret."""


class FirstStart(msgspec.Struct, frozen=True):
    """`vault`: opened. `lines`: what to tell the person, empty on later starts. `model`: one to try, if any."""

    vault: Vault
    lines: tuple[str, ...]
    model: str | None
    is_new: bool


def first_start(
    store: Store,
    env: Mapping[str, str],
    *,
    local_model: bool,
    master_key: Secret | None = None,
    bootstrap_admin_token: Secret | None = None,
    bootstrap_api_key: Secret | None = None,
) -> FirstStart:
    """Make the home's organisation, project, admin token, first API key, and providers, if it has none yet.

    Raises FirstStartError for a bootstrap secret without the shape or a master key that is not this home's, VaultError
    for a master key that cannot be read.
    """
    facts = store.read_rows_now(lambda connection: dict(connection.execute("SELECT name, value FROM facts").fetchall()))
    check = facts.get("master_key_check")
    vault = open_vault(store.home, master_key, make=check is None)
    if check is not None:
        if check != vault.check:
            raise FirstStartError(
                f"the master key is not the one of {store.home}: restore its file `master-key`, or set "
                "POTLUCK_MASTER_KEY to what it was at first start; without it stored credentials cannot be read"
            )
        return FirstStart(vault, (), LOCAL_MODEL if local_model else None, is_new=False)
    admin_token = _secret(store.home / ADMIN_TOKEN_FILE, "pla", bootstrap_admin_token, "POTLUCK_BOOTSTRAP_ADMIN_TOKEN")
    api_key = _secret(store.home / API_KEY_FILE, "plk", bootstrap_api_key, "POTLUCK_BOOTSTRAP_API_KEY")
    # SQLAlchemy is imported here only: later starts answer their first request without it
    from potluck.admin.seed import seed

    lines = seed(store, vault, env, admin_token=admin_token, api_key=api_key, home_id=secrets.token_hex(8))
    return FirstStart(vault, tuple(lines), LOCAL_MODEL if local_model else None, is_new=True)


def _secret(path: Path, kind: Kind, given: Secret | None, variable: str) -> Secret:
    """The given secret, else what an interrupted first start left in the file, else a fresh one; in the file after."""
    if given:
        if not has_shape(given.reveal(), kind):
            raise FirstStartError(f"{variable} has not the shape {kind}- and 46 letters and digits: make one that has")
        text = given.reveal()
    else:
        found = path.read_text(encoding="ascii", errors="replace").strip() if path.exists() else ""
        text = found if has_shape(found, kind) else new_secret(kind)
    write_secret_file(path, text + "\n")
    return Secret(text)
