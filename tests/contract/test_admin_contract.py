"""The admin API against its own OpenAPI document: no input gives an answer that the document does not know."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import ignored_auth, negative_data_rejection, positive_data_acceptance

from potluck import store as stores
from potluck.admin import asking
from potluck.admin.app import Deps, create_app, create_litestar
from potluck.admin.first_start import first_start
from potluck.admin.rest.openapi import describe
from potluck.snapshot import SnapshotStore

EXAMPLES = 12
"""per operation: the whole file stays under a minute on two cores"""

EXCLUDED = [
    ignored_auth,  # it repeats our own header and wonders; `test_admin_edges` walks every route without a token
    positive_data_acceptance,  # addresses, times to come and whole configuration texts have rules beyond a schema
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The application behind a real HTTP server, on a home of its own; providers are not called."""
    home: Path = tmp_path_factory.mktemp("contract") / "home"
    store = stores.open(home)
    first = first_start(store, {}, local_model=True)
    snapshots = SnapshotStore(store, first.vault)
    snapshots.load()

    async def unreachable(*_: object) -> tuple[asking.Asked, list[str]]:
        return asking.Asked(False, "not called here", 0, None, None), []

    patch = pytest.MonkeyPatch()
    # generated addresses would be looked up and connected to
    patch.setattr(asking, "_fetch", unreachable)
    deps = Deps(store=store, vault=first.vault, snapshots=snapshots, version="0")
    config = uvicorn.Config(create_app(deps), port=0, log_config=None, lifespan="off", access_log=False, ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    started = threading.Event()
    while not server.started and thread.is_alive():
        started.wait(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield {
        "url": f"http://127.0.0.1:{port}",
        "token": (home / "admin-token").read_text().strip(),
        "document": describe(create_litestar(deps)),
    }
    server.should_exit = True
    thread.join(10)
    patch.undo()
    store.close()


def test_every_answer_is_in_the_document(served: dict[str, Any]) -> None:
    """Valid and invalid calls of each operation get documented statuses, media types and bodies, and never a 5xx."""
    document = schemathesis.openapi.from_dict(served["document"], config=SchemathesisConfig())
    headers = {"authorization": f"Bearer {served['token']}"}
    failures, walked = [], 0
    for found in document.get_all_operations():
        operation = found.ok()
        walked += 1
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                _walk(operation, mode, served["url"], headers)
            except Unsatisfiable:
                continue  # nothing invalid can be made for an operation without input
            except FailureGroup as group:
                failures.append(
                    f"{operation.label} ({mode.value}): " + "; ".join(str(each) for each in group.exceptions)
                )
    assert walked > 45
    assert not failures, "\n\n".join(failures)


def _walk(operation: Any, mode: GenerationMode, url: str, headers: dict[str, str]) -> None:
    # of a GET the tool also spoils the Authorization header, which we send all the same, and adds unknown query
    # parameters, which are ignored; what values a parameter takes is tested by hand
    excluded = [*EXCLUDED, negative_data_rejection] if operation.method == "get" else EXCLUDED

    @seed(20_261_124)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
        verbosity=Verbosity.quiet,
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def walk(case: schemathesis.Case) -> None:
        case.call_and_validate(base_url=url, headers=headers, timeout=30, excluded_checks=excluded)

    walk()
