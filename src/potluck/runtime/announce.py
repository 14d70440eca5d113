"""What `serve` prints once it listens: where it is, and a first call that works when pasted.

Plain lines on stdout, unwrapped, also when it is no terminal: scripts and people copy them. Whatever collects them must
not collect keys: the first API key itself is printed at the very first start and to terminals, else the command that
reads it from its file.
"""

import ipaddress
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from potluck.config.settings import Settings

if TYPE_CHECKING:
    from potluck.admin.first_start import FirstStart

_EVERY = {
    "0.0.0.0": "every IPv4 address of this machine",  # noqa: S104 — named, not bound
    "::": "every IPv6 address of this machine",
    "": "every address of this machine",
}


def listening(settings: Settings, port: int, first: "FirstStart", works: Callable[[bytes], bool]) -> None:
    """Print the lines. `works`: whether an API key is one that callers can use now; others are not printed."""
    settings = _with_port(settings, port)
    url = settings.url
    lines = [*first.lines, "", f"Potluck listens on {settings.local_url}"]
    lines += _reach(settings)
    lines += [
        f"start page and API reference: {url}/  {url}/api/docs",
        f"admin token: {settings.home}/admin-token (commands on this machine use it by themselves)",
    ]
    lines += _first_call(settings.home / "first-api-key", url, first, works)
    lines.append("")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _reach(settings: Settings) -> list[str]:
    """Who can reach it, and how."""
    lines = []
    if settings.public_url:
        lines.append(f"callers reach it at {settings.public_url}")
    if _is_loopback(settings.host):
        if not settings.public_url:
            lines.append(
                "only this machine can reach it; for others: --host 0.0.0.0 with --public-url URL or --tls-cert"
            )
        return lines
    where = _EVERY.get(settings.host)
    said = f"{where} ({settings.host})" if where and settings.host else where or settings.host
    lines.append(f"other machines can reach it: it takes connections on {said}, port {settings.port}")
    if not settings.tls and not (settings.public_url or "").startswith("https:"):
        lines.append(
            "warning: this is plain http, so keys and prompts can be read on the way; give --tls-cert and --tls-key, "
            "or put a proxy that speaks TLS in front and name it with --public-url"
        )
    return lines


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _first_call(key_file: Path, url: str, first: "FirstStart", works: Callable[[bytes], bool]) -> list[str]:
    """A command to paste; where there is no key for it, how to make one."""
    try:
        key = key_file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ["API keys: potluck key create NAME"]
    if not works(key.encode()):
        return [f"API keys: potluck key create NAME (the one in {key_file} does not work any more)"]
    shown = key if first.is_new or sys.stdout.isatty() else f"$(cat {shlex.quote(str(key_file))})"
    header = f'  -H "Authorization: Bearer {shown}"'
    lines = [f"first API key: {key_file}", "", "Try it:", ""]
    if first.model is None:
        return [*lines, f"curl {url}/v1/models \\", header]
    body = (
        f'{{"model": "{first.model}", "messages": [{{"role": "user", "content": "Say hello in one short sentence."}}]}}'
    )
    return [
        *lines,
        f"curl {url}/v1/chat/completions \\",
        f"{header} \\",
        '  -H "Content-Type: application/json" \\',
        f"  -d '{body}'",
    ]


def _with_port(settings: Settings, port: int) -> Settings:
    import msgspec

    return msgspec.structs.replace(settings, port=port)
