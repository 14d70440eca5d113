"""Every command against a running gateway: what it prints, what it leaves, how it ends, and that no secret gets out."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from potluck.cli.app import run

UPSTREAM_KEY = "sk-upstream-0123456789abcdefghij"
SPARE_KEY = "sk-spare-0123456789abcdefghijkl"
API_KEY = re.compile(r"plk-[0-9A-Za-z]{46}")


class Ran(NamedTuple):
    """How a command line ended and what it said."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Potluck = Callable[..., Ran]


class Served(NamedTuple):
    """A running gateway and the fake provider beside it."""

    url: str
    home: Path
    provider: str


def line_of(process: subprocess.Popen[str], pattern: str) -> str:
    """The first group of the first output line that matches; fails when the process ends before."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if found := re.search(pattern, line):
            return found[1]
    raise AssertionError(f"it ended without saying {pattern!r}: {''.join(seen)}")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One gateway and one fake provider for all tests of this file."""
    home = tmp_path_factory.mktemp("cli") / "home"
    env = {
        name: value for name, value in os.environ.items() if not name.startswith("POTLUCK_") and "API_KEY" not in name
    }
    started = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen([sys.executable, "-m", *arguments], stdout=subprocess.PIPE, text=True, env=env)
        started.append(process)
        return process

    fake = start("potluck.conformance.provider")
    gateway = start("potluck", "serve", "--home", str(home), "--port", "0", "--no-local-model")
    try:
        provider = line_of(fake, r"(http://\S+/v1)")
        url = line_of(gateway, r"listens on (\S+)")
        wait_until_ready(url, home)
        yield Served(url, home, provider)
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM if process is gateway else signal.SIGKILL)
        for process in started:
            process.communicate(timeout=20)
    assert gateway.returncode == 0


def wait_until_ready(url: str, home: Path) -> None:
    """The control plane answers, at most ten seconds from now."""
    deadline = time.monotonic() + 10
    while run(["version", "--json", "--url", url], {"POTLUCK_HOME": str(home)}) or not ready(url, home):
        assert time.monotonic() < deadline, "the control plane did not come up"


def ready(url: str, home: Path) -> bool:
    return run(["project", "list", "--json", "--url", url], {"POTLUCK_HOME": str(home)}) == 0


@pytest.fixture
def potluck(served: Served, capfd: pytest.CaptureFixture[str]) -> Potluck:
    """Runs a command line against the gateway, with the provider's keys in its environment."""

    def call(*arguments: str, **env: str) -> Ran:
        base = {"POTLUCK_HOME": str(served.home), "POTLUCK_URL": served.url}
        capfd.readouterr()
        status = run(arguments, base | {"UPSTREAM_KEY": UPSTREAM_KEY, "SPARE_KEY": SPARE_KEY} | env)
        said = capfd.readouterr()
        return Ran(status, said.out, said.err)

    return call


@pytest.fixture
def ok(potluck: Potluck) -> Potluck:
    """The same for command lines that must succeed, with nothing on stderr."""

    def call(*arguments: str, **env: str) -> Ran:
        ran = potluck(*arguments, **env)
        assert (ran.status, ran.err) == (0, ""), ran
        return ran

    return call


@pytest.fixture
def fake(served: Served, potluck: Potluck) -> str:
    """The name of a provider with a key, added on first use."""
    potluck("provider", "add", "fake", "--base-url", served.provider, "--key-env", "UPSTREAM_KEY")
    return "fake"


def chat(served: Served, key: str, model: str) -> int:
    """One call; its HTTP status."""
    import http.client

    connection = http.client.HTTPConnection(served.url.removeprefix("http://"), timeout=10)
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}]})
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions", body, headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status


def test_a_key_lives_and_dies(served: Served, ok: Potluck, potluck: Potluck, fake: str) -> None:
    """A key works at once and is shown once; rotation keeps the old secret for the overlap; revocation ends both."""
    ok("model", "price", "fake/ok", "--input", "1", "--output", "2")
    made = ok("key", "create", "life", "--model", "fake/ok", "--tag", "t1", "--expires", "30d")
    (secret,) = set(API_KEY.findall(made.out))
    assert re.search(rf"^curl {re.escape(served.url)}/v1/chat/completions \\$", made.out, re.MULTILINE)
    assert chat(served, secret, "fake/ok") == 200

    for look in (
        ok("key", "list"),
        ok("key", "show", "life"),
        ok("key", "list", "--json"),
        ok("key", "show", "life", "--json"),
    ):
        assert not API_KEY.search(look.out)
        assert "life" in look.out
    shown = ok("key", "show", "life", "--json").json
    assert (shown["models"], shown["tags"], shown["status"]) == (["fake/ok"], ["t1"], "active")

    rotated = ok("key", "rotate", "life", "--overlap", "1h", "--json").json
    assert chat(served, secret, "fake/ok") == chat(served, rotated["secret"], "fake/ok") == 200
    assert "is revoked" in ok("key", "revoke", "life").out
    assert chat(served, secret, "fake/ok") == chat(served, rotated["secret"], "fake/ok") == 401
    assert "life" not in ok("key", "list").out
    assert "revoked" in ok("key", "list", "--all").out
    again = potluck("key", "revoke", "life")
    assert again.status == 1
    assert again.err.startswith("potluck: there is no key 'life'")


