"""What the machine's owner wants: one typed table. The file `settings.json` of the node's home is one, as JSON.

Rules of this file
- Each setting carries its help and unit here: `potluck node set` and `docs/reference/node-settings.md` are made of it.
- A file with a member that is not known, or a value that is out of bounds, is refused whole and named: the agent does
  not guess what an owner meant.
- A setting that is not written has its default; only what differs from it is written.
"""

import difflib
from typing import Annotated, Any, Literal, get_args, get_type_hints
from zoneinfo import ZoneInfo

import msgspec

from potluck.config.values import read_value
from potluck.engines.asking import NotHereError, Place
from potluck.model.node import NodePrice
from potluck.node.schedule import parse_window

Mode = Literal["always", "idle", "schedule", "manual"]
"""`always`: whenever it can. `idle`: while nobody is at the machine. `schedule`: inside the windows. `manual`: after
`potluck node resume`, until `potluck node pause`."""


class SettingsError(ValueError):
    """A setting cannot be taken. One line: which, why, and what would do."""


def _meta(help_: str, *, unit: str = "", **bounds: Any) -> msgspec.Meta:
    meta: msgspec.Meta = msgspec.Meta(description=help_, extra={"unit": unit}, **bounds)
    return meta


class NodeSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Everything the owner may say. Shares are 0 to 1."""

    mode: Annotated[
        tuple[Mode, ...],
        _meta("when it serves: `always`, `idle`, `schedule`, `manual`; several (`idle,schedule`) must all allow it"),
    ] = ("always",)
    schedule: Annotated[
        tuple[str, ...],
        _meta("windows for mode `schedule`, separated by commas: `mon-fri 22:00-07:00,sat-sun 00:00-24:00`"),
    ] = ()
    timezone: Annotated[str, _meta("of the windows, like `Europe/Berlin`; unset: the machine's own")] = ""
    headless: Annotated[
        bool,
        _meta("mode `idle`: nobody sits at this machine, so not knowing whether somebody is there means nobody is"),
    ] = False
    idle_after_s: Annotated[
        float, _meta("mode `idle`: without input for so long, nobody is there", unit="s", ge=1, le=86_400)
    ] = 300.0
    grace_s: Annotated[
        float, _meta("what runs may run on for so long when somebody comes back", unit="s", ge=0, le=600)
    ] = 10.0
    reenter_s: Annotated[
        float,
        _meta("after it gave the machine back it stays away for so long at least", unit="s", ge=0, le=3600),
    ] = 300.0
    owner_first_s: Annotated[
        float,
        _meta("new work waits until nobody else used the engine for so long; 0: never", unit="s", ge=0, le=600),
    ] = 20.0
    on_battery: Annotated[bool, _meta("serve on battery too")] = False
    cpu_others_max: Annotated[
        float, _meta("mode `idle`: other programs' share of all processors, at most", ge=0, le=1)
    ] = 0.25
    gpu_others_max: Annotated[float, _meta("mode `idle`: other programs' share of a GPU, at most", ge=0, le=1)] = 0.1
    vram_others_max: Annotated[
        float, _meta("mode `idle`: other programs' share of a GPU's memory, at most", ge=0, le=1)
    ] = 0.5
    keep_vram_bytes: Annotated[
        int,
        _meta("of each GPU's memory, kept free for the desktop in every mode", unit="bytes", ge=0, le=1 << 50),
    ] = 0
    keep_warm: Annotated[
        bool,
        _meta("keep models in memory while it does not serve or has no gateway, unless they must go at once"),
    ] = False
    engines_are_ours: Annotated[
        bool,
        _meta("the engines work for this node alone: all they hold is unloaded, not only what it had loaded"),
    ] = False
    presence_port: Annotated[
        int,
        _meta("loopback port on which `potluck node presence-helper` reports; 0: there is none", ge=0, le=65_535),
    ] = 0
    engines: Annotated[
        tuple[str, ...], _meta("addresses of engines, separated by commas, beside those found on well-known ports")
    ] = ()
    discover: Annotated[bool, _meta("look for engines on the well-known ports of loopback")] = True
    local_model: Annotated[bool, _meta("serve the built-in model")] = False
    slots: Annotated[int, _meta("requests at once; 0: as many as the engines work on at once", ge=0, le=1024)] = 0
    queue: Annotated[int, _meta("requests that wait here beyond those", ge=0, le=64)] = 2
    links: Annotated[int, _meta("connections to the gateway", ge=1, le=2)] = 2
    page_port: Annotated[
        int, _meta("loopback port of the status page, the next free one if taken", ge=0, le=65_535)
    ] = 7173
    allow_load: Annotated[bool, _meta("the gateway may have models loaded")] = False
    allow_unload: Annotated[bool, _meta("the gateway may have models unloaded that the node had loaded")] = False
    send_log: Annotated[bool, _meta("send warnings and errors of the agent to the gateway")] = False
    prices: dict[str, NodePrice] = {}
    """by model, `*` for all others; set by `potluck node price`"""


class Setting(msgspec.Struct, frozen=True):
    """One row of the table."""

    key: str
    default: str
    unit: str
    help: str


def table() -> list[Setting]:
    """Every setting that is one word and one value, in order."""
    defaults = NodeSettings()
    return [
        Setting(key, shown(key, getattr(defaults, key)), _unit(kind), str(kind.description))
        for key, kind in _kinds().items()
    ]


def shown(key: str, value: object) -> str:
    """A value as the owner writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, int) and value and _unit(_kinds()[key]) == "bytes":
        for size, prefix in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
            if value % size == 0:
                return f"{value // size}{prefix}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def with_value(settings: NodeSettings, key: str, text: str) -> NodeSettings:
    """`settings` with `key` set to what `text` says; an empty text is the default. Raises SettingsError."""
    key = key.replace("-", "_")
    if key not in _kinds():
        near = difflib.get_close_matches(key, _kinds(), 1)
        raise SettingsError(f"there is no setting {key!r}" + (f": did you mean {near[0]}?" if near else ""))
    value: object = getattr(NodeSettings(), key)
    if text.strip():
        try:
            value = read_value(get_type_hints(NodeSettings, include_extras=True)[key], text)
        except ValueError as error:
            is_switch = isinstance(value, bool)
            raise SettingsError(f"{key}: {f'{text!r} is neither yes nor no' if is_switch else error}") from None
    if key == "mode" and isinstance(value, tuple):
        value = tuple(each.lower() for each in value)
        if unknown := [each for each in value if each not in get_args(Mode)]:
            raise SettingsError(f"mode: {unknown[0]!r} is not one of {', '.join(get_args(Mode))}")
    return checked(msgspec.structs.replace(settings, **{key: value}))


