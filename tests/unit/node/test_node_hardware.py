"""What others do with the machine: processors, GPUs, heat; by faked drivers and files."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.node import engine_pids
from potluck.node.amdgpu import AmdGpus
from potluck.node.engine_pids import LOOK_EVERY_S, EnginePids
from potluck.node.facts import Gpu
from potluck.node.hardware import MEAN_S, Counts, HardwareProbe, Work, thermal_of
from potluck.node.nvml import NOT_FOUND, MemoryInfo, Nvml, ProcessInfo, ProcessSample, Utilization

AGENT, ENGINE = 1, 2
GIB = 1 << 30


def test_others_are_all_less_the_engines_and_the_agent() -> None:
    """Two processors for 10 s: 12 s of work, 6 of them the engine's and 1 the agent's."""
    work = Work(2)
    assert work.add(Counts(100.0, {AGENT: 5.0, ENGINE: 50.0}), AGENT, 0.0) == (None, None)
    others, engines = work.add(Counts(112.0, {AGENT: 6.0, ENGINE: 56.0}), AGENT, 10.0)
    assert (others, engines) == (pytest.approx(0.25), pytest.approx(0.6))


def test_an_engines_process_that_starts_or_ends_is_no_work_of_others() -> None:
    """A new process counts from its first reading; one that ended takes nothing away."""
    work = Work(1)
    work.add(Counts(0.0, {ENGINE: 900.0}), AGENT, 0.0)
    assert work.add(Counts(5.0, {ENGINE: 905.0, 3: 70.0}), AGENT, 10.0)[0] == 0.0
    assert work.add(Counts(10.0, {3: 75.0}), AGENT, 20.0)[0] == 0.0


steps = st.lists(st.tuples(st.floats(1, 10), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=60)


@given(steps)
def test_a_mean_lies_between_what_was_measured(some: list[tuple[float, float, float]]) -> None:
    """Others' share is no less than the least and no more than the most of the last minute's steps."""
    work, now_s, busy_s, engine_s = Work(1), 0.0, 0.0, 0.0
    work.add(Counts(0.0, {ENGINE: 0.0}), AGENT, 0.0)
    seen: list[tuple[float, float]] = []
    for step_s, others, engine in some:
        now_s += step_s
        engine_s += engine * step_s
        busy_s += (engine + others) * step_s
        seen.append((now_s, others))
        share, cores = work.add(Counts(busy_s, {ENGINE: engine_s}), AGENT, now_s)
        recent = [each for at_s, each in seen if now_s - at_s <= MEAN_S]
        assert share is not None
        assert min(recent) - 1e-6 <= share <= max(recent) + 1e-6
        assert cores is not None
        assert -1e-6 <= cores <= 1 + 1e-6


def sensor(current: float, high: float | None = None, critical: float | None = None) -> SimpleNamespace:
    """As psutil reads one."""
    return SimpleNamespace(current=current, high=high, critical=critical)


@pytest.mark.parametrize(
    ("sensors", "thermal"),
    [
        ([], None),
        ([sensor(45.0)], None),
        ([sensor(45.0, 80.0, 100.0)], "nominal"),
        ([sensor(85.0, 80.0, 100.0)], "fair"),
        ([sensor(96.0, 80.0, 100.0)], "serious"),
        ([sensor(100.0, 80.0, 100.0), sensor(30.0, 80.0, 100.0)], "critical"),
        ([sensor(45.0, 0.0, 0.0), sensor(65261.0, 70.0, 80.0)], None),
        ([sensor(20.0, 20.0, 20.0)], None),
    ],
)
def test_heat_is_judged_by_the_sensors_own_marks(sensors: list[Any], thermal: str | None) -> None:
    """The worst sensor with a believable critical mark counts."""
    assert thermal_of(sensors) == thermal


class FakeDriver:
    """NVML with one GPU of 10 GiB."""

    def __init__(self, **state: Any) -> None:
        self.state: dict[str, Any] = {
            "init": 0,
            "busy": 80,
            "used": 6 * GIB,
            "processes": {ENGINE: 4 * GIB},
            "samples": {ENGINE: 70, 99: 10},
            "status": 0,
            "reasons": 0,
            **state,
        }
        self.asked_since: list[int] = []

    def nvmlInit_v2(self) -> int:
        return int(self.state["init"])

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = 1
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, device: Any) -> int:
        device._obj.value = 4711
        return 0

    def nvmlDeviceGetUUID(self, device: Any, text: Any, length: Any) -> int:
        text.value = b"GPU-1"
        return 0

    def nvmlDeviceGetName(self, device: Any, text: Any, length: Any) -> int:
        return 3

    def nvmlDeviceGetUtilizationRates(self, device: Any, load: Any) -> int:
        assert isinstance(load._obj, Utilization)
        load._obj.gpu = self.state["busy"]
        return 0

    def nvmlDeviceGetMemoryInfo(self, device: Any, memory: Any) -> int:
        assert isinstance(memory._obj, MemoryInfo)
        memory._obj.total, memory._obj.used = 10 * GIB, self.state["used"]
        return 0

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, device: Any, reasons: Any) -> int:
        reasons._obj.value = self.state["reasons"]
        return 0

    def nvmlDeviceGetGraphicsRunningProcesses_v3(self, device: Any, count: Any, entries: Any) -> int:
        return 3

    def nvmlDeviceGetComputeRunningProcesses_v3(self, device: Any, count: Any, entries: Any) -> int:
        assert ctypes.sizeof(ProcessInfo) == 24
        for at, (pid, used) in enumerate(self.state["processes"].items()):
            entries[at] = ProcessInfo(pid, (1 << 64) - 1 if used is None else used, 0, 0)
        count._obj.value = len(self.state["processes"])
        return 0

    def nvmlDeviceGetProcessUtilization(self, device: Any, samples: Any, count: Any, since: Any) -> int:
        assert ctypes.sizeof(ProcessSample) == 32
        self.asked_since.append(since.value)
        for at, (pid, busy) in enumerate(self.state["samples"].items()):
            samples[at] = ProcessSample(pid, 1_000_000 + at, busy, 0, 0, 0)
        count._obj.value = len(self.state["samples"])
        return int(self.state["status"])


def test_nvidia_is_split_into_engines_and_others() -> None:
    """By process: memory and work of the engines are not others'; a second reading asks for what is new."""
    driver = FakeDriver()
    nvml = Nvml(driver)
    [gpu] = nvml.read({ENGINE})
    assert gpu == Gpu("GPU-1", "", 0.8, 0.1, 10 * GIB, 6 * GIB, 2 * GIB)
    nvml.read({ENGINE})
    assert driver.asked_since == [0, 1_000_001]


