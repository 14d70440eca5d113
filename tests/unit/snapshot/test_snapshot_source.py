"""Rows → snapshot: names, pins, keys, partial compiles, refusals, slices."""

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable
from typing import Any

import pytest
from snapshot_rows import OPENAI, Rows

from potluck.model.secret import Secret
from potluck.snapshot import EVERYTHING, Change, SnapshotError, SnapshotStore
from potluck.snapshot import source as source_module
from potluck.store.database import connect


def test_names_are_declared_first_then_offered(rows: Rows) -> None:
    """Declared models lead the list, catalogue names follow, pins name one provider; what reads as a pin is one."""
    openai = rows.provider("openai")
    other = rows.provider("other", "http://10.0.0.7:8000/v1", own=True)
    rows.write(
        "INSERT INTO provider_models VALUES (?, 'gpt-4o-mini', 1), ('prv_other', 'openai/gpt-4o-mini', 1),"
        " ('prv_other', 'qwen', 1)",
        values=(other,),
    )
    rows.model("small", (openai, "gpt-4o-mini"), (other, "qwen"))
    current = rows.source().current
    names = list(current.models)
    assert names[0] == "small"
    assert [target.name for target in current.models["small"].targets] == ["openai/gpt-4o-mini", "other/qwen"]
    assert [target.provider for target in current.models["gpt-4o-mini"].targets] == ["openai", "other"]
    assert [target.provider for target in current.pins["openai/gpt-4o-mini"].targets] == ["openai"]
    assert "openai/gpt-4o-mini" not in names
    assert current.pins["other/openai/gpt-4o-mini"].targets[0].model_json == b'"openai/gpt-4o-mini"'
    assert "gpt-4o-mini-2024-07-18" not in names
    card = json.loads(current.models["gpt-4o-mini"].card)
    assert card["id"] == "gpt-4o-mini"
    assert [each["target"] for each in card["potluck"]["targets"]] == ["openai/gpt-4o-mini", "other/gpt-4o-mini"]
    assert json.loads(current.models["qwen"].card)["id"] == "qwen"


def test_prices_make_targets_routable_or_not(rows: Rows) -> None:
    """Catalogue price, own infrastructure at 0, an unknown paid model listed but not routable, an operator's price."""
    openai, own = rows.provider("openai"), rows.provider("own", "http://127.0.0.1:8000/v1", own=True)
    rows.write("INSERT INTO provider_models VALUES ('prv_openai', 'secret-beta', 1), ('prv_own', 'qwen', 1)")
    rows.model("dated", (openai, "gpt-4o-mini-2024-07-18"))
    source = rows.source()
    pins = source.current.pins
    assert pins["openai/gpt-4o-mini"].targets[0].price is not None
    assert pins["openai/gpt-4o-mini"].targets[0].unroutable == ""
    assert source.current.models["dated"].targets[0].price == pins["openai/gpt-4o-mini"].targets[0].price
    assert pins["own/qwen"].targets[0].price is not None
    assert pins["own/qwen"].targets[0].price.input == 0
    unpriced = pins["openai/secret-beta"].targets[0]
    assert unpriced.price is None
    assert "potluck model price openai/secret-beta" in unpriced.unroutable
    assert json.loads(source.current.models["secret-beta"].card)["potluck"]["targets"][0]["routable"] is False
    version = rows.write(
        "INSERT INTO prices (id, organisation_id, model, price, created_at_ms, updated_at_ms) VALUES"
        ' (\'prc_1\', \'org_1\', \'secret-beta\', \'{"input":5,"output":6,"version":"operator:1","source":'
        '"operator"}\', 1, 1)'
    )
    asyncio.run(source.refresh(Change(version, prices=True)))
    assert source.current.pins["openai/secret-beta"].targets[0].unroutable == ""
    assert source.current.pins["own/qwen"].targets[0].provider_id == own


def test_heads_are_for_what_a_model_does(rows: Rows) -> None:
    """A chat model of a provider that speaks responses has both heads, an embedding model its own only."""
    rows.provider("openai")
    pins = rows.source().current.pins
    assert {"chat", "responses"} <= set(pins["openai/gpt-4o-mini"].targets[0].heads)
    assert set(pins["openai/text-embedding-3-small"].targets[0].heads) == {"embeddings"}


