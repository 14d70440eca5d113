"""How busy an engine is, as far as it says: one or two reading questions, repeated every few seconds.

Rules of this file
- An engine that keeps its model in memory only while it is used must not be kept awake by being watched. llama.cpp's
  `/props` and `/metrics` do not count as use; its `/slots` does, and is asked only where `/metrics` is turned off (its
  default) and the engine has never been seen asleep. Start one that sleeps on idle with `--metrics`.
- A model of a llama.cpp router is asked about only while it is loaded, and with `autoload=false`.
- What an engine turned off is not asked again until the reader is made anew.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Literal

import msgspec

from potluck.engines.inventory import router_path
from potluck.engines.questions import (
    Dialogue,
    Json,
    Question,
    Reply,
    fraction,
    member,
    name,
    objects,
    positive,
    text,
    whole,
)
from potluck.model.engine import EngineKind, EngineLoad

_CLOSED = (401, 403, 404, 405, 501)


class Reading(msgspec.Struct, frozen=True):
    """`heard`: the engine answered, let the time pass, or nobody listens any more."""

    load: EngineLoad
    heard: Literal["answered", "silent", "refused"] = "answered"


class LoadReader:
    """Reads the load of one engine, again and again."""

    def __init__(self, kind: EngineKind) -> None:
        self._kind = kind
        self._closed: set[str] = set()
        """paths that the engine does not serve"""
        self._page = 0
        """which of the pages for its kind it has"""
        self._sleeps = False
        self._served: tuple[str, ...] = ()
        """what a llama.cpp server has, once it is known to be no router"""

    def read(self) -> Dialogue[Reading]:
        """One reading."""
        if self._kind == "llama.cpp":
            return (yield from self._llama_cpp())
        pages = _PAGES.get(self._kind, _LIST)
        while True:
            path, tell = pages[self._page]
            reply = yield Question(path)
            if lost := _heard(reply):
                return lost
            load = tell(reply)
            # LM Studio says 200 to what it does not have
            is_there = load is not None or reply.status not in (200, *_CLOSED)
            if is_there or self._page == len(pages) - 1:
                return Reading(load or EngineLoad())
            self._page += 1

    def _llama_cpp(self) -> Dialogue[Reading]:
        if self._served:
            return (yield from self._one_llama(self._served, lambda path: path))
        listed = yield Question("/v1/models")
        statuses = {name(card, "id"): text(card, "status", "value") for card in objects(listed.json, "data")}
        if not any(statuses.values()):
            self._served = tuple(sorted(statuses))
            return _heard(listed) or (yield from self._one_llama(self._served, lambda path: path))
        self._sleeps = self._sleeps or "sleeping" in statuses.values()
        total = EngineLoad(running=0, queued=0, slots=0, resident=())
        for served, status in sorted(statuses.items()):
            if status == "loaded":
                reading = yield from self._one_llama((served,), partial(router_path, served=served))
                total = _sum(total, reading.load)
        return Reading(total)

    def _one_llama(self, served: tuple[str, ...], about: Callable[[str], str]) -> Dialogue[Reading]:
        """The load of one server, or of one model behind a router."""
        props = yield Question(about("/props"))
        if lost := _heard(props):
            return lost
        slots = positive(props.json, "total_slots")
        if member(props.json, "is_sleeping") is True:
            self._sleeps = True
            return Reading(EngineLoad(running=0, queued=0, slots=slots, resident=()))
        metrics = yield from self._open("/metrics", about)
        if metrics is not None and metrics.ok:
            running = _count(_gauge(metrics, "llamacpp:requests_processing"))
            queued = _count(_gauge(metrics, "llamacpp:requests_deferred"))
            return Reading(EngineLoad(running=running, queued=queued, slots=slots, resident=served))
        told = None if self._sleeps else (yield from self._open("/slots", about))
        if told is None or not isinstance(told.json, list):
            return Reading(EngineLoad(slots=slots, resident=served))
        each_slot = [*objects({"slots": told.json}, "slots")]
        running = sum(slot.get("is_processing") is True for slot in each_slot)
        return Reading(EngineLoad(running=running, slots=slots or len(each_slot), resident=served))

    def _open(self, path: str, about: Callable[[str], str]) -> Dialogue[Reply | None]:
        """The reply, or None for a path that is known to be closed."""
        if path in self._closed:
            return None
        reply = yield Question(about(path))
        if reply.status in _CLOSED:
            self._closed.add(path)
        return reply


def _heard(reply: Reply) -> Reading | None:
    """None: it answered."""
    if reply.status:
        return None
    return Reading(EngineLoad(), "refused" if reply.refused else "silent")


def _sum(one: EngineLoad, other: EngineLoad) -> EngineLoad:
    """Of two models of one engine. What one does not tell, the sum does not."""

    def added(field: str) -> int | None:
        values = getattr(one, field), getattr(other, field)
        return None if None in values else sum(values)

    return EngineLoad(
        running=added("running"),
        queued=added("queued"),
        slots=added("slots"),
        resident=tuple(sorted((one.resident or ()) + (other.resident or ()))),
    )


def _gauge(reply: Reply, *names: str) -> list[float]:
    """Its values in Prometheus' text, one per series; the first of `names` that is there."""
    for each in names:
        found = re.findall(
            rb"^%s(?:\{[^\n]*\})? ([0-9.eE+-]{1,24})(?:\s|$)" % re.escape(each.encode()), reply.body, re.MULTILINE
        )
        try:
            values = [float(value) for value in found]
        except ValueError:
            continue
        if values:
            return values
    return []


