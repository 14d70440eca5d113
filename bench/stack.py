"""What stands on the bench: fixed upstreams, nginx as the limit, Potluck with a fresh home, others by command."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from bench import upstream
from bench.processes import (
    GATEWAY_CORE,
    LOAD_CORE,
    BenchError,
    command_line,
    free_port,
    pss_bytes,
    rss_bytes,
    spawn,
    stop,
    tree,
    wait_port,
    wait_quiet,
)

PLAIN_MODEL = "bench-plain"
STREAM_MODEL = "bench-stream"
ROUTED_MODELS = {"cheapest": "bench-cheapest", "least_busy": "bench-least-busy"}
"""by the strategy of their route; each has three targets"""
TARGETS = 3
IMPORTER = "importer"


@dataclass
class Server:
    """One gateway under test: where it listens, its key, and its processes."""

    name: str
    port: int
    stream_port: int
    key: str
    process: subprocess.Popen[bytes]
    home: Path | None = None
    routed_port: int = 0
    """where requests are spread over three upstreams; 0: nowhere"""
    idle_rss_bytes: int = 0
    """ready, and not used yet"""
    idle_pss_bytes: int = 0

    def pids(self) -> list[int]:
        """The gateway's own processes, the usage importer left out."""
        return [pid for pid in tree(self.process.pid) if pid not in self.importer_pids()]

    def importer_pids(self) -> list[int]:
        """The usage importer: a row of its own."""
        return [pid for pid in tree(self.process.pid)[1:] if IMPORTER in command_line(pid)]

    def all_pids(self) -> list[int]:
        return tree(self.process.pid)

    def take_idle(self) -> "Server":
        """Remember what it takes before its first request."""
        wait_quiet(self.all_pids())
        self.idle_rss_bytes, self.idle_pss_bytes = rss_bytes(self.all_pids()), pss_bytes(self.all_pids())
        return self


@dataclass
class Upstreams:
    """Where gateways send things: nginx with a fixed answer for plain requests, our provider for streams."""

    plain_ports: tuple[int, ...]
    """of three servers alike; one target means the first"""
    stream_port: int
    processes: list[subprocess.Popen[bytes]]


NGINX_MAIN = """
worker_processes 1;
worker_rlimit_nofile 16384;
daemon off;
pid {dir}/nginx.pid;
error_log {dir}/error.log error;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  keepalive_timeout 300s;
  keepalive_requests 1000000000;
  client_body_buffer_size 1m;
  client_max_body_size 64m;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  {servers}
}}
"""

NGINX_PROXY = """
  upstream plain {{ server 127.0.0.1:{plain_up}; keepalive 64; keepalive_requests 1000000000; }}
  upstream routed {{ {routed_up} keepalive 64; keepalive_requests 1000000000; }}
  upstream streams {{ server 127.0.0.1:{stream_up}; keepalive 1100; keepalive_requests 1000000000; }}
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_set_header Authorization "Bearer upstream-secret";
  server {{ listen 127.0.0.1:{plain} backlog=2048; location / {{ proxy_pass http://plain; }} }}
  server {{ listen 127.0.0.1:{routed} backlog=2048; location / {{ proxy_pass http://routed; }} }}
  server {{ listen 127.0.0.1:{stream} backlog=2048; location / {{ proxy_pass http://streams; proxy_buffering off; }} }}
"""

NGINX_FIXED = """
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location / {{ default_type application/json; return 200 '{body}'; }}
  }}
"""


def find_nginx() -> str:
    """Path of nginx, installed with apt when that is possible."""
    return _find("nginx", "/usr/sbin/nginx", package="nginx-light")


def find_wrk() -> str:
    """Path of wrk, installed with apt when that is possible."""
    return _find("wrk", "/usr/bin/wrk", package="wrk")


def _find(name: str, usual: str, *, package: str) -> str:
    found = shutil.which(name) or shutil.which(usual)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"installing {package} with apt...", file=sys.stderr)
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (
            ["apt-get", "update", "-qq"],
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package],
        ):
            subprocess.run(command, env=environment, capture_output=True, check=False)
        found = shutil.which(name) or shutil.which(usual)
    if found is None:
        raise BenchError(f"{name} is needed to measure and is not installed: install the package {package}")
    return found


def start_nginx(directory: Path, servers: str, port: int, core: int) -> subprocess.Popen[bytes]:
    """A private nginx with these server blocks, its files all in `directory`."""
    directory.mkdir(parents=True)
    config = directory / "nginx.conf"
    config.write_text(NGINX_MAIN.format(dir=directory, servers=servers))
    process = spawn(
        [find_nginx(), "-c", str(config), "-p", str(directory), "-e", str(directory / "error.log")],
        core=core,
        log=directory / "out.log",
    )
    wait_port(port, process)
    return process


def start_upstreams(directory: Path) -> Upstreams:
    """All fixed upstreams, on the load's core."""
    plain, stream = tuple(free_port() for _ in range(TARGETS)), free_port()
    fixed = "".join(NGINX_FIXED.format(port=port, body=upstream.completion().decode()) for port in plain)
    processes = [start_nginx(directory / "upstream", fixed, plain[0], LOAD_CORE)]
    processes.append(
        spawn(
            [sys.executable, "-m", "bench.upstream", "--port", str(stream)],
            core=LOAD_CORE,
            log=directory / "upstream.log",
        )
    )
    wait_port(stream, processes[-1])
    return Upstreams(plain, stream, processes)


