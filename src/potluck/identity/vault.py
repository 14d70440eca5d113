"""The master key and what hangs on it: the pepper of all hashes, and sealing of provider credentials.

The key is 32 bytes: `POTLUCK_MASTER_KEY` if given, else `HOME/master-key` (mode 0600, made on first start). A sealed
value is `version byte | 12-byte nonce | AES-256-GCM ciphertext and tag`, bound to the id of its row, so that a value
copied to another row does not open.
"""

import base64
import binascii
import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from potluck.identity.keys import hasher
from potluck.model.secret import Secret
from potluck.store.home import write_secret_file

MASTER_KEY_FILE = "master-key"
KEY_BYTES = 32
_VERSION = b"\x01"
_NONCE_BYTES = 12


class VaultError(Exception):
    """The master key is missing or malformed, or a sealed value does not open. Safe to print."""


class Vault:
    """Seals and hashes under one master key. Printing it shows nothing."""

    __slots__ = ("_aead", "check", "hash", "identity_seed", "pepper")

    def __init__(self, master_key: bytes) -> None:
        if len(master_key) != KEY_BYTES:
            raise VaultError(f"the master key must be {KEY_BYTES} bytes")
        self._aead = AESGCM(_derive(master_key, b"potluck sealing 1"))
        self.pepper = _derive(master_key, b"potluck pepper 1")
        self.hash = hasher(self.pepper)
        """keyed hash of a secret's bytes; what the snapshot looks keys up by"""
        self.identity_seed = _derive(master_key, b"potluck gateway identity 1")
        """what the gateway's own key pair is made from (`identity.gateway_key`)"""
        self.check = _derive(master_key, b"potluck check 1")[:8].hex()
        """names the key without telling anything about it: kept in the store, to notice a wrong key at start"""

    def __repr__(self) -> str:
        return f"Vault({self.check})"

    def seal(self, secret: Secret, row_id: str) -> bytes:
        """The secret, readable only with this master key and for this row."""
        nonce = os.urandom(_NONCE_BYTES)
        return _VERSION + nonce + self._aead.encrypt(nonce, secret.reveal().encode(), row_id.encode())

    def unseal(self, sealed: bytes, row_id: str) -> Secret:
        """The inverse of `seal`. Raises VaultError for another key, another row, or a changed value."""
        if sealed[:1] != _VERSION:
            raise VaultError(f"the secret of {row_id} was sealed by another version of Potluck")
        nonce, text = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            return Secret(self._aead.decrypt(nonce, text, row_id.encode()).decode())
        except (InvalidTag, ValueError) as error:
            raise VaultError(
                f"the secret of {row_id} does not open with this master key: restore the master key that sealed it, "
                "or set the credential anew with `potluck credential rotate`"
            ) from error


def open_vault(home: Path, master_key: Secret | None = None, *, make: bool = True) -> Vault:
    """The vault of a home directory: by the given key (64 hex digits or base64 of 32 bytes), else by its file.

    With `make`, the file is made when there is none. Raises VaultError when there is no key, it is malformed, or its
    file cannot be read.
    """
    if master_key:
        return Vault(decode_master_key(master_key, "POTLUCK_MASTER_KEY"))
    path = home / MASTER_KEY_FILE
    try:
        if make and not path.exists():
            write_secret_file(path, secrets.token_bytes(KEY_BYTES).hex() + "\n")
        text = path.read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise VaultError(f"the master key {path} cannot be read: mend its rights, or restore it") from error
    return Vault(decode_master_key(Secret(text.strip()), str(path)))


def decode_master_key(text: Secret, source: str) -> bytes:
    """32 bytes from hex or base64 text. Raises VaultError naming `source`, never the text."""
    raw = text.reveal()
    try:
        key = bytes.fromhex(raw) if len(raw) == 2 * KEY_BYTES else base64.b64decode(raw, validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if len(key) != KEY_BYTES:
        raise VaultError(f"{source} is not a master key: write 64 hex digits (openssl rand -hex 32)")
    return key


def _derive(master_key: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=purpose).derive(master_key)