def test_private_weights_stay_on_own_infrastructure(rows: Rows) -> None:
    """A model with placement `own` bars its targets elsewhere, whatever their price."""
    openai, own = rows.provider("openai"), rows.provider("own", "http://127.0.0.1:8000/v1", own=True)
    rows.model("private", (openai, "gpt-4o-mini"), (own, "qwen"), placement="own")
    barred, free = rows.source().current.models["private"].targets
    assert "own infrastructure only" in barred.unroutable
    assert free.unroutable == ""


def test_each_credential_is_a_target_heaviest_first(rows: Rows) -> None:
    """Two keys make two targets of one name and id, each with its own key in its heads; a disabled one makes none."""
    openai = rows.provider("openai")
    rows.credential(openai, "a", "sk-aaa", weight=1)
    rows.credential(openai, "b", "sk-bbb", weight=5)
    rows.credential(openai, "c", "sk-ccc", weight=9)
    rows.write("UPDATE credentials SET disabled = 1 WHERE id = 'crd_c'")
    first, second = rows.source().current.pins["openai/gpt-4o-mini"].targets
    assert (first.credential_id, second.credential_id) == ("crd_b", "crd_a")
    assert first.id == second.id
    assert b"Bearer sk-bbb" in first.heads["chat"].wire
    assert b"Bearer sk-aaa" in second.heads["chat"].wire
    assert "sk-bbb" not in repr(first)


def test_the_built_in_model_follows_its_supervisor(rows: Rows) -> None:
    """Before the supervisor speaks it is listed; then it has its port and key; a gateway without it lists none."""
    rows.provider("local", "http://127.0.0.1:1/v1", builtin=True)

    async def run() -> None:
        source = rows.source()
        target = source.current.models["smollm2-135m"].targets[0]
        assert (target.upstream, target.own, target.unroutable) == ("local", True, "")
        source.set_local(43210, Secret("engine-key"))
        async with asyncio.timeout(5):
            while source.current.models["smollm2-135m"].targets[0].endpoint.port != 43210:
                await asyncio.sleep(0)
        target = source.current.models["smollm2-135m"].targets[0]
        assert b"Bearer engine-key" in target.heads["chat"].wire
        assert set(target.heads) == {"chat", "completions", "embeddings"}

    asyncio.run(run())
    assert "smollm2-135m" not in rows.source(local_model=False).current.models


async def test_a_partial_compile_shares_what_it_did_not_touch(rows: Rows) -> None:
    """A new key leaves the models as they are, the very same objects; a new credential touches its provider alone."""
    openai, groq = rows.provider("openai"), rows.provider("groq", "https://api.groq.com/openai/v1")
    source = rows.source()
    before = source.current
    secret, key_id, version = rows.key("web")
    await source.refresh(Change(version, keys=frozenset({key_id})))
    assert source.hash_key(secret.encode()) in source.current.keys
    assert source.current.models is before.models
    assert source.current.version == version
    rows.credential(openai, "main", "sk-aaa")
    await source.refresh(Change(rows.version, providers=frozenset({openai}), models=True))
    assert source.current.pins["openai/gpt-4o-mini"].targets[0].credential_id == "crd_main"
    untouched = next(name for name in before.pins if name.startswith("groq/"))
    assert source.current.pins[untouched] is before.pins[untouched]
    assert source.current.pins[untouched].targets[0].provider_id == groq


async def test_a_change_that_nobody_told_of_is_compiled_whole(rows: Rows) -> None:
    """When the version says that another process wrote as well, everything is read again."""
    source = rows.source()
    rows.provider("openai")
    secret, key_id, version = rows.key("web")
    await source.refresh(Change(version, keys=frozenset({key_id})))
    assert source.hash_key(secret.encode()) in source.current.keys
    assert "gpt-4o-mini" in source.current.models


