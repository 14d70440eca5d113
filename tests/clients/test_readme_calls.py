"""The README's first calls, run as they stand against a gateway with the built-in model."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from served_gateway import Served

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
NODE_FOLDER = Path(__file__).parent / "node"

pytestmark = pytest.mark.local_model


def _block(language: str, containing: str) -> str:
    """The README's only code block of that language which contains these words."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if containing in block]
    return str(found)


def _run(command: list[str], served: Served, cwd: Path | None = None) -> str:
    environment = os.environ | {"POTLUCK_KEY": served.api_key}
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _local(text: str, served: Served) -> str:
    assert "http://127.0.0.1:7171" in text
    return text.replace("http://127.0.0.1:7171", served.url)


def test_the_curl_call_is_answered(served: Served) -> None:
    """The README's curl command, pasted with a key in the environment, prints a completion."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    lines = [
        line
        for line in _local(_block("sh", "/v1/chat/completions"), served).splitlines()
        if not line.startswith("export ")
    ]
    assert '"content":"' in _run(["sh", "-c", "\n".join(lines)], served)


def test_the_python_call_is_answered(served: Served) -> None:
    """The README's Python program prints streamed words."""
    assert _run([sys.executable, "-c", _local(_block("python", "OpenAI"), served)], served).strip()


def test_the_javascript_call_is_answered(served: Served) -> None:
    """The README's JavaScript program prints a completion."""
    node = shutil.which("node")
    if node is None or not (NODE_FOLDER / "node_modules" / "openai").is_dir():
        pytest.skip("the Node.js client is not installed: make test installs it where node is")
    program = _local(_block("js", "OpenAI"), served)
    assert _run([node, "--input-type=module", "-e", program], served, cwd=NODE_FOLDER).strip()
