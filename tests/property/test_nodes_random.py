"""Fleets of every make-up, requests of every class: where data must not go it never goes, and refusals end a ladder."""

import random

from hypothesis import event, given, settings
from hypothesis import strategies as st

from potluck.model.resources import OPENNESS
from potluck.model.snapshot import CompiledTarget
from potluck.policy.retry import MAX_CALLS, MAX_REFUSALS, MAX_TARGETS
from potluck.policy.selection import PICK
from potluck.ports import Failure
from potluck.wire.errors import RequestError
from tests.unit.proxy.route_rig import BODY_BYTES, World, api_key, envelope, failure, on_node, target

CLASSES = ("private", "standard", "open")
ANSWERS = st.sampled_from(["refused", "refused", "refused", "refused soon", "down", "slow", "ok"])
NODES = st.lists(
    st.tuples(
        st.sampled_from(["own", "mine", "theirs", "community"]),
        st.integers(0, 2),
        st.booleans(),
        st.booleans(),
    ),
    max_size=8,
)
"""whose it is, its tier, whether it serves the fallback's model too, whether it is away"""
OWNERS = {"own": "", "mine": "project:default", "theirs": "project:other", "community": ""}


def failed(answer: str) -> Failure:
    match answer:
        case "refused":
            return failure("refused", phase="connect", status=0)
        case "refused soon":
            return failure("refused", phase="connect", status=0, retry_after_s=1.0)
        case "slow":
            return failure("target_slow")
        case _:
            return failure("target_down", phase="connect")


def world(nodes: list[tuple[str, int, bool, bool]], providers: int, strategy: str, seed: int) -> World:
    small: list[CompiledTarget] = []
    big: list[CompiledTarget] = [target("last/m", usd=9.0)] if providers else []
    made = World()
    made.registry.random = random.Random(seed).random
    for number, (whose, tier, both, away) in enumerate(nodes):
        rest = {"priority": tier, "owner": OWNERS[whose], "community": whose == "community"}
        small.append(on_node(f"n{number}", **rest))
        if both:
            big.append(on_node(f"n{number}", "big", **rest))
        made.registry.set_away(f"node_n{number}", "not connected" if away else "")
    small += [target(f"p{number}/m", priority=3 + number, own=number == 1) for number in range(providers)]
    made.serve("small", *small)
    made.serve("big", *big)
    made.rule("rule", models=("small",), strategy=strategy, fallback=("big",))
    return made


def allowed(each: CompiledTarget, data_class: str, own_devices: str) -> bool:
    """What the rules say, written down a second time."""
    if each.community and data_class != "open":
        return False
    if data_class == "private" and not each.own:
        return False
    mine = each.node is not None and not each.community and each.owner in ("", "project:default")
    return own_devices != "own_only" or mine


def away(made: World, each: CompiledTarget) -> bool:
    return each.node is not None and made.registry.away.get(each.node.node_id, "not connected") != ""


@settings(max_examples=400, deadline=None)
@given(
    nodes=NODES,
    providers=st.integers(0, 3),
    strategy=st.sampled_from(sorted(PICK)),
    most=st.sampled_from(CLASSES),
    asked=st.sampled_from([None, *CLASSES]),
    own_devices=st.sampled_from(["off", "own_first", "own_only"]),
    answers=st.lists(ANSWERS, max_size=12),
    flips=st.lists(st.integers(0, 7), max_size=3),
    seed=st.integers(0, 2**16),
)
def test_requests_over_fleets_keep_the_rules(
    nodes: list[tuple[str, int, bool, bool]],
    providers: int,
    strategy: str,
    most: str,
    asked: str | None,
    own_devices: str,
    answers: list[str],
    flips: list[int],
    seed: int,
) -> None:
    """Class, placement and own devices hold for every call; away nodes get none; refusals are few, and held against
    nobody; no request ends while a call that is allowed is left."""
    made = world(nodes, providers, strategy, seed)
    made.key = api_key(data_class=most, own_devices=own_devices)
    said = {} if asked is None else {"data_class": asked}
    try:
        candidates = made.ask(**said)
    except RequestError as error:
        assert error.code == "policy_denied"
        assert asked is not None
        assert OPENNESS[asked] > OPENNESS[most]
        return
    data_class = min([most, asked or most], key=OPENNESS.__getitem__)
    option = made.first(candidates, **said)
    flipping = iter(flips)
    called: list[CompiledTarget] = []
    refusers: list[CompiledTarget] = []
    tiers = {
        place.place: (number, place.priority)
        for number, group in enumerate(candidates.groups)
        for place in group.options
    }

    def left() -> list[CompiledTarget]:
        """Targets that a request might still go to."""
        barred = {tiers[each.place] for each in refusers} if len(refusers) >= MAX_REFUSALS else set()
        return [
            each.target
            for place in candidates.places
            for each in place.lanes
            if not away(made, each.target)
            and place.place not in {one.place for one in called}
            and each.target.provider_id not in {one.provider_id for one in refusers}
            and (each.target.node is None or tiers[place.place] not in barred)
        ]

    if option is None:
        assert not left()
        assert made.router.none_left(candidates, envelope(**said), made.now).status in (400, 503)
        return
    run, kind = made.run(candidates, option), "first"
    for answer in [*answers, "ok"]:
        each = option.target
        assert allowed(each, data_class, own_devices)
        assert not away(made, each)
        assert each.node is None or (each.node.data_class == data_class)
        if kind != "same":
            assert each.provider_id not in {one.provider_id for one in refusers}
            if each.node is not None and len(refusers) >= MAX_REFUSALS:
                assert tiers[each.place] not in {tiers[one.place] for one in refusers}
        called.append(each)
        assert run.spent.calls <= MAX_CALLS
        assert len(called) <= MAX_CALLS + MAX_REFUSALS
        if answer == "ok":
            break
        if answer.startswith("refused") and each.node is not None:
            refusers.append(each)
        else:
            answer = "down" if answer.startswith("refused") else answer
        flip = next(flipping, None)
        if flip is not None and flip < len(nodes):
            node_id = f"node_n{flip}"
            made.registry.set_away(node_id, "" if made.registry.away[node_id] else "paused")
        what = failed(answer)
        made.registry.failed(option.lane, what, made.now, each)
        run.failed(option, what)
        following = made.router.next(candidates, run, envelope(**said), BODY_BYTES, made.key, made.now)
        if following is None:
            assert run.spent.calls >= MAX_CALLS or run.spent.targets >= MAX_TARGETS or not left()
            break
        run.called(following.option)
        option, kind = following.option, following.kind
    event(f"{min(len(refusers), 4)} refusals")
    for one in refusers:
        lane = made.registry.lane(one)
        assert lane.held == (lane.breaker.troubled or lane.key.dead)
        assert lane.breaker.state == "closed"