def test_a_name_can_be_taken_once(ok: Potluck, potluck: Potluck) -> None:
    """A second object of the same name is refused in one line that says what to do."""
    ok("key", "create", "twice")
    ok("project", "create", "twin", "--data-class", "private")
    for line in (("key", "create", "twice"), ("project", "create", "twin")):
        ran = potluck(*line)
        assert (ran.status, ran.out, ran.err.count("\n")) == (1, "", 1)
        assert "already" in ran.err


def test_projects_come_and_go(ok: Potluck, potluck: Potluck) -> None:
    """A project is made, listed, holds keys, and can be removed once it holds none."""
    ok("project", "create", "acme", "--data-class", "private")
    assert {"name": "acme", "data_class": "private"}.items() <= next(
        each for each in ok("project", "list", "--json").json["data"] if each["name"] == "acme"
    ).items()
    ok("key", "create", "of-acme", "--project", "acme")
    assert "acme" in ok("key", "show", "of-acme").out
    assert potluck("project", "remove", "acme").status == 1
    ok("project", "create", "empty")
    ok("project", "remove", "empty")
    assert "empty" not in ok("project", "list").out


def test_providers_and_their_keys(served: Served, ok: Potluck, potluck: Potluck) -> None:
    """A provider and its key pool are added, tested, changed and removed, and no upstream key is ever shown."""
    added = ok("provider", "add", "lab", "--base-url", served.provider, "--key-env", "UPSTREAM_KEY", "--own")
    assert "it answers, and names" in added.out
    assert ok("provider", "test", "lab").out.startswith("ok  lab: ")
    assert ok("provider", "test", "lab", "--json").json["ok"] is True
    ok("credential", "add", "lab", "spare", "--key-env", "SPARE_KEY", "--weight", "3")
    ok("credential", "update", "lab/spare", "--disable")
    ok("credential", "rotate", "lab/spare", "--key-env", "UPSTREAM_KEY")
    ok("provider", "update", "lab", "--max-connections", "7", "--on-hangup", "drain")
    shown = ok("provider", "show", "lab", "--json").json
    assert (shown["max_connections"], shown["on_hangup"], shown["own"]) == (7, "drain", True)
    assert [(each["name"], each["weight"], each["disabled"]) for each in shown["credentials"]] == [
        ("main", 1, False),
        ("spare", 3, True),
    ]
    looks = [
        ok("provider", "show", "lab"),
        ok("provider", "list"),
        ok("credential", "list"),
        ok("credential", "list", "lab", "--json"),
    ]
    for look in looks:
        assert UPSTREAM_KEY not in look.out
        assert SPARE_KEY not in look.out
    ok("credential", "remove", "lab/spare")
    ok("provider", "remove", "lab")
    assert "lab" not in [each["name"] for each in ok("provider", "list", "--json").json["data"]]
    assert potluck("provider", "show", "lab").status == 1


def test_a_dead_provider_fails_its_test(ok: Potluck, potluck: Potluck) -> None:
    """`provider test` ends with 1 and says why when nothing answers."""
    ok("provider", "add", "dead", "--base-url", "http://127.0.0.1:9/v1", "--own")
    ran = potluck("provider", "test", "dead")
    assert ran.status == 1
    assert ran.out.startswith("fail  dead: ")
    ok("provider", "remove", "dead")


def test_a_bad_address_is_refused(potluck: Potluck) -> None:
    """What cannot be a provider's address is said in one line."""
    ran = potluck("provider", "add", "odd", "--base-url", "ftp://h/v1")
    assert (ran.status, ran.out) == (1, "")
    assert "https://" in ran.err or "http://" in ran.err


