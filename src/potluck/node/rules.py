"""May this machine serve now, and if not: why, for how long, and what becomes of what runs.

Rules of this file
- Pure: facts, settings, the owner's word, memory and a monotonic clock in; a decision and the next memory out.
- Each rule is a function that objects or does not. All objections are collected, and the strictest one speaks: `now`
  (what runs ends at once, the GPU is freed) before `soon` (it may run on for the grace) before `later` (it runs to its
  end, only new work waits).
- Not knowing whether somebody is there is somebody being there, unless the owner declared the machine headless.
- Whoever left comes back after a rest at the earliest, which doubles with each hard exit within the hour. It survives a
  restart, is not begun by what the owner says or by the schedule, and is ended by `resume`; one that mode `idle` began
  ends with that mode.
- Every refusal has one line for people, and the moment at which it may change where that is known.
"""

from collections.abc import Iterator
from typing import Literal

import msgspec

from potluck.node.facts import Facts
from potluck.node.settings import NodeSettings
from potluck.wire.link_messages import RefuseCode

QUIET_S = 60.0
"""other programs left processors and GPUs alone for so long before mode `idle` begins"""
BUSY_S = 10.0
"""and use them for so long before it ends"""
UNLOAD_AFTER_S = 60.0
"""after a soft exit, models are let go"""
FORGET_EXITS_S = 3600.0
MAX_REST_S = 3600.0

Severity = Literal["now", "soon", "later"]
Presence = Literal["active", "idle", "unknown"]


class Wish(msgspec.Struct, frozen=True):
    """The owner's word. `serve` None: none was said; False: pause; True: resume, which mode `manual` waits for."""

    serve: bool | None = None
    until_s: float | None = None
    """monotonic; then a pause is over"""
    drain: bool = False
    """a pause that lets what runs come to its end"""


class Decision(msgspec.Struct, frozen=True):
    """`serve`: new work is taken."""

    serve: bool
    reason: str
    """one line for people; also when it serves"""
    code: RefuseCode | None = None
    """for refusals at the link; None when it serves"""
    hard: bool = False
    """what runs ends at once, and the GPU is freed"""
    grace_s: float | None = None
    """from now on, what runs may run on for so long; None: to its end"""
    unload_after_s: float | None = None
    """once it has not served for so long, what the node had loaded is unloaded; None: it stays"""
    until_s: float | None = None
    """monotonic, the earliest change; None: nobody can say"""
    presence: Presence = "unknown"


class Gauge(msgspec.Struct, frozen=True):
    """A load of other programs: on which side of its limit it is, and since when."""

    is_over: bool = False
    since_s: float | None = None
    """None: it is not known"""

    def read(self, is_over: bool | None, now_s: float) -> "Gauge":
        if is_over is None:
            return Gauge()
        return self if self.since_s is not None and self.is_over == is_over else Gauge(is_over, now_s)


class Memory(msgspec.Struct, frozen=True):
    """What the rules remember between two decisions. Times are monotonic."""

    clock_s: float = 0.0
    """the latest time that was passed in: one that goes back stands still"""
    serving: bool = False
    """what runs may run"""
    counted: bool = True
    """the hard exit of this absence is among `exits_s`"""
    exits_s: tuple[float, ...] = ()
    """hard exits of the last hour"""
    rest_until_s: float = 0.0
    rest_of_idle: bool = False
    """that rest was begun by what only mode `idle` minds"""
    away_since_s: float | None = None
    """nobody there, by a source that does not know for how long"""
    cpu: Gauge = Gauge()
    gpu: Gauge = Gauge()


class KeptExits(msgspec.Struct, frozen=True):
    """What survives a restart. Times are unix seconds."""

    exits_s: tuple[float, ...] = ()
    rest_until_s: float = 0.0
    rest_of_idle: bool = False


class _Objection(msgspec.Struct, frozen=True):
    severity: Severity
    code: RefuseCode
    reason: str
    until_s: float | None = None
    rests: bool = True
    """leaving because of it begins a rest"""
    of_idle: bool = False
    """only mode `idle` minds it"""


