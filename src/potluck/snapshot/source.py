"""The current snapshot, and how a write reaches it.

A write touches the store first, then calls `refresh` with what it touched: those rows are read again in a reader
thread, compiled on the loop in slices of at most 2 ms (a thread that compiles would hold the loop for longer), and the
snapshot is swapped. Another process's writes are noticed by the version, once a second, and compiled whole.
"""

import asyncio
import gc
import logging
import time
from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import msgspec

from potluck.identity.vault import Vault
from potluck.model.node import CompiledNode
from potluck.model.resources import Route
from potluck.model.secret import Secret
from potluck.model.snapshot import CompiledKey, CompiledProbe, CompiledTarget, RequestHead, Snapshot
from potluck.snapshot.changes import EVERYTHING, Change
from potluck.snapshot.compiling import (
    Models,
    compile_declared,
    compile_keys,
    compile_pins,
    merge_names,
    pin_declared,
    with_aliases,
)
from potluck.snapshot.nodes import NodePart, compile_node, compiled_node
from potluck.snapshot.parts import Part
from potluck.snapshot.providers import ProviderPart, compile_probe, compile_provider
from potluck.snapshot.rows import PlaceRows, Rows, node_of, read, read_version
from potluck.store import Store

if TYPE_CHECKING:
    import sqlalchemy as sa

SLICE_S = 0.002
DROPPED_PER_STEP = 256
POLL_S = 1.0
TOUCH_FLUSH_S = 30.0

T = TypeVar("T")
log = logging.getLogger("potluck.snapshot")


class SnapshotError(Exception):
    """The stored configuration cannot be compiled; the snapshot before it goes on. Safe to print."""


class _Compiled(msgspec.Struct):
    """What the next partial compile starts from. Never changed in place."""

    version: int = 0
    keys: dict[bytes, CompiledKey] = {}
    hashes: dict[str, tuple[bytes, ...]] = {}
    """under which a key stands in `keys`, by its id"""
    parts: dict[str, ProviderPart] = {}
    nodes: dict[str, CompiledNode] = {}
    node_parts: dict[str, NodePart] = {}
    """of the approved ones"""
    old_keys_ms: dict[str, int] = {}
    """by node: until when its key before the present one counts"""
    pins: dict[str, Models] = {}
    """by provider or node, the oldest first"""
    models: Models = {}
    flat_pins: Models = {}
    routes: tuple[Route, ...] = ()
    probes: tuple[CompiledProbe, ...] = ()


