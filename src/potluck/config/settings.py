"""Settings of the gateway process: one typed tree. Command line over environment over default.

Each setting carries its help, unit, variable and option: the reference page
`docs/reference/settings.md` and `serve --help` are made from here. None of them reloads: what changes while the gateway
runs (keys, providers, models) is in the store, not here.
"""

import difflib
import ipaddress
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec

from potluck.config.errors import ConfigError, Problem
from potluck.config.values import read_value
from potluck.model.secret import Secret

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["json", "console"]


def _meta(help_: str, env: str, *, unit: str = "", option: str = "", **bounds: Any) -> msgspec.Meta:
    meta: msgspec.Meta = msgspec.Meta(description=help_, extra={"env": env, "unit": unit, "option": option}, **bounds)
    return meta


class LogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway writes to stderr."""

    level: Annotated[LogLevel, _meta("least severe line that is written", "POTLUCK_LOG_LEVEL")] = "info"
    format: Annotated[
        LogFormat | None, _meta("`json` or `console`; unset: console on a terminal, else json", "POTLUCK_LOG_FORMAT")
    ] = None


class LimitSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on what a caller may cost, whoever it is; names as in the data plane's own limits."""

    max_body_bytes: Annotated[
        int, _meta("largest request body; beyond it 413", "POTLUCK_MAX_BODY_BYTES", unit="bytes", ge=1024, le=1 << 31)
    ] = 32 << 20
    buffered_bodies_bytes: Annotated[
        int,
        _meta(
            "request bodies held in memory at once, over all callers; beyond it 503 `overloaded`",
            "POTLUCK_BUFFERED_BODIES_BYTES",
            unit="bytes",
            ge=1024,
        ),
    ] = 512 << 20
    head_s: Annotated[
        float, _meta("from the first byte of a request head to its last", "POTLUCK_HEAD_S", unit="s", gt=0, le=3600)
    ] = 15.0
    keep_alive_s: Annotated[
        float,
        _meta(
            "a connection without a request for so long is closed", "POTLUCK_KEEP_ALIVE_S", unit="s", gt=0, le=86_400
        ),
    ] = 75.0
    body_idle_s: Annotated[
        float,
        _meta("silence while a request body is sent; beyond it 408", "POTLUCK_BODY_IDLE_S", unit="s", gt=0, le=3600),
    ] = 30.0
    body_total_s: Annotated[
        float, _meta("a whole request body; beyond it 408", "POTLUCK_BODY_TOTAL_S", unit="s", gt=0, le=86_400)
    ] = 600.0
    caller_stall_s: Annotated[
        float,
        _meta(
            "a caller that takes nothing off its stream for so long is cut",
            "POTLUCK_CALLER_STALL_S",
            unit="s",
            gt=0,
            le=86_400,
        ),
    ] = 60.0
    keepalive_comment_s: Annotated[
        float,
        _meta("silence in a stream before a comment is sent", "POTLUCK_KEEPALIVE_COMMENT_S", unit="s", gt=0, le=3600),
    ] = 15.0


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is decided before the process starts. Printing it shows no secret."""

    home: Annotated[
        Path, _meta("directory of databases, spool, keys and the built-in model", "POTLUCK_HOME", option="--home")
    ]
    host: Annotated[str, _meta("address to listen on", "POTLUCK_HOST", option="--host")] = "127.0.0.1"
    port: Annotated[
        int, _meta("port to listen on; 0: any free one", "POTLUCK_PORT", option="--port", ge=0, le=65_535)
    ] = 7171
    config: Annotated[
        Path | None, _meta("a potluck.toml that is applied at start", "POTLUCK_CONFIG", option="--config")
    ] = None
    public_url: Annotated[
        str | None,
        _meta("address under which callers reach this gateway", "POTLUCK_PUBLIC_URL", option="--public-url"),
    ] = None
    tls_cert: Annotated[
        Path | None, _meta("certificate chain, PEM; needs --tls-key", "POTLUCK_TLS_CERT", option="--tls-cert")
    ] = None
    tls_key: Annotated[Path | None, _meta("its private key, PEM", "POTLUCK_TLS_KEY", option="--tls-key")] = None
    trusted_proxies: Annotated[
        tuple[str, ...],
        _meta(
            "networks whose X-Forwarded-* headers are believed, comma-separated",
            "POTLUCK_TRUSTED_PROXIES",
            option="--trusted-proxies",
        ),
    ] = ()
    no_local_model: Annotated[
        bool, _meta("run without the built-in model", "POTLUCK_NO_LOCAL_MODEL", option="--no-local-model")
    ] = False
    workers: Annotated[
        int, _meta("serving processes; only 1 in this version", "POTLUCK_WORKERS", option="--workers", ge=1)
    ] = 1
    database_url: Annotated[
        Secret | None, _meta("PostgreSQL address; refused in this version", "POTLUCK_DATABASE_URL")
    ] = None
    valkey_url: Annotated[Secret | None, _meta("Valkey address; refused in this version", "POTLUCK_VALKEY_URL")] = None
    master_key: Annotated[
        Secret | None,
        _meta(
            "key that seals provider credentials; unset: `HOME/master-key`, made at first start", "POTLUCK_MASTER_KEY"
        ),
    ] = None
    bootstrap_admin_token: Annotated[
        Secret | None, _meta("first admin token, when the home directory is new", "POTLUCK_BOOTSTRAP_ADMIN_TOKEN")
    ] = None
    bootstrap_api_key: Annotated[
        Secret | None, _meta("first API key, when the home directory is new", "POTLUCK_BOOTSTRAP_API_KEY")
    ] = None
    drain_s: Annotated[
        float,
        _meta("how long running requests may go on after SIGTERM", "POTLUCK_DRAIN_S", unit="s", ge=0, le=86_400),
    ] = 30.0
    log: LogSettings = LogSettings()
    limits: LimitSettings = LimitSettings()

    @property
    def tls(self) -> bool:
        return self.tls_cert is not None

    @property
    def local_url(self) -> str:
        """Where a program on this machine reaches the gateway."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.host, self.host)  # noqa: S104
        return f"{'https' if self.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def url(self) -> str:
        """What to print: the public address if there is one."""
        return self.public_url or self.local_url


