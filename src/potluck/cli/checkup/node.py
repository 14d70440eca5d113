"""What `potluck node doctor` looks at, on the machine and towards the gateway."""

import asyncio
import os
import stat
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from potluck.cli.checkup.verdict import Verdict, fail, ok, skip, warn
from potluck.cli.node_home import engine_keys, links_shown, read_settings, report_of

if TYPE_CHECKING:
    from potluck.node.home import Enrolled, Home
    from potluck.node.settings import NodeSettings

LINK_S = 15.0
LINK_MEND = "the gateway's log says more; a proxy in between has to pass WebSockets on"
PRESENCE_MEND = (
    "if nobody sits here: potluck node set headless yes; "
    "else: potluck node set presence_port 7174, and potluck node presence-helper in the desktop's session"
)


def examine(home: "Home") -> Iterator[Verdict]:
    """All checks, each as it is done. Raises HomeError, SettingsError."""
    enrolled = home.enrolled()
    yield _rights(home)
    if enrolled is None:
        mend = "potluck node join URL, with a token that potluck nodes token create gives at the gateway"
        yield fail("joined", "this machine has not joined a gateway", mend)
    else:
        yield ok("joined", f"{enrolled.name} at {enrolled.url}")
        gateway = _gateway(enrolled)
        yield gateway
        said = report_of(home)
        yield _agent(said, enrolled.name)
        if said is not None and any(each["up"] for each in said["links"]):
            yield ok("link", links_shown(said["links"]))
        elif gateway.state == "fail":
            yield skip("link", "not tried, as the gateway cannot be reached")
        elif said is not None:
            yield fail("link", said["reason"].removeprefix("it does not serve: "), LINK_MEND)
        else:
            yield asyncio.run(_link(home, enrolled))
    settings = read_settings(home)
    yield from asyncio.run(_engines(settings, engine_keys(home)))
    yield _presence(settings)


def _agent(said: dict[str, Any] | None, name: str) -> Verdict:
    if said is None:
        mend = "potluck node run; to start it with the machine: potluck node install-service"
        return warn("agent", "it does not run, so nothing is served", mend)
    if said["state"] == "pending":
        return warn("agent", said["reason"], f"if it stays so, at the gateway: potluck nodes approve {name}")
    if said["state"] == "joining":
        return skip("agent", "it runs, and is trying to reach the gateway")
    return ok("agent", said["reason"])


def _rights(home: "Home") -> Verdict:
    if not home.path.is_dir():
        return skip("home", f"{home.path} is not there yet: joining makes it")
    if os.name != "posix":
        return skip("home", f"{home.path}; rights are the system's")
    loose = [
        path.name for path in (home.path, *home.path.iterdir()) if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    ]
    if loose:
        return fail("home", f"others can read {', '.join(loose)} in {home.path}", f"chmod -R go= {home.path}")
    whose = home.path.stat()
    foreign = [path.name for path in home.path.iterdir() if path.lstat().st_uid != whose.st_uid]
    if foreign:
        found = (
            f"{', '.join(foreign)} in {home.path}: not of the user whose directory it is, so the agent cannot read it"
        )
        return fail("home", found, f"sudo chown -R -h {whose.st_uid}:{whose.st_gid} {home.path}")
    return ok("home", f"{home.path}, readable by its owner alone")


def _gateway(enrolled: "Enrolled") -> Verdict:
    from potluck.node.enrolment import EnrolmentError, Gateway

    began = time.monotonic()
    try:
        Gateway(enrolled.url, insecure=enrolled.insecure, ca_file=enrolled.ca_file).look(enrolled)
    except EnrolmentError as error:
        return fail("gateway", str(error), "check the address, the network in between, and that the gateway runs")
    took_ms = (time.monotonic() - began) * 1000
    return ok("gateway", f"it answered in {took_ms:.0f} ms, and is the one that this machine joined")


