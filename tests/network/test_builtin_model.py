"""The supervisor of the built-in model, with real child processes and real kills."""

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import psutil
import pytest
from builtin_bench import Bench, running_bench, running_pool, until

from potluck.engines import model_file
from potluck.engines.builtin import BuiltinModel, Pace
from potluck.engines.orphans import ChildMark
from potluck.model.secret import Secret

pytestmark = pytest.mark.local_model

QUICK = Pace(first_delay_s=0.05, max_delay_s=0.2, stable_s=60, look_s=0.05)


def nothing(port: int, secret: Secret) -> None:
    """For tests in which the port does not change."""


def alive(pid: int) -> bool:
    """The process runs; a zombie counts as gone."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def until_gone(pid: int, within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while alive(pid):
            await asyncio.sleep(0.01)


def pid_of(model: BuiltinModel) -> int:
    assert model.pid is not None
    return model.pid


async def test_start_returns_before_the_model_is_loaded(model_home: Path) -> None:
    """The gateway's own start does not wait for it; it is ready soon after."""
    model = BuiltinModel(model_home, asyncio.get_running_loop(), nothing)
    assert model.state == "off"
    began = time.monotonic()
    await model.start()
    try:
        assert time.monotonic() - began < 0.2
        assert model.state == "starting"
        await until(model, "ready", within_s=20)
    finally:
        await model.stop()


async def test_stop_ends_the_child_and_collects_it(model_home: Path) -> None:
    """Nothing is left, not even a zombie, and no note of it."""
    async with running_bench(model_home) as bench:
        pid = pid_of(bench.model)
        await bench.model.stop()
        assert not psutil.pid_exists(pid)
        assert bench.model.state == "off"
        assert not list((model_home / "run").iterdir())


async def test_stop_at_any_moment_of_the_start_leaves_no_child(model_home: Path) -> None:
    """After each of the first turns of the loop, and once the child is known: there is no moment to be forgotten in."""
    for turns in (0, 1, 2, 3, 4, 5, 6, 8, 10, 20, -1):
        model = BuiltinModel(model_home, asyncio.get_running_loop(), nothing)
        await model.start()
        async with asyncio.timeout(10):
            while turns:
                await asyncio.sleep(0)
                turns = -(model.pid is None) if turns < 0 else turns - 1
        await model.stop()
        assert not [each for each in psutil.Process().children() if "potluck.engines.llama_child" in each.cmdline()]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
async def test_a_child_that_dies_is_replaced(model_home: Path, number: signal.Signals) -> None:
    """Whatever ended it, there is a new one on the same port with the same key, and it answers."""
    async with running_bench(model_home, QUICK) as bench:
        pid, port, key = pid_of(bench.model), bench.model.port, bench.model.api_key
        os.kill(pid, number)
        await until(bench.model, "backing_off")
        assert "next try" in bench.model.reason
        await until(bench.model, "ready")
        assert pid_of(bench.model) != pid
        assert (bench.model.port, bench.model.api_key) == (port, key)
        assert (await bench.chat(max_tokens=2)).status == 200


async def test_a_call_made_while_the_child_is_replaced_is_answered(model_home: Path) -> None:
    """It waits for the new one; its caller sees a slow answer, no error."""
    async with running_bench(model_home, QUICK) as bench:
        os.kill(pid_of(bench.model), signal.SIGKILL)
        await until(bench.model, "backing_off", "starting")
        assert (await bench.chat(max_tokens=2)).status == 200


async def test_a_call_made_at_the_moment_of_death_is_answered(model_home: Path) -> None:
    """The supervisor may not know yet: a refused connection is tried once more."""
    async with running_bench(model_home, QUICK) as bench:
        pid = pid_of(bench.model)
        os.kill(pid, signal.SIGKILL)
        while alive(pid):
            pass  # holding the loop: the supervisor has not heard of it when the call is made
        assert (await bench.chat(max_tokens=2)).status == 200


async def test_a_stream_that_its_child_takes_along_ends_as_a_failure(model_home: Path) -> None:
    """A cut answer never looks like a finished one."""
    async with running_bench(model_home, QUICK) as bench:
        request = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1500, "ignore_eos": True}
        for stream in (True, False):
            await until(bench.model, "ready")
            _, answer = bench.open("chat", {**request, "stream": stream})
            await bench.until_busy(1, within_s=10)
            os.kill(pid_of(bench.model), signal.SIGKILL)
            await asyncio.wait_for(answer.over.wait(), 5)
            assert answer.failure is not None
            assert answer.failure.error_class == "target_down"
            assert b"[DONE]" not in answer.body
            await until(bench.model, "backing_off", "starting")


