"""Checks that talk: to the gateway, through it to its providers, and to engines on this machine."""

import concurrent.futures
import http.client
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from potluck.cli.checkup.machine import clock_against
from potluck.cli.checkup.verdict import Verdict, fail, ok, skip, warn
from potluck.cli.failure import Failure
from potluck.cli.gateway import Gateway
from potluck.model.secret import Secret

PROVIDER_TIMEOUT_S = 8.0
ALIVE_TIMEOUT_S = 5.0
AT_ONCE = 8
BUFFERED_BELOW_S = 0.005
"""a stream whose pieces all arrive within this time was held back on its way"""


def alive(url: str) -> bool:
    """Whether a Potluck gateway answers there."""
    try:
        return Gateway(url, lambda: Secret(""), ALIVE_TIMEOUT_S).send("GET", "/healthz").status == 200
    except Failure:
        return False


def ready(gateway: Gateway) -> Iterator[Verdict]:
    """The gateway says that it is ready, and takes this token."""
    try:
        answer = gateway.send("GET", "/readyz")
        if answer.status == 200:
            yield ok("gateway", f"{gateway.url} is ready")
        else:
            body = answer.json()
            reasons = body.get("reasons", body) if isinstance(body, dict) else body
            said = (
                "; ".join(f"{part}: {why}" for part, why in reasons.items())
                if isinstance(reasons, dict)
                else str(reasons)
            )
            yield fail("gateway", f"not ready: {said}", "mend what it names; its log says more")
        gateway.get("/keys", limit=1)
    except Failure as error:
        yield fail("admin token", error.message, "give --token, or set POTLUCK_ADMIN_TOKEN or POTLUCK_HOME")
    else:
        yield ok("admin token", "accepted")


def providers(gateway: Gateway | None, home: Path) -> Iterator[Verdict]:
    """Each provider answers: asked through the running gateway with its key, else reached from here without."""
    if gateway is not None:
        try:
            known = [each for each in gateway.pages("/providers") if not each["builtin"]]
        except Failure as error:
            yield skip("providers", error.message)
            return
        jobs = [(each["name"], each["base_url"]) for each in known]
    else:
        jobs = _stored_providers(home)
    if not jobs:
        yield skip("providers", "none yet: potluck provider add NAME --base-url URL")
        return

    def look(job: tuple[str, str]) -> tuple[Verdict, str | None]:
        name, base_url = job
        return _through(gateway, name) if gateway is not None else _reach(name, base_url)

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(look, jobs))
    for verdict, _ in results:
        yield verdict
    for _, date in results:
        if verdict_on_clock := clock_against(date):
            yield verdict_on_clock
            return


def _through(gateway: Gateway, name: str) -> tuple[Verdict, str | None]:
    check = f"provider {name}"
    try:
        result = gateway.post(gateway.path_of("/providers", name) + "/test")
    except Failure as error:
        return fail(check, error.message, f"potluck provider show {name}"), None
    if result["ok"]:
        return ok(check, result["detail"]), None
    return fail(
        check, result["detail"], f"potluck provider show {name}; credential rotate {name}/NAME if it is the key"
    ), None


def _reach(name: str, base_url: str) -> tuple[Verdict, str | None]:
    """Any HTTP answer will do: without a key it is a refusal."""
    check, parts = f"provider {name}", urlsplit(base_url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=PROVIDER_TIMEOUT_S)
    start = time.monotonic()
    try:
        connection.request("GET", f"{parts.path.rstrip('/')}/models", headers={"accept": "application/json"})
        response = connection.getresponse()
        took_ms = (time.monotonic() - start) * 1000
        return ok(check, f"reachable in {took_ms:.0f} ms (asked without its key)"), response.getheader("date")
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return fail(
            check, f"{base_url} cannot be reached: {why}", "check its address, this machine's network and proxy"
        ), None
    finally:
        connection.close()


def _stored_providers(home: Path) -> list[tuple[str, str]]:
    path = home / "potluck.db"
    if not path.exists():
        return []
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5.0)) as connection:
            return [
                (str(n), str(u))
                for n, u in connection.execute("SELECT name, base_url FROM providers WHERE NOT builtin")
            ]
    except sqlite3.Error:
        return []


def stream(gateway: Gateway, public_url: str | None, home: Path) -> Verdict:
    """Tokens arrive one by one: a proxy on the way that buffers makes streams useless."""
    check, url = "streams", public_url or gateway.url
    try:
        key = Secret((home / "first-api-key").read_text(encoding="ascii").strip())
    except OSError:
        return skip(check, "needs the first API key (HOME/first-api-key), which is not there any more")
    body = {
        "model": "smollm2-135m",
        "messages": [{"role": "user", "content": "Count from one to twenty."}],
        "max_tokens": 24,
        "stream": True,
    }
    try:
        connection = Gateway(url, lambda: key, timeout_s=10.0).connect()
        arrivals, said = _arrivals(connection, urlsplit(url).path.rstrip("/"), key, body)
    except Failure as error:
        return fail(check, error.message, "check the public address: DNS, certificate, firewall")
    except (OSError, http.client.HTTPException) as error:
        return fail(
            check,
            f"{url}: {getattr(error, 'strerror', None) or error}",
            "check the public address and what stands before it",
        )
    if said:
        return skip(check, f"no stream to look at: {said}")
    spread_s = arrivals[-1] - arrivals[0] if arrivals else 0.0
    if len(arrivals) < 3 or spread_s < BUFFERED_BELOW_S:
        mend = "turn buffering off in the proxy before it (nginx: proxy_buffering off)"
        return warn(check, f"{url}: {len(arrivals)} pieces within {spread_s * 1000:.0f} ms: buffered on the way", mend)
    return ok(check, f"{url}: {len(arrivals)} pieces over {spread_s * 1000:.0f} ms, not buffered")


def _arrivals(
    connection: http.client.HTTPConnection, prefix: str, key: Secret, body: dict[str, Any]
) -> tuple[list[float], str]:
    """When each piece of the stream came, or why there was none."""
    headers = {"authorization": f"Bearer {key.reveal()}", "content-type": "application/json"}
    with closing(connection):
        connection.request("POST", f"{prefix}/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != 200:
            return [], f"the built-in model answered {response.status}"
        arrivals = []
        while response.read1(65_536):
            arrivals.append(time.monotonic())
        return arrivals, ""


def built_in_model(home: Path) -> Verdict:
    """The built-in model can be served."""
    from potluck.engines import local_model

    found = local_model.status(home)
    if found.problem:
        return warn("built-in model", found.problem.partition(": ")[0], found.problem.partition(": ")[2])
    return ok("built-in model", f"{found.name}, engine {found.engine_version}")


def engines() -> Iterator[Verdict]:
    """Other engines on this machine, with the command that makes each a provider."""
    import asyncio

    from potluck.engines.discover import discover

    found = asyncio.run(discover())
    if not found:
        yield skip("engines", "no other engine answers on this machine's well-known ports")
    for engine in found:
        models = f"{len(engine.models)} models" if len(engine.models) != 1 else engine.models[0].name
        said = f"{engine.kind} {engine.version}".rstrip()
        mend = f"to use it: potluck provider add {engine.kind} --own --base-url {engine.base_url}"
        yield Verdict("engine", "ok", f"{said} at {engine.base_url}, {models}", mend)