def _kinds() -> dict[str, msgspec.Meta]:
    """The settings of the table, and what each carries."""
    hints = get_type_hints(NodeSettings, include_extras=True)
    return {key: hint.__metadata__[0] for key, hint in hints.items() if hasattr(hint, "__metadata__")}


def _unit(kind: msgspec.Meta) -> str:
    return str((kind.extra or {})["unit"])


def checked(settings: NodeSettings) -> NodeSettings:
    """The same. Raises SettingsError for values that do not fit their bounds, or each other."""
    try:
        msgspec.convert(msgspec.to_builtins(settings), NodeSettings)
    except msgspec.ValidationError as error:
        raise SettingsError(str(error)) from None
    modes = set(settings.mode)
    if not modes or ("always" in modes and len(modes) > 1):
        raise SettingsError("mode: `always` stands alone; the others combine, as in `idle,schedule`")
    try:
        windows = [parse_window(each) for each in settings.schedule]
    except ValueError as error:
        raise SettingsError(f"schedule: {error}") from None
    if "schedule" in modes and not windows:
        raise SettingsError("mode `schedule` needs windows first: potluck node set schedule 'mon-fri 22:00-07:00'")
    for each in settings.engines:
        try:
            Place.parse(each, elsewhere=True)
        except NotHereError as error:
            raise SettingsError(f"engines: {error}") from None
    if settings.timezone:
        try:
            ZoneInfo(settings.timezone)
        except (OSError, ValueError, LookupError):
            raise SettingsError(f"timezone: {settings.timezone!r} is not known here, like `Europe/Berlin`") from None
    return settings