def test_nvidia_without_process_figures_says_only_what_is_sure() -> None:
    """With an engine on the GPU others are not known; without one all that is used is others'."""
    [gpu] = Nvml(FakeDriver(status=3, processes={ENGINE: None})).read({ENGINE})
    assert (gpu.busy, gpu.busy_others, gpu.used_others_bytes) == (0.8, None, None)
    [gpu] = Nvml(FakeDriver(status=3, processes={99: None})).read({ENGINE})
    assert (gpu.busy_others, gpu.used_others_bytes) == (0.8, 6 * GIB)
    [gpu] = Nvml(FakeDriver(status=NOT_FOUND)).read({ENGINE})
    assert gpu.busy_others == 0.0


@pytest.mark.parametrize(("reasons", "hot"), [(0, False), (0x4, False), (0x20, True), (0x40, True)])
def test_nvidia_says_when_it_is_too_hot(reasons: int, hot: bool) -> None:
    """A power cap is no heat; thermal slowdown is."""
    assert Nvml(FakeDriver(reasons=reasons)).read(())[0].too_hot is hot


def test_an_nvidia_driver_that_is_not_loaded_is_no_gpu() -> None:
    """The library is there, and says no."""
    with pytest.raises(OSError, match="does not answer"):
        Nvml(FakeDriver(init=9))


def write(path: Path, text: str) -> None:
    """A file and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def amd(tmp_path: Path) -> AmdGpus:
    """One AMD card beside another maker's and an output, and an engine that uses it."""
    device = tmp_path / "devices" / "0000:03:00.0"
    for name, value in {
        "vendor": "0x1002\n",
        "gpu_busy_percent": "90\n",
        "mem_info_vram_total": f"{8 * GIB}\n",
        "mem_info_vram_used": f"{5 * GIB}\n",
    }.items():
        write(device / name, value)
    cards = tmp_path / "sys" / "class" / "drm"
    (cards / "card1").mkdir(parents=True)
    (cards / "card1" / "device").symlink_to(device)
    write(cards / "card0" / "device" / "vendor", "0x8086\n")
    (cards / "card1-DP-1").mkdir()
    for descriptor in ("3", "4"):
        spend(tmp_path, descriptor, 1_000_000_000)
    return AmdGpus(tmp_path / "sys", tmp_path / "proc", iter([10.0, 12.0]).__next__)


def spend(tmp_path: Path, descriptor: str, used_ns: int) -> None:
    """The engine used the card for so long."""
    lines = [
        "drm-pdev:\t0000:03:00.0",
        "drm-client-id:\t7",
        f"drm-memory-vram:\t{3 * GIB // 1024} KiB",
        f"drm-engine-compute:\t{used_ns} ns",
    ]
    write(tmp_path / "proc" / str(ENGINE) / "fdinfo" / descriptor, "\n".join(lines) + "\n")