def _count(values: list[float]) -> int | None:
    return whole(sum(values)) if values else None


def _nothing(_: Reply) -> None:
    return None


def _vllm(reply: Reply) -> EngineLoad | None:
    if not reply.ok:
        return None
    cache = _gauge(reply, "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
    return EngineLoad(
        running=_count(_gauge(reply, "vllm:num_requests_running")),
        queued=_count(_gauge(reply, "vllm:num_requests_waiting")),
        cache_used=fraction(max(cache)) if cache else None,
    )


def _sglang(reply: Reply) -> EngineLoad | None:
    if not isinstance(member(reply.json, "loads"), list):
        return None
    ranks = [*objects(reply.json, "loads")]
    used = [each for each in (fraction(rank, "token_usage") for rank in ranks) if each is not None]
    return EngineLoad(
        running=_total(ranks, "num_running_reqs"),
        queued=_total(ranks, "num_waiting_reqs"),
        slots=_total(ranks, "max_running_requests") or None,
        cache_used=max(used, default=None),
    )


def _sglang_old(reply: Reply) -> EngineLoad | None:
    """`/get_load`: `num_reqs` has the waiting ones in it."""
    ranks = [*objects({"loads": reply.json}, "loads")]
    everyone, queued = _total(ranks, "num_reqs"), _total(ranks, "num_waiting_reqs")
    running = None if everyone is None or queued is None else max(everyone - queued, 0)
    return EngineLoad(running=running, queued=queued)


def _total(ranks: list[Json], field: str) -> int | None:
    values = [whole(rank, field) for rank in ranks]
    return sum(each for each in values if each is not None) if values and None not in values else None


def _ollama(reply: Reply) -> EngineLoad | None:
    if not reply.ok:
        return None
    loaded = [each for each in objects(reply.json, "models") if name(each, "name")]
    return EngineLoad(
        resident=tuple(sorted(name(each, "name") for each in loaded)),
        vram_bytes=_total(loaded, "size_vram") if loaded else 0,
    )


def _lm_studio(reply: Reply) -> EngineLoad | None:
    if not any(isinstance(member(reply.json, each), list) for each in ("models", "data")):
        return None
    cards = [*objects(reply.json, "models")]
    loaded = {name(card, "key") for card in cards if card.get("loaded_instances")}
    loaded |= {name(card, "id") for card in objects(reply.json, "data") if card.get("state") == "loaded"}
    instances = [each for card in cards for each in objects(card, "loaded_instances")]
    at_once = [positive(each, "config", "parallel") for each in instances]
    slots = sum(each for each in at_once if each) if at_once and None not in at_once else None
    return EngineLoad(slots=slots, resident=tuple(sorted(loaded - {""})))


def _localai(reply: Reply) -> EngineLoad | None:
    return _residents(reply, "loaded_models", "id") if reply.ok else None


def _llama_swap(reply: Reply) -> EngineLoad | None:
    return _residents(reply, "running", "model", state="ready") if reply.ok else None


def _residents(reply: Reply, path: str, field: str, **wanted: str) -> EngineLoad:
    found = (each for each in objects(reply.json, path) if all(each.get(key) == value for key, value in wanted.items()))
    return EngineLoad(resident=tuple(sorted({name(each, field) for each in found} - {""})))


def _koboldcpp(reply: Reply) -> EngineLoad | None:
    idle = whole(reply.json, "idle")
    return EngineLoad(
        running=None if idle is None else int(not idle),
        queued=whole(reply.json, "queue"),
        idle_s=_seconds(member(reply.json, "idletime")),
    )


def _seconds(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value < 1e9 else None  # type: ignore[arg-type, operator]


_Page = tuple[str, Callable[[Reply], EngineLoad | None]]
"""a path, and what its reply tells; None: nothing"""
_PAGES: dict[EngineKind, tuple[_Page, ...]] = {
    "vllm": (("/metrics", _vllm),),
    "sglang": (("/v1/loads", _sglang), ("/get_load", _sglang_old)),
    "ollama": (("/api/ps", _ollama),),
    "lm-studio": (("/api/v1/models", _lm_studio), ("/api/v0/models", _lm_studio)),
    "localai": (("/system", _localai),),
    "llama-swap": (("/running", _llama_swap),),
    "koboldcpp": (("/api/extra/perf", _koboldcpp),),
}
"""newest first: the first that tells something is the one that is asked from then on"""
_LIST: tuple[_Page, ...] = (("/v1/models", _nothing),)
"""an engine that tells nothing is still asked whether it is there"""