async def test_embeddings_come_back_with_a_new_child(model_home: Path) -> None:
    """Their server starts with the first call that needs it, and again in every further child."""
    async with running_bench(model_home, QUICK) as bench:
        assert not bench.model.embeds
        assert (await bench.ask("embeddings", {"input": "hello"})).status == 200
        assert bench.model.embeds
        os.kill(pid_of(bench.model), signal.SIGKILL)
        await until(bench.model, "backing_off", "starting")
        assert not bench.model.embeds
        assert (await bench.ask("embeddings", {"input": "hello"})).status == 200


async def test_a_port_for_embeddings_that_was_taken_is_changed(model_home: Path) -> None:
    """The child cannot start that server, ends, and the next one has another port; the call is answered."""
    async with running_bench(model_home, QUICK) as bench:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", bench.model.embeddings_port))
            taken.listen()
            first = bench.model.embeddings_port
            assert (await bench.ask("embeddings", {"input": "hello"})).status == 200
            assert bench.model.embeddings_port != first


async def test_the_wait_between_restarts_grows(model_home: Path) -> None:
    """A child that dies again and again is started less and less often."""
    pace = Pace(first_delay_s=0.05, max_delay_s=0.4, stable_s=60)
    async with running_bench(model_home, pace) as bench:
        told = []
        for _ in range(5):
            os.kill(pid_of(bench.model), signal.SIGKILL)
            await until(bench.model, "backing_off")
            told.append(float(bench.model.reason.rsplit(" ", 2)[1]))
            await until(bench.model, "ready")
        assert told == [0.05, 0.1, 0.2, 0.4, 0.4]


async def test_a_child_that_lived_well_starts_the_wait_anew(model_home: Path) -> None:
    """Two deaths a long time apart are two first deaths."""
    pace = Pace(first_delay_s=0.05, max_delay_s=0.4, stable_s=0.0)
    async with running_bench(model_home, pace) as bench:
        for _ in range(3):
            os.kill(pid_of(bench.model), signal.SIGKILL)
            await until(bench.model, "backing_off")
            assert "0.05 s" in bench.model.reason
            await until(bench.model, "ready")


async def test_a_child_that_hangs_is_replaced(model_home: Path) -> None:
    """A stopped process accepts connections for ever and answers none: it is ended after three silent probes."""
    pace = Pace(first_delay_s=0.05, probe_every_s=0.05, probe_s=0.2, leave_s=0.1)
    async with running_bench(model_home, pace) as bench:
        pid = pid_of(bench.model)
        os.kill(pid, signal.SIGSTOP)
        await until(bench.model, "backing_off")
        assert not psutil.pid_exists(pid)
        await until(bench.model, "ready")


async def test_a_missing_file_is_said_and_noticed_when_it_comes(tmp_path: Path, local_model_file: Path) -> None:
    """The gateway runs without it, says how to get it, and serves it once it is there."""
    model = BuiltinModel(tmp_path, asyncio.get_running_loop(), nothing, pace=QUICK)
    await model.start()
    try:
        async with running_pool() as pool:
            bench = Bench(model, pool)
            await until(model, "missing")
            assert model.reason == "the built-in model is not installed: potluck local-model install"
            answer = await bench.ask("chat", {"messages": [{"role": "user", "content": "hi"}]})
            assert answer.failure is not None
            assert answer.failure.detail == model.reason
            place = model_file.model_path(tmp_path)
            place.parent.mkdir()
            place.symlink_to(local_model_file)
            await until(model, "ready")
            assert (await bench.chat(max_tokens=1)).status == 200
    finally:
        await model.stop()


async def test_a_damaged_file_ends_in_failed_with_the_way_out(tmp_path: Path, local_model_file: Path) -> None:
    """The right size and the wrong bytes: the engine refuses it, five times, and the reason says where to look."""
    place = model_file.model_path(tmp_path)
    place.parent.mkdir()
    with place.open("wb") as file:
        file.truncate(model_file.MODEL_BYTES)
    model = BuiltinModel(tmp_path, asyncio.get_running_loop(), nothing, pace=Pace(first_delay_s=0.01, max_delay_s=0.02))
    await model.start()
    try:
        await until(model, "failed")
        assert "potluck local-model install" in model.reason
        assert "local-model.log" in model.reason
        assert model.log_file.stat().st_size > 0
    finally:
        await model.stop()


async def test_a_port_that_was_taken_is_changed_before_the_next_try(model_home: Path) -> None:
    """Whoever compiled the port into a snapshot is told first."""
    changes: list[tuple[int, Secret]] = []
    model = BuiltinModel(
        model_home, asyncio.get_running_loop(), lambda port, secret: changes.append((port, secret)), pace=QUICK
    )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", model.port))
        taken.listen()
        first = model.port
        await model.start()
        try:
            await until(model, "ready")
        finally:
            await model.stop()
    assert model.port != first
    assert changes == [(model.port, model.secret)]


