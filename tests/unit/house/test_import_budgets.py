"""What each role may load: an import too many is start-up time and memory for everyone."""

import subprocess
import sys

import pytest

FORBIDDEN = {
    "potluck.cli": {
        "litestar": "the overview of commands needs no web framework",
        "sqlalchemy": "nor a database",
        "rich": "Rich is loaded to print to a terminal, not before",
        "uvloop": "nor an event loop",
        "msgspec": "nor a codec",
    },
    "potluck.runtime.gateway": {
        "alembic": "migrations run in a child process",
        "rich": "the gateway prints plain lines",
        "litestar": "the control plane is imported after the data plane listens",
        "uvicorn": "the control plane is imported after the data plane listens",
        "aiohttp": "other outgoing HTTP loads on first use",
        "hypothesis": "tests stay out of what is shipped",
    },
    "potluck.runtime.control": {
        "alembic": "migrations run in a child process",
        "rich": "pages and JSON need no terminal",
        "aiohttp": "other outgoing HTTP loads on first use",
    },
    "potluck.ledger.importer": {
        "asyncio": "the importer is a loop over files and one database",
        "sqlalchemy": "it speaks to sqlite3 itself",
        "litestar": "it serves nothing",
        "httptools": "it parses no HTTP",
    },
}


@pytest.mark.parametrize("module", FORBIDDEN)
def test_a_role_loads_only_what_it_needs(module: str) -> None:
    """A fresh interpreter that imports the role's module has loaded none of the forbidden packages."""
    program = f"import sys, {module}; print(' '.join(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    reasons = [f"{package}: {why}" for package, why in FORBIDDEN[module].items() if package in loaded]
    assert reasons == []
