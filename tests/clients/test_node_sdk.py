"""The official OpenAI SDK for Node.js, unmodified, against a running gateway: each case of its suite is a test."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from served_gateway import MAX_BODY_BYTES, Served

pytestmark = pytest.mark.local_model

FOLDER = Path(__file__).parent / "node"
SUITE = (FOLDER / "suite.mjs").read_text()
CASES = re.findall(r"^  async (\w+)\(\) \{$", SUITE, re.MULTILINE)
LEAVING = ("cancel", "abort_before_the_first_byte")


def run(node: str, case: str, served: Served) -> Any:
    """What the case found. Fails with its own words."""
    env = {
        **os.environ,
        "POTLUCK_BASE_URL": served.base_url,
        "POTLUCK_KEY": served.api_key,
        "POTLUCK_MAX_BODY_BYTES": str(MAX_BODY_BYTES),
    }
    done = subprocess.run(
        [node, "suite.mjs", case], cwd=FOLDER, env=env, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_case_is_run(node: str, served: Served) -> None:
    """The list that pytest reads out of the suite is the suite's own."""
    assert run(node, "--list", served) == CASES


@pytest.mark.parametrize("case", [case for case in CASES if case not in LEAVING])
def test_case(node: str, served: Served, case: str) -> None:
    """The case holds."""
    run(node, case, served)


def test_cancel_mid_stream(node: str, served: Served) -> None:
    """A loop that is left aborts the request: the engine rests, and the record says who left."""
    found = run(node, "cancel", served)
    served.until_engine_rests(within_s=1.3)
    record = served.record(found["request_id"])
    assert record["outcome"] == "client_closed"
    assert 1 <= record["output_tokens"] < 1500


def test_abort_before_the_first_byte(node: str, served: Served) -> None:
    """An aborted whole answer is not generated on for nobody."""
    run(node, "abort_before_the_first_byte", served)
    served.until_engine_rests(within_s=1.3)
