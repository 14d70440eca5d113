"""The page of node enrolment says what the program does: contexts, numbers, members, and its signed example."""

import base64
import json
import re
import struct
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from potluck.admin.operations import enrolment
from potluck.admin.rest import enrolment as rest
from potluck.admin.rest import node_bodies

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "node-enrolment.md").read_text(encoding="utf-8")
EXAMPLES: list[dict[str, Any]] = [json.loads(each) for each in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]
OLD, NEW = (Ed25519PrivateKey.from_private_bytes(bytes(range(start, start + 32))) for start in (0, 64))
ORIGIN = b"https://potluck.example"


def text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def by_the_page(key: Ed25519PrivateKey, context: str, *parts: bytes) -> str:
    """A signature made with nothing but the page."""
    return text(key.sign(context.encode() + b"\n" + b"".join(struct.pack(">I", len(part)) + part for part in parts)))


def test_the_examples_are_signed_as_the_page_says() -> None:
    """Contexts and parts as in its table, keys as in its text."""
    enroll, rotate, leave = EXAMPLES
    challenge, old, new = enroll["challenge"].encode(), *(key.public_key().public_bytes_raw() for key in (OLD, NEW))
    hashed = sha256(enroll["token"].encode()).digest()
    assert enroll["public_key"] == text(old)
    assert enroll["proof"] == by_the_page(OLD, "potluck.node.v1 enroll", ORIGIN, challenge, old, hashed)
    assert rotate["public_key"] == text(new)
    parts = (ORIGIN, challenge, b"node_lab1", new)
    assert rotate["proof_old"] == by_the_page(OLD, "potluck.node.v1 rotate", *parts)
    assert rotate["proof_new"] == by_the_page(NEW, "potluck.node.v1 rotate", *parts)
    assert leave["proof"] == by_the_page(OLD, "potluck.node.v1 leave", ORIGIN, challenge, b"node_lab1")


BODIES: list[type[msgspec.Struct]] = [node_bodies.Enrol, node_bodies.RotateNodeKey, node_bodies.Leave]


@pytest.mark.parametrize(("example", "body"), list(zip(EXAMPLES, BODIES, strict=True)))
def test_the_examples_are_bodies(example: dict[str, Any], body: type[msgspec.Struct]) -> None:
    """The program reads each, and what it needs is in each."""
    msgspec.convert(example, body)
    assert {field.name for field in msgspec.structs.fields(body) if field.required} == set(example)


def test_the_program_has_the_pages_contexts_and_members() -> None:
    """Every context is in the table, every member of the bodies and answers is named, and the numbers are the same."""
    contexts = (enrolment.ENROLL_CONTEXT, enrolment.ROTATE_CONTEXT, enrolment.LEAVE_CONTEXT)
    assert all(f"| `{context.decode().strip()}` |" in PAGE for context in contexts)
    for struct_ in (*BODIES, rest.EnrolmentTerms, rest.EnrolledNode):
        for field in msgspec.structs.fields(struct_):
            assert f"`{field.name}`" in PAGE, field.name
    assert f"good for {enrolment.CHALLENGE_KEPT_S // 60} minutes" in PAGE
    assert f"good for {enrolment.ROTATED_KEPT_S // 3600} more hours" in PAGE
    assert f"at most {rest.MAX_BODY_BYTES // 1024} KiB" in PAGE
    assert f"{rest.TRIES_PER_MINUTE} in a minute" in PAGE
    assert f"1 to {enrolment.MAX_NAME_CHARS} letters" in PAGE
