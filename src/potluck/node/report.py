"""The agent as plain values, for the page, `status --json` and people. Nothing secret is among them."""

import os
from typing import Any

from potluck import __version__
from potluck.node.agent import Agent


def report(agent: Agent) -> dict[str, Any]:
    """Times are unix seconds; what is not known is None."""
    loop_now = agent.loop.time()
    standing, jobs, offers = agent.standing, agent.jobs, agent.offers
    until = standing.decision.until_s if agent.links.up and not standing.decision.serve else None
    engines, states = agent.loads()
    return {
        "node": agent.enrolled.node,
        "name": agent.enrolled.name,
        "gateway": agent.enrolled.url,
        "organisation": agent.enrolled.organisation,
        "version": __version__,
        "pid": os.getpid(),
        "state": agent.state,
        "reason": agent.reason,
        "unkept": standing.unkept,
        "until": None if until is None else round(standing.unix(until)),
        "mode": list(agent.settings.mode),
        "presence": standing.decision.presence,
        "up_s": round(loop_now - agent.started_at),
        "links": [_link(agent, index, loop_now) for index in range(len(agent.links.slots))],
        "slots": jobs.slots,
        "running": len(jobs.running),
        "waiting": len(jobs.waiting),
        "engines": [
            {
                "id": each.id,
                "answers": each.reachable,
                "slots": each.slots,
                "running": each.running,
                "waiting": each.waiting,
            }
            for each in engines
        ],
        "models": [
            {"name": each.name, "engine": each.engine, "resident": each.resident, "running": each.running}
            | _offered(agent, each.engine, each.name)
            for each in states
        ],
        "withheld": offers.withheld,
        "local_model": offers.local_state,
        "ends": dict(jobs.ends),
        "refusals": dict(jobs.refusals),
        "errors": [{"at": round(at), "what": what} for at, what in agent.errors],
    }


def _link(agent: Agent, index: int, now: float) -> dict[str, Any]:
    slot = agent.links.slots[index]
    link = slot.link
    is_up = link is not None and link.up
    rtt_s = link.core.rtt_s if link is not None else None
    return {
        "up": is_up,
        "since": round(agent.standing.unix(link.since)) if link is not None and is_up else None,
        "rtt_ms": None if rtt_s is None else round(rtt_s * 1000, 2),
        "last_end": slot.last.why if slot.last is not None else "",
        "next_try_s": round(max(slot.next_try - now, 0.0), 1) if slot.next_try else None,
    }


def _offered(agent: Agent, engine: str, name: str) -> dict[str, Any]:
    model = agent.offers.offered[engine].models[name]
    return {
        "context_tokens": model.context_tokens,
        "capabilities": model.capabilities,
        "price_input_nanousd": model.price_input_nanousd,
        "price_output_nanousd": model.price_output_nanousd,
    }
