"""What is known of the machine right now, the input of the rules. No opinions; None is "not known", never zero."""

from typing import Literal

import msgspec

Thermal = Literal["nominal", "fair", "serious", "critical"]


class Gpu(msgspec.Struct, frozen=True):
    """One GPU. Shares are 0 to 1. `others`: every process that is not one of the shared engines'."""

    id: str
    name: str = ""
    busy: float | None = None
    busy_others: float | None = None
    total_bytes: int | None = None
    used_bytes: int | None = None
    used_others_bytes: int | None = None
    too_hot: bool = False
    """it slows itself down because of its temperature"""


class Hardware(msgspec.Struct, frozen=True):
    """What the machine is busy with, apart from the shared engines."""

    cpu_others: float | None = None
    """share of all processors that other programs use, over the last minute"""
    cpu_engines: float | None = None
    """processors that the engines use, over the last seconds"""
    free_bytes: int | None = None
    """of main memory"""
    on_battery: bool | None = None
    thermal: Thermal | None = None
    gpus: tuple[Gpu, ...] = ()


class Reading(msgspec.Struct, frozen=True):
    """Whether somebody uses the machine. Nothing but this ever leaves a probe: no keys, titles or names."""

    active: bool | None = None
    """None: not known"""
    idle_s: float | None = None
    """since the last input; where it is known, it counts and `active` does not"""
    locked: bool | None = None
    full_screen: bool = False
    """a game, a film or a presentation has the whole screen"""
    source: str = ""
    """what said so, for the status page"""


class Facts(msgspec.Struct, frozen=True):
    """All of it."""

    presence: Reading = Reading()
    hardware: Hardware = Hardware()
    local_use_s: float | None = None
    """since somebody else last used a shared engine on this machine; 0: now; None: never seen"""
    window_open: bool = False
    """of the schedule"""
    window_left_s: float | None = None
    """until that changes"""
