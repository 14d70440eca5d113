"""From a decoded request to the ordered list of targets that may serve it, with a reason for each one left out."""

from potluck.model.price import NANOUSD_PER_USD
from potluck.model.snapshot import CompiledKey, CompiledTarget, Snapshot
from potluck.proxy.own_answers import allowed, not_allowed, not_found, resolve
from potluck.wire.dialects.controls import Controls, MaxPrice
from potluck.wire.dialects.envelope import Envelope
from potluck.wire.errors import RequestError

_OPENNESS = {"private": 0, "standard": 1, "open": 2}


def plan(snapshot: Snapshot, key: CompiledKey, envelope: Envelope) -> list[CompiledTarget]:
    """The targets that may serve the request, in the order in which they are tried; empty: `none_left` says why.

    Raises RequestError: unknown model, not allowed, or looser than the key's project.
    """
    name = envelope.model
    model = snapshot.models.get(name) or resolve(snapshot, name)
    if model is None:
        raise not_found(snapshot, key, name)
    if key.models is not None and not allowed(key, name):
        raise not_allowed(name)
    controls, data_class = envelope.controls, key.data_class
    if controls is None:
        capability = envelope.capability
        return [target for target in model.targets if not _why_not(target, capability, data_class)]
    if controls.data_class and _OPENNESS[controls.data_class] > _OPENNESS[data_class]:
        message = f"this key's project allows data class {data_class!r} at most"
        raise RequestError("policy_denied", message, param="potluck.data_class")
    return [target for target in model.targets if not _left_out(target, key, envelope)]


def none_left(snapshot: Snapshot, key: CompiledKey, envelope: Envelope) -> RequestError:
    """What the caller is told when `plan` came out empty: 400 when the model never could, else 503 with the reasons."""
    model = resolve(snapshot, envelope.model)
    targets = model.targets if model is not None else ()
    if targets and all(envelope.capability not in target.heads for target in targets):
        message = f"the model {envelope.model!r} does not serve {envelope.capability}"
        return RequestError("invalid_request", message, param="model")
    reasons = dict.fromkeys(f"{target.name}: {_left_out(target, key, envelope)}" for target in targets)
    why = "; ".join(reasons) or "the model has none"
    return RequestError("no_target_available", f"no target can serve this request ({why})")


def _left_out(target: CompiledTarget, key: CompiledKey, envelope: Envelope) -> str:
    """Why a target is not in the plan; empty: it is."""
    controls = envelope.controls
    data_class = (controls.data_class if controls is not None else None) or key.data_class
    return _why_not(target, envelope.capability, data_class) or (_filtered(target, controls) if controls else "")


def _why_not(target: CompiledTarget, capability: str, data_class: str) -> str:
    if target.unroutable:
        return target.unroutable
    if capability not in target.heads:
        return f"does not serve {capability}"
    if data_class == "private" and not target.own:
        return "data class private stays on own infrastructure"
    return ""


def _filtered(target: CompiledTarget, controls: Controls) -> str:
    """Why the caller's own controls leave a target out; empty: they don't."""
    names = {target.provider, target.name, "provider", *(("own",) if target.own else ())}
    if controls.only is not None and names.isdisjoint(controls.only):
        return "not among the request's `only`"
    if controls.ignore is not None and not names.isdisjoint(controls.ignore):
        return "among the request's `ignore`"
    if controls.max_price is not None and _dearer(target, controls.max_price):
        return "dearer than the request's `max_price`"
    return ""


def _dearer(target: CompiledTarget, bound: MaxPrice) -> bool:
    price = target.price
    if price is None:
        return True
    return (bound.input is not None and price.input > bound.input * NANOUSD_PER_USD) or (
        bound.output is not None and price.output > bound.output * NANOUSD_PER_USD
    )
