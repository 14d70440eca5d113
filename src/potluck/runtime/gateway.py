"""The gateway process: what is built, in which order it starts and stops.

Start: open-file limit → logging → store (makes or upgrades its databases) → first start → snapshot → spool replay →
pool, plane, hub → **listen** → importer, built-in model, control plane (imported only now: the data plane already
answers).
Stop (SIGTERM, SIGINT): stop accepting → drain the data plane → control plane → importer, model → spool → store.
A second signal cuts the drain short.
"""

import asyncio
import contextlib
import importlib
import logging
import os
import resource
import signal
import socket
import ssl
import sys
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import msgspec

import potluck
from potluck.admin import first_start
from potluck.config import origins
from potluck.config.errors import ConfigError
from potluck.config.settings import Settings
from potluck.engines.builtin import BuiltinModel
from potluck.engines.local_upstream import LocalUpstream
from potluck.hub.links import Links
from potluck.identity.gateway_key import GatewayIdentity, verify
from potluck.identity.vault import VaultError
from potluck.ledger import reports
from potluck.ledger.importer_process import ImporterProcess
from potluck.ledger.replay import replay
from potluck.ledger.spool import Spool
from potluck.ports import Upstream
from potluck.proxy.limits import PlaneLimits
from potluck.proxy.plane import Plane
from potluck.runtime import announce, memory
from potluck.runtime.configuration import apply_file
from potluck.runtime.fleet import Fleet
from potluck.runtime.fleet_readings import FleetReadings
from potluck.runtime.live_readings import LiveReadings
from potluck.runtime.model_lists import ask_for_models, unlisted
from potluck.runtime.probes import Probes
from potluck.runtime.ticker import Ticker
from potluck.snapshot import SnapshotError, SnapshotStore
from potluck.store import Store, StoreError
from potluck.store import open as open_store
from potluck.telemetry import logs
from potluck.telemetry.exposition import Exposition
from potluck.telemetry.meter import DataPlaneMeter
from potluck.upstream.pool import Pool
from potluck.upstream.proxy_settings import ProxySettings

log = logging.getLogger("potluck.gateway")

BACKLOG = 1024
SAME_SIGNAL_S = 1.0
STOP_S = 5.0
"""for everything that ends after the drain"""


class StartError(Exception):
    """The gateway cannot start; the message says what, why and how to mend it."""