async def test_the_secret_is_shown_nowhere(model_home: Path) -> None:
    """Not in the argument list, not in the environment, not in the log, and not in the supervisor's words."""
    async with running_bench(model_home) as bench:
        child = psutil.Process(pid_of(bench.model))
        secret = bench.model.api_key
        await bench.chat(max_tokens=1)
        assert secret not in " ".join(child.cmdline())
        assert secret not in str(child.environ())
        assert secret not in bench.model.log_file.read_text()
        assert secret not in repr(bench.model.secret) + bench.model.reason


async def test_the_child_inherits_nothing_that_it_does_not_need(
    model_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Provider keys of the gateway's environment and its open sockets are not the engine's."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        async with running_bench(model_home) as bench:
            child = psutil.Process(pid_of(bench.model))
            assert "OPENAI_API_KEY" not in child.environ()
            ports = {each.laddr.port for each in child.net_connections() if each.status == psutil.CONN_LISTEN}
            assert ports == {bench.model.port}


async def test_notes_and_logs_are_the_owners(model_home: Path) -> None:
    """Nobody else on the machine reads them."""
    async with running_bench(model_home):
        for name in ("run", "logs"):
            assert stat.S_IMODE((model_home / name).stat().st_mode) == 0o700


async def test_the_child_of_an_earlier_gateway_is_swept(model_home: Path) -> None:
    """A child whose gateway could not end it is ended by the next one on the same home."""
    async with running_bench(model_home) as first:
        [note] = (model_home / "run").iterdir()
        owned = msgspec.json.decode(note.read_bytes(), type=ChildMark)
        note.write_bytes(msgspec.json.encode(msgspec.structs.replace(owned, owner_started="an earlier time")))
        second = BuiltinModel(model_home, asyncio.get_running_loop(), nothing)
        pid = pid_of(first.model)
        await second.start()
        try:
            await until_gone(pid, within_s=2)
        finally:
            await second.stop()


async def test_two_owners_of_one_home_leave_each_other_alone(model_home: Path) -> None:
    """A gateway and an agent share the model's file: neither ends the other's child, by coming or by going."""
    async with running_bench(model_home) as first:
        pid = pid_of(first.model)
        async with running_bench(model_home) as second:
            assert pid_of(second.model) != pid
            assert len([*(model_home / "run").glob("*.json")]) == 2
        assert (first.model.state, first.model.pid) == ("ready", pid)
        third = BuiltinModel(model_home, asyncio.get_running_loop(), nothing)
        await third.start()
        await third.stop()
        assert (first.model.state, first.model.pid) == ("ready", pid)


GATEWAY = """
import asyncio, signal, sys
from pathlib import Path
from potluck.engines.builtin import BuiltinModel

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may ignore them, as nohup and `&` do
signal.signal(signal.SIGINT, signal.default_int_handler)

async def main():
    model = BuiltinModel(Path(sys.argv[1]), asyncio.get_running_loop(), lambda port, secret: None)
    await model.start()
    seen = asyncio.Event()
    model.wait(seen.set)
    while model.state != "ready" and (sys.argv[2] == "ready" or model.pid is None):
        seen.clear()
        try:
            await asyncio.wait_for(seen.wait(), 0.001)
        except TimeoutError:
            pass
    print(model.pid, flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGABRT])
@pytest.mark.parametrize("when", ["ready", "loading"])
async def test_the_child_is_gone_within_two_seconds_of_its_parent(
    model_home: Path, number: signal.Signals, when: str
) -> None:
    """Whatever signal ends the gateway, while the model loads or serves: no child two seconds later."""
    command = [sys.executable, "-c", GATEWAY, str(model_home), when]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout is not None
        child = int(await asyncio.to_thread(parent.stdout.readline))
        assert alive(child)
        parent.send_signal(number)
        await until_gone(child, within_s=2.0)


async def test_the_child_is_gone_though_another_process_holds_its_pipe(model_home: Path) -> None:
    """A forked process may keep the writing end of its stdin open: the kernel's signal does not depend on it."""
    if sys.platform != "linux":
        pytest.skip("the parent-death signal is Linux's")
    holder = GATEWAY.replace(
        "print(model.pid, flush=True)",
        "import os\n    if not (other := os.fork()):\n        import time; time.sleep(20); os._exit(0)\n"
        "    print(model.pid, other, flush=True)",
    )
    command = [sys.executable, "-W", "ignore", "-c", holder, str(model_home), "ready"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child, other = map(int, (await asyncio.to_thread(parent.stdout.readline)).split())
        try:
            parent.kill()
            await until_gone(child, within_s=2.0)
            assert alive(other)
        finally:
            os.kill(other, signal.SIGKILL)


async def test_it_is_small_enough(model_home: Path) -> None:
    """Loaded and answering: below 420 MB."""
    async with running_bench(model_home) as bench:
        await bench.chat(max_tokens=16)
        assert psutil.Process(pid_of(bench.model)).memory_info().rss < 420 * 2**20
