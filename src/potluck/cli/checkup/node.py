"""What `potluck node doctor` looks at, on the machine and towards the gateway."""

import asyncio
import os
import stat
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from potluck.cli.checkup.verdict import Verdict, fail, ok, skip, warn
from potluck.cli.node_home import engine_keys, read_settings, report_of

if TYPE_CHECKING:
    from potluck.node.home import Enrolled, Home
    from potluck.node.settings import NodeSettings

LINK_S = 15.0


def examine(home: "Home") -> Iterator[Verdict]:
    """All checks, each as it is done. Raises HomeError, SettingsError."""
    enrolled = home.enrolled()
    yield _rights(home)
    if enrolled is None:
        yield fail("joined", "this machine has not joined a gateway", "potluck node join URL")
    else:
        yield ok("joined", f"{enrolled.name} at {enrolled.url}")
        yield _gateway(enrolled)
    said = report_of(home)
    if said is not None:
        yield ok("agent", f"{said['state']}: {said['reason']}")
        rtts = [each["rtt_ms"] for each in said["links"] if each["up"]]
        known = ", ".join(f"{each:g} ms" for each in rtts if each is not None) or "not measured yet"
        if rtts:
            yield ok("link", f"{len(rtts)} up, round trip {known}")
        else:
            yield fail("link", said["reason"], "the gateway's log says more")
    elif enrolled is not None:
        yield warn("agent", "it does not run", "potluck node run, or potluck node install-service")
        yield asyncio.run(_link(home, enrolled))
    settings = read_settings(home)
    yield from asyncio.run(_engines(settings, engine_keys(home)))
    yield _presence(settings)


def _rights(home: "Home") -> Verdict:
    if not home.path.is_dir():
        return fail("home", f"{home.path} is not there", "potluck node join URL")
    if os.name != "posix":
        return skip("home", f"{home.path}; rights are the system's")
    loose = [
        path.name for path in (home.path, *home.path.iterdir()) if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    ]
    if loose:
        return fail("home", f"others can read {', '.join(loose)} in {home.path}", f"chmod -R go= {home.path}")
    return ok("home", f"{home.path}, its owner's alone")


def _gateway(enrolled: "Enrolled") -> Verdict:
    from potluck.node.enrolment import EnrolmentError, Gateway

    began = time.monotonic()
    try:
        Gateway(enrolled.url, insecure=enrolled.insecure, ca_file=enrolled.ca_file).look(enrolled)
    except EnrolmentError as error:
        return fail("gateway", str(error), "check the address, the network in between, and that the gateway runs")
    return ok("gateway", f"it is the one that was joined; it answered in {(time.monotonic() - began) * 1000:.0f} ms")


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
        return fail("link", ended.why, "a proxy in between has to pass WebSockets on; see the gateway's log")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    if not is_up:
        return fail("link", f"no welcome within {LINK_S:g} s", "see the gateway's log")
    return ok("link", f"both proved who they are; from dialling to welcome {took_ms:.0f} ms")


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
            mend = "potluck node engine-key URL" if engine.state == "locked" else "wait until it has its model"
            verdicts.append(warn("engine", f"{where} is {engine.state}", mend))
        elif engine.kind == "openai-compatible" and not is_named:
            verdicts.append(skip("engine", f"{where} is not known, and shared only when it is named"))
        elif not engine.models:
            verdicts.append(warn("engine", f"{where} serves no model", "pull or load one"))
        else:
            verdicts.append(ok("engine", f"{where}: {len(engine.models)} models"))
    missing = [place.base_url for place in named if all(each.base_url != place.base_url for each in found)]
    verdicts += [fail("engine", f"nobody answers at {url}", "start it, or take it out of `engines`") for url in missing]
    if settings.local_model:
        verdicts.append(ok("built-in model", f"{model_file.MODEL_NAME} is shared when the agent runs"))
    elif not verdicts:
        mend = "start Ollama, LM Studio, llama.cpp or another, or try --local-model"
        verdicts.append(fail("engine", "none was found on this machine", mend))
    return verdicts


def _presence(settings: "NodeSettings") -> Verdict:
    from potluck.node.presence import presence_here

    if "idle" not in settings.mode or settings.headless:
        return skip("presence", "not asked: mode idle is off, or nobody sits here")
    try:
        reading = presence_here().read()
    except Exception as error:  # whatever a system's probe raises is not knowing
        return fail("presence", f"it cannot be seen: {error}", "potluck node set headless yes, if nobody sits here")
    if reading.active is None and reading.idle_s is None:
        mend = "potluck node presence-helper in your desktop's session, or potluck node set headless yes"
        return fail("presence", f"whether somebody is there cannot be seen ({reading.source})", mend)
    return ok("presence", f"seen by {reading.source}")