async def _link(home: "Home", enrolled: "Enrolled") -> Verdict:
    """Dial as the agent does, up to the welcome."""
    from potluck.node.dialing import Credentials, Ended, Link, Links
    from potluck.node.identity import Identity, from_text
    from potluck.wire import link_events as e

    loop = asyncio.get_running_loop()
    key = home.key()
    credentials = Credentials(enrolled, key.id, Identity(from_text(key.private, 32)))
    welcomed = loop.create_future()

    def hear(_: Link, event: e.Event) -> None:
        if isinstance(event, e.Welcomed) and not welcomed.done():
            welcomed.set_result(None)

    links = Links(loop, lambda: credentials, hear, lambda: None, 1)
    link = Link(links, credentials)
    began = loop.time()
    running = loop.create_task(link.run())
    await asyncio.wait({running, welcomed}, timeout=LINK_S, return_when=asyncio.FIRST_COMPLETED)
    took_ms = (loop.time() - began) * 1000
    is_up = welcomed.done()
    if running.done():
        ended: Ended = running.result()
        return fail("link", ended.why, LINK_MEND)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    if not is_up:
        return fail("link", f"the gateway did not let this machine in within {LINK_S:g} s", LINK_MEND)
    return ok("link", f"it can be made: the gateway let this machine in after {took_ms:.0f} ms")


async def _engines(settings: "NodeSettings", keys: dict[str, str]) -> list[Verdict]:
    from potluck.engines import model_file
    from potluck.engines.asking import Place
    from potluck.engines.discover import discover
    from potluck.engines.fingerprints import PORTS
    from potluck.model.secret import Secret

    named = [
        Place.parse(url, Secret(keys[url]) if url in keys else None, elsewhere=True) for url in settings.engines
    ]  # fmt: skip
    found = await discover(named, PORTS if settings.discover else ())
    verdicts = []
    for engine in found:
        is_named = any(place.base_url == engine.base_url for place in named)
        where = f"{engine.kind} at {engine.base_url}"
        if engine.state != "ready":
            if engine.state == "locked":
                url = next(
                    (
                        url
                        for url, place in zip(settings.engines, named, strict=True)
                        if place.base_url == engine.base_url
                    ),
                    engine.base_url,
                )
                mend = f"potluck node engine-key {url} --key-stdin"
                verdicts.append(warn("engine", f"{where} wants a key", mend))
            else:
                verdicts.append(warn("engine", f"{where} has no model yet", "wait until it has loaded one"))
        elif engine.kind == "openai-compatible" and not is_named:
            mend = f"potluck node set engines {engine.base_url}"
            verdicts.append(skip("engine", f"{where} may be a paid account: it is shared only when named: {mend}"))
        elif not engine.models:
            verdicts.append(warn("engine", f"{where} serves no model", "pull or load one there"))
        else:
            count = len(engine.models)
            verdicts.append(ok("engine", f"{where}: {count} model{'s' if count != 1 else ''}"))
    missing = [place.base_url for place in named if all(each.base_url != place.base_url for each in found)]
    verdicts += [
        fail("engine", f"nobody answers at {url}", "start it, or name others: potluck node set engines URL")
        for url in missing
    ]
    if settings.local_model:
        verdicts.append(ok("built-in model", f"{model_file.MODEL_NAME} is shared when the agent runs"))
    elif not verdicts:
        mend = (
            "start Ollama, LM Studio, llama.cpp or another; or try the built-in model: potluck node set local_model yes"
        )
        verdicts.append(fail("engine", "none was found on this machine", mend))
    return verdicts


def _presence(settings: "NodeSettings") -> Verdict:
    from potluck.node.presence import presence_here

    if "idle" not in settings.mode:
        return skip("presence", "who uses this machine matters in mode idle only")
    if settings.headless:
        return skip("presence", "nobody sits at this machine, says its setting headless")
    try:
        reading = presence_here().read()
    except Exception as error:  # whatever a system's probe raises is not knowing
        return fail("presence", f"whether somebody is there cannot be seen: {error}", PRESENCE_MEND)
    if reading.active is None and reading.idle_s is None:
        source = f" ({reading.source})" if reading.source else ""
        return fail("presence", f"whether somebody is there cannot be seen{source}", PRESENCE_MEND)
    return ok("presence", f"whether somebody is there is seen by {reading.source}")