def run(settings: Settings) -> int:
    """Run until told to stop. Returns the exit status: 0 stopped as told, 1 could not start."""
    raise_open_file_limit()
    memory.keep_buffers()
    memory.collect_rarely()
    writer = logs.configure(settings.log.level, settings.log.format, background=True)
    runner: type[asyncio.Runner] | Any = asyncio.Runner
    try:
        with runner(loop_factory=_loop_factory()) as loop_runner:
            loop_runner.run(Gateway(settings).serve())
    except (StartError, ConfigError, StoreError, VaultError, SnapshotError, first_start.FirstStartError) as error:
        sys.stderr.writelines(f"potluck: {line}\n" for line in str(error).splitlines())
        return 1
    finally:
        writer.close()
    return 0


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:  # Windows
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def raise_open_file_limit() -> None:
    """Use as many open files as the system allows this process: each stream needs two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Gateway:
    """One serving process. `serve` builds, runs and ends it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.started_at = time.time()
        self.problems: dict[str, str] = {"gateway": "it is starting"}
        """why `/readyz` says no, by part"""
        self._stop = asyncio.Event()
        self._stopping_at = 0.0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._unasked: list[str] = []
        """providers that came with this start, and those that never told their models"""

    async def serve(self) -> None:
        """Everything from the first file to the last. Raises StartError and the errors of the parts it opens."""
        settings = self.settings
        self.loop = asyncio.get_running_loop()
        store = open_store(settings.home)
        try:
            first = first_start.first_start(
                store,
                os.environ,
                local_model=not settings.no_local_model,
                master_key=settings.master_key,
                bootstrap_admin_token=settings.bootstrap_admin_token,
                bootstrap_api_key=settings.bootstrap_api_key,
            )
            self.store, self.vault = store, first.vault
            if settings.config is not None:
                applied = apply_file(store, first.vault, settings.config, os.environ)
                first = msgspec.structs.replace(first, lines=(*first.lines, *applied.lines))
                self._unasked = applied.providers
            if settings.config is not None or first.is_new:
                self._unasked = list(dict.fromkeys([*self._unasked, *unlisted(store)]))
            await self._serve(store, first)
        finally:
            store.close()

    async def _serve(self, store: Store, first: "first_start.FirstStart") -> None:
        settings, loop = self.settings, self.loop
        self.own_names = _own_names(settings)
        self.snapshots = SnapshotStore(store, first.vault, local_model=not settings.no_local_model)
        self.model: BuiltinModel | None = None
        if not settings.no_local_model:
            self.model = BuiltinModel(settings.home, loop, self.snapshots.set_local)
            self.snapshots.set_local(self.model.port, self.model.secret)
        self.snapshots.load()
        summary = replay(settings.home / "spool")
        if summary.lost:
            log.warning(
                "%d calls were in flight when an earlier gateway ended; they are recorded as lost", summary.lost
            )
        self.spool = Spool(settings.home / "spool", loop)
        try:
            proxies = ProxySettings.from_environ(os.environ)
        except ValueError as error:
            raise StartError(str(error)) from error
        self.pool = Pool(loop, proxies=proxies)
        self.meter = DataPlaneMeter()
        self.lookups = ThreadPoolExecutor(2, thread_name_prefix="lookup")
        upstreams: dict[str, Upstream] = {"pool": self.pool}
        if self.model is not None:
            upstreams["local"] = LocalUpstream(self.pool, self.model, loop)
        self.plane = Plane(
            loop,
            self.snapshots,
            upstreams,
            self.spool,
            self.meter,
            limits=_limits(settings),
            lookup=self._look_up,
            allowed_hosts=frozenset(name.encode() for name in self.own_names),
        )
        self.fleet = Fleet(store, first.vault, self.snapshots, self.plane.registry)
        self.links = upstreams["hub"] = Links(
            loop,
            self.snapshots,
            self.fleet,
            sign=GatewayIdentity(first.vault).sign,
            verify=verify,
            origin_of=self._origin_of,
            trusted_proxies=settings.trusted_proxies,
        )
        self.fleet.in_force = self.links.in_force
        self.fleet_readings = FleetReadings(self.links, self.fleet)
        self.plane.links = self.links.accept
        self.probes = Probes(self.snapshots, self.plane.registry, upstreams, settings.home)
        self.exposition = self._expose()
        ticker = Ticker(loop, [self.plane.sweep, self.pool.sweep, self.probes.sweep, self.links.sweep])
        importer = ImporterProcess(settings.home)
        server = await self._listen()
        try:
            ticker.start()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._signalled)
            await importer.start()
            if self.model is not None:
                await self.model.start()
            self.spawn(self.snapshots.watch())
            self.spawn(self.fleet.run())
            announce.listening(
                self.settings, self.port, first, lambda key: self.snapshots.hash_key(key) in self.snapshots.current.keys
            )
            self.spawn(self._become_whole())
            await self._stop.wait()
            await self._drain(server)
        finally:
            ticker.stop()
            server.close()
            await self._end(importer)

    async def _listen(self) -> asyncio.Server:
        settings = self.settings
        context = _tls_context(settings) if settings.tls else None
        try:
            server = await self.loop.create_server(
                self.plane.make_connection, settings.host, settings.port, ssl=context, backlog=BACKLOG
            )
        except OSError as error:
            reason = error.strerror or str(error)
            raise StartError(
                f"cannot listen on {settings.host} port {settings.port}: {reason}; "
                "stop what uses it, or choose another with --port or POTLUCK_PORT"
            ) from error
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _become_whole(self) -> None:
        """What can wait until requests are answered, one after the other."""
        await self._bring_in_control_plane()
        if self.snapshots.current.nodes:
            await self.loop.run_in_executor(None, importlib.import_module, "potluck.hub.socket")
        if self._unasked:
            await ask_for_models(self.store, self.vault, self.snapshots, self.pool, self._unasked)

    async def _bring_in_control_plane(self) -> None:
        """Import and attach it. The imports hold the interpreter in slices, while the data plane answers."""
        try:
            control = await self.loop.run_in_executor(None, _import_control)
            control.attach(self)
        except Exception:
            log.exception("the control plane could not be started; the data plane goes on without it")
            self.problems["control"] = "the control plane could not be started; see the log"
            self.plane.set_guard_missing()
        else:
            memory.settle()
        del self.problems["gateway"]

    def _expose(self) -> Exposition:
        exposition = Exposition(self.meter, potluck.__version__)
        plane, pool = self.plane, self.pool
        exposition.gauge("potluck_requests_in_flight", "requests being answered now", lambda: len(plane.exchanges))
        exposition.gauge("potluck_connections", "callers' connections", lambda: len(plane.connections))
        exposition.gauge("potluck_buffered_body_bytes", "request bodies held", lambda: plane.buffered_bytes)
        exposition.gauge(
            "potluck_upstream_connections",
            "connections to upstreams",
            lambda: {
                (key, state): getattr(stats, state)
                for key, stats in pool.stats().endpoints.items()
                for state in ("idle", "in_flight", "connecting", "waiting")
            },
            ("endpoint", "state"),
        )
        exposition.counter("potluck_upstream_connects_total", "connections made", lambda: pool.stats().connects)
        exposition.counter(
            "potluck_upstream_retried_total",
            "calls whose kept-alive connection was dead, sent again on a new one",
            lambda: pool.stats().retried,
        )
        live = LiveReadings(plane.registry, self.snapshots)
        exposition.gauge(
            "potluck_target_state",
            "1 for the state that a target is in, by credential",
            live.states,
            ("target", "credential", "state"),
        )
        exposition.gauge("potluck_target_in_flight", "calls that a target answers now", live.in_flight, ("target",))
        exposition.counter(
            "potluck_target_opened_total", "times that a target's breaker opened", live.opened, ("target",)
        )
        exposition.counter(
            "potluck_probes_total",
            "active probes by how they ended",
            self.probes.counts.copy,
            ("provider", "kind", "outcome"),
        )
        exposition.counter(
            "potluck_probe_cost_nanousd_total",
            "cost of active probes, which belong to no project",
            self.probes.cost_nanousd.copy,
            ("provider",),
        )
        self.fleet_readings.expose(exposition)
        exposition.gauge("potluck_spool_writable", "1 while usage can be recorded", lambda: int(self.spool.writable))
        exposition.counter("potluck_spool_dropped_total", "records given up", lambda: self.spool.dropped)
        exposition.gauge("potluck_snapshot_version", "configuration in force", lambda: self.snapshots.current.version)
        return exposition

    def readiness(self) -> dict[str, str]:
        """Reasons why `/readyz` says no, by part; empty when ready."""
        reasons = dict(self.problems)
        if self.snapshots.problem:
            reasons["snapshot"] = self.snapshots.problem
        if not self.spool.writable:
            reasons["spool"] = "usage cannot be recorded: free space in the home directory"
        if self.plane.draining:
            reasons["gateway"] = "it is shutting down"
        return reasons

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run something in the background for the life of the gateway; a failure is logged."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._spawned_ended)

    def _spawned_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a background task failed", exc_info=task.exception())

    def _look_up(self, request_id: str, key_id: str, answer: Any) -> None:
        """`GET /v1/requests/{id}`: read the record in a thread. The importer is at most a second behind."""

        def read() -> bytes | None:
            record = reports.request_detail(self.store.usage_path, request_id, {"key_id": key_id})
            return msgspec.json.encode(record) if record is not None else None

        def done(future: asyncio.Future[bytes | None]) -> None:
            error = None if future.cancelled() else future.exception()
            if error is not None:
                log.error("a request record could not be read", exc_info=error)
            answer(None if future.cancelled() or error is not None else future.result())

        self.loop.run_in_executor(self.lookups, read).add_done_callback(done)

    # --- the end

    def _origin_of(self, host: str, tls: bool, socket_address: str) -> str | None:
        """Under which origin a node meant this gateway; None: it did not."""
        settings = self.settings
        try:
            return origins.claimed_origin(
                host,
                tls=tls,
                public_url=settings.public_url,
                own_names=self.own_names,
                socket_address=socket_address,
            )
        except origins.OriginError:
            return None

    def _signalled(self) -> None:
        if self._stop.is_set():
            # `make` and terminals signal the whole process group, and make forwards it: one wish, heard twice
            if time.monotonic() - self._stopping_at >= SAME_SIGNAL_S:
                self.plane.cut_drain_short()
            return
        self._stopping_at = time.monotonic()
        log.info("stopping: running requests may finish within %g s", self.settings.drain_s)
        self._stop.set()

    async def _drain(self, server: asyncio.Server) -> None:
        server.close()
        self.probes.close()
        self.links.leave()
        left = await self.plane.drain(self.settings.drain_s)
        if left:
            log.warning("%d requests were still running after %g s and were cut", left, self.settings.drain_s)

    async def _end(self, importer: ImporterProcess) -> None:
        for task in list(self._tasks):
            task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await self.snapshots.flush_touched()
        self.probes.close()
        self.pool.close()
        self.links.close()
        # records go to the file first, so that the importer's last look finds them
        await asyncio.sleep(0)
        self.spool.close()
        await asyncio.gather(
            importer.stop(), self.model.stop() if self.model is not None else asyncio.sleep(0), return_exceptions=True
        )
        self.lookups.shutdown(wait=False, cancel_futures=True)
        self.links.cut()
        for connection in list(self.plane.connections):
            connection.abort()


def _import_control() -> Any:
    from potluck.runtime import control

    return control


def _own_names(settings: Settings) -> frozenset[str]:
    """The names under which this gateway is reached: a page under any other has no business with the console."""
    names = {"localhost", socket.gethostname(), settings.host}
    if settings.public_url is not None:
        names.add(urlsplit(settings.public_url).hostname or "")
    return frozenset(name.lower() for name in names if name)


def _limits(settings: Settings) -> PlaneLimits:
    return PlaneLimits(**msgspec.structs.asdict(settings.limits))


def _tls_context(settings: Settings) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(str(settings.tls_cert), str(settings.tls_key) if settings.tls_key else None)
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "strerror", None) or "they do not belong together, or are not PEM"
        raise StartError(f"the TLS certificate or key cannot be used: {reason}") from error
    return context