def decide(settings: NodeSettings, facts: Facts, wish: Wish, memory: Memory, now_s: float) -> tuple[Decision, Memory]:
    """The decision for this moment, and the memory for the next. `now_s` is monotonic."""
    now_s = max(now_s, memory.clock_s)
    memory = _observed(settings, facts, memory, now_s)
    presence, quiet_s = _presence(settings, facts, memory, now_s)
    objections = [*_always(settings, facts, wish, now_s)]
    if "manual" in settings.mode and wish.serve is None:
        reason = "it waits for its owner: potluck node resume"
        objections.append(_Objection("soon", "paused", reason, rests=False))
    if "schedule" in settings.mode and not facts.window_open:
        until_s = None if facts.window_left_s is None else now_s + facts.window_left_s
        objections.append(_Objection("soon", "schedule", "it is outside its scheduled hours", until_s, rests=False))
    if "idle" in settings.mode:
        minded = _idle(settings, facts, memory, presence, quiet_s, now_s)
        objections += [msgspec.structs.replace(each, of_idle=True) for each in minded]
    elif memory.rest_of_idle:
        memory = msgspec.structs.replace(memory, rest_until_s=0.0, rest_of_idle=False)
    memory = _left(settings, objections, memory, now_s)
    if not memory.serving and now_s < memory.rest_until_s:
        reason = "it gave the machine back to its owner, and rests; potluck node resume ends that"
        objections.append(_Objection("soon", "owner_active", reason, memory.rest_until_s))
    if not objections:
        reason = "it serves: nobody uses this machine" if presence == "idle" else "it serves"
        return Decision(True, reason, presence=presence), _entered(memory)
    return _spoken(settings, objections, presence), memory


def room_for(settings: NodeSettings, facts: Facts, size_bytes: int) -> bool:
    """Whether a model of that size can be loaded without taking what is kept free of every GPU's memory. True where
    nothing is kept, or nothing is known."""
    known = [gpu for gpu in facts.hardware.gpus if gpu.total_bytes is not None and gpu.used_bytes is not None]
    if not settings.keep_vram_bytes or not known:
        return True
    free = sum(max((gpu.total_bytes or 0) - (gpu.used_bytes or 0) - settings.keep_vram_bytes, 0) for gpu in known)
    return size_bytes <= free


def forgiven(memory: Memory) -> Memory:
    """After `resume`: the owner does not want it to rest."""
    return msgspec.structs.replace(memory, exits_s=(), rest_until_s=0.0)


def kept(memory: Memory, now_s: float, unix_s: float) -> KeptExits:
    """For the state file."""
    shift = unix_s - now_s
    return KeptExits(tuple(each + shift for each in memory.exits_s), memory.rest_until_s + shift, memory.rest_of_idle)


def restored(exits: KeptExits, now_s: float, unix_s: float) -> Memory:
    """After a restart. A clock that was set meanwhile makes no rest longer than the longest, and none in the future."""
    shift = now_s - unix_s
    past = tuple(min(each + shift, now_s) for each in exits.exits_s)
    rest_until_s = min(exits.rest_until_s + shift, now_s + MAX_REST_S)
    recent = tuple(each for each in past if now_s - each < FORGET_EXITS_S)
    return Memory(clock_s=now_s, exits_s=recent, rest_until_s=rest_until_s, rest_of_idle=exits.rest_of_idle)


def _observed(settings: NodeSettings, facts: Facts, memory: Memory, now_s: float) -> Memory:
    """Memory after this moment's facts were seen."""
    hardware = facts.hardware
    cpu = None if hardware.cpu_others is None else hardware.cpu_others >= settings.cpu_others_max
    loads = [gpu.busy_others for gpu in hardware.gpus if gpu.busy_others is not None]
    gpu = max(loads) >= settings.gpu_others_max if loads else None
    is_away = facts.presence.active is False and facts.presence.idle_s is None
    away_since_s = memory.away_since_s if memory.away_since_s is not None else now_s
    return msgspec.structs.replace(
        memory,
        clock_s=now_s,
        exits_s=tuple(each for each in memory.exits_s if now_s - each < FORGET_EXITS_S),
        away_since_s=away_since_s if is_away else None,
        cpu=memory.cpu.read(cpu, now_s),
        gpu=memory.gpu.read(gpu, now_s),
    )


def _presence(settings: NodeSettings, facts: Facts, memory: Memory, now_s: float) -> tuple[Presence, float | None]:
    """What to call it, and for how long nobody has been there; None: that is not known."""
    quiet_s = facts.presence.idle_s
    if quiet_s is None and memory.away_since_s is not None:
        quiet_s = now_s - memory.away_since_s
    if quiet_s is None:
        return "unknown" if facts.presence.active is None else "active", 0.0 if facts.presence.active else None
    return "idle" if quiet_s >= settings.idle_after_s else "active", quiet_s