def test_amd_is_split_into_engines_and_others(tmp_path: Path) -> None:
    """Descriptors of one client count once; the engine's share comes from two readings."""
    gpus = amd(tmp_path)
    [gpu] = gpus.read({ENGINE})
    assert (gpu.id, gpu.busy, gpu.used_bytes, gpu.used_others_bytes) == ("0000:03:00.0", 0.9, 5 * GIB, 2 * GIB)
    for descriptor in ("3", "4"):
        spend(tmp_path, descriptor, 2_000_000_000)
    assert gpus.read({ENGINE})[0].busy_others == pytest.approx(0.4)


def test_amd_without_an_engine_is_all_others(tmp_path: Path) -> None:
    """And a process that ended meanwhile uses nothing."""
    [gpu] = amd(tmp_path).read({12345})
    assert (gpu.busy_others, gpu.used_others_bytes) == (0.9, 5 * GIB)
    assert AmdGpus(tmp_path / "nothing", tmp_path).read({ENGINE}) == ()


def test_engines_are_found_by_port_with_their_descendants() -> None:
    """A child that listens, and its own child."""
    code = (
        "import socket, subprocess, sys\n"
        "s = socket.create_server(('127.0.0.1', 0))\n"
        "code = 'import sys; sys.stdin.read()'\n"
        "c = subprocess.Popen([sys.executable, '-I', '-S', '-c', code], stdin=subprocess.PIPE)\n"
        "print(s.getsockname()[1], c.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as engine:
        assert engine.stdout is not None
        port, child = map(int, engine.stdout.readline().split())
        found = EnginePids().of(frozenset({port}))
        engine.kill()
    assert {engine.pid, child} == found


def test_engines_are_looked_for_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listeners once a minute or for other ports; descendants also while the node has calls."""
    clock, looks = SimpleNamespace(now_s=0.0), {"listeners": 0, "descendants": 0}

    def listeners(ports: frozenset[int]) -> set[int]:
        looks["listeners"] += 1
        return {ENGINE}

    def descendants(pids: set[int]) -> frozenset[int]:
        looks["descendants"] += 1
        return frozenset(pids)

    monkeypatch.setattr(engine_pids, "_listeners", listeners)
    monkeypatch.setattr(engine_pids, "_with_descendants", descendants)
    pids = EnginePids(lambda: clock.now_s)
    for clock.now_s in (0.0, 1.0, 2.0):
        assert pids.of(frozenset({1})) == {ENGINE}
    assert looks == {"listeners": 1, "descendants": 1}
    pids.of(frozenset({1}), fresh=True)
    assert looks == {"listeners": 1, "descendants": 2}
    clock.now_s = LOOK_EVERY_S
    pids.of(frozenset({1}))
    pids.of(frozenset({2}))
    assert looks == {"listeners": 3, "descendants": 4}
    assert pids.of(frozenset()) == frozenset()


class Found(EnginePids):
    """Some processes, or none."""

    def __init__(self, *pids: int) -> None:
        super().__init__()
        self.pids = frozenset(pids)

    def of(self, ports: frozenset[int], *, fresh: bool = False) -> frozenset[int]:
        return self.pids


class OneGpu:
    """Half of it is somebody's."""

    def read(self, engine_pids: Any) -> tuple[Gpu, ...]:
        return (Gpu("0", busy=0.5, busy_others=0.5, total_bytes=GIB, used_bytes=GIB, used_others_bytes=GIB),)


def test_this_machine_is_read() -> None:
    """Whatever it has: memory is known everywhere, and nothing is raised."""
    hardware = HardwareProbe().read()
    assert hardware.free_bytes is not None
    assert 0 < hardware.free_bytes <= psutil.virtual_memory().total


def test_a_node_whose_engine_is_hidden_does_not_take_itself_for_its_owner() -> None:
    """While it has calls, and a minute after, others' work is not known."""
    clock = SimpleNamespace(now_s=0.0)
    probe = HardwareProbe(Found(), [OneGpu()], lambda: clock.now_s)
    probe.ports = frozenset({11434})
    probe.read()
    clock.now_s = 5.0
    quiet = probe.read()
    assert quiet.cpu_others is not None
    assert quiet.gpus[0].busy_others == 0.5
    probe.calling = True
    busy = probe.read()
    assert (busy.cpu_others, busy.gpus[0].busy_others, busy.gpus[0].used_others_bytes) == (None, None, None)
    probe.calling, clock.now_s = False, 30.0
    assert probe.read().cpu_others is None
    clock.now_s = 90.0
    assert probe.read().cpu_others is not None
    seen = HardwareProbe(Found(os.getpid()), [OneGpu()], lambda: clock.now_s)
    seen.ports, seen.calling = frozenset({11434}), True
    assert seen.read().gpus[0].busy_others == 0.5