class Setting(msgspec.Struct, frozen=True):
    """One leaf of the tree, described."""

    name: str
    """dotted: `limits.max_body_bytes`"""
    kind: Any
    default: Any
    help: str
    env: str
    unit: str
    option: str


def describe() -> list[Setting]:
    """Every setting, in the order of the tree."""

    def walk(cls: type[msgspec.Struct], prefix: str) -> list[Setting]:
        found = []
        for field in msgspec.structs.fields(cls):
            if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
                found += walk(field.type, f"{prefix}{field.name}.")
                continue
            kind, meta = field.type.__origin__, field.type.__metadata__[0]
            default = None if field.required else field.default
            found.append(
                Setting(
                    f"{prefix}{field.name}",
                    field.type if kind in (int, float) else kind,
                    default,
                    meta.description,
                    meta.extra["env"],
                    meta.extra["unit"],
                    meta.extra["option"],
                )
            )
        return found

    return walk(Settings, "")


CLIENT_VARIABLES = ("POTLUCK_URL", "POTLUCK_ADMIN_TOKEN")
"""read by the commands that talk to a gateway, not by `serve`"""


def misspelt_variables(env: Mapping[str, str]) -> dict[str, str]:
    """Variables of the environment that are no setting but look like one → the setting that was probably meant."""
    known = [*(setting.env for setting in describe()), *CLIENT_VARIABLES]
    found = {}
    for name in sorted(env):
        if name.startswith("POTLUCK_") and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.88)
            if near:
                found[name] = near[0]
    return found


def default_home(env: Mapping[str, str]) -> Path:
    """The platform's data directory for this user."""
    if env.get("XDG_DATA_HOME"):
        return Path(env["XDG_DATA_HOME"]) / "potluck"
    user = Path(env["HOME"]) if env.get("HOME") else Path.home()
    if sys.platform == "darwin":
        return user / "Library" / "Application Support" / "Potluck"
    return user / ".local" / "share" / "potluck"


def home_directory(option: str | os.PathLike[str] | None, env: Mapping[str, str]) -> Path:
    """The home directory, without reading any other setting."""
    chosen = option or env.get("POTLUCK_HOME")
    return Path(chosen).expanduser().absolute() if chosen else default_home(env)


