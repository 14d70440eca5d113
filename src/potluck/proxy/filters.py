"""Why a target may not serve a request: hard filters, each with its reason in words. Nothing here ranks.

A caller can only tighten: its own filters come on top of its route's, its key's and its project's.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from math import inf

from potluck.model.price import NANOUSD_PER_USD
from potluck.model.resources import DataClass, RouteConstraints
from potluck.model.snapshot import CompiledKey, CompiledTarget
from potluck.wire.dialects.controls import Controls


def why_not(target: CompiledTarget, capability: str, data_class: DataClass) -> str:
    """Why a target cannot serve an endpoint for data of a class; empty: it can."""
    if target.unroutable:
        return target.unroutable
    if capability not in target.heads:
        return f"does not serve {capability}"
    if target.community and data_class != "open":
        return f"data class {data_class} does not go to community nodes"
    if data_class == "private" and not target.own:
        return "data class private stays on own infrastructure"
    return ""


def told(target: CompiledTarget | None, reason: str) -> str:
    """What of a reason for leaving a target out is told to callers."""
    return target.unroutable_told if target is not None and reason == target.unroutable else reason


def owns(key: CompiledKey, target: CompiledTarget) -> bool:
    """Whether the target is one of the key's own devices: its project's nodes, and those of the whole organisation."""
    return target.node is not None and not target.community and target.owner in ("", f"project:{key.project}")


def barred_by_route(target: CompiledTarget, constraints: RouteConstraints) -> str:
    """Why a route's constraints leave a target out; empty: they don't."""
    if constraints.only is not None and not _called(target, constraints.only):
        return "not among the route's `only`"
    if constraints.ignore is not None and _called(target, constraints.ignore):
        return "among the route's `ignore`"
    if _dearer(target, constraints.max_price_input, constraints.max_price_output):
        return "dearer than the route's `max_price`"
    return ""


def barred_by_caller(target: CompiledTarget, controls: Controls) -> str:
    """Why the caller's own controls leave a target out; empty: they don't."""
    if controls.only is not None and not _called(target, controls.only):
        return "not among the request's `only`"
    if controls.ignore is not None and _called(target, controls.ignore):
        return "among the request's `ignore`"
    bound = controls.max_price
    if bound is not None and _dearer(target, _nanousd(bound.input), _nanousd(bound.output)):
        return "dearer than the request's `max_price`"
    return ""


def _called(target: CompiledTarget, entries: Iterable[str]) -> bool:
    """Whether an entry of `only` or `ignore` means the target: by kind, provider, node, name, or a pattern.

    Kinds: `provider` is every endpoint behind an address, own ones too; `node` every node; `own` is own infrastructure
    of any kind; `community` somebody else's machines.
    """
    names = {target.provider, target.name, "provider" if target.node is None else "node"}
    if target.own:
        names.add("own")
    if target.community:
        names.add("community")
    for entry in entries:
        if entry in names or ("*" in entry and (like(entry, target.name) or like(entry, target.provider))):
            return True
    return False


def like(pattern: str, text: str) -> bool:
    """Whether a name, or a pattern with `*`, names `text`."""
    if "*" not in pattern:
        return pattern == text
    return _pattern(pattern).fullmatch(text) is not None


@lru_cache(maxsize=10_000)
def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in pattern.split("*")))


def _nanousd(usd: float | None) -> int | None:
    """To the nearest; None: no bound, or one beyond every number."""
    return None if usd is None or usd * NANOUSD_PER_USD == inf else round(usd * NANOUSD_PER_USD)


def _dearer(target: CompiledTarget, input_limit: int | None, output_limit: int | None) -> bool:
    if input_limit is None and output_limit is None:
        return False
    price = target.price
    if price is None:
        return True
    return (input_limit is not None and price.input > input_limit) or (
        output_limit is not None and price.output > output_limit
    )
