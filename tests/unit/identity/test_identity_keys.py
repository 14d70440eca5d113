"""Secrets: their shape, their checksum, their hash."""

import re
from hashlib import blake2b

import pytest

from potluck.identity.keys import Kind, has_checksum, has_shape, hash_secret, hasher, hint, new_secret


@pytest.mark.parametrize("kind", ["plk", "pla", "plj"])
def test_a_new_secret_has_its_shape_and_checksum(kind: Kind) -> None:
    """Prefix and 46 base62 characters, the last six a checksum that one changed character breaks; no two alike."""
    made = {new_secret(kind) for _ in range(50)}
    assert len(made) == 50
    for secret in made:
        assert re.fullmatch(rf"{kind}-[0-9A-Za-z]{{46}}", secret)
        assert has_shape(secret, kind)
        assert has_checksum(secret)
        other = "a" if secret[10] != "a" else "b"
        assert not has_checksum(secret[:10] + other + secret[11:])


def test_a_shape_without_checksum_is_a_shape() -> None:
    """The checksum is never a reason to refuse; length, alphabet and prefix are."""
    given = "plk-" + "a" * 46
    assert has_shape(given, "plk")
    assert not has_checksum(given)
    for wrong in ("plk-" + "a" * 45, "plk-" + "a" * 47, "pla-" + "a" * 46, "plk-" + "a" * 45 + "!", given + "\n", ""):
        assert not has_shape(wrong, "plk")


def test_the_hash_is_keyed_blake2b() -> None:
    """Both forms give the same 16 bytes, which depend on the token and on the pepper."""
    pepper, token = b"p" * 32, b"plk-token"
    expected = blake2b(token, key=pepper, digest_size=16).digest()
    assert hash_secret(token, pepper) == expected
    assert hasher(pepper)(token) == hasher(pepper)(token) == expected
    assert hash_secret(token, b"q" * 32) != expected
    assert hash_secret(token + b"x", pepper) != expected


def test_a_hint_tells_little() -> None:
    """Ten characters of a long secret, none of a short one."""
    assert hint("plk-abcdefghijklmnopqrstuvwxyz") == "plk-ab…wxyz"
    assert hint("short-password") == "…"