async def test_another_process_is_noticed_within_seconds(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """`watch` sees a write that was not announced, by its version."""
    monkeypatch.setattr(source_module, "POLL_S", 0.01)
    source = rows.source()
    secret, _, version = rows.key("web")
    watching = asyncio.ensure_future(source.watch())
    async with asyncio.timeout(5):
        while source.current.version != version:
            await asyncio.sleep(0.005)
    watching.cancel()
    assert source.hash_key(secret.encode()) in source.current.keys


async def test_what_cannot_be_compiled_is_refused_whole(rows: Rows) -> None:
    """A credential that does not open leaves the old snapshot in force and says why; mended, everything goes on."""
    openai = rows.provider("openai")
    source = rows.source()
    before = source.current
    rows.credential(openai, "main", "sk-canary")
    rows.write("UPDATE credentials SET sealed = x'0100'")
    secret, key_id, _ = rows.key("web")
    with pytest.raises(SnapshotError, match="crd_main") as caught:
        await source.refresh(Change(rows.version, providers=frozenset({openai})))
    assert "canary" not in str(caught.value)
    assert source.current is before
    assert "crd_main" in source.problem
    rows.write("DELETE FROM credentials")
    await source.refresh(Change(rows.version, keys=frozenset({key_id})))
    assert source.problem == ""
    assert source.hash_key(secret.encode()) in source.current.keys


async def test_expired_and_revoked_keys_are_not_there(rows: Rows) -> None:
    """Neither is compiled; one that expires later carries its moment for the exchange to check."""
    now_ms = int(time.time() * 1000)
    late, _, _ = rows.key("late", now_ms + 60_000)
    gone, _, _ = rows.key("gone", now_ms - 1)
    ended, _, _ = rows.key("ended")
    rows.write("UPDATE api_keys SET revoked_at_ms = 1 WHERE id = 'key_ended'")
    source = rows.source()
    find: Callable[[str], Any] = lambda secret: source.current.keys.get(source.hash_key(secret.encode()))  # noqa: E731
    assert find(late).expires_at_s == pytest.approx((now_ms + 60_000) / 1000)
    assert find(gone) is None
    assert find(ended) is None


async def test_concurrent_refreshes_lose_nothing(rows: Rows) -> None:
    """Forty announced writes, refreshed at once, are all in force afterwards, at the newest version."""
    source = rows.source()
    made = [rows.key(f"k{number}") for number in range(40)]
    await asyncio.gather(*(source.refresh(Change(version, keys=frozenset({key}))) for _, key, version in made))
    assert source.current.version == rows.version
    assert all(source.hash_key(secret.encode()) in source.current.keys for secret, _, _ in made)


async def test_a_whole_compile_gives_way(rows: Rows) -> None:
    """While twenty thousand keys and a thousand models are compiled, the loop is never held for longer than 50 ms."""
    for name, url in (("openai", OPENAI), ("openrouter", "https://openrouter.ai/api/v1")):
        rows.provider(name, url)
    connection = connect(rows.store.main_path)
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO api_keys (id, organisation_id, project_id, name, hash, hint, created_at_ms, updated_at_ms)"
        " VALUES (?, 'org_1', 'prj_1', ?, ?, '…', 1, 1)",
        ((f"key_{n}", f"k{n}", n.to_bytes(16, "big")) for n in range(20_000)),
    )
    connection.execute("COMMIT")
    connection.close()
    source = rows.source()
    gaps: list[float] = []

    async def beat() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    beating = asyncio.ensure_future(beat())
    await source.refresh(EVERYTHING)
    beating.cancel()
    assert len(source.current.keys) == 20_000
    assert len(source.current.models) > 300
    assert len(gaps) > 20
    assert sorted(gaps)[-2] < 0.05, sorted(gaps)[-5:]


async def test_used_keys_are_written_down(rows: Rows) -> None:
    """`touch` on the path of a request is a set add; the flush writes when each key was last used."""
    secret, _, _ = rows.key("web")
    rows.key("idle")
    source = rows.source()
    source.touch(source.current.keys[source.hash_key(secret.encode())])
    await source.flush_touched()
    await source.flush_touched()

    def look(connection: sqlite3.Connection) -> dict[str, int | None]:
        return dict(connection.execute("SELECT name, last_used_at_ms FROM api_keys").fetchall())

    used = rows.store.read_rows_now(look)
    assert used["idle"] is None
    assert abs(used["web"] - time.time() * 1000) < 10_000


def test_a_provider_that_moves_gets_connections_of_its_own(rows: Rows) -> None:
    """The pool's key names the place: no request for the new address goes over a connection to the old one."""
    provider = rows.provider("lab", "http://10.0.0.1:8000/v1", own=True)
    rows.model("small", (provider, "m"))
    source = SnapshotStore(rows.store, rows.vault)
    source.load()
    before = source.current.models["small"].targets[0].endpoint
    rows.write("UPDATE providers SET base_url = 'http://10.0.0.2:8000/v1' WHERE id = 'prv_lab'")
    source.load()
    after = source.current.models["small"].targets[0].endpoint
    assert (before.host, after.host) == ("10.0.0.1", "10.0.0.2")
    assert before.key != after.key