class SnapshotStore:
    """Implements `ports.SnapshotSource`. Lives on one event loop; `current` is a plain attribute, swapped whole.

        snapshots = SnapshotStore(store, vault, local_model=True)
        snapshots.load()                      # before listening; raises SnapshotError
        task = asyncio.ensure_future(snapshots.watch())
        await snapshots.refresh(change)       # after each write, before its answer
        snapshots.set_local(port, secret)     # the built-in model listens there now (None: it does not)

    `current`: the snapshot. `hash_key(token)`: the hash under which `current.keys` holds an API key. `problem`: why the
    newest stored configuration is not in force, else empty.
    """

    def __init__(self, store: Store, vault: Vault, *, local_model: bool = True) -> None:
        self.current = Snapshot(version=0, keys={}, models={}, pins={})
        self.hash_key = vault.hash
        self.problem = "the configuration has not been read yet"
        self._store = store
        self._vault = vault
        self._local_model = local_model
        self._local: tuple[int, Secret] | None = None
        self._compiled = _Compiled()
        self._pending: list[Change] = []
        self._lock = asyncio.Lock()
        self._used: set[str] = set()
        self._background: set[asyncio.Future[None]] = set()
        self._complained = ""

    def touch(self, key: CompiledKey) -> None:
        """The key was used; `watch` writes `last_used_at_ms` now and then."""
        self._used.add(key.id)

    def load(self) -> None:
        """Read and compile everything, at once: for the start, before anybody waits. Raises SnapshotError."""
        rows = self._store.read_rows_now(lambda connection: read(connection, EVERYTHING))
        self._swap(_run(self._guarded(rows, EVERYTHING)), whole=True)

    async def refresh(self, change: Change = EVERYTHING) -> int:
        """Compile what a write touched and swap; returns the version now in force.

        Raises SnapshotError when the stored configuration cannot be compiled; the old snapshot stays, and the change
        is tried again with the next one.
        """
        if change.is_empty and not change.version:
            return self.current.version
        self._pending.append(change)
        async with self._lock:
            if not self._pending:
                return self.current.version  # another call took our change along
            taken, self._pending = self._pending, []
            try:
                await self._refresh(taken)
            except BaseException:
                self._pending = [EVERYTHING, *self._pending]
                raise
            return self.current.version

    def set_local(self, port: int | None, secret: Secret | None = None) -> None:
        """Where the built-in model listens, as its supervisor says; None when it is down. Compiles its targets."""
        self._local = None if port is None or secret is None else (port, secret)
        builtin = frozenset(part.provider.id for part in self._compiled.parts.values() if part.provider.builtin)
        if builtin:
            task = asyncio.ensure_future(self._refresh_quietly(Change(providers=builtin)))
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    def models_question(self, provider: str) -> tuple[CompiledTarget, RequestHead] | None:
        """Where to ask a provider for its models, and how, by its heaviest credential; None: there is no such."""
        parts = self._compiled.parts.values()
        return next((part.models_question() for part in parts if part.provider.name == provider), None)

    async def watch(self) -> None:
        """Notice other processes' writes each second and write down which keys were used. Runs until cancelled."""
        flushed_at = time.monotonic()
        while True:
            await asyncio.sleep(POLL_S)
            try:
                version = await self._store.read_rows(read_version)
                if version != self.current.version and not self._lock.locked():
                    await self._refresh_quietly(EVERYTHING)
                elif ended := self._ended_keys():
                    await self._refresh_quietly(Change(nodes=ended))
                if time.monotonic() - flushed_at >= TOUCH_FLUSH_S:
                    flushed_at = time.monotonic()
                    await self.flush_touched()
            except Exception as error:
                # a full or failing disk: what is in memory goes on, and the next look may succeed
                self._complain(f"the store cannot be read or written: {type(error).__name__}: {error}")

    def _ended_keys(self) -> frozenset[str]:
        """Nodes whose old key has ceased to count."""
        now_ms = time.time() * 1000
        return frozenset(node_id for node_id, until_ms in self._compiled.old_keys_ms.items() if until_ms <= now_ms)

    async def flush_touched(self) -> None:
        """Write `last_used_at_ms` of the keys used since the last time."""
        if not self._used:
            return
        used, self._used = self._used, set()
        at_ms = int(time.time() * 1000)

        def write(connection: "sa.Connection") -> None:
            statement = "UPDATE api_keys SET last_used_at_ms = ? WHERE id = ?"
            connection.exec_driver_sql(statement, [(at_ms, key_id) for key_id in used])

        await self._store.write(write)

    async def _refresh_quietly(self, change: Change) -> None:
        try:
            await self.refresh(change)
        except SnapshotError as error:
            self._complain(f"the new configuration is not in force: {error}")
        else:
            self._complained = ""

    def _complain(self, what: str) -> None:
        """Log something that the next second will say again: once."""
        if what != self._complained:
            self._complained = what
            log.error(what)

    async def _refresh(self, taken: list[Change]) -> None:
        change = Change()
        for each in taken:
            change |= each
        known = {each.version for each in taken if each.version}
        base = self._compiled.version
        rows = await self._store.read_rows(partial(read, change=change))
        missed = set(range(base + 1, rows.version + 1)) - known
        if missed and not change.everything:
            # somebody else wrote as well: what they touched is not known here
            change = EVERYTHING
            rows = await self._store.read_rows(partial(read, change=change))
        old = self._compiled
        collecting = gc.isenabled()
        if change.everything:
            # a collection half-way would walk all that is being made, and find nothing
            gc.disable()
        try:
            self._swap(await _run_sliced(self._guarded(rows, change)), whole=change.everything)
        finally:
            if collecting:
                gc.enable()
        if change.everything:
            await _run_sliced(_let_go(old))

    def _guarded(self, rows: Rows, change: Change) -> Generator[None, None, _Compiled]:
        try:
            return (yield from self._compile(rows, change))
        except Exception as error:
            self.problem = f"configuration version {rows.version} cannot be compiled: {type(error).__name__}: {error}"
            raise SnapshotError(self.problem) from error

    def _compile(self, rows: Rows, change: Change) -> Generator[None, None, _Compiled]:
        """The next state from the last one and what was read: copies what changes, shares the rest."""
        old = self._compiled
        keys, hashes = old.keys, old.hashes
        if change.everything:
            keys, hashes = {}, {}
        elif change.keys:
            keys, hashes = dict(keys), dict(hashes)
            for key_id in change.keys:
                for hashed in hashes.pop(key_id, ()):
                    del keys[hashed]
            yield
        if change.keys or change.everything:
            yield from compile_keys(rows.keys, keys, hashes)
        rules = old.routes if rows.rules is None else rows.rules
        if rows.places is None:
            return msgspec.structs.replace(old, version=rows.version, keys=keys, hashes=hashes, routes=rules)
        places, prices = rows.places, rows.places.prices
        parts: dict[str, ProviderPart] = {}
        mine: dict[str, Models] = {}
        for provider_id, provider in places.providers.items():
            if provider.builtin and not self._local_model:
                continue
            fresh = change.everything or provider_id in change.providers or provider_id not in old.parts
            if fresh:
                parts[provider_id] = yield from compile_provider(places, provider, self._vault, self._local)
            else:
                parts[provider_id] = old.parts[provider_id]
            yield
            if fresh or change.prices:
                mine[provider_id] = yield from compile_pins(parts[provider_id], prices)
            else:
                mine[provider_id] = old.pins[provider_id]
        nodes, node_parts, old_keys_ms = yield from self._compile_nodes(places, change)
        for node_id, node_part in node_parts.items():
            if node_part is old.node_parts.get(node_id) and not change.prices:
                mine[node_id] = old.pins[node_id]
            else:
                mine[node_id] = yield from compile_pins(node_part, prices)
        both: dict[str, Part] = {**parts, **node_parts}
        pins = {part_id: mine[part_id] for part_id in sorted(both, key=lambda each: (both[each].created_at_ms, each))}
        declared = yield from compile_declared(places.models, places.targets, both, prices)
        yield
        flat: Models = {name: model for each in pins.values() for name, model in each.items()}
        yield
        yield from pin_declared(declared, flat, both)
        named = yield from with_aliases(places.models, declared, flat)
        models = yield from merge_names(named, pins, flat, both)
        yield
        probes = tuple(probe for part in parts.values() if (probe := compile_probe(part, prices)) is not None)
        return _Compiled(
            rows.version,
            keys,
            hashes,
            parts,
            nodes,
            node_parts,
            old_keys_ms,
            pins,
            models,
            flat,
            rules,
            probes,
        )

    def _compile_nodes(
        self, rows: PlaceRows, change: Change
    ) -> Generator[None, None, tuple[dict[str, CompiledNode], dict[str, NodePart], dict[str, int]]]:
        """The nodes, the approved ones' parts, and until when old keys count; what did not change is as it was."""
        old, now_ms = self._compiled, int(time.time() * 1000)
        nodes: dict[str, CompiledNode] = {}
        parts: dict[str, NodePart] = {}
        old_keys_ms: dict[str, int] = {}
        for node_id, row in rows.nodes.items():
            if change.everything or node_id in change.nodes or node_id not in old.nodes:
                node, until_ms = node_of(row, now_ms)
                nodes[node_id] = compiled_node(node)
                if until_ms is not None:
                    old_keys_ms[node_id] = until_ms
                if node.state == "approved":
                    parts[node_id] = yield from compile_node(node)
                yield
                continue
            nodes[node_id] = old.nodes[node_id]
            if node_id in old.node_parts:
                parts[node_id] = old.node_parts[node_id]
            if node_id in old.old_keys_ms:
                old_keys_ms[node_id] = old.old_keys_ms[node_id]
        return nodes, parts, old_keys_ms

    def _swap(self, compiled: _Compiled, *, whole: bool) -> None:
        self._compiled = compiled
        self.current = Snapshot(
            compiled.version,
            compiled.keys,
            compiled.models,
            compiled.flat_pins,
            compiled.routes,
            compiled.probes,
            compiled.nodes,
        )
        self.problem = ""
        if whole:
            # the collector would walk all of it again and again, and find nothing
            gc.freeze()


def _let_go(old: _Compiled) -> Generator[None]:
    """Drop the last snapshot's many objects a few at a time: at once they hold the loop for 10 ms and more."""
    doomed: list[object] = [*old.keys.values(), *old.hashes.values(), *old.flat_pins.values(), *old.models.values()]
    for empty in ("keys", "hashes", "parts", "nodes", "node_parts", "pins", "models", "flat_pins"):
        setattr(old, empty, {})
    while doomed:
        del doomed[-DROPPED_PER_STEP:]
        yield


def _run(work: Generator[None, None, T]) -> T:
    """Run a compile to its end at once."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            result: T = done.value
            return result


async def _run_sliced(work: Generator[None, None, T]) -> T:
    """Run a compile on the loop, giving way after every 2 ms."""
    until = time.perf_counter() + SLICE_S
    while True:
        try:
            next(work)
        except StopIteration as done:
            result: T = done.value
            return result
        if time.perf_counter() >= until:
            await asyncio.sleep(0)
            until = time.perf_counter() + SLICE_S
