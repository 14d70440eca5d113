"""The master key, sealing, and secrets that do not print."""

import base64
from pathlib import Path

import msgspec
import pytest

from potluck.identity.vault import MASTER_KEY_FILE, Vault, VaultError, open_vault
from potluck.model.secret import Secret


def test_a_sealed_secret_opens_for_its_row_and_key_only() -> None:
    """Another row, another master key, or one changed byte anywhere does not open it, and says so without the text."""
    vault, secret = Vault(b"k" * 32), Secret("sk-canary-1234")
    sealed = vault.seal(secret, "crd_1")
    assert b"canary" not in sealed
    assert vault.unseal(sealed, "crd_1") == secret
    assert vault.seal(secret, "crd_1") != sealed
    with pytest.raises(VaultError, match="crd_2"):
        vault.unseal(sealed, "crd_2")
    with pytest.raises(VaultError):
        Vault(b"l" * 32).unseal(sealed, "crd_1")
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(VaultError) as caught:
            vault.unseal(bytes(changed), "crd_1")
        assert "canary" not in str(caught.value)
    with pytest.raises(VaultError):
        vault.unseal(b"", "crd_1")


def test_keys_are_told_apart_without_being_told() -> None:
    """Pepper, check and sealing key are derived apart; nothing of the master key is in what prints."""
    one, two = Vault(b"k" * 32), Vault(b"l" * 32)
    assert one.check != two.check
    assert one.pepper != two.pepper
    assert one.pepper.hex() not in repr(one)
    assert (b"k" * 32).hex() not in f"{one!r} {one.check} {one.pepper.hex()}"
    assert one.hash(b"t") != two.hash(b"t")


def test_the_master_key_file_is_made_once_and_private(tmp_path: Path) -> None:
    """The first opening makes it with mode 0600; the next takes the same; without `make` its absence is an error."""
    with pytest.raises(VaultError, match="cannot be read"):
        open_vault(tmp_path, make=False)
    first = open_vault(tmp_path)
    path = tmp_path / MASTER_KEY_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert open_vault(tmp_path, make=False).check == first.check


def test_a_given_master_key_wins_and_leaves_no_file(tmp_path: Path) -> None:
    """Hex and base64 of the same 32 bytes are the same key; nothing is written."""
    raw = bytes(range(32))
    by_hex = open_vault(tmp_path, Secret(raw.hex()))
    by_base64 = open_vault(tmp_path, Secret(base64.b64encode(raw).decode()))
    assert by_hex.check == by_base64.check == Vault(raw).check
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "canary", "canary" * 20, "zz" * 32, base64.b64encode(b"canary" * 4).decode()])
def test_a_malformed_master_key_is_refused_unseen(tmp_path: Path, text: str) -> None:
    """The message names the variable or file and how to make one; it does not repeat the text."""
    (tmp_path / MASTER_KEY_FILE).write_text(text)
    for given in (Secret(text), None) if text else (None,):
        with pytest.raises(VaultError, match="openssl rand -hex 32") as caught:
            open_vault(tmp_path, given)
        assert not text or text not in str(caught.value)


def test_a_secret_does_not_print_or_encode() -> None:
    """`repr`, `str`, formatting, containers and errors show stars; encoding it is refused."""
    secret = Secret("canary")
    for text in (repr(secret), str(secret), f"{secret}", f"{secret!r:>40}", repr([secret]), repr({"a": secret})):
        assert "canary" not in text
    with pytest.raises(TypeError):
        msgspec.json.encode(secret)
    with pytest.raises(TypeError):
        msgspec.json.encode({"a": secret})
