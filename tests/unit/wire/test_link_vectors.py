"""The page of the node link and its test vectors say what the program does."""

import json
import re
import runpy
import struct
import typing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from potluck.wire import link_frames as f
from potluck.wire import link_jobs
from potluck.wire import link_messages as m

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "reference" / "node-link.md").read_text(encoding="utf-8")
VECTORS = json.loads((ROOT / "docs" / "reference" / "node-link-vectors.json").read_text(encoding="utf-8"))
CODES = [m.RefuseCode, m.ResetCode, m.CancelReason, m.FailCode]
STRUCTS = [struct for struct in m.Message.__subclasses__() if struct is not m.Message]


def conversations() -> list[list[dict[str, Any]]]:
    return [VECTORS["answer"], VECTORS["control"], *VECTORS["resumed"]]


def part(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


def test_the_vectors_are_current() -> None:
    """scripts/link-vectors makes the file that is there."""
    made = runpy.run_path(str(ROOT / "scripts" / "link-vectors"))["page"]()
    assert (ROOT / "docs" / "reference" / "node-link-vectors.json").read_text(encoding="utf-8") == made


def test_the_signatures_are_those_that_the_page_describes() -> None:
    """Read with nothing but the page: cut the frames by hand, build the signed bytes, verify with Ed25519."""
    hello, challenge, proof, welcome = (bytes.fromhex(each["frame"])[12:] for each in VECTORS["answer"][:4])
    node = Ed25519PublicKey.from_public_bytes(bytes.fromhex(VECTORS["node_public_key"]))
    gateway = Ed25519PublicKey.from_public_bytes(bytes.fromhex(VECTORS["gateway_public_key"]))
    node.verify(proof, b"potluck.node.v1 proof\n" + part(hello) + part(challenge))
    text = b"potluck.node.v1 welcome\n" + part(hello) + part(challenge) + part(proof) + part(welcome[64:])
    gateway.verify(welcome[:64], text)
    with pytest.raises(InvalidSignature):
        gateway.verify(welcome[:64], text + b" ")


def test_frames_can_be_cut_by_the_page() -> None:
    """Layout, kind, flags, stream and length are where the page says, and DATA has its offset."""
    for each in [each for talk in conversations() for each in talk]:
        raw = bytes.fromhex(each["frame"])
        layout, kind, flags, stream, length = struct.unpack(">BBHII", raw[:12])
        assert (layout, flags, stream) == (1, 0, each["stream"])
        assert f"| {kind} | {each['kind']} |" in PAGE
        extra = 8 if each["kind"] == "DATA" else 0
        assert len(raw) == 12 + extra + length
        if extra:
            assert raw[20:].decode() == each["text"]
            assert int.from_bytes(raw[12:20], "big") == each["offset"]


def test_every_kind_of_frame_is_in_the_vectors() -> None:
    """No kind is left to guess."""
    assert {each["kind"] for talk in conversations() for each in talk} == {frame.name for frame in f.FRAMES.values()}


def test_the_resumed_answer_is_whole() -> None:
    """What was lost comes again, and together the delivered pieces are the answer."""
    delivered = b""
    for each in [each for talk in VECTORS["resumed"] for each in talk]:
        if each["kind"] == "DATA" and each["from"] == "node" and not each.get("lost"):
            assert each["offset"] == len(delivered)
            delivered += each["text"].encode()
    assert delivered == b"one two three"


def test_the_page_has_every_kind() -> None:
    """Number, name, sender and place of each frame."""
    rows = re.findall(r"^\| (\d+) \| ([A-Z_]+) \| (\w+) \| (\w+) \|", PAGE, re.MULTILINE)
    assert rows == [
        (str(kind), frame.name, frame.sender, "stream" if frame.on_stream else "link")
        for kind, frame in sorted(f.FRAMES.items())
    ]


def test_the_page_has_every_limit() -> None:
    """The numbers are the program's."""

    def shown(name: str, value: float) -> str:
        if name.endswith("_S") and name != "CONTROL_PER_S":
            return f"{value:g} s"
        for size, unit in ((1 << 20, "MiB"), (1 << 10, "KiB")):
            if name.endswith("_BYTES") and value >= size:
                return f"{value / size:g} {unit}"
        return f"{value:g}"

    limit = re.compile(r"MAX_|HELD_|CONTROL_|TURN_|\w+_WINDOW_|\w+_S$")
    named = {
        name: value
        for module in (m, link_jobs)
        for name, value in vars(module).items()
        if limit.match(name) and name.isupper() and isinstance(value, int | float)
    }
    assert dict(re.findall(r"^\| `([A-Z_]+)` \| ([^|]+) \|", PAGE, re.MULTILINE)) == {
        name: shown(name, value) for name, value in named.items()
    }


@pytest.mark.parametrize("codes", CODES)
def test_the_page_has_every_code(codes: Any) -> None:
    """The closed lists are closed in the page as well."""
    assert [code for code in typing.get_args(codes) if f"`{code}`" not in PAGE] == []


@pytest.mark.parametrize("struct_type", STRUCTS, ids=lambda each: each.__name__)
def test_the_page_has_every_member(struct_type: type[m.Message]) -> None:
    """No member of a payload is left out."""
    assert [each.name for each in msgspec.structs.fields(struct_type) if f"`{each.name}`" not in PAGE] == []


def test_the_page_has_the_lists_that_guard_a_home_network() -> None:
    """Paths and headers, as the program allows them, and no others."""
    section = PAGE[PAGE.index("Paths: ") : PAGE.index("Refusals: ")]
    paths, headers = section.split("Request headers: ")
    request, answer = headers.split("Answer headers: ")
    assert set(re.findall(r"`([^`]+)`", paths)) == m.PATHS
    assert set(re.findall(r"`([^`]+)`", request)) == m.REQUEST_HEADERS
    assert set(re.findall(r"`([^`]+)`", answer)) == m.ANSWER_HEADERS


def test_violations_cover_what_a_gateway_could_try() -> None:
    """Each frame of the list ends the link with a code of the page."""
    assert len(VECTORS["violations"]) >= 10
    for each in VECTORS["violations"]:
        assert f"| `{each['code']}` |" in PAGE
