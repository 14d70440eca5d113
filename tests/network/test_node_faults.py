"""Every fault of the catalogue behind an agent: it ends for the caller as it does with a provider.

One hub and one agent (its real links, jobs and offers, in this process), and the fake provider as the machine's engine.
What a caller gets and what is recorded is judged by the rows of the catalogue, as in `test_honest_ends`; `DIFFERS` has
what is not the same, and why.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from agent_rig import PACE, StillMachine, until
from dataplane import HASTY, PATIENT
from hub_rig import GATEWAY, HubGateway, hub_gateway
from test_honest_ends import PLAIN, STREAM, canonical, check_answer, check_record

from potluck.conformance import answers
from potluck.conformance.call import SeenRequest
from potluck.conformance.caller import Response
from potluck.conformance.faults import FAULTS, Expect, Play
from potluck.conformance.faults.catalogue import DOWN
from potluck.conformance.provider import FakeProvider
from potluck.model.node import NodePlace, place_of
from potluck.node.agent import Agent
from potluck.node.home import Enrolled, Home, KeyFile
from potluck.node.identity import Identity, fresh_key, to_text
from potluck.node.settings import NodeSettings

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

EARLY = [name for name, row in FAULTS.items() if row.early]
UNASKED = DOWN
"""an agent asks its engine for no coding, and passes none on; a provider's is undone by the proxy"""
NO_CLOSE = DOWN
"""the link says that an answer ended, not that it ended by a close: half a body is then taken for nonsense"""
DIFFERS: dict[str, Expect] = {"gzip": UNASKED, "gzip-stream": UNASKED, "close-delimited-cut": NO_CLOSE}
"""by fault: what is expected of a node instead of the row's"""


class FaultyEngine(FakeProvider):
    """Whatever it does to chats, it says what it serves: the early faults under addresses of their own."""

    async def _serve(self, request: SeenRequest) -> None:
        if request.method == "GET":
            early = request.target.split("/")[2:3] if request.target.startswith("/f/") else []
            request.connection.listed = early or [name for name in FAULTS if name not in EARLY]
        await super()._serve(request)

    def _by_url(self, request: SeenRequest) -> tuple[Play | None, bool]:
        return (None, False) if request.method == "GET" else super()._by_url(request)


class Scene:
    def __init__(self, gateway: HubGateway, engine: FaultyEngine, agent: Agent, engines: dict[str, str]) -> None:
        self.gateway = gateway
        self.engine = engine
        self.agent = agent
        self.engines = engines
        """ids by model"""

    def let_go(self) -> None:
        """The agent keeps no connection to the engine of an earlier test."""
        for engine in set(self.engines.values()):
            self.agent._pool.forget(engine)

    async def ask(self, model: str, **members: object) -> Response:
        async with self.gateway.caller(timeout_s=20) as caller:
            await caller.send(self.gateway.request(model, **members))
            return await caller.read()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """A linked agent that offers every fault, and a public model for each."""
    path = tmp_path_factory.mktemp("faults")
    async with FaultyEngine() as engine, hub_gateway(path / "gateway") as gateway:
        agent = enrolled_agent(path / "node", gateway, engine)
        task = asyncio.get_running_loop().create_task(agent.run())
        node_id = "node_lab-1"
        try:
            await until(lambda: gateway.heard.stand(node_id) == "" and served(gateway) >= FAULTS.keys())
            engines = {model.name: model.engine for model in gateway.heard.caps[-1][1].models}
            for name, row in FAULTS.items():
                slow = any(each is not None and each.error_class == "target_slow" for each in (row.plain, row.stream))
                timeouts = HASTY if slow or name.startswith("stall") else PATIENT
                for public in ("plain", "stream"):  # lanes of their own: one that is parked is parked for its kind
                    place = f"{place_of(node_id, engines[name], name)} {public}"
                    node = NodePlace(node_id, engines[name], name)
                    target = gateway.on_node(node_id, name, timeouts=timeouts, node=node, place=place)
                    gateway.serve(f"{name}--{public}", target)
            gateway.serve("fine", gateway.on_node(node_id, "ok", node=NodePlace(node_id, engines["ok"], "ok")))
            yield Scene(gateway, engine, agent, engines)
            await until(lambda: not agent.jobs.running, "the agent still has jobs")
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def enrolled_agent(path: Path, gateway: HubGateway, engine: FakeProvider) -> Agent:
    """An agent with the key that the gateway has of it, for an engine with these addresses."""
    identity, key = gateway.enrol("lab-1"), fresh_key()
    gateway.alter(identity.node, keys={identity.key: Identity(key).public})
    home = Home(path)
    home.prepare()
    origin = f"http://{gateway.host}:{gateway.port}"
    home.write("key", KeyFile(identity.key, to_text(key)))
    home.write("node.json", Enrolled(origin, origin, to_text(GATEWAY.public_key), identity.node, "lab-1"))
    addresses = (engine.base_url, *map(engine.url_for, EARLY))
    settings = NodeSettings(engines=addresses, discover=False, page_port=0, slots=16)
    return Agent(home, lambda: settings, StillMachine(), ports=(), pace=PACE)


def served(gateway: HubGateway) -> set[str]:
    return {model.name for _, caps in gateway.heard.caps[-1:] for model in caps.models}


async def check(scene: Scene, name: str, *, stream: bool) -> None:
    row = FAULTS[name]
    expect = DIFFERS.get(name) or (row.stream if stream else row.plain)
    assert expect is not None
    public = f"{name}--{'stream' if stream else 'plain'}"
    scene.let_go()
    response = await scene.ask(public, **({"stream": True} if stream else {}))
    check_answer(response, expect)
    check_record(await scene.gateway.record(public), response, expect)
    if expect.in_stream:
        assert response.events[:-1] == canonical(name)[:3], "what came before the fault was passed on, and no more"
    if name == "bytes-after-end-later":  # once they are there; before that nobody could know
        [connection] = [each.connection for each in scene.engine.requests if each.body.count(name.encode())]
        await scene.engine.wait_for(lambda: connection.closed_how)
    for _ in range(2):
        assert (await scene.ask("fine")).body == answers.completion("ok"), "the node serves on"
    assert len(scene.agent.links.up) == 2, "no link was lost over it"


@pytest.mark.parametrize("name", PLAIN)
async def test_a_plain_request_to_a_node_ends_as_to_a_provider(scene: Scene, name: str) -> None:
    """The whole answer or the same error status, code and record."""
    await check(scene, name, stream=False)


@pytest.mark.parametrize("name", STREAM)
async def test_a_stream_from_a_node_ends_as_from_a_provider(scene: Scene, name: str) -> None:
    """Whole, the same error status, or the same error event after the same content."""
    await check(scene, name, stream=True)


async def test_the_differences_are_real(scene: Scene) -> None:
    """The table has nothing that the catalogue says anyway."""
    for name, expect in DIFFERS.items():
        assert expect not in (FAULTS[name].plain, FAULTS[name].stream)