def test_models_prices_and_targets(served: Served, ok: Potluck, potluck: Potluck, fake: str) -> None:
    """A declared name serves its targets; a target without a price says so and how to give it one."""
    ok("model", "create", "team/small", "--target", "fake/crlf-lines", "--target", "fake/comments")
    shown = ok("model", "show", "team/small").out
    assert "fake/comments is not routable: no price: potluck model price fake/comments" in shown
    assert "team/small" in ok("model", "list").out
    assert "fake/comments" not in ok("model", "list", "zzz*").out
    ok("model", "price", "fake/crlf-lines", "--input", "0.15", "--output", "0.6", "--cached-input", "0.01")
    (first, second) = ok("model", "show", "team/small", "--json").json["targets"]
    assert (first["price"]["input"], first["price"]["cached_input"], first["unroutable"]) == (0.15, 0.01, "")
    assert second["unroutable"]
    ok("model", "update", "team/small", "--remove-target", "fake/comments", "--add-target", "fake/ok")
    assert [each["target"] for each in ok("model", "show", "team/small", "--json").json["targets"]] == [
        "fake/crlf-lines",
        "fake/ok",
    ]
    assert potluck("model", "update", "team/small", "--remove-target", "fake/zzz").status == 1
    assert potluck("provider", "remove", "fake").err.startswith("potluck: model 'team/small' has a target")
    ok("model", "price", "fake/crlf-lines", "--unset")
    assert potluck("model", "price", "fake/crlf-lines", "--unset").status == 1
    ok("model", "remove", "team/small")
    assert potluck("model", "show", "team/small").status == 1


def test_usage_and_requests_follow_a_call(served: Served, ok: Potluck, potluck: Potluck, fake: str) -> None:
    """A call appears in every report within a second or so: tokens, cost, its record with its attempt."""
    ok("model", "price", "fake/ok", "--input", "1", "--output", "2")
    secret = ok("key", "create", "counted", "--json").json["secret"]
    assert chat(served, secret, "fake/ok") == 200
    deadline = time.monotonic() + 5
    while not (
        rows := [each for each in ok("usage", "--by", "key", "--json").json["data"] if each["key"] == "counted"]
    ):
        assert time.monotonic() < deadline, "the call was not reported within five seconds"
    (row,) = rows
    assert (row["requests"], row["errors"]) == (1, 0)
    assert row["cost_usd"] == pytest.approx((row["input_tokens"] + 2 * row["output_tokens"]) / 1e6)
    for by in ("model", "route", "target", "provider", "project", "user", "day"):
        report = ok("usage", "--by", by, "--since", "1h", "--json").json
        assert report["total"]["requests"] >= 0
        assert all(by in each for each in report["data"])
    table = list(csv.DictReader(io.StringIO(ok("usage", "--by", "key", "--csv").out)))
    assert next(each for each in table if each["key"] == "counted")["requests"] == "1"
    assert "COST $" in ok("usage").out
    assert "nothing was used" in ok("usage", "--since", "2099-01-01").out

    newest = ok("request", "list", "--limit", "1", "--json").json["data"][0]
    assert newest["id"] in ok("request", "list").out
    record = ok("request", "show", newest["id"], "--json").json
    assert [each["target"] for each in record["attempts"]] == ["fake/ok"]
    shown = ok("request", "show", newest["id"]).out
    assert "outcome:        ok (HTTP 200)" in shown
    assert re.search(r"^ +1  fake/ok +well +200", shown, re.MULTILINE)
    assert potluck("request", "show", "req_nope").status == 1


def test_a_file_is_checked_compared_applied_exported(
    served: Served, ok: Potluck, potluck: Potluck, tmp_path: Path
) -> None:
    """diff says what apply does; apply is idempotent; its objects are read-only; an export holds no secret."""
    file = tmp_path / "potluck.toml"
    file.write_text(
        f"""
[[providers]]
name = "filed"
base_url = "{served.provider}"
own = true
credentials = [{{ key = "${{UPSTREAM_KEY}}" }}]

[[models]]
name = "filed-model"
targets = [{{ target = "filed/ok" }}]

[[keys]]
name = "filed-key"
models = ["filed-model"]
"""
    )
    assert ok("config", "check", str(file)).out.endswith("is good: 1 provider, 1 model, 0 projects, 1 key, 0 routes\n")
    planned = ok("config", "diff", str(file), "--json").json
    assert ("add", "provider", "filed") in [(each["action"], each["kind"], each["name"]) for each in planned["changes"]]
    applied = ok("config", "apply", str(file))
    (secret,) = API_KEY.findall(applied.out)
    assert chat(served, secret, "filed-model") == 200
    assert ok("config", "apply", str(file)).out == ok("config", "diff", str(file)).out
    assert "nothing to do" in ok("config", "apply", str(file)).out
    kept = potluck("model", "remove", "filed-model")
    assert (kept.status, "comes from a configuration file" in kept.err) == (1, True)

    exported = tmp_path / "out.toml"
    ok("config", "export", "--output", str(exported))
    text = exported.read_text()
    assert text == ok("config", "export").out
    assert UPSTREAM_KEY not in text
    assert not API_KEY.search(text)
    names = set(re.findall(r"\$\{(\w+)\}", text))
    assert "FILED_API_KEY" in names
    variables = dict.fromkeys(names, UPSTREAM_KEY)
    assert ok("config", "check", str(exported), **variables).status == 0

    file.write_text(file.read_text().replace('"filed-key"', '"filed-other"'))
    changes = ok("config", "apply", str(file), "--json").json["changes"]
    assert sorted((each["action"], each["name"]) for each in changes) == [
        ("add", "filed-other"),
        ("remove", "filed-key"),
    ]
    assert chat(served, secret, "filed-model") == 401


