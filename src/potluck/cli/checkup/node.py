"""What `potluck node doctor` looks at, on the machine and towards the gateway."""

import asyncio
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from potluck.cli.checkup.verdict import Verdict, fail, ok, skip, warn
from potluck.cli.failure import Failure
from potluck.cli.node_home import ENGINE_KEYS, engine_keys, engine_mend, links_shown, read_settings, report_of

if TYPE_CHECKING:
    from potluck.node.home import Enrolled, Home
    from potluck.node.settings import NodeSettings

LINK_S = 15.0
LINK_MEND = "the gateway's log says more; a proxy in between has to pass WebSockets on"
NO_ENGINE_MEND = (
    "start Ollama, LM Studio, llama.cpp or another; or try the built-in model: potluck node set local_model yes"
)
PRESENCE_MEND = (
    "if nobody sits here: potluck node set headless yes; "
    "else: potluck node set presence_port 7174, and potluck node presence-helper in the desktop's session"
)


def examine(home: "Home") -> Iterator[Verdict]:
    """All checks, each as it is done; a file that is damaged is a row, and what needs it is left out."""
    from potluck.node.home import HomeError
    from potluck.node.keys import identity_of
    from potluck.node.settings import SettingsError

    yield _rights(home)
    files: dict[str, Any] = {}
    for name, read in _FILES.items():
        try:
            if name != "key" or files.get("node.json") is not None:
                files[name] = read(home)
            if files.get("key") is not None:
                identity_of(files["key"])
        except (HomeError, SettingsError) as error:
            files.pop(name, None)
            yield fail(name, str(error), _FILE_MENDS[name])
    enrolled, said = files.get("node.json"), None
    if "agent.json" in files:
        try:
            said = report_of(home)
        except Failure as error:
            yield fail("agent", error.message, "stop it, and start it anew: potluck node run")
    if "node.json" in files and enrolled is None:
        mend = "potluck node join URL, with a token that potluck nodes token create gives at the gateway"
        yield fail("joined", "this machine has not joined a gateway", mend)
    elif enrolled is not None:
        yield ok("joined", f"{enrolled.name} at {enrolled.url}")
        gateway = _gateway(enrolled)
        yield gateway
        yield _agent(said, enrolled.name)
        if said is not None and any(each["up"] for each in said["links"]):
            yield ok("link", links_shown(said["links"]))
        elif gateway.state == "fail":
            yield skip("link", "not tried, as the gateway cannot be reached")
        elif said is not None:
            reason = said["reason"].removeprefix("it does not serve: ")
            yield fail("link", reason, _link_mend(reason, enrolled.name))
        elif "key" not in files:
            yield skip("link", "not tried, as the key cannot be read")
        else:
            yield asyncio.run(_link(home, enrolled))
    settings = files.get("settings.json")
    lacks = _local_lacks(settings, enrolled)
    if said is not None:
        yield from _served(said, lacks)
    elif settings is not None:
        yield from asyncio.run(_engines(settings, files.get(ENGINE_KEYS, {}), lacks))
    if settings is not None:
        yield _presence(settings)
        if settings.presence_port and said is None:
            yield _helpers(settings.presence_port)


_FILES: dict[str, Callable[["Home"], Any]] = {
    "node.json": lambda home: home.enrolled(),
    "key": lambda home: home.key(),
    "settings.json": read_settings,
    "state.json": lambda home: home.kept(),
    "agent.json": lambda home: home.running(),
    ENGINE_KEYS: engine_keys,
}
_FILE_MENDS = {
    "node.json": "potluck node join URL --force, with a new token",
    "key": "potluck node join URL --force, with a new token",
    "settings.json": "mend it by hand; or remove it, and every setting has its default",
    "state.json": "remove it: the last pause or resume is forgotten with it",
    "agent.json": "remove it, and start the agent anew",
    ENGINE_KEYS: "remove it, and give the keys again: potluck node engine-key URL --key-stdin",
}


def _link_mend(reason: str, name: str) -> str:
    """What helps against a refusal by the gateway."""
    from potluck.node.dialing import REFUSALS

    code = next((code for code, (_, said) in REFUSALS.items() if said in reason), "")
    return {
        "not_approved": f"at the gateway: potluck nodes approve {name}",
        "clone": "potluck node rotate-key, on the machine that is to stay; potluck node join URL --force on the other",
        "bad_origin": "join by the gateway's own address, or mend its --public-url",
        "bad_gateway": "if the gateway was made anew: potluck node join URL --force, with a new token",
        "version": "install the newer version on the older of the two",
    }.get(code, "potluck node join URL --force, with a new token" if code else LINK_MEND)


def _local_lacks(settings: "NodeSettings | None", enrolled: "Enrolled | None") -> Verdict | None:
    """The row for a built-in model that is wanted and has no engine here."""
    from potluck.engines import model_file

    if settings is None or not settings.local_model or model_file.has_engine():
        return None
    mend = model_file.ENGINE_COMMAND if enrolled is None else engine_mend(enrolled)
    return fail("built-in model", "its engine is not installed, so it is not shared", mend)


def _served(said: dict[str, Any], lacks: Verdict | None = None) -> Iterator[Verdict]:
    """Engines as the agent that runs sees them, whoever named them to it."""
    for each in said["engines"]:
        count = sum(model["engine"] == each["id"] for model in said["models"])
        models = f"{count} model{'s' if count != 1 else ''}"
        if each["answers"]:
            yield ok("engine", f"{each['id']}: {models}, shared by the agent that runs")
        else:
            yield fail("engine", f"{each['id']} does not answer; its {models} wait for it", "start that engine again")
    for line in said["withheld"]:
        if "does not answer" not in line:
            yield warn("engine", line, "potluck node set engines, or mend it at the engine; the agent sees it then")
    if lacks is not None:
        yield lacks
    elif said["local_model"] and not said["local_model"].startswith("ready"):
        yield warn("built-in model", said["local_model"], "the agent's log says more")
    elif not said["engines"] and not said["withheld"]:
        yield fail("engine", "the agent that runs finds none on this machine", NO_ENGINE_MEND)


def _helpers(port: int) -> Verdict:
    """Whether the agent will be able to listen for presence helpers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            found = f"port {port}, where helpers of the desktop report, cannot be used: {error.strerror}"
            return fail("presence_port", found, "choose another one: potluck node set presence_port 7175")
    return ok("presence_port", f"port {port} is free for helpers of the desktop")


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
        return fail("link", ended.why, _link_mend(ended.why, enrolled.name))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    if not is_up:
        return fail("link", f"the gateway did not let this machine in within {LINK_S:g} s", LINK_MEND)
    return ok("link", f"it can be made: the gateway let this machine in after {took_ms:.0f} ms")


async def _engines(settings: "NodeSettings", keys: dict[str, str], lacks: Verdict | None) -> list[Verdict]:
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
    if lacks is not None:
        verdicts.append(lacks)
    elif settings.local_model:
        verdicts.append(ok("built-in model", f"{model_file.MODEL_NAME} is shared when the agent runs"))
    elif not verdicts:
        verdicts.append(fail("engine", "none was found on this machine", NO_ENGINE_MEND))
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