def load_settings(options: Mapping[str, object], env: Mapping[str, str]) -> Settings:
    """The settings of this process.

    `options`: command-line values by dotted name, None where not given. Raises ConfigError naming every bad setting
    with the option or variable that it came from.
    """
    tree: dict[str, Any] = {"log": {}, "limits": {}}
    origins: dict[str, str] = {}
    problems: list[Problem] = []
    for setting in describe():
        value: object = options.get(setting.name)
        source = setting.option
        if value is None or (value is False and setting.kind is bool):
            value, source = env.get(setting.env) or None, setting.env
        if value is None:
            continue
        origins[setting.name] = source
        section, _, leaf = setting.name.rpartition(".")
        try:
            (tree[section] if section else tree)[leaf] = read_value(setting.kind, value)
        except ValueError as error:
            problems.append(Problem(str(error), source=source))
    if problems:
        raise ConfigError(problems)
    tree["home"] = home_directory(tree.get("home"), env)
    tree["log"], tree["limits"] = LogSettings(**tree["log"]), LimitSettings(**tree["limits"])
    settings = Settings(**tree)
    variables = {setting.name: setting.env for setting in describe()}
    if wrong := _check(settings):
        raise ConfigError([Problem(message, source=origins.get(name) or variables[name]) for name, message in wrong])
    return msgspec.structs.replace(
        settings,
        trusted_proxies=tuple(str(ipaddress.ip_network(each, strict=False)) for each in settings.trusted_proxies),
        public_url=settings.public_url and settings.public_url.rstrip("/"),
    )


def _check(settings: Settings) -> list[tuple[str, str]]:
    """What cannot be used, as (setting, message)."""
    wrong = []
    later = "has not landed in this version, which runs as one process on SQLite"
    if settings.workers > 1:
        wrong.append(("workers", f"more than one worker {later}: leave it at 1"))
    if settings.database_url:
        wrong.append(("database_url", f"PostgreSQL {later}: unset it"))
    if settings.valkey_url:
        wrong.append(("valkey_url", f"Valkey {later}: unset it"))
    if (settings.tls_cert is None) != (settings.tls_key is None):
        given, other = ("tls_cert", "--tls-key") if settings.tls_cert else ("tls_key", "--tls-cert")
        wrong.append((given, f"TLS needs both files: give {other} as well"))
    for name in ("tls_cert", "tls_key", "config"):
        path: Path | None = getattr(settings, name)
        if path is not None and not os.access(path, os.R_OK):
            wrong.append((name, f"cannot read {path}: {'no permission' if path.exists() else 'no such file'}"))
    for network in settings.trusted_proxies:
        try:
            ipaddress.ip_network(network, strict=False)
        except ValueError:
            wrong.append(("trusted_proxies", f"{network!r} is no network: write 10.0.0.0/8,127.0.0.1"))
    if settings.public_url is not None and (fault := _public_url_fault(settings.public_url)):
        wrong.append(("public_url", fault))
    for name, prefix in (("bootstrap_admin_token", "pla-"), ("bootstrap_api_key", "plk-")):
        secret: Secret | None = getattr(settings, name)
        text = secret.reveal() if secret else ""
        body = text.removeprefix(prefix)
        if secret and not (text.startswith(prefix) and len(body) == 46 and body.isascii() and body.isalnum()):
            wrong.append((name, f"does not have the shape {prefix} followed by 46 letters and digits"))
    if settings.limits.buffered_bodies_bytes < settings.limits.max_body_bytes:
        wrong.append(
            ("limits.buffered_bodies_bytes", "is less than one largest body: raise it, or lower POTLUCK_MAX_BODY_BYTES")
        )
    return wrong


def _public_url_fault(url: str) -> str:
    try:
        parts = urlsplit(url)
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        parts, port_is_valid = urlsplit(""), False
    plain = parts.path in ("", "/") and not parts.query and not parts.fragment and "@" not in parts.netloc
    if parts.scheme in ("http", "https") and parts.hostname and port_is_valid and plain:
        return ""
    return f"{url!r} is not an address without a path: write https://potluck.example.org"
