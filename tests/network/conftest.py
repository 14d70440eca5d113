"""What the tests on real sockets share. What a test leaves behind (exchanges, bytes, calls, tasks) fails it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from dataplane import HASTY, PATIENT, Gateway

from potluck.conformance.faults import FAULTS
from potluck.conformance.provider import FakeProvider, refused_port
from potluck.proxy.limits import PlaneLimits


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    """The loop that the gateway runs on in production."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as provider:
        yield provider


@pytest.fixture
def limits() -> PlaneLimits:
    """Limits of the gateway; a test module overrides this to shorten them."""
    return PlaneLimits()


@pytest.fixture
async def gateway(fake: FakeProvider, tmp_path: Path, limits: PlaneLimits) -> AsyncIterator[Gateway]:
    """A gateway that has every fault as a model; it must be at rest when the test is over."""
    gateway = Gateway(tmp_path, limits)
    for row in FAULTS.values():
        base_url = fake.url_for(row.name) if row.early else fake.base_url
        slow = any(each is not None and each.error_class == "target_slow" for each in (row.plain, row.stream))
        hasty = slow or row.name.startswith("stall")
        # a key of its own for each: one that dies is dead for all that use it
        gateway.add(row.name, base_url, timeouts=HASTY if hasty else PATIENT, credential=row.name)
    port, holder = refused_port()
    gateway.add("refused", f"http://127.0.0.1:{port}/v1")
    await gateway.start()
    try:
        yield gateway
        await gateway.at_rest()
    finally:
        await gateway.stop()
        holder.close()


@pytest.fixture(autouse=True)
def no_fault_of_our_own(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A step that raised ends one request and is logged; a test that does not provoke it fails by it."""
    yield
    if "own_faults" not in request.node.nodeid:
        loggers = {"potluck.requests", "potluck.hub", "potluck.upstream"}
        told = [each.getMessage() for each in caplog.get_records("call") if each.name in loggers]
        assert not told