def test_a_bad_file_changes_nothing(ok: Potluck, potluck: Potluck, tmp_path: Path) -> None:
    """All problems of a file come out, one line each, from check, diff and apply alike; --json has them as data."""
    file = tmp_path / "bad.toml"
    file.write_text('[[providers]]\nname = "x y"\nbase_ulr = "u"\n[[limits]]\nname = "r"\n')
    before = ok("provider", "list", "--json").out
    for verb in ("check", "diff", "apply"):
        ran = potluck("config", verb, str(file))
        assert (ran.status, ran.out) == (1, "")
        assert ran.err.count("\n") == 4
        assert "potluck: bad.toml:3: providers[0].base_ulr: unknown member; did you mean 'base_url'?" in ran.err
    problems = potluck("config", "check", str(file), "--json").json["problems"]
    assert [each["line"] for each in problems] == [1, 2, 3, 4]
    assert ok("provider", "list", "--json").out == before


def test_doctor_finds_a_healthy_gateway(served: Served, ok: Potluck, potluck: Potluck, fake: str) -> None:
    """With the gateway up, doctor asks it: ready, token accepted, each provider answers; a wrong token fails."""
    verdicts = {each["check"]: each for each in ok("doctor", "--json").json}
    assert verdicts["port"]["found"] == f"a gateway answers at {served.url}"
    assert {verdicts[check]["state"] for check in ("gateway", "admin token", "provider fake", "usage.db")} == {"ok"}
    ran = potluck("doctor", "--token", "pla-wrong")
    assert ran.status == 1
    assert "does not accept this admin token" in ran.out


def test_a_wrong_token_is_said(potluck: Potluck) -> None:
    """A token that the gateway does not know is status 1 and names where tokens come from."""
    ran = potluck("key", "list", "--token", "pla-" + "a" * 46)
    assert (ran.status, ran.out) == (1, "")
    assert "does not accept this admin token" in ran.err
    assert "aaaa" not in ran.err


def test_version_names_both(served: Served, ok: Potluck) -> None:
    """`version` shows this program and the gateway that answers."""
    said = ok("version", "--json").json
    assert said["gateway"] == said["version"]
    assert served.url in ok("version").out


def test_a_backup_of_a_running_gateway_restores_elsewhere(
    served: Served, ok: Potluck, potluck: Potluck, tmp_path: Path
) -> None:
    """A backup is taken while the gateway runs, never overwrites, restores elsewhere; restore keeps what was there."""
    ok("project", "create", "before-backup")
    file, home = str(tmp_path / "b.tar"), str(tmp_path / "other")
    assert "2 databases" in ok("db", "backup", file).out
    assert Path(file).stat().st_mode & 0o777 == 0o600
    ran = potluck("db", "backup", file)
    assert (ran.status, "exists: choose another name" in ran.err) == (1, True)
    ok("db", "restore", file, "--home", home)
    again = ok("db", "restore", file, "--home", home, "--json").json
    assert sorted(each.name for each in Path(again["kept"]).iterdir()) == ["potluck.db", "usage.db"]
    assert [each["result"] for each in ok("db", "upgrade", "--home", home, "--json").json] == ["current", "current"]
    verdicts = ok("doctor", "--home", home, "--url", "http://127.0.0.1:9", "--json").json
    assert not [each for each in verdicts if each["state"] == "fail"]
    (tmp_path / "noise.tar").write_bytes(b"noise")
    assert "is not a backup made by" in potluck("db", "restore", str(tmp_path / "noise.tar"), "--home", home).err
    assert "is in use by a running gateway" in potluck("db", "restore", file).err


def test_the_store_in_use_is_left_alone(ok: Potluck, potluck: Potluck) -> None:
    """`db upgrade` refuses a home that a gateway holds, naming its process."""
    ran = potluck("db", "upgrade")
    assert ran.status == 1
    assert "is in use by a running gateway" in ran.err


def test_a_second_gateway_on_the_home_or_port_is_refused(served: Served, tmp_path: Path) -> None:
    """Starting on a home in use, or on a port in use, ends with one line that says what to do."""
    port = served.url.rpartition(":")[2]
    for home, port_, said in (
        (served.home, "0", "is in use by a running gateway"),
        (tmp_path / "h", port, "cannot listen on"),
    ):
        command = [sys.executable, "-m", "potluck", "serve", "--home", str(home), "--port", port_, "--no-local-model"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr
