"""How a command line ends when something outside fails: one line and a status, never a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

NODE = [sys.executable, "-m", "potluck", "node"]
STARTING = """
import os, signal, sys
class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupts())
sys.argv = ["potluck", "node", "status"]
from potluck.cli import main
sys.exit(main())
"""
LACKING = """
import sys
sys.modules["sqlalchemy"] = None
sys.argv = ["potluck", "serve", "--home", sys.argv[1], "--port", "0"]
from potluck.cli import main
sys.exit(main())
"""


def ended(*command: str, **options: object) -> tuple[int, str]:
    """Status and stderr."""
    done = subprocess.run(
        command,
        stdout=options.pop("stdout", subprocess.DEVNULL),
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
        **options,
    )  # type: ignore[call-overload]
    return done.returncode, done.stderr.decode()


def test_ctrl_c_while_the_program_loads_is_no_error() -> None:
    """The first 100 ms of every command."""
    assert ended(sys.executable, "-c", STARTING) == (130, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full device")  # noqa: PTH110
@pytest.mark.parametrize("words", [("set",), ("set", "--json"), ("status",), ("price",)])
def test_an_output_that_is_full_is_one_line(tmp_path: Path, words: tuple[str, ...]) -> None:
    """`potluck node status > /dev/full`."""
    with open("/dev/full", "wb") as full:
        status, said = ended(*NODE, *words, "--home", str(tmp_path), stdout=full)
    assert (status, said.count("\n")) == (1, 1)
    assert "cannot be written: No space left" in said


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full device")  # noqa: PTH110
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_version_that_cannot_be_written_is_one_line(unbuffered: str) -> None:
    """`potluck --version > /dev/full`, whether Python writes at once or at its end."""
    with open("/dev/full", "wb") as full:
        env = os.environ | {"PYTHONUNBUFFERED": unbuffered}
        status, said = ended(sys.executable, "-m", "potluck", "--version", stdout=full, env=env)
    assert (status, said) == (1, "potluck: the output cannot be written: No space left on device\n")


def test_a_nodes_installation_says_that_it_is_one(tmp_path: Path) -> None:
    """`potluck serve` without the gateway's packages."""
    status, said = ended(sys.executable, "-c", LACKING, str(tmp_path))
    assert status == 1
    assert said.startswith("potluck: this installation is a node's: it lacks sqlalchemy")
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (b"plj-\xff\xfe", "that is no join token"),
        (b"pla-0123456789", "that is no join token"),
        (b"", "no join token came"),
        (b"\n", "no join token came"),
    ],
)
def test_what_is_no_token_is_not_sent(tmp_path: Path, given: bytes, words: str) -> None:
    """Refused before anything is dialled, and not repeated, as it may be another secret."""
    command = [*NODE, "join", "http://127.0.0.1:9", "--token-stdin", "--home", str(tmp_path)]
    status, said = ended(*command, input=given)
    assert (status, said.count("\n")) == (2, 1)
    assert words in said
    assert "0123456789" not in said


def test_roots_that_cannot_be_read_are_said_at_joining(tmp_path: Path) -> None:
    """Though the address is a plain one, which needs none today."""
    command = [*NODE, "join", "http://127.0.0.1:9", "--token", "plj-x", "--home", str(tmp_path), "--ca-file", "nowhere"]
    status, said = ended(*command)
    assert status == 1
    assert "--ca-file" in said
