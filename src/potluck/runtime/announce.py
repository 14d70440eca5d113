"""What `serve` prints once it listens: where it is, and a first call that works when pasted.

Plain lines on stdout, unwrapped, also when it is no terminal: scripts and people copy them.
"""

import sys
from typing import TYPE_CHECKING

from potluck.config.settings import Settings

if TYPE_CHECKING:
    from potluck.admin.first_start import FirstStart

MODEL = "smollm2-135m"


def listening(settings: Settings, port: int, first: "FirstStart") -> None:
    """Print the lines. The first API key is printed only while its file is there."""
    settings = _with_port(settings, port)
    url = settings.url
    lines = [*first.lines, "", f"Potluck listens on {settings.local_url}"]
    if settings.public_url:
        lines.append(f"callers reach it at {settings.public_url}")
    lines += [
        f"console and API reference: {url}/  {url}/api/docs",
        f"admin token: {settings.home}/admin-token (commands on this machine use it by themselves)",
    ]
    if settings.host in ("127.0.0.1", "::1", "localhost") and not settings.public_url:
        lines.append("only this machine can reach it; for others: --host 0.0.0.0 with --public-url URL or --tls-cert")
    key_file = settings.home / "first-api-key"
    model = first.model
    if key_file.exists() and model:
        key = key_file.read_text(encoding="ascii").strip()
        body = (
            f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Say hello in one short sentence."}}]}}'
        )
        lines += [
            "",
            "Try it:",
            "",
            f"curl {url}/v1/chat/completions \\",
            f'  -H "Authorization: Bearer {key}" \\',
            '  -H "Content-Type: application/json" \\',
            f"  -d '{body}'",
        ]
    lines.append("")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _with_port(settings: Settings, port: int) -> Settings:
    import msgspec

    return msgspec.structs.replace(settings, port=port)