def start_nginx_proxy(directory: Path, upstreams: Upstreams) -> Server:
    """nginx `proxy_pass`: the limit that every figure stands beside."""
    plain, stream, routed = free_port(), free_port(), free_port()
    servers = NGINX_PROXY.format(
        plain=plain,
        stream=stream,
        routed=routed,
        plain_up=upstreams.plain_ports[0],
        stream_up=upstreams.stream_port,
        routed_up=" ".join(f"server 127.0.0.1:{port};" for port in upstreams.plain_ports),
    )
    process = start_nginx(directory / "nginx", servers, plain, GATEWAY_CORE)
    return Server("nginx", plain, stream, "none", process, routed_port=routed).take_idle()


def start_command(name: str, command: str, directory: Path, upstreams: Upstreams) -> Server:
    """Any server: `{port}`, `{plain_port}` and `{stream_port}` in its command are filled in; no key."""
    port = free_port()
    words = command.format(port=port, plain_port=upstreams.plain_ports[0], stream_port=upstreams.stream_port).split()
    process = spawn(words, core=GATEWAY_CORE, log=directory / f"{name}.log")
    wait_port(port, process)
    return Server(name, port, port, "none", process).take_idle()


def potluck_command(port: int, home: Path) -> list[str]:
    """How the bench starts Potluck."""
    program = Path(sys.executable).with_name("potluck")
    return [str(program), "serve", "--no-local-model", "--port", str(port), "--home", str(home)]


def potluck_environment(token: str, key: str) -> dict[str, str]:
    """The bench's environment without anything that would configure a Potluck, and with a first token and key."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("POTLUCK_")}
    kept = {name: value for name, value in kept.items() if not name.endswith("_API_KEY")}
    return kept | {"POTLUCK_BOOTSTRAP_ADMIN_TOKEN": token, "POTLUCK_BOOTSTRAP_API_KEY": key}


def make_secret(prefix: str) -> str:
    """A secret of the right shape: prefix and 46 letters or digits."""
    return prefix + "".join(
        secrets.choice("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(46)
    )


def start_potluck(
    directory: Path, upstreams: Upstreams, *, launcher: list[str] | None = None, name: str = "potluck"
) -> Server:
    """Potluck with a new home and all upstreams as own providers; `launcher` replaces the program's name."""
    home, port = directory / f"{name}-home", free_port()
    token, key = make_secret("pla-"), make_secret("plk-")
    command = potluck_command(port, home)
    if launcher is not None:
        command[:1] = launcher
    process = spawn(command, core=GATEWAY_CORE, log=directory / f"{name}.log", env=potluck_environment(token, key))
    try:
        wait_ready(port, process, directory / f"{name}.log")
        server = Server(name, port, port, key, process, home, routed_port=port).take_idle()
        for model, upstream_port in ((PLAIN_MODEL, upstreams.plain_ports[0]), (STREAM_MODEL, upstreams.stream_port)):
            declare_provider(port, token, model, upstream_port)
            declare_model(port, token, model, model)
        declare_routes(port, token, upstreams)
        wait_model(port, key, list(ROUTED_MODELS.values())[-1])
    except BaseException:
        stop(process)
        raise
    return server


def wait_ready(port: int, process: subprocess.Popen[bytes], log: Path, limit_s: float = 30.0) -> None:
    """Until `/readyz` says 200."""
    deadline = time.monotonic() + limit_s
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
                return
        except (OSError, urllib.error.URLError):
            if process.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-2000:]
                raise BenchError(f"Potluck did not become ready; its log ends with:\n{tail}") from None
            time.sleep(0.02)


def declare_provider(port: int, token: str, name: str, upstream_port: int) -> None:
    """Through the admin API: a provider on own infrastructure."""
    base_url = f"http://127.0.0.1:{upstream_port}/v1"
    post(port, token, "providers", {"name": name, "dialect": "openai", "base_url": base_url, "own": True})


def declare_model(port: int, token: str, model: str, *providers: str) -> None:
    """Through the admin API: a model with a target at each of these providers."""
    post(port, token, "models", {"name": model, "targets": [{"target": f"{each}/bench"} for each in providers]})


def declare_routes(port: int, token: str, upstreams: Upstreams) -> None:
    """Through the admin API: three providers, and for each strategy a model over all of them with a route of its own.

    They cost the same (nothing), so `cheapest` has a draw among three to make.
    """
    providers = [f"bench-{n}" for n in range(1, TARGETS + 1)]
    for name, upstream_port in zip(providers, upstreams.plain_ports, strict=True):
        declare_provider(port, token, name, upstream_port)
    for strategy, model in ROUTED_MODELS.items():
        post(port, token, "routes", {"name": f"{strategy}-route", "match": {"models": [model]}, "strategy": strategy})
        declare_model(port, token, model, *providers)


def wait_model(port: int, key: str, model: str, limit_s: float = 5.0) -> None:
    """Until the data plane serves the model."""
    deadline = time.monotonic() + limit_s
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/models/{model}", headers={"authorization": f"Bearer {key}"}
    )
    while True:
        try:
            with urllib.request.urlopen(request, timeout=2):
                return
        except urllib.error.HTTPError as error:
            if time.monotonic() > deadline:
                raise BenchError(f"model {model} is not served: {error.code} {error.read()[:500]!r}") from None
            time.sleep(0.02)


def post(port: int, token: str, resource: str, body: dict[str, object]) -> bytes:
    """One `POST` of the admin API; its answer's body."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/v1/{resource}",
        data=json.dumps(body).encode(),
        headers={"authorization": f"Bearer {token}", "content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        raise BenchError(f"POST /api/v1/{resource} answered {error.code}: {error.read()[:500]!r}") from None