def _always(settings: NodeSettings, facts: Facts, wish: Wish, now_s: float) -> Iterator[_Objection]:
    """Objections in every mode."""
    if wish.serve is False and (wish.until_s is None or now_s < wish.until_s):
        word = "drained" if wish.drain else "paused"
        reason = f"its owner {word} it; potluck node resume ends that"
        yield _Objection("later" if wish.drain else "now", "paused", reason, wish.until_s, rests=False)
    hardware = facts.hardware
    if hardware.on_battery and not settings.on_battery:
        yield _Objection("now", "battery", "the machine runs on battery")
    if hardware.thermal in ("serious", "critical") or any(gpu.too_hot for gpu in hardware.gpus):
        yield _Objection("now", "thermal", "the machine is too hot")
    free = [gpu.total_bytes - gpu.used_bytes for gpu in hardware.gpus if gpu.total_bytes and gpu.used_bytes is not None]
    if min(free, default=settings.keep_vram_bytes) < settings.keep_vram_bytes:
        yield _Objection("now", "no_vram", "the part of the GPU's memory that is kept free is in use")
    if facts.local_use_s is not None and facts.local_use_s < settings.owner_first_s:
        until_s = now_s + settings.owner_first_s - facts.local_use_s
        yield _Objection("later", "owner_active", "its owner is using the engine", until_s)


def _idle(
    settings: NodeSettings, facts: Facts, memory: Memory, presence: Presence, quiet_s: float | None, now_s: float
) -> Iterator[_Objection]:
    """Objections in mode `idle`."""
    if facts.presence.full_screen:
        yield _Objection("now", "owner_active", "something has the whole screen: a game, a film, a presentation")
    if presence == "active":
        until_s = None if quiet_s is None else now_s + settings.idle_after_s - quiet_s
        yield _Objection("soon", "owner_active", "somebody uses this machine", until_s)
    elif presence == "unknown" and not settings.headless:
        reason = "whether somebody uses this machine cannot be seen; if nobody does: potluck node set headless yes"
        yield _Objection("soon", "owner_active", reason)
    for gpu in facts.hardware.gpus:
        if gpu.total_bytes and (gpu.used_others_bytes or 0) > settings.vram_others_max * gpu.total_bytes:
            yield _Objection("now", "no_vram", "another program needs the GPU's memory")
            break
    for gauge, what in ((memory.gpu, "the GPU"), (memory.cpu, "the processor")):
        if gauge.since_s is None:
            continue
        lasted_s = now_s - gauge.since_s
        if gauge.is_over and (not memory.serving or lasted_s >= BUSY_S):
            yield _Objection("soon", "owner_active", f"other programs use {what}")
        elif not gauge.is_over and not memory.serving and lasted_s < QUIET_S:
            reason = f"other programs may still use {what}"
            yield _Objection("soon", "owner_active", reason, gauge.since_s + QUIET_S)


def _left(settings: NodeSettings, objections: list[_Objection], memory: Memory, now_s: float) -> Memory:
    """Memory after the objections: an exit begins a rest, and a hard one is counted, once for each absence."""
    leaving = [each for each in objections if each.severity != "later"]
    if not leaving:
        return memory
    is_exit = memory.serving and any(each.rests for each in leaving)
    is_hard = any(each.severity == "now" and each.rests for each in leaving)
    exits_s, counted = memory.exits_s, memory.counted
    if is_hard and not counted:
        exits_s, counted, is_exit = (*exits_s, now_s), True, True
    rest_until_s, of_idle = memory.rest_until_s, memory.rest_of_idle
    if is_exit:
        of_idle = all(each.of_idle for each in leaving if each.rests) and (of_idle or now_s >= rest_until_s)
        rest_s = settings.reenter_s * 2.0 ** min(max(len(exits_s) - 1, 0), 16)
        rest_until_s = max(rest_until_s, now_s + min(rest_s, MAX_REST_S))
    return msgspec.structs.replace(
        memory,
        serving=False,
        counted=counted,
        exits_s=exits_s,
        rest_until_s=rest_until_s,
        rest_of_idle=of_idle,
    )


def _entered(memory: Memory) -> Memory:
    return memory if memory.serving else msgspec.structs.replace(memory, serving=True, counted=False)


def _spoken(settings: NodeSettings, objections: list[_Objection], presence: Presence) -> Decision:
    """The strictest objection speaks; it may change once all of them are over."""
    worst = min(objections, key=lambda each: ("now", "soon", "later").index(each.severity))
    known = [each.until_s for each in objections if each.until_s is not None]
    decision = Decision(
        False,
        f"it does not serve: {worst.reason}",
        worst.code,
        until_s=max(known) if len(known) == len(objections) else None,
        presence=presence,
    )
    if worst.severity == "now":
        return msgspec.structs.replace(decision, hard=True, grace_s=0.0, unload_after_s=0.0)
    if worst.severity == "soon":
        unload_after_s = None if settings.keep_warm else UNLOAD_AFTER_S
        return msgspec.structs.replace(decision, grace_s=settings.grace_s, unload_after_s=unload_after_s)
    return decision
